"""A repository of the Hugging Face Hub: the model card, and the way there."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delta_jax import data, downloads
from delta_jax.exports.errors import ExportError
from delta_jax.training import config as configs
from delta_jax.training import report, run_split, setup, stored_config
from delta_jax.training.classifier import Classifier
from delta_jax.weights import sources
from delta_jax.workdir import json_files

CARD = "README.md"
NO_NAME = "USER/NAME"  # where the repository has none yet
_UNKNOWN = "not known"
# Licences as weights and data sets are said to have, and what the Hub calls them.
_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "BSD-3-Clause": "bsd-3-clause", "MIT": "mit"}
_OWN = "your own images"


@dataclass(frozen=True)
class About:
    """What a model card says of the run.

    Attributes:
      config: of the run, {} if there is none.
      summary: its summary.json, {} if there is none.
      images: {split: how many}.
      weights_licence, data_licence: of source and images.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    weights_licence: str = _UNKNOWN
    data_licence: str = _UNKNOWN


def about(trained: Classifier, workdir: Path | None) -> About:
    """What is known of the run in `workdir`; of a classifier without one, nothing."""
    if workdir is None:
        return About()
    try:
        config = stored_config.read(workdir)
    except configs.ConfigError:
        return About()
    recorded = run_split.read(workdir)
    images = {} if recorded is None else {split: int((recorded.split == split).sum()) for split in data.SPLITS}
    try:
        licence = setup.found(config).licence
    except data.DataError:  # the images are not here any more
        licence = _UNKNOWN
    return About(
        config.to_dict(), json_files.read(workdir / report.SUMMARY), images, _licence_of(config.weights), licence
    )


def _licence_of(source: str) -> str:
    named, noted = sources.SOURCES.get(source), sources.provenance(source)
    return (named.licence if named else noted.licence if noted else "") or _UNKNOWN


def card(trained: Classifier, run: About, repo: str, with_timm: Sequence[str], with_jax: Sequence[str]) -> str:
    """README.md: a header for the Hub, then data, method, accuracy with its interval, licences, and how to load it."""
    seen = trained.preprocessing
    sides = {"squash": "both sides", "keep": "the shorter side"}[seen.aspect]
    return "\n".join(
        [
            f"---\n{_header(trained, run, repo)}\n---\n",
            f"# {repo.partition('/')[2]}\n",
            f"{trained.arch}, fine-tuned for {len(trained.class_names)} classes: {', '.join(trained.class_names)}.\n",
            "## Data\n",
            *(_data(run) or ["Not known: the run was not at hand.\n"]),
            f"A photo is scaled, {sides} to {seen.resize} pixels ({seen.interpolation}), cut to {seen.crop} x "
            f"{seen.crop} in the middle, and normalised by mean {_numbers(seen.mean)} and std {_numbers(seen.std)} of "
            "values in [0, 1].\n",
            "## Method\n",
            *(_method(run) or ["Not known: the run was not at hand.\n"]),
            "## Accuracy\n",
            *_accuracy(run),
            "## Licence\n",
            f"Weights it was fine-tuned from: {run.weights_licence}. Images it was fine-tuned on: {run.data_licence}. "
            "Both may limit what these weights may be used for.\n",
            "## Load it\n",
            "With timm:\n",
            "```python",
            *with_timm,
            "```\n",
            "In JAX, with delta_jax:\n",
            "```python",
            *with_jax,
            "```",
            "",
        ]
    )


def _header(trained: Classifier, run: About, repo: str) -> str:
    import huggingface_hub  # slow to import

    licence = _HUB_LICENCES.get(run.weights_licence) if run.data_licence == _OWN else None
    values: dict[str, Any] = {
        "license": licence or "other",
        "license_name": None if licence else "of-weights-and-images",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "jax", "delta_jax"],
    }
    if (base := str(run.config.get("weights", ""))).startswith("timm/"):
        values["base_model"] = base
    if measured := run.summary.get("test"):
        name = run.config["data"]["name"]
        values["model_name"] = repo.partition("/")[2]
        values["eval_results"] = [
            huggingface_hub.EvalResult(
                task_type="image-classification",
                dataset_type=name,
                dataset_name=name,
                dataset_split="test",
                metric_type="accuracy",
                metric_value=round(measured["top1"], 6),
            )
        ]
    return huggingface_hub.ModelCardData(**values).to_yaml()


def _data(run: About) -> list[str]:
    if not run.config:
        return []
    counts = ", ".join(f"{count:,} {split}" for split, count in run.images.items())
    return [f"{run.config['data']['name']}{f': {counts} images' if counts else ''}.\n"]


def _method(run: About) -> list[str]:
    if not run.config:
        return []
    config, source = run.config, run.config["weights"]
    if source not in sources.SOURCES and not downloads.is_url(source):
        source = Path(source).name  # where it lies is nobody's business
    trained = f"{config['steps']:,} steps of {config['batch_size']} images, learning rate {config['learning_rate']:g}"
    if config["method"] == "l2_fe":
        trained = "a new head on its features"
    return [
        f"`{config['method']}` ({config['preset']} preset) from the weights `{source}`, {trained}, seed "
        f"{config['seed']}; with delta_jax, after DELTA (Li et al., ICLR 2019, arXiv:1901.09229).\n"
    ]


def _accuracy(run: About) -> list[str]:
    rows = []
    for split in ("test", "validation"):
        if found := run.summary.get(split):
            low, high = _interval(found["top1"], found["n"])
            rows.append(
                f"| {split} | {found['n']:,} | {found['top1']:.2%} | {low:.2%} to {high:.2%} | "
                f"{found['balanced_accuracy']:.2%} | {found['cross_entropy']:.4f} |"
            )
    if not rows:
        return ["Not measured.\n"]
    crops = run.config.get("eval_crops", 1)
    return [
        "| images | how many | top-1 | its 95 % interval | balanced | cross-entropy |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"By {'the crop in the middle' if crops == 1 else f'the mean of {crops} crops'}. The interval is Wilson's, of "
        "photos drawn like these and of this one run; the validation images may have chosen the step.\n",
    ]


def _interval(fraction: float, count: int) -> tuple[float, float]:
    from scipy import stats

    found = stats.binomtest(round(fraction * count), count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def check_name(repo: str) -> None:
    """Raises ExportError unless it can be the name of a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise ExportError(
            f"--push={repo} names no repository; expected user/name, of letters, digits, '-', '_' and '.'"
        )
    if downloads.is_offline():
        raise ExportError("--push needs the network, and DELTA_JAX_OFFLINE or HF_HUB_OFFLINE forbids connections")


def push(folder: Path, repo: str, say: Callable[[str], None]) -> None:
    """Uploads the folder to the repository "user/name" of the Hub; one that is not there yet is made, and private.

    Raises:
      ExportError: the Hub cannot be reached, or does not let us.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A network fine-tuned with delta_jax")
    except Exception as error:  # whatever its HTTP library raises comes through, beside its own errors
        status = getattr(getattr(error, "response", None), "status_code", None)
        login = status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError)
        why = "log in with a token that may write: hf auth login" if login else str(error).strip().splitlines()[0]
        raise ExportError(
            f"{folder} is written and was not pushed to {repo} ({type(error).__name__}): {why}; later: "
            f"hf upload {repo} {folder} ."
        ) from error
    say(f"pushed to {address}; a new repository is private until you open it in its settings")

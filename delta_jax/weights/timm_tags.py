"""Any `timm/ARCH.TAG` of a network that is here: what its repository on Hugging Face says of it, noted at first use.

`$DELTA_JAX_CACHE/weights/timm--ARCH.TAG.config.json` holds the repository's config.json and the commit it was of; from
then on the weights are those of this commit, and no network is needed to know how they see images.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delta_jax import downloads, models
from delta_jax.weights import beside
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.kinds import FetchedSource
from delta_jax.weights.origins import HubFile, is_commit

_log = logging.getLogger(__name__)

_NAME = re.compile(r"timm/[\w-]+\.[\w-]+")


def find(name: str) -> FetchedSource | None:
    """The source that a name means; None for one of another form, or of a network that is not here.

    Raises:
      WeightsError: its config.json cannot be had, or is not that of this network.
    """
    meant = models.named_elsewhere(name) if _NAME.fullmatch(name) else None
    if meant is None or not meant.arch:
        return None
    found = _noted(name)
    if found is None:
        found = _fetched(name)
        source = _source(name, meant.arch, *found)  # what cannot be used is not noted
        _note(name, *found)
        return source
    return _source(name, meant.arch, *found)


def known() -> list[FetchedSource]:
    """Those that were noted on this machine, by name."""
    files = sorted(downloads.cache_folder("weights").glob("timm--*.config.json"))
    names = [file.name.removesuffix(".config.json").replace("--", "/", 1) for file in files]
    return [source for name in names if _noted(name) and (source := find(name))]


def _source(name: str, arch: str, config: Mapping[str, Any], revision: str) -> FetchedSource:
    given = config.get("pretrained_cfg")
    given = given if isinstance(given, dict) else {}
    stated = models.named_elsewhere(str(config.get("architecture", "")))
    if stated is None or stated.arch != arch:
        raise WeightsError(
            f"{name}: its config.json says that it is {config.get('architecture')!r}, expected a name of {arch}; give "
            "the path of a file of your own, or another name"
        )
    if changes := beside.altered(config):
        listed = ", ".join(f"{key}={value!r}" for key, value in changes.items())
        raise WeightsError(
            f"{name}: its config.json says that {arch} was made with {listed}, which is not supported here"
        )
    try:
        seen = beside.of_timm(config)
        size, classes = [int(side) for side in given["input_size"]], int(given["num_classes"])
        source = FetchedSource(
            name=name,
            arch=arch,
            licence=str(given.get("license") or "not stated"),
            top1=None,
            trained_on=f"{given.get('tag') or name.partition('.')[2]}, {classes:,} classes",
            classes=classes,
            resize=seen["resize"],
            aspect="squash" if given.get("crop_mode") == "squash" else "keep",
            interpolation=seen["interpolation"],
            crop=seen["crop"],
            mean=seen["mean"],
            std=seen["std"],
            origin=HubFile(name, "model.safetensors", revision, ""),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"{name}: its config.json does not say how images were prepared ({type(error).__name__}: {error}); fetch "
            "it with model.safetensors, correct it, and give the path of that file"
        ) from error
    for field in ("mean", "std"):
        if problem := beside.problem_of_channels(getattr(source, field), positive=field == "std"):
            raise WeightsError(f"{name}: {field} in its config.json is {getattr(source, field)}, expected {problem}")
    if size != [3, source.crop, source.crop] or classes < 0:
        raise WeightsError(f"{name}: its config.json has images of {size} and {classes} classes, expected 3, N, N")
    return source


def _fetched(name: str) -> tuple[Mapping[str, Any], str]:
    """config.json of the repository as it is now, and the commit."""
    try:
        original = HubFile(name, "config.json", "main", "").get(_path(name), "", "main", None)
        config = _object(json.loads(original.path.read_text("utf-8")))
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}, with model.safetensors in the same folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{name}: config.json of its repository cannot be read ({error})") from error
    pinned = f"commit {original.revision}" if is_commit(original.revision) else "no commit is known"
    _log.warning("%s: taken as its repository is now (%s), which is noted in %s", name, pinned, _path(name))
    return config, original.revision


def _note(name: str, config: Mapping[str, Any], revision: str) -> None:
    try:
        _path(name).parent.mkdir(parents=True, exist_ok=True)
        with downloads.replacing(_path(name)) as draft:
            draft.write_text(json.dumps({"revision": revision, "config": config}, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise WeightsError(
            f"{name}: cannot be noted in {_path(name).parent} ({error.strerror or error}); make room, or choose "
            "another folder with DELTA_JAX_CACHE"
        ) from error


def _noted(name: str) -> tuple[Mapping[str, Any], str] | None:
    try:
        found = _object(json.loads(_path(name).read_text("utf-8")))
        return _object(found["config"]), str(found["revision"])
    except (OSError, ValueError, KeyError, RecursionError):  # what cannot be read is fetched again
        return None


def _object(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _path(name: str) -> Path:
    return downloads.cache_folder("weights") / f"{name.replace('/', '--')}.config.json"

"""How good the estimators of the attention are, on trained weights and real photos, for every tap of a network.

    python benchmarks/attention_quality.py --photos=DIR --arch=efficientnet_lite0 --images=128 --size=128 --out=DIR

DIR holds train/<class>/*.jpg; without --photos the photos are ELPV's solar cells. A head is trained on the frozen
network (L2-FE) with all training images, then the gaps of some of them are measured: with every estimator against the
exact ones, also for the same time, with few images against many, and with less precision against float64. Matrix
products are full float32 ("highest") wherever nothing else is said: on a GPU jax's default may round their inputs to
TF32.

OUT gets attention_quality_<arch>_<data>.json, .md, .png, and .npz with the exact gaps: a second call with the same
arguments takes them from there, together with the seconds that they took then. Delete it to measure them again.
"""

import argparse
import json
import platform
import runpy
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial, reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from matplotlib import colormaps
from matplotlib.figure import Figure

from delta_jax import attention, data, precision, processes, weights
from delta_jax.analysis import gap_statistics
from delta_jax.processes import sharding
from delta_jax.training import attention_images, head_phase, provenance, two_phase
from delta_jax.training import config as configs
from delta_jax.training.attention_pass import Normalization
from delta_jax.training.head import put_head
from delta_jax.training.setup import Setup
from delta_jax.weights import SOURCES

Gaps = Mapping[str, np.ndarray]  # {tap: [N, C]}

BATCH = 8  # images per call
SPLITS = 20  # random choices of images that a number over fewer than all is averaged over
SMALLEST = 4  # images in such a choice
LEAST_TIME = 8  # of so many exact images, to be spent on one estimator or another
PACKAGES = ("delta_jax", "jax", "jaxlib", "flax", "numpy")
PRECISION_IMAGES, PRECISION_FILTERS = 8, 32  # float64 is slow: images, and filters per tap
NORMALIZATIONS = {"softmax": 1.0, "standardized_softmax": 5.0}  # and their temperatures: the presets' (config.PRESETS)


# Measurements.


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... up to at most `last`."""
    sizes = [first]
    while sizes[-1] * 2 <= last:
        sizes.append(sizes[-1] * 2)
    return sizes


def set_up(args: argparse.Namespace) -> Setup:
    config = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "default.py"))["get_config"]()
    config.arch = args.arch
    config.weights = sources()[args.arch]
    config.data.name, config.data.root = ("folder", args.photos) if args.photos else (args.data, "")
    config.data.crop, config.data.resize = args.size, args.size * 9 // 8
    config.taps = tuple(args.taps)
    if args.head_l2:
        config.head_l2 = tuple(args.head_l2)
    config.batch_size = config.attention_batch = jax.device_count()  # unused here, but checked
    config.eval_batch_size = 64 * jax.device_count()
    return Setup(configs.resolve(config))


def sources() -> dict[str, str]:
    """{network: name of its weights}."""
    return {source.arch: source.name for source in SOURCES.values()}


def measure(gaps_of: Any, x: np.ndarray, y: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """The gaps of all images, and the seconds per image: the median call, after one that compiles."""
    jax.block_until_ready(gaps_of(x[:BATCH], y[:BATCH]))
    parts, seconds = [], []
    for picked, mask in data.padded_batches(len(x), BATCH):
        began = time.perf_counter()
        found = jax.block_until_ready(gaps_of(x[picked], y[picked]))
        seconds.append((time.perf_counter() - began) / BATCH)
        parts.append({tap: np.asarray(gap)[mask > 0] for tap, gap in found.items()})
    return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}, float(np.median(seconds))


def compare_precisions(setup: Setup, variables: Any, x: Any, y: Any, exact: Gaps) -> dict[str, Any]:
    """{tap: {"bfloat16 against float64": `compare`, ...}} of the exact gaps of a few images and filters."""
    x, y = x[:PRECISION_IMAGES], y[:PRECISION_IMAGES]
    filters = {
        tap: np.unique(np.linspace(0, gaps.shape[1] - 1, PRECISION_FILTERS).astype(int)) for tap, gaps in exact.items()
    }

    def gaps_of(variables: Any, x: Any, dtype: str = "float32") -> Gaps:
        model = setup.network(compute_dtype=dtype)  # "float32": as its inputs are
        found = attention.filter_gaps(model, variables, x, y, taps=tuple(exact), filters=filters)
        return {tap: np.asarray(gaps, np.float64) for tap, gaps in found.items()}

    found: dict[str, Gaps] = {}
    found["float32"] = {tap: gaps[: len(x), filters[tap]].astype(np.float64) for tap, gaps in exact.items()}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that of bfloat16, which is meant here
        found["bfloat16"] = gaps_of(variables, x, "bfloat16")
    if jax.default_backend() == "gpu":
        # `filter_gaps` asks for full float32 itself, which is what this is to be compared with.
        with jax.default_matmul_precision("tensorfloat32"), mock.patch.object(precision, "full", nullcontext):
            found["tf32"] = gaps_of(variables, x)
    with jax.enable_x64(True):
        found["float64"] = gaps_of(*jax.tree.map(lambda array: np.asarray(array, np.float64), (variables, x)))
    pairs = [(name, truth) for truth in ("float64", "float32") for name in found if name not in ("float64", truth)]
    return {
        tap: {
            f"{name} against {truth}": gap_statistics.compare(found[name][tap], found[truth][tap])
            for name, truth in pairs
        }
        for tap in exact
    }


def judge(found: Mapping[str, Gaps], seed: int) -> dict[str, Any]:
    """{tap: numbers} of the gaps {estimator: {tap: [N, C]}}."""
    taps: dict[str, Any] = {}
    for tap, exact in found["exact"].items():
        n, filters = exact.shape
        taps[tap] = {
            "filters": filters,
            "negative": float(np.mean(exact < 0)),
            "estimators": {
                name: gap_statistics.compare(gaps[tap], exact) for name, gaps in found.items() if name != "exact"
            },
            "split_half": {
                name: _over_sizes(
                    partial(gap_statistics.split_half_reliability, found[name][tap]), doubling(SMALLEST, n // 2), seed
                )
                for name in ("exact", "first_order")
            },
            "agreement_with_all": _over_sizes(
                partial(gap_statistics.agreement_with_all, exact), doubling(SMALLEST, n - 1), seed
            ),
            "attention": {name: _attention(exact, name, temperature) for name, temperature in NORMALIZATIONS.items()},
        }
    return taps


def _over_sizes(statistic: Any, sizes: Sequence[int], seed: int) -> dict[int, dict[str, float]]:
    values = {size: statistic(size, SPLITS, seed) for size in sizes}
    return {size: {"mean": float(one.mean()), "std": float(one.std())} for size, one in values.items()}


def _attention(exact: np.ndarray, how: str, temperature: float) -> dict[str, dict[str, float]]:
    both = {"per_image": exact, "of_mean": exact.mean(0, dtype=np.float64, keepdims=True).astype(np.float32)}
    found = attention.normalize({name: jnp.asarray(gaps) for name, gaps in both.items()}, how, temperature=temperature)
    spreads = {name: gap_statistics.attention_spread(np.asarray(found[name])) for name in both}
    return {
        name: {key: gap_statistics.median(values) for key, values in spread.items()} for name, spread in spreads.items()
    }


def images_for_the_time(n: int, seconds: Mapping[str, float], there: int) -> dict[str, tuple[int, int]]:
    """{way: (estimated, exact) images} that take as long as the exact gaps of n images; by one estimator or two."""
    exact, cheap = seconds["exact"], seconds["mixed_0"]
    found = {way: (min(there, int(n * exact / each)), 0) for way, each in seconds.items() if way != "exact"}
    few = int(n * exact / (exact + attention_images.MANY * cheap))
    if attention_images.MANY * few > there:
        few = int(n - there * cheap / exact)
    return {"exact": (0, n), **found, "two_phase": (min(there, attention_images.MANY * few), few)}


def for_the_time(tap: str, found: Mapping[str, Gaps], seconds: Mapping[str, float], seed: int) -> dict[str, Any]:
    """{n: {way: "estimated" and "exact" images, "spearman" and "weights"}} of a tap, in the time of n exact images.

    Against the exact gaps of all images: rank correlation of the mean gaps, and the root mean square error of C * W of
    the `reference` preset. Means over random choices of the images.
    """
    exact = found["exact"][tap].astype(np.float64)
    truth, n = exact.mean(0), len(exact)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(SPLITS)]
    normalization = Normalization("standardized_softmax", NORMALIZATIONS["standardized_softmax"])
    relative = lambda mean: len(mean) * normalization({tap: mean})[tap].astype(np.float64)  # noqa: E731

    def mean(way: str, order: np.ndarray, images: tuple[int, int]) -> np.ndarray:
        estimated, measured = images
        if way == "exact":
            return exact[order[:measured]].mean(0)
        if way == "two_phase":
            estimates = found["mixed_0"][tap][order[:estimated]]
            return two_phase.combined(exact[order[:measured]], estimates).mean(0, dtype=np.float64)
        return found[way][tap][order[:estimated]].mean(0, dtype=np.float64)

    told: dict[str, Any] = {}
    for budget in doubling(LEAST_TIME, n // 2):
        told[str(budget)] = {}
        for way, images in images_for_the_time(budget, seconds, n).items():
            if max(images) < 1 or (way == "two_phase" and images[1] < 2):
                continue
            means = [mean(way, order, images) for order in orders]
            order = [float(gap_statistics.rank_correlation(one, truth)) for one in means]
            errors = [np.sqrt(np.mean(np.square(relative(one) - relative(truth)))) for one in means]
            told[str(budget)][way] = {
                "estimated": images[0],
                "exact": images[1],
                "spearman": float(np.mean(order)),
                "weights": float(np.mean(errors)),
            }
    return told


# The exact gaps, kept for a second call.


def load_exact(path: Path, key: str) -> tuple[float, Gaps] | None:
    """(seconds per image, gaps) of an earlier call with the same `key`; None where there was none."""
    if not path.exists():
        return None
    with np.load(path) as file:
        if str(file["key"]) != key:
            return None
        gaps = {name.removeprefix("gap/"): file[name] for name in file.files if name.startswith("gap/")}
        return float(file["seconds"]), gaps


def save_exact(path: Path, key: str, seconds: float, gaps: Gaps) -> None:
    arrays: dict[str, Any] = {"key": key, "seconds": seconds} | {f"gap/{tap}": gap for tap, gap in gaps.items()}
    unfinished = path.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(path)


# The report.


def plain(result: Any) -> Any:
    """As JSON has it: names for keys, four digits, None for what is not a number."""
    return json.loads(
        json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"), parse_constant=lambda _: None
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The tables, of a `plain` result."""
    arguments, images, head = result["arguments"], result["data"], result["head"]
    taps = {tap: flatten_dict(facts, sep="/") for tap, facts in result["taps"].items()}
    first = next(iter(result["taps"].values()))

    def section(title: str, form: str, columns: Mapping[str, Sequence[str]]) -> str:
        """A row per tap; a column shows the values of its keys, with slashes between."""

        def cell(facts: Mapping[str, Any], keys: Sequence[str]) -> str:
            return " / ".join("-" if facts[key] is None else format(facts[key], form) for key in keys)

        rows = [[tap, *(cell(facts, keys) for keys in columns.values())] for tap, facts in taps.items()]
        return f"## {title}\n\n{table(['tap', *columns], rows)}"

    def estimators(measure: str) -> dict[str, list[str]]:
        return {
            name: [f"estimators/{name}/{measure}_{of}" for of in ("per_image", "of_mean")]
            for name in first["estimators"]
        }

    def sizes(*path: str) -> dict[str, list[str]]:
        found = reduce(lambda facts, name: facts[name], path, first)
        return {f"{size} images": ["/".join((*path, size, "mean"))] for size in found}

    precisions = {
        pair: [f"precision/{pair}/{measure}" for measure in ("spearman_per_image", "error_per_image", "sign_changes")]
        for pair in first.get("precision", ())
    }
    spreads = {
        f"{name}, {of.replace('_', ' ')}": [
            f"attention/{name}/{of}/{measure}" for measure in ("lowest", "highest", "effective_filters")
        ]
        for name in first["attention"]
        for of in ("per_image", "of_mean")
    }
    seconds = result["seconds_per_image"]
    times = [
        section(
            f"In the time of {budget} exact images: rank correlation / error of C * W, of the mean gaps",
            ".2f",
            {
                f"{way}, {one['exact']} exact, {one['estimated']} estimated": [
                    f"for_the_time/{budget}/{way}/{measure}" for measure in ("spearman", "weights")
                ]
                for way, one in ways.items()
            },
        )
        for budget, ways in first["for_the_time"].items()
    ]
    sections = [
        f"# The attention of {arguments['arch']} on {images['name']}",
        f"{arguments['images']} of {images['training_images']} training images of {images['classes']} classes, "
        f"{arguments['size']} px; {result['device']}, {result['date']}. The head: l2 {head['l2']:g}, validation top-1 "
        f"{head['validation_top1']:.1%}.",
        f"    {result['command']}",
        f"## Seconds per image\n\n{table(list(seconds), [[f'{value:.4f}' for value in seconds.values()]])}",
        "The exact gaps are those of an earlier run, and so are their seconds."
        if result["exact_from_earlier_run"]
        else "",
        section("Filters, and share of negative exact gaps", ".4g", {"filters": ["filters"], "negative": ["negative"]}),
        section("Rank correlation with the exact gaps: per image / of the mean gaps", ".2f", estimators("spearman")),
        section("RMS error over the exact gaps' spread: per image / of the mean gaps", ".2g", estimators("error")),
        *times,
        section("Split-half reliability of the mean exact gaps", ".2f", sizes("split_half", "exact")),
        section("Split-half reliability of the mean first-order gaps", ".2f", sizes("split_half", "first_order")),
        section("Rank correlation with the mean exact gaps of all images", ".2f", sizes("agreement_with_all")),
        section("Precision: rank correlation / RMS error over spread / share of changed signs", ".3g", precisions)
        if precisions
        else "",
        "" if "tf32 against float64" in precisions else "TF32 does not apply: it is a format of GPUs.",
        section("Attention: lowest and highest C * W / effective number of filters", ".4g", spreads),
    ]
    return "\n\n".join(text.rstrip() for text in sections if text) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Left: how many images a stable order of the filters takes. Right: how well the estimators find that order."""
    arguments, taps = result["arguments"], result["taps"]
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    what = f"{arguments['images']} training images, {arguments['size']} px"
    figure.suptitle(f"Attention of {arguments['arch']} on {result['data']['name']}: {what}", fontsize=11)
    left, right = figure.subplots(1, 2)

    colours = colormaps["viridis"](np.linspace(0.05, 0.85, len(taps)))
    for (tap, facts), colour in zip(taps.items(), colours, strict=True):
        for name, style in (("exact", "o-"), ("first_order", "x:")):
            sizes = facts["split_half"][name]
            left.plot(list(map(int, sizes)), _heights(one["mean"] for one in sizes.values()), style, color=colour)
        left.plot([], [], "-", color=colour, label=tap)
    for style, label in (("o-", "exact"), ("x:", "first_order")):
        left.plot([], [], style, color="grey", label=label)
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:.0f}")
    left.set(title="split-half reliability of the mean gaps", xlabel="images per half")

    places = range(len(taps))
    for index, name in enumerate(next(iter(taps.values()))["estimators"]):
        for of, style in (("per_image", "o-"), ("of_mean", "s:")):
            heights = _heights(facts["estimators"][name][f"spearman_{of}"] for facts in taps.values())
            right.plot(places, heights, style, color=f"C{index}", label=name if of == "per_image" else None)
    for style, label in (("o-", "per image, median"), ("s:", "of the mean gaps")):
        right.plot([], [], style, color="grey", label=label)
    names = [tap.replace("/", "\n") for tap in taps]
    right.set_xticks(places, [f"{name}\n({one['filters']})" for name, one in zip(names, taps.values(), strict=True)])
    right.set(title="rank correlation with the exact gaps", xlabel="tap (filters), from input to output")
    for axes in (left, right):
        for line in axes.get_lines():
            line.set(markersize=4, linewidth=1.3)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.grid(alpha=0.3)
        axes.set_ylim(top=1.04)
        axes.set_ylabel("Spearman")
        axes.tick_params(labelsize=8)
        # Beside the curves, which may lie anywhere.
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.21), ncols=3)
    figure.savefig(path, dpi=110)


def _heights(values: Iterable[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


# The command.


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", default="", help="folder with train/<class>/*.jpg; default: the photos of --data")
    parser.add_argument("--data", default="elpv", help="a data set that needs no folder")
    parser.add_argument("--arch", choices=sources(), default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=16, help="training images whose gaps are measured")
    parser.add_argument("--size", type=int, default=64, help="height and width, pixels")
    parser.add_argument("--taps", nargs="+", default=["default"], help="module paths; default: the network's own")
    parser.add_argument("--exact_filters", nargs="*", type=int, default=[32], help="of the mixed estimator")
    parser.add_argument("--head_l2", nargs="+", type=float, help="penalties of the head that are tried")
    parser.add_argument("--skip_precision", action="store_true", help="no float64, which takes the longest")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    parser.add_argument("--out", type=Path, default=Path("runs/attention_quality"), help="folder for what is written")
    args = parser.parse_args(argv)
    if args.images < 2 * SMALLEST:
        parser.error(f"--images={args.images}: {2 * SMALLEST} or more, for two halves of {SMALLEST}")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything; writes the exact gaps."""
    setup = set_up(args)
    if len(setup.train) < args.images:
        raise data.DataError(f"--images={args.images}: there are only {len(setup.train)} training images; take fewer")
    args.out.mkdir(parents=True, exist_ok=True)
    name = setup.catalogue.name.rpartition("/")[2]
    picked = np.random.default_rng(args.seed).permutation(len(setup.train))[: args.images]
    x = np.asarray(jax.jit(setup.centre)(setup.images.take(setup.train.rows[picked])))
    y = setup.train.labels[picked]

    taps = tuple(setup.config.taps)
    device = f"{jax.devices()[0].device_kind} ({jax.default_backend()})"
    head, head_facts = head_phase.train(setup)
    params = put_head(setup.source["params"], setup.spec.head, head)
    # On one device, whatever there is: the seconds are those of one.
    variables = jax.device_put(sharding.on_host({**setup.source, "params": params}))
    network = provenance.of_variables(variables)
    key = json.dumps([network, setup.catalogue.fingerprint(), args.images, args.size, args.seed, taps, device])
    path = args.out / f"attention_quality_{args.arch}_{name}.npz"
    stored = load_exact(path, key)

    def gaps_of(x: Any, y: Any, **options: Any) -> dict[str, jax.Array]:
        return attention.filter_gaps(setup.network(), variables, x, y, taps=taps, **options)

    if not stored:
        exact, seconds_of_exact = measure(gaps_of, x, y)
        save_exact(path, key, seconds_of_exact, exact)
    else:
        seconds_of_exact, exact = stored
    found, seconds = {"exact": exact}, {"exact": seconds_of_exact}
    ways: dict[str, dict[str, Any]] = {name: {"estimator": name} for name in ("first_order", "linear_logits")}
    ways["linear_logits_2"] = {"estimator": "linear_logits", "classes": 2}
    ways |= {f"mixed_{k}": {"estimator": "mixed", "exact_filters": k} for k in (0, *args.exact_filters)}
    for way, options in ways.items():
        found[way], seconds[way] = measure(partial(gaps_of, **options), x, y)

    judged = judge(found, args.seed)
    for tap, facts in judged.items():
        facts["for_the_time"] = for_the_time(tap, found, seconds, args.seed)
    if not args.skip_precision:
        for tap, compared in compare_precisions(setup, variables, x, y, exact).items():
            judged[tap]["precision"] = compared
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": vars(args) | {"out": str(args.out)},
        "data": {"name": name, "classes": setup.num_classes, "training_images": len(setup.train)},
        "device": device,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "head": {"l2": head_facts["l2"], "validation_top1": head_facts["validation"]["top1"]},
        "seconds_per_image": seconds,
        "exact_from_earlier_run": stored is not None,
        "taps": judged,
    }


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    processes.set_up_process()
    try:
        with jax.default_matmul_precision("highest"):
            result = plain(run(args))
    except (configs.ConfigError, data.DataError, weights.WeightsError) as error:
        sys.exit(f"error: {error}")
    path = args.out / f"attention_quality_{args.arch}_{result['data']['name']}"
    path.with_suffix(".json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text(markdown(result))
    draw(result, path.with_suffix(".png"))
    print(markdown(result))


if __name__ == "__main__":
    main()

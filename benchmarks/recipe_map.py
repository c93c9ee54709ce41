"""The answers of docs/map.md: DELTA and L2 over learning rates, BatchNorm and the start of the head.

    python benchmarks/recipe_map.py --sweep=runs/map/recipes [--shuffled=runs/map/shuffled] [--noise=runs/map/noise] \\
        --figures=docs/images --json=docs/study/map_answers.json

`--sweep` is the workdir of configs/map/recipes.py, from which everything is read: results.jsonl, and the predictions of
each run. `--keep=docs/study` writes there what is needed of them, and `--sweep=docs/study/map_recipes.jsonl` reads it.
Prints a table of all recipes and one of the six answers, and draws accuracy against the learning rate and the gains of
each method on L2. How answers are computed was written down before the runs (docs/map.md).
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _recipe_runs import Cell, Predictions, Sweep
from scipy import stats

from delta_jax.analysis import recipes, statistics
from delta_jax.analysis.statistics import Paired

DELTA, PLAIN, WITHOUT = "delta", "l2", "delta_without_attention"
BINS = 15  # of the calibration error
DRAWS = 1000  # of the bootstrap over test images


@dataclass(frozen=True)
class Answer:
    """A sum over cells: over the seeds and over the test images, and the larger p of both."""

    question: str
    what: str
    seeds: Paired
    images: Paired

    @property
    def p(self) -> float:
        """Neither seeds nor test images may explain it."""
        return max(self.seeds.p, self.images.p)


def asked(
    question: str,
    what: str,
    weights: Mapping[Cell, float],
    of: Mapping[Cell, Sequence[Predictions]],
    rate: Callable[[Cell], float],
    measure: str = "correct",
) -> Answer:
    """The weighted sum of cells' means of a measure; the spread over seeds is pooled over the cells of a rate."""
    if gone := [" ".join(cell) for cell in weights if cell not in of]:
        raise SystemExit(f"error: question {question}: the answers of {', '.join(gone)} are gone; run it again")
    values = {cell: [float(getattr(one, measure).mean()) for one in runs] for cell, runs in of.items()}
    images = sum(
        weight * np.mean([getattr(one, measure) for one in of[cell]], axis=0) for cell, weight in weights.items()
    )
    seeds = statistics.contrast(weights, values, rate)
    return Answer(question, what, seeds, statistics.paired(images, np.zeros_like(images)))


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The expected one: over equal bins of the confidence, the mean distance of accuracy and confidence in them."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(sum(abs((correct - confidence)[bins == one].sum()) for one in range(BINS)) / len(correct))


def calibration(weights: Mapping[Cell, float], of: Mapping[Cell, Sequence[Predictions]]) -> tuple[float, float, float]:
    """The weighted sum of calibration errors, each the mean over seeds, and its 95 % interval over test images."""

    def difference(rows: np.ndarray) -> float:
        errors = (
            weight * np.mean([calibration_error(one.confidence[rows], one.correct[rows]) for one in of[cell]])
            for cell, weight in weights.items()
        )
        return float(sum(errors))

    images = np.arange(len(next(iter(of.values()))[0].correct))
    drawn = stats.bootstrap(
        (images,), difference, n_resamples=DRAWS, method="percentile", vectorized=False, random_state=0
    )
    return difference(images), float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def against(method: str, variants: Sequence[str], other: str = PLAIN) -> dict[Cell, float]:
    """{cell: factor} of the mean over recipes of what a method has more than another."""
    return {(one, name): sign / len(variants) for one in variants for name, sign in ((method, 1.0), (other, -1.0))}


def over_recipes(sweep: Sweep, of: Mapping[Cell, Sequence[Predictions]], method: str) -> list[str]:
    """The variants that both a method and L2 have answers in."""
    return [one for one in sweep.variants if {(one, method), (one, PLAIN)} <= of.keys()]


def answers(sweep: Sweep, shuffled: Sweep | None, noise: Sweep | None) -> list[Answer]:
    """Questions 1 to 6 as far as there are runs; the second part of the first is no member of the family."""
    found = []
    both = sweep.answered(DELTA, PLAIN)
    for question, method in (("1", DELTA), ("1, beside it", WITHOUT)):
        of = sweep.answered(method, PLAIN)
        if not (shared := over_recipes(sweep, of, method)):
            continue
        what = f"{method} minus l2, mean of {len(shared)} recipes"
        found.append(asked(question, what, against(method, shared), of, sweep.rate))
    for question, name, pick in (("2", "worst", min), ("3", "best", max)):
        chosen = [
            (pick(values := sweep.validated(method), key=values.__getitem__), method) for method in (DELTA, PLAIN)
        ]
        what = f"{name} recipe of each by validation images: {chosen[0][0]} minus {chosen[1][0]}"
        found.append(asked(question, what, {chosen[0]: 1.0, chosen[1]: -1.0}, both, sweep.rate))
    if shuffled:
        found.append(_content(sweep, shuffled))
    alike = [one for one in over_recipes(sweep, both, DELTA) if _holds_zero(_of_recipe(sweep, one, DELTA).images)]
    if alike:
        weights = against(DELTA, alike)
        what = f"cross-entropy of delta minus l2's, mean of {len(alike)} recipes of equal top-1"
        found.append(asked("5", what, weights, both, sweep.rate, "cross_entropy"))
        error, low, high = calibration(weights, both)
        print(f"calibration error there: {100 * error:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})\n")
    if noise:
        found.append(_wrong_labels(noise))
    return found


def _content(sweep: Sweep, shuffled: Sweep) -> Answer:
    shared = [one for one in shuffled.variants if (one, DELTA) in shuffled.final]
    of = {(one, "exact"): sweep.predictions((one, DELTA)) for one in shared}
    of |= {(one, "shuffled"): shuffled.predictions((one, DELTA)) for one in shared}
    what = f"exact minus shuffled attention, mean of {len(shared)} recipes"
    return asked("4", what, against("exact", shared, "shuffled"), of, sweep.rate)


def _wrong_labels(noise: Sweep) -> Answer:
    (setting,) = {cell[0] for cell in noise.final if cell[0].startswith("noisy40")}
    weights = against(DELTA, [setting])
    of = {cell: noise.predictions(cell) for cell in weights}
    return asked("6", "delta minus l2, 40 % of the labels wrong", weights, of, lambda _: 0.0)


def _of_recipe(sweep: Sweep, variant: str, method: str) -> Answer:
    rate = sweep.rate((variant, method))
    of = {cell: runs for cell, runs in sweep.answered(method, PLAIN).items() if sweep.rate(cell) == rate}
    return asked("", variant, against(method, [variant]), of, sweep.rate)


def _holds_zero(pair: Paired) -> bool:
    return pair.low <= 0 <= pair.high


def recipe_table(sweep: Sweep) -> str:
    """In Markdown: top-1 of every method in every recipe, and what DELTA has more than L2."""
    methods, both = list(dict.fromkeys(one["method"] for one in sweep.records)), sweep.answered(DELTA, PLAIN)
    lines = ["| recipe | " + " | ".join(f"`{one}`" for one in methods) + " | DELTA minus L2: seeds; images |"]
    lines.append("| --- |" + " --- |" * (len(methods) + 1))
    for variant in sweep.variants:
        cells = []
        for method in methods:
            runs = sweep.final.get((variant, method), [])
            cells.append(_top1([one["test"]["top1"] for one in runs if one["test"]], len(runs)))
        gain = ""
        if variant in over_recipes(sweep, both, DELTA):
            one = _of_recipe(sweep, variant, DELTA)
            bold = "**" if not _holds_zero(one.seeds) and not _holds_zero(one.images) else ""
            gain = f"{bold}{100 * one.seeds.difference:+.1f}{bold} {_span(one.seeds)}; {_span(one.images)}"
        lines.append(f"| {variant} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def _top1(values: Sequence[float], runs: int) -> str:
    if not values:
        return "diverged" if runs else "-"
    lost = f" ({runs - len(values)} of {runs} diverged)" if len(values) < runs else ""
    return f"{100 * np.mean(values):.1f}{lost or (' (one seed)' if runs == 1 else '')}"


def answer_table(found: Sequence[Answer]) -> str:
    """In Markdown, p corrected by Holm's procedure over the questions."""
    family = [one for one in found if "," not in one.question]
    adjusted = dict(zip((one.question for one in family), statistics.holm([one.p for one in family]), strict=True))
    lines = ["| question | what | difference | over seeds | over test images | p |", "| --- |" + " --- |" * 5]
    for one in found:
        scale, unit = (1.0, " nats") if one.question == "5" else (100.0, "")
        p = f"{adjusted[one.question]:.3g}" if one.question in adjusted else f"{one.p:.3g}, not in the family"
        spans = f"{_span(one.seeds, scale)} | {_span(one.images, scale)}"
        lines.append(f"| {one.question} | {one.what} | {scale * one.seeds.difference:+.2f}{unit} | {spans} | {p} |")
    return "\n".join(lines)


def _span(pair: Paired, scale: float = 100.0) -> str:
    return (
        f"[{scale * pair.low:+.1f}, {scale * pair.high:+.1f}]" if scale > 1 else f"[{pair.low:+.3f}, {pair.high:+.3f}]"
    )


def draw(sweep: Sweep, folder: Path) -> None:
    """map-rates.png and map-gains.png."""
    (grid,) = recipes.of_records(sweep.variants, sweep.records).values()
    (head,) = sweep.heads.values()
    recipes.plot_rates(grid, folder / "map-rates.png", level=head)
    recipes.plot_gains(grid, PLAIN, folder / "map-gains.png")
    print(f"the head alone: {head:.2%}\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True, help="workdir of configs/map/recipes.py")
    parser.add_argument("--shuffled", type=Path, help="workdir of configs/map/shuffled.py")
    parser.add_argument("--noise", type=Path, help="workdir of configs/map/noise.py")
    parser.add_argument("--keep", type=Path, help="folder for the records and answers of all of these")
    parser.add_argument("--figures", type=Path, help="folder for the pictures")
    parser.add_argument("--json", type=Path, help="file for the answers")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    sweep = Sweep(args.sweep)
    shuffled, noise = (Sweep(one) if one else None for one in (args.shuffled, args.noise))
    if args.keep:
        for name, part in (("recipes", sweep), ("shuffled", shuffled), ("noise", noise)):
            if part:
                part.keep(args.keep / f"map_{name}.jsonl")
    if args.figures:
        draw(sweep, args.figures)
    print(recipe_table(sweep) + "\n")
    found = answers(sweep, shuffled, noise)
    print(answer_table(found))
    if args.json:
        rows = [
            {"question": one.question, "what": one.what, "seeds": one.seeds._asdict(), "images": one.images._asdict()}
            for one in found
        ]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

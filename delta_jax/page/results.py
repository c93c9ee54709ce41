"""Tables of results: mean, spread and interval over the seeds of each method, and what may be said of differences."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from delta_jax.analysis import published
from delta_jax.analysis.statistics import Summary, summarize
from delta_jax.page.naming import label, setting
from delta_jax.page.reading import SUMMARY, Experiment, Run, Study, objects

_COMPARED = frozenset({"first", "second", "verdict"})  # fields that a comparison cannot do without
_CONVERGENCES = {
    "improving": "still improving: more steps pay",
    "converged": "converged",
    "worse": "getting worse: overfitting",
    "unknown": "cannot be told",
}
STRIP_WIDTH = 130  # of the picture of seeds and interval in a row, viewBox


@dataclass(frozen=True)
class Row:
    """A method in one experiment.

    Attributes:
      method: its name.
      top1, balanced, cross_entropy: of the test images, over seeds; None where no run has the measure.
      validation: top-1 of the validation images.
      paper: mean and standard deviation of the paper; None where it has none.
      alpha: the weights of the penalty over the runs, least and largest; None where it has none.
      strip: the picture of top-1: positions of seeds, interval and mean.
      failed: runs without numbers.
      seconds: of all its runs.
      best: whether it is better than every other method here, as comparisons.json says.
    """

    method: str
    top1: Summary | None
    balanced: Summary | None
    cross_entropy: Summary | None
    validation: Summary | None
    paper: tuple[float, float] | None
    alpha: tuple[float, float] | None
    strip: dict[str, Any] | None
    failed: int
    seconds: float
    best: bool


def table(study: Study, experiment: Experiment) -> tuple[list[Row], tuple[float, float] | None]:
    """A row per method that has a run, and the ends of the axis of their strips, accuracies; None without any."""
    # The stand-in of a sweep has other data: the paper's numbers beside it would mislead.
    published_in = "" if study.settings.get("small") else str(study.settings.get("table") or "")
    by_method = dict(experiment.runs)
    if study.kind in ("run", "search") and "l2_fe" not in by_method:
        # A run of any method trains a head on the frozen source first: that is its baseline.
        by_method = {
            "l2_fe": [head for runs in by_method.values() for run in runs if (head := _baseline(run))],
            **by_method,
        }
        by_method = {method: runs for method, runs in by_method.items() if runs}
    scale = _scale(by_method)
    better = {winner: {loser for loser, _ in others} for winner, others in superior(study, experiment).items()}
    found = []
    for method, runs in by_method.items():
        alphas = [run.alpha for run in runs if run.alpha is not None]
        others = by_method.keys() - {method}
        found.append(
            Row(
                method=method,
                top1=_summary(runs, "top1"),
                balanced=_summary(runs, "balanced_accuracy"),
                cross_entropy=_summary(runs, "cross_entropy"),
                validation=_summary(runs, "top1", "validation"),
                paper=published.accuracy(published_in, experiment.data, experiment.network, method)
                if published_in
                else None,
                alpha=(min(alphas), max(alphas)) if alphas else None,
                strip=_strip(runs, scale) if scale else None,
                failed=sum(not run.test for run in runs),
                seconds=sum(run.seconds for run in runs),
                best=bool(others) and better.get(method, set()) >= others,
            )
        )
    return found, scale


def comparisons(study: Study, experiment: Experiment) -> list[dict[str, Any]]:
    """The comparisons of this experiment in comparisons.json.

    Returns:
      first, second, verdict ("better", "worse" or "no difference shown" of `first`), reason, p, and the differences of
      top-1 over "seeds" and over "images": difference, low and high each, None where not known.
    """
    own = (experiment.data, experiment.network, experiment.variant)
    return [
        _comparison(one)
        for one in objects(study.comparisons, "comparisons")
        if (one.get("data"), one.get("network"), one.get("variant") or "") == own and one.keys() >= _COMPARED
    ]


def variants(study: Study, experiment: Experiment) -> list[dict[str, Any]]:
    """The comparisons of this variant with others in comparisons.json: as `comparisons`, and the method they are of."""
    return [
        {"method": str(one["method"]), **_comparison(one)}
        for one in objects(study.comparisons, "variants")
        if (one.get("data"), one.get("network")) == (experiment.data, experiment.network)
        and _COMPARED | {"method"} <= one.keys()
        and experiment.variant in (one["first"], one["second"])
    ]


def convergences(experiment: Experiment) -> dict[str, list[tuple[str, int]]]:
    """{method: (whether more steps would have paid, of how many runs)}; of a single run in its own words.

    Runs that served a choice count, too: often they alone have validation images. Those that did not look at these
    while they trained are not among them, nor is a head alone.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for method in dict.fromkeys([*experiment.runs, *experiment.choices]):
        runs = [*experiment.runs.get(method, ()), *experiment.choices.get(method, ())]
        verdicts = [one for run in runs if (one := run.file(SUMMARY).get("convergence") or {}).get("said")]
        if len(verdicts) == 1:
            found[method] = [(str(verdicts[0]["said"]), 1)]
        elif verdicts:
            counted = Counter(_CONVERGENCES.get(str(one.get("verdict")), "cannot be told") for one in verdicts)
            found[method] = [(said, counted[said]) for said in _CONVERGENCES.values() if counted[said]]
    return found


def gains(study: Study, experiment: Experiment) -> list[tuple[str, int, str]]:
    """(method, seed, whether it is better than the head alone, in words) of each run of a page that is no sweep's."""
    if study.kind == "sweep":
        return []
    return [
        (method, run.seed, str(said))
        for method, runs in experiment.runs.items()
        for run in runs
        if (said := (run.file(SUMMARY).get("gain") or {}).get("said"))
    ]


def superior(study: Study, experiment: Experiment) -> dict[str, list[tuple[str, float | None]]]:
    """{method: those it is better than, as comparisons.json says, and by how much of top-1 over the seeds}."""
    found: dict[str, list[tuple[str, float | None]]] = {}
    for one in comparisons(study, experiment):
        pair = {"better": (one["first"], one["second"]), "worse": (one["second"], one["first"])}.get(one["verdict"])
        if pair:
            difference = one["seeds"].get("difference")
            found.setdefault(pair[0], []).append((pair[1], None if difference is None else abs(difference)))
    order = list(experiment.runs)
    return {
        name: found[name]
        for name in sorted(found, key=lambda name: order.index(name) if name in order else -1, reverse=True)
    }


def failures(study: Study) -> list[tuple[str, str]]:
    """(run, why) of every run without numbers, those that were to choose a strength included."""
    everything = [
        run
        for one in study.experiments
        for group in (one.runs, one.choices)
        for runs in group.values()
        for run in runs
        if run.error or not (run.test or run.validation)
    ]
    return [(_called(run), run.error or "it left no numbers") for run in everything]


def expected_runs(settings: Mapping[str, Any]) -> int | None:
    """How many final runs a sweep is to have; None where sweep.json does not say."""
    try:
        # A network may name the data sets that it runs on.
        cells = sum(len(network.get("data_sets") or settings["data_sets"]) for network in settings["networks"].values())
        return cells * max(len(settings.get("variants") or {}), 1) * len(settings["methods"]) * len(settings["seeds"])
    except (KeyError, TypeError, AttributeError):
        return None


def _comparison(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "first": str(one["first"]),
        "second": str(one["second"]),
        "verdict": str(one["verdict"]),
        "reason": str(one.get("reason") or ""),
        "p": one.get("adjusted_p"),
        **{over: one.get(over) or {} for over in ("seeds", "images")},
    }


def _called(run: Run) -> str:
    parts = [setting(run.data, run.network, run.variant), label(run.method), f"seed {run.seed}"]
    parts += [f"{name} = {value}" for name, value in run.strength.items()] if run.kind != "final" else []
    parts += [f"fold {run.fold}"] if run.kind != "final" else []
    return ", ".join(parts)


def _summary(runs: Sequence[Run], measure: str, split: str = "test") -> Summary | None:
    values = [float(value) for run in runs if (value := getattr(run, split).get(measure)) is not None]
    return summarize(values) if values else None


def _baseline(run: Run) -> Run | None:
    summary = run.file(SUMMARY)
    measured = summary.get("l2_fe") or {}
    if not measured.get("test"):
        return None
    seconds = float((summary.get("seconds") or {}).get("head") or 0.0)
    validation = measured.get("validation") or {}
    return replace(run, method="l2_fe", test=measured["test"], validation=validation, alpha=None, seconds=seconds)


def _scale(by_method: Mapping[str, Sequence[Run]]) -> tuple[float, float] | None:
    """The range of top-1 over all methods, intervals included, so that the strips of a table can be compared."""
    values = [float(top1) for runs in by_method.values() for run in runs if (top1 := run.test.get("top1")) is not None]
    if not values:
        return None
    for runs in by_method.values():
        summary = _summary(runs, "top1")
        values += [v for v in (summary.low, summary.high) if math.isfinite(v)] if summary else []
    low, high = max(min(values), 0.0), min(max(values), 1.0)
    margin = max((high - low) * 0.08, 0.002)
    return low - margin, high + margin


def _strip(runs: Sequence[Run], scale: tuple[float, float]) -> dict[str, Any] | None:
    summary = _summary(runs, "top1")
    if summary is None:
        return None

    def at(value: float) -> float:
        share = (value - scale[0]) / (scale[1] - scale[0])
        return round(STRIP_WIDTH * min(max(share, 0.0), 1.0), 1)

    interval = (at(summary.low), at(summary.high)) if math.isfinite(summary.low) else None
    seeds = [(at(float(run.test["top1"])), run.seed) for run in runs if run.test.get("top1") is not None]
    return {"mean": at(summary.mean), "interval": interval, "seeds": seeds}

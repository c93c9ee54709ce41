"""What a search found, in words and as data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from delta_jax.analysis.statistics import CONFIDENCE, Paired
from delta_jax.tuning import budget, trials, winner
from delta_jax.tuning.space import CONFIGURED, HEAD, Setting
from delta_jax.tuning.trials import Run
from delta_jax.tuning.winner import Candidate


def facts(search: Any, final: Mapping[str, Any], ends: Sequence[Run]) -> dict[str, Any]:
    """The content of summary.json.

    Args:
      search: that has ended.
      final: summary of the final run, with its test.
      ends: the runs that the final network is made of.
    """
    state, folder = search.state(), search.folder
    won = Candidate(**_read(folder / "choice.json")["winner"])
    found = winner.candidates(state)
    of = {one.number: one for one in state.settings}
    right = {(one.setting, one.steps): _right(folder, one, state.seed) for one in found}
    mine = (won.setting, won.steps)
    alike = winner.indistinguishable(right, mine)
    configured = next((key for key in right if key == (CONFIGURED, state.plan.steps)), None)
    pairs = {
        name: winner.against(right[mine], right[key])._asdict()
        for name, key in (("configured", configured), ("l2_fe", (HEAD, 0)))
        if key in right and key != mine
    }
    rows = [_row(one, of[one.run.setting]) for one in state.results.values()]
    tried = {one.run.setting for one in state.results.values()} - {HEAD}
    described = {
        "settings": len(tried),
        "methods": sorted({of[number].method for number in tried}),
        "needed_seconds": None if tried else search.needed(),
        "runs": sum(not one.run.refit for one in state.results.values()),
        "seconds": search.spent(),
        "winner": {**vars(won), "description": of[won.setting].describe(), "fields": dict(of[won.setting].fields)},
        "validation_images": len(right[mine]),
        "against": pairs,
        "indistinguishable": len(alike),
        "compared": len(found),
        "seeds": [run.seed for run in ends],
        "steps": ends[0].steps,
        "refit": ends[0].refit,
        "average": _read(folder / "average.json"),
        "test": final["test"],
        "test_l2_fe": final["l2_fe"]["test"],
        "final": "final",
    }
    return {**described, "words": paragraph(described), "trials": rows}


def paragraph(found: Mapping[str, Any]) -> str:
    """What was tried, what won, and how sure that is."""
    won, n, count = found["winner"], found["validation_images"], found["settings"]
    if count:
        was = "1 setting was" if count == 1 else f"{count} settings were"
        parts = [
            f"{was} tried beside the head alone (L2-FE), of {', '.join(found['methods'])}, in {found['runs']} runs and "
            f"{budget.shown(found['seconds'])}."
        ]
    else:
        parts = [
            "The budget had no time for fine-tuning: the config as it is, short and whole, and then the final run take "
            f"about {budget.shown(found['needed_seconds'])}."
        ]
    kept = won["setting"] == CONFIGURED
    alone = won["fields"]["method"] == "l2_fe"
    name = f"The head alone, {won['description']}," if alone else f"{won['description']}, {won['steps']} steps,"
    parts.append(f"{name} is best on {n} validation images: {_percent(won['top1'])}.")
    if kept:
        parts.append("Nothing that was tried was better than the config as it is, which is kept.")
    for key, what in (("configured", "the config as it is"), ("l2_fe", "the head alone")):
        if key in found["against"]:
            parts.append(_against(Paired(**found["against"][key]), what))
    if found["compared"] > 1:
        others = found["compared"] - 1
        parts.append(
            f"{found['indistinguishable']} of the {others} other candidates with whole runs are within what {n} images "
            "can tell apart from it; the best of several is flattered by the images that chose it."
        )
    parts.append(_end(found))
    test, base = found["test"], found["test_l2_fe"]
    if test:
        low, high = interval(test["top1"], test["n"])
        parts.append(
            f"On the {test['n']} test images, looked at once: {_percent(test['top1'])} "
            f"({CONFIDENCE:.0%} interval {100 * low:.1f} to {100 * high:.1f})"
            + (f"; the head alone {_percent(base['top1'])}." if base and not alone else ".")
        )
    return " ".join(parts)


def interval(top1: float, n: int) -> tuple[float, float]:
    """Wilson's interval of an accuracy over n images."""
    found = stats.binomtest(round(top1 * n), n).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)


def _read(path: Path) -> dict[str, Any]:
    # The first process alone is here, and `json_files.read` is for all of a group.
    return json.loads(path.read_text()) if path.exists() else {}


def _against(pair: Paired, what: str) -> str:
    sure = "which the images are enough to show" if pair.low > 0 else "which may be chance"
    if not np.isfinite(pair.low):
        return f"Against {what}: {100 * pair.difference:+.1f} points."
    return (
        f"Against {what}: {100 * pair.difference:+.1f} points ({CONFIDENCE:.0%} interval {100 * pair.low:+.1f} to "
        f"{100 * pair.high:+.1f}), {sure}."
    )


def _end(found: Mapping[str, Any]) -> str:
    images = "all images that are not for testing" if found["refit"] else "the training images"
    count = len(found["seeds"])
    average = found["average"]
    more = found["steps"] > found["winner"]["steps"]
    longer = f" for {found['steps']} steps, as the config asks for more and there was time" if more else ""
    if count > 1:
        single = np.mean([one["top1"] for one in average["single"]])
        text = (
            f"The final network is the average of {count} seeds, trained on {images}{longer}: on validation images "
            f"{_percent(average['average']['top1'])}, one seed alone {_percent(single)}."
        )
    else:
        text = f"The final network was trained on {images}{longer}."
        if average:
            text += " An average over seeds did not pay."
    if average and average["ensemble_gain"]["low"] > 0:
        text += f" Several networks together would be better: {_percent(average['ensemble']['top1'])}."
    return text


def _right(folder: Any, one: Candidate, seed: int) -> np.ndarray:
    found = []
    for fold in range(one.folds):
        probabilities, labels = trials.probabilities(folder, Run(one.setting, one.steps, fold, seed))
        found.append(probabilities.argmax(-1) == labels)
    return np.concatenate(found)


def _row(one: trials.Result, setting: Setting) -> dict[str, Any]:
    return {
        **vars(one.run),
        "fields": dict(setting.fields),
        "description": setting.describe(),
        "top1": one.top1 if one.n else None,
        "cross_entropy": one.cross_entropy if one.n else None,
        "n": one.n,
        "seconds": one.timed.whole,
        "error": one.error,
        "workdir": one.run.path,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"

"""The end of a search: the winner over seeds and on all images, its test, and what is said of it all."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from delta_jax import page, processes, reports
from delta_jax.training import trainer
from delta_jax.training.classifier import MODEL
from delta_jax.training.state import Variables
from delta_jax.tuning import averaging, plan, space, trials, winner, words
from delta_jax.tuning.decision import State
from delta_jax.tuning.search import CHOICE, FACTS, WAIT_S, Search
from delta_jax.tuning.space import HEAD
from delta_jax.tuning.together import alone
from delta_jax.tuning.trials import Run
from delta_jax.tuning.winner import Candidate
from delta_jax.workdir import json_files, logs
from delta_jax.workdir.variable_files import save_variables

AVERAGE, REFITS, SUMMARY, FINAL = "average.json", "refits.json", "summary.json", "final"
MARGIN = 1.2  # of time: a run may take longer than the one before it
WORTH = 1.2  # of steps: fewer more are not worth another run


def seeds(left: float, run: float, once: float, refit: bool, last: float | None = None) -> int:
    """How many seeds the final network may be made of.

    Args:
      left: seconds of the budget.
      run: seconds of a whole run of the winner.
      once: seconds of its head and its attention on all images.
      refit: whether the final runs train on all images.
      last: seconds of a final run where that has more steps; None: it is a run like the winner's.

    Returns:
      3, 2 or 1; 0 where there is no time for a run on all images: the network of the search is the end.
    """
    for count in range(plan.SEEDS, 0, -1):
        # Each seed but the first is also run on the validation fold, to see whether an average pays.
        if refit:
            needed = (count - 1) * run + once + count * (last or run)
        else:
            needed = count * last if last else (count - 1) * run
        if MARGIN * needed <= left:
            return count
    return 0


def longer(wanted: int, run: int, left: float, seconds: Callable[[int], float]) -> int:
    """Steps of the final runs, where those of the search had to be shorter than the config asks for.

    A network that was chosen at few steps mostly improves with more: they come before other seeds.

    Args:
      wanted: steps of the config.
      run: steps of a whole run of the search.
      left: seconds of the budget.
      seconds: steps -> seconds of a final run.

    Returns:
      `wanted`, or as many as there is time for; `run` where that is not a fifth more.
    """
    between = range(wanted, math.ceil(WORTH * run) - 1, -max(1, wanted // 100))
    return next((steps for steps in between if MARGIN * seconds(steps) <= left), run)


def refits(left: float, run: float, once: float, wanted: int) -> int:
    """How many of the wanted runs on all images there is time for, after those on the validation fold."""
    return next((count for count in range(wanted, 0, -1) if once + count * run <= left), 0)


def finish(search: Search) -> None:
    """Trains the winner, tests it once, and writes and says what came out; what is done already is not done again.

    Several processes share the runs; the one that finds the last step free does it, the others end.

    Raises:
      ConfigError, DataError, WeightsError, OSError: as `trainer.fit`.
    """
    folder = search.folder
    state = search.state()
    chosen = _choice(search, state)
    won, count = Candidate(**chosen["winner"]), int(chosen["seeds"])
    steps = int(chosen.get("steps", won.steps))  # searches of before had the winner's
    setting = next(one for one in state.settings if one.number == won.setting)
    on_fold = _on_fold(search, won, steps, count)
    if not trials.has_model(folder, on_fold[0]) and (not search.plan.refit or count != 1):
        trials.forget(folder, on_fold[0])
    _all_done(search, on_fold)
    whole = [run for run in on_fold if trials.has_model(folder, run)]  # without those that diverged
    ends = whole[: len(whole) if len(whole) > 1 and _average_pays(search, setting, whole) else 1] or on_fold[:1]
    head_l2 = float(json_files.read(folder / on_fold[0].path / trials.RESULT)["head_l2"])
    refitted = ends[: _refits(search, won, steps, len(ends), count)]
    again = [Run(run.setting, steps, 0, run.seed, refit=True) for run in refitted]
    _all_done(search, again, head_l2)
    ends = [run for run in again if trials.has_model(folder, run)] or ends
    with alone(folder / ".final.lock") as mine:
        if not mine:
            logs.say("another process does the last step: the test, and the page")
            return
        if shown_again(folder):  # another process has done it meanwhile
            return
        _last_step(search, setting, ends, head_l2)
    if processes.is_first():
        # Those of the end stay: another process may be on its way to them.
        for path, found in trials.results(folder).items():
            if path not in {run.path for run in (*on_fold, *again)}:
                trials.forget_model(folder, found.run)


def _choice(search: Search, state: State) -> Mapping[str, Any]:
    """The content of choice.json: decided once, as the clock goes on."""
    path = search.folder / CHOICE
    if processes.is_first() and not path.exists():
        won = winner.choose(winner.candidates(state))
        left, refit, steps = search.left(), search.plan.refit, won.steps
        run, once = _seconds(state, won)
        if state.method(won.setting) == "l2_fe":
            count = min(seeds(left, run, once, refit), 1)  # there is one head, whatever the seed
        else:
            beside = once if refit else 0.0
            wanted = int(search.config.steps)
            steps = longer(wanted, won.steps, left, lambda steps: _run_seconds(state, won, steps) + beside)
            last = _run_seconds(state, won, steps) if steps > won.steps else None
            count = seeds(left, run, once, refit, last)
        trials.first_to_write(path, {"winner": vars(won), "seeds": count, "steps": steps})
    return json_files.read(path)


def _on_fold(search: Search, won: Candidate, steps: int, count: int) -> list[Run]:
    """The runs on the validation fold that the end is made of, or that tell whether an average pays.

    Where no run trains on more images than those of the search, the longer ones are on the fold as well: then the
    validation images say whether they are better than the one that was chosen.
    """
    base = int(search.config.seed)
    chosen = Run(won.setting, won.steps, 0, base)
    if search.plan.refit or steps == won.steps:
        return [Run(won.setting, won.steps, 0, base + i) for i in range(max(count, 1))]
    runs = [Run(won.setting, steps, 0, base + i) for i in range(max(count, 1))]
    _all_done(search, runs[:1])
    results = search.state().results
    if results[runs[0].path].value < results[chosen.path].value:
        logs.say(f"{steps} steps are no better on the validation images than {won.steps}")
        return [chosen]
    return runs


def _refits(search: Search, won: Candidate, steps: int, wanted: int, planned: int) -> int:
    """How many runs on all images there are: fewer than planned where those before took longer than foreseen."""
    path = search.folder / REFITS
    if not search.plan.refit or not planned:
        return 0
    if processes.is_first() and not path.exists():
        state = search.state()
        run, (_, once) = _run_seconds(state, won, steps), _seconds(state, won)
        # Of a single one the time was looked at when it was planned.
        count = wanted if planned == 1 else refits(search.left(), run, once, wanted)
        trials.first_to_write(path, {"count": count})
    return int(json_files.read(path)["count"])


def _seconds(state: State, won: Candidate) -> tuple[float, float]:
    """Of a whole run of the winner, and of head and attention beside it, on other images."""
    alike = [one.timed for one in state.results.values() if state.method(one.run.setting) == state.method(won.setting)]
    trains = state.method(won.setting) != "l2_fe"
    heads = [one.timed for one in state.results.values() if one.run.setting == HEAD and trains]
    once = sum(max((one.once for one in some), default=0.0) for some in (alike, heads))
    return _run_seconds(state, won, won.steps), once


def _run_seconds(state: State, won: Candidate, steps: int) -> float:
    return state.seconds(Run(won.setting, steps, 0, state.seed))


def _all_done(search: Search, runs: list[Run], head_l2: float = 0.0) -> None:
    """Does those of the runs that nobody else does, and waits for the others."""
    while left := [run for run in runs if not json_files.exists(search.folder / run.path / trials.RESULT)]:
        free = [run for run in left if not trials.is_held(search.folder, run)] if processes.is_first() else []
        number = processes.from_first(str(left.index(free[0])) if free else "")
        if number:
            search.do(left[int(number)], head_l2)
        else:
            time.sleep(WAIT_S)


def _average_pays(search: Search, setting: space.Setting, runs: list[Run]) -> bool:
    """Whether the average of the runs is to be the end, by the validation images; see `averaging.pays`."""
    path = search.folder / AVERAGE
    if not json_files.exists(path):
        config = search.config_of(setting, runs[0])
        setup = averaging.set_up(config, search.folder / runs[0].path)
        found = averaging.compared(setup, [search.folder / run.path for run in runs])
        right = found.pop("right")
        gain = winner.against(right["ensemble"], right["average"])
        taken = averaging.pays(found, winner.against(right["average"], right["single"]))
        json_files.write(path, {**found, "ensemble_gain": gain._asdict(), "taken": taken})
    found = json_files.read(path)
    parts = ", ".join(f"{one['top1']:.2%} ({one['cross_entropy']:.3f})" for one in found["single"])
    logs.say(
        f"average of {len(runs)} seeds: validation top-1 {found['average']['top1']:.2%} (cross-entropy "
        f"{found['average']['cross_entropy']:.3f}), its parts {parts}: {'taken' if found['taken'] else 'not taken'}"
    )
    return bool(found["taken"])


def _last_step(search: Search, setting: space.Setting, ends: list[Run], head_l2: float) -> None:
    folder, final = search.folder, search.folder / FINAL
    config = search.config_of(setting, ends[0], head_l2)
    if not json_files.exists(final / MODEL):
        workdirs = [folder / run.path for run in ends]
        network = None
        if len(ends) > 1:
            network = averaging.average(averaging.load(workdirs, averaging.set_up(config, workdirs[0])))
        if processes.is_first():
            _write_final(final, workdirs[0], network, [run.seed for run in ends])
    fitted = trainer.fit(config, final)
    reports.show(fitted)
    if not processes.is_first():
        return
    facts = words.facts(search, fitted.summary, ends)
    json_files.write(folder / SUMMARY, facts)
    logs.say(f"\n{facts['words']}")
    for path in (FINAL, SUMMARY):
        logs.say(f"  {folder / path}")
    logs.say(f"All of it on one page, for a browser: {page.write(folder)}")


def _write_final(final: Path, workdir: Path, network: Variables | None, seeds: list[int]) -> None:
    """The workdir of the final run, whole or not at all: that of a run, with another network where one is given."""
    unfinished = final.with_name(f".{FINAL}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    left_out = shutil.ignore_patterns(trials.RESULT, trials.PROBABILITIES, "checkpoints", ".*", SUMMARY)
    shutil.copytree(workdir, unfinished, ignore=left_out)
    if network is not None:
        save_variables(unfinished / MODEL, network)
        json_files.write(unfinished / AVERAGE, {"seeds": seeds})
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)


def shown_again(folder: Path) -> bool:
    """Says what a search that has ended found; False where it has not."""
    path = folder / SUMMARY
    if not json_files.exists(folder / FACTS) or not json_files.exists(path):
        return False
    logs.say(json.loads(path.read_text())["words"])
    logs.say(
        f"This search has ended, and its test images were looked at; another one takes another --workdir ({folder})"
    )
    return True

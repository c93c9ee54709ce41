"""What is done next in a search: a pure function of what is on disk and the time that is left."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from delta_jax.tuning import halving, pace
from delta_jax.tuning.halving import Promotion
from delta_jax.tuning.plan import Plan
from delta_jax.tuning.space import CONFIGURED, HEAD, Setting
from delta_jax.tuning.trials import Result, Run

PATIENCE = 10  # new settings without a better one, after which a search without a limit ends


@dataclass(frozen=True)
class State:
    """A search at some moment.

    Attributes:
      plan: of it.
      settings: begun so far, by number.
      begun: of each rung but the first the settings that were sent there.
      results: {path: result} of the runs that are done.
      held: paths of runs that other processes are at.
      seed: of the runs.
    """

    plan: Plan
    settings: Sequence[Setting]
    begun: Sequence[Collection[int]]
    results: Mapping[str, Result]
    held: Collection[str]
    seed: int

    def on(self, rung: int) -> set[int]:
        """The settings that are or were on a rung."""
        if rung == 0:
            return {one.number for one in self.settings if one.number != HEAD}
        return set(self.begun[rung])

    def runs(self, setting: int, rung: int) -> list[Run]:
        """Of a setting on a rung, one for each fold."""
        steps, folds = self.plan.rungs[rung]
        return [Run(setting, 0 if setting == HEAD else steps, fold, self.seed) for fold in range(folds)]

    def value(self, setting: int, rung: int) -> float | None:
        """The mean over the folds; None while one is not done."""
        found = [self.results.get(run.path) for run in self.runs(setting, rung)]
        known = [one.value for one in found if one]
        return sum(known) / len(found) if len(known) == len(found) else None

    def values(self) -> list[dict[int, float]]:
        """Of every rung {setting: value} of those that passed it."""
        return [
            {number: value for number in self.on(rung) if (value := self.value(number, rung)) is not None}
            for rung in range(len(self.plan.rungs))
        ]

    def undone(self) -> list[Run]:
        """The runs that were decided on and are not done, those of others included; heads of a fold come first."""
        wanted: dict[str, Run] = {}
        highest = max((rung for rung in range(len(self.plan.rungs)) if self.on(rung)), default=0)
        for run in self.runs(HEAD, highest):
            wanted[run.path] = run
        for rung in reversed(range(len(self.plan.rungs))):
            for setting in sorted(self.on(rung)):
                wanted |= {run.path: run for run in self.runs(setting, rung)}
        return [run for path, run in wanted.items() if path not in self.results]

    def method(self, setting: int) -> str:
        """That a setting trains with."""
        return next(one.method for one in self.settings if one.number == setting)

    def seconds(self, run: Run, setting: Setting | None = None) -> float:
        """That a run is expected to take; `setting` is its own where that is not among those begun."""
        own = setting or next(one for one in self.settings if one.number == run.setting)
        crop = int(own.fields.get("data.crop", self.plan.crop))
        timed = [one.timed for one in self.results.values() if not one.error and not one.run.refit]
        step = self.plan.step_seconds * (crop / self.plan.crop) ** 2
        return pace.predicted(timed, own.method, crop, run.steps, run.fold, step)

    def seconds_of(self, step: Promotion) -> float:
        """That a setting is expected to take on a rung."""
        return sum(self.seconds(run) for run in self.runs(*step) if run.path not in self.results)


WAIT = "wait"


def decide(
    state: State, left: float, trials: int | None, propose: Callable[[int], Setting]
) -> Run | Promotion | Setting | str | None:
    """The next thing to do.

    Args:
      state: of the search.
      left: seconds for the search; infinity for no limit.
      trials: settings there may be beside the head alone; None for no limit.
      propose: number -> the setting of that number.

    Returns:
      A run; a setting that goes on; a new setting; `WAIT` while others are at what everything waits for; None when
      the search has ended.
    """
    undone = state.undone()
    mine = [run for run in undone if run.path not in state.held]
    # What was begun is brought to its end, if it fits: nobody else will.
    for run in mine:
        if state.seconds(run) <= left:
            return run
    values, begun = state.values(), [state.on(rung) for rung in range(len(state.plan.rungs))]
    whole = state.plan.whole
    if len(state.settings) == CONFIGURED:
        return propose(CONFIGURED)
    if CONFIGURED in values[0] and whole and CONFIGURED not in begun[1]:
        # All others are compared with it, and its times are what theirs are predicted by.
        step = Promotion(CONFIGURED, 1)
        if state.seconds_of(step) <= left:
            return step
    earned = halving.promotion(values, begun, always=CONFIGURED)
    if earned and state.seconds_of(earned) <= left:
        return earned
    count = len(state.settings)
    if (trials is None or count <= trials) and (trials is not None or left < float("inf") or _pays(state, values)):
        new = propose(count)
        short, long = (
            state.seconds(Run(count, state.plan.rungs[rung].steps, 0, state.seed), new) for rung in (0, whole)
        )
        nxt = halving.best_left(values, begun, whole)
        later = max(long if whole else 0.0, state.seconds_of(nxt) if nxt else 0.0)
        # It, or the best one so far, is to have time for a whole run: else this one is for nothing, unless there is
        # not one whole run, and no time for any.
        if short + later <= left or (not values[whole] and short <= left < later):
            return new
    ending = halving.best_left(values, begun, whole)
    if ending and state.seconds_of(ending) <= left and _may_win(values, ending, left < float("inf")):
        return ending
    return WAIT if len(mine) < len(undone) else None


def _pays(state: State, values: Sequence[Mapping[int, float]]) -> bool:
    highest = next((found for found in reversed(values) if found), {})
    best = max(highest, key=lambda setting: (highest[setting], -setting), default=0)
    return len(state.settings) - best <= PATIENCE


def _may_win(values: Sequence[Mapping[int, float]], step: Promotion, limited: bool) -> bool:
    """Whether a setting that did not earn its rung may still win there; time that is left over is free."""
    below = values[step.rung - 1]
    ranked = sorted(below, key=lambda setting: -below[setting])
    return step.setting in ranked[: max(2, len(ranked) // (2 if limited else halving.ETA))]

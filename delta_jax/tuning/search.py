"""The search in a folder: settings tried on validation images, by as many processes as are started there."""

import gc
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from delta_jax import methods, processes
from delta_jax.training import config as configs
from delta_jax.training import length, setup, stored_config
from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import InUseError
from delta_jax.tuning import budget, decision, plan, sampling, space, together, trials, winner
from delta_jax.tuning.budget import Clock
from delta_jax.tuning.decision import State
from delta_jax.tuning.halving import Promotion
from delta_jax.tuning.plan import Limits, Plan
from delta_jax.tuning.space import CONFIGURED, HEAD, Setting
from delta_jax.tuning.trials import Run
from delta_jax.workdir import json_files, logs

FACTS, SAID, CHOICE = "tune.json", "said.txt", "choice.json"
WAIT_S = 1.0  # between looks at what other processes do
# Runs, after which what jax traced is thrown away: kept, it saves a run of EfficientNet-Lite0 a quarter of the work
# beside its steps, and grows by 50 to 90 MB a run.
CLEARED_EVERY = 8
KEPT_MODELS = 3  # of whole runs; the best ones


class Search:
    """Of the best setting for a config, in a folder.

    Attributes:
      config: that the search starts from, not resolved.
      folder: of all files.
      plan: made once, when the search begins.
    """

    def __init__(self, config: ConfigDict, given: Sequence[str], folder: Path, limits: Limits, clock: Clock):
        """Checks what can be checked before anything slow.

        Args:
          config: of a run, not resolved.
          given: its fields on the command line: these are not searched.
          folder: of all files; a search that has begun there goes on.
          limits: when it ends.
          clock: of the folder.

        Raises:
          ConfigError: there is nothing to choose by, optuna is missing, or the folder is that of another search.
        """
        self.folder, self._limits, self._clock = Path(folder), limits, clock
        sampling.require()
        if "method" in given and not methods.create(config.method).trains_backbone:
            raise ConfigError(
                f"--config.method={config.method} trains the head alone, so there is nothing to search; leave it out, "
                "or run delta_jax.train"
            )
        if config.strength_search:
            raise ConfigError(
                "--config.strength_search=True: expected False: delta_jax.tune tries strengths in runs of their own, "
                "and its last runs have no validation images; for one run with a search, run delta_jax.train"
            )
        resolved = configs.resolve(config)
        self._folds, self._refit = _folds(config)
        self.config = _with_steps(config)
        # Steps that follow from the number of images may change by the budget.
        self._given = tuple(field for field in given if field != "steps" or config.steps)
        json_files.write(self.folder / FACTS, _same_search(self.folder, resolved.to_dict(), given))
        self._steps = self._runs = 0
        self.plan: Plan = self._planned()
        self._steps = self.plan.steps

    def run(self) -> None:
        """Tries settings until the limits are reached or it does not pay any more.

        Raises:
          ConfigError, DataError, WeightsError, OSError: as `trainer.fit`.
          Interrupted: by a signal; the same call goes on from there.
        """
        first = space.first(self.config, self.plan.space)

        def propose(number: int) -> Setting:
            if number < len(first):
                return first[number]
            state = self.state()
            values: dict[int, dict[int, float]] = {one.number: {} for one in state.settings}
            for rung, found in enumerate(state.values()):
                for setting, value in found.items():
                    values[setting][rung] = value
            seed = 1000 * int(self.config.seed) + number
            return Setting(
                number, sampling.propose(self.plan.space, state.settings, values, len(self.plan.rungs), seed)
            )

        while (todo := self._next(propose)) is not None:
            if isinstance(todo, Setting):
                trials.begin(self.folder, todo)
            elif isinstance(todo, Promotion):
                trials.climb(self.folder, *todo)
            elif isinstance(todo, Run):
                self.do(todo)
            else:
                time.sleep(WAIT_S)

    def state(self) -> State:
        """Of the search as it is on disk."""
        settings = trials.settings(self.folder)
        begun = [set(), *(trials.on_rung(self.folder, rung) for rung in range(1, len(self.plan.rungs)))]
        results = trials.results(self.folder)
        known = State(self.plan, settings, begun, results, (), int(self.config.seed))
        held = [run.path for run in known.undone() if trials.is_held(self.folder, run)]
        return State(self.plan, settings, begun, results, held, known.seed)

    def config_of(self, setting: Setting, run: Run, head_l2: float = 0.0) -> ConfigDict:
        """That a run is given; `head_l2` is the penalty of a refit's head."""
        return space.configured(
            self.config,
            setting,
            steps=run.steps or int(self.config.steps),
            # From the config's own fold on.
            fold=(int(self.config.data.validation_fold) + run.fold) % self._folds,
            seed=run.seed,
            refit=head_l2 if run.refit else 0.0,
        )

    def spent(self) -> float:
        """Seconds of all processes so far."""
        return self._clock.spent()

    def left(self) -> float:
        """Seconds of the whole budget; infinity for no limit."""
        return float("inf") if self._limits.seconds is None else self._limits.seconds - self._clock.spent()

    def needed(self) -> float:
        """Seconds of a budget in which the config as it is would have been tried, as far as that can be foreseen."""
        state = self.state()
        setting = space.first(self.config, self.plan.space)[CONFIGURED]
        runs = [Run(CONFIGURED, rung.steps, 0, state.seed) for rung in self.plan.rungs[: self.plan.whole + 1]]
        head = sum(one.timed.whole for one in state.results.values() if not one.run.refit)
        return (head + sum(state.seconds(run, setting) for run in runs)) / plan.SHARE

    def do(self, run: Run, head_l2: float = 0.0) -> None:
        """Does a run, says what it found, and frees the memory it took; nothing if another process is at it.

        Args:
          run: to do.
          head_l2: the penalty of a refit's head.
        """
        with together.alone(self.folder / run.path / trials.CLAIM) as mine:
            if mine and not json_files.exists(self.folder / run.path / trials.RESULT):
                self._do(run, head_l2)

    def _do(self, run: Run, head_l2: float) -> None:
        setting = next(one for one in trials.settings(self.folder) if one.number == run.setting)
        config = self.config_of(setting, run, head_l2)
        # The first run says what there is to say of the data; the others would say it again.
        first = run.setting == HEAD and run.fold == 0 and not run.refit
        try:
            with nullcontext() if first else logs.kept_in(self.folder / run.path / SAID):
                trials.do(
                    self.folder, run, config, first=self._is_first(setting, run), lasting=run.setting > CONFIGURED
                )
        except InUseError:
            return
        if processes.is_first():
            self._say(setting, run)
            self._clock.tick()
            self._tidy()
        self._runs += 1
        if self._runs % CLEARED_EVERY == 0:
            jax.clear_caches()
        gc.collect()

    def _say(self, setting: Setting, run: Run) -> None:
        """A line for a run that is done."""
        found = trials.results(self.folder)[run.path]
        measured = f"validation top-1 {found.top1:.2%}, cross-entropy {found.cross_entropy:.3f}"
        what = [setting.describe(), f"{run.steps} steps" if run.steps else "", f"fold {run.fold}" if run.fold else ""]
        what += [f"seed {run.seed}" if run.seed != self.config.seed else "", "all images" if run.refit else ""]
        logs.say(
            f"{setting.number:>4}  {', '.join(filter(None, what))}: "
            f"{found.error or (measured if found.n else 'trained')}; {budget.shown(found.timed.whole)}"
            f"{self._time_left()}"
        )

    def _is_first(self, setting: Setting, run: Run) -> bool:
        """Whether no run with this method, size and fold is done."""
        size = setting.fields.get("data.crop")
        alike = {
            one.number
            for one in trials.settings(self.folder)
            if one.method == setting.method and one.fields.get("data.crop") == size
        }
        done = (one.run for one in trials.results(self.folder).values() if not one.error)
        return not any(one.setting in alike and one.fold == run.fold and one.refit == run.refit for one in done)

    def _next(self, propose: Any) -> Run | Promotion | Setting | str | None:
        """As `decision.decide`, the same on every process of a group."""
        todo = None
        if processes.is_first():
            state = self.state()
            todo = decision.decide(state, self.left() - self._reserve(state), self._limits.trials, propose)
        return together.as_first(todo)

    def _reserve(self, state: State) -> float:
        """Seconds of the budget that are for the final runs: no more than their share, and for a head alone one run."""
        if self._limits.seconds is None:
            return 0.0
        share = (1 - plan.SHARE) * self._limits.seconds
        ranked = winner.candidates(state)
        if len(state.settings) <= CONFIGURED or not ranked:
            return share
        if not any(one.run.setting != HEAD and one.run.steps >= self.plan.steps for one in state.results.values()):
            # One whole run goes before any on all images: its network is an end, too.
            return 0.0
        # Where the head alone leads, a run that overtakes it is still to have time for one on all images.
        runs = 1 if state.method(ranked[0].setting) == "l2_fe" else 2 * plan.SEEDS
        return min(share, runs * state.seconds(Run(CONFIGURED, self.plan.steps, 0, state.seed)))

    def _planned(self) -> Plan:
        while (made := plan.read(self.folder)) is None:
            with together.alone(self.folder / ".plan.lock") as mine:
                if mine and plan.read(self.folder) is None:
                    self._plan()
            if not mine:
                time.sleep(WAIT_S)
        return made

    def _plan(self) -> None:
        """The head alone is the first run: it tells how fast the network is here, and what is to be surpassed."""
        head = Run(HEAD, 0, 0, int(self.config.seed))
        trials.begin(self.folder, Setting(HEAD, {"method": "l2_fe"}))
        if not json_files.exists(self.folder / head.path / trials.RESULT):
            self.do(head)
        if not processes.is_first():
            return
        found = trials.results(self.folder)[head.path]
        reserve = (1 - plan.SHARE) * (self._limits.seconds or 0.0)
        resolved, unsized = configs.resolve(self.config), self.config.copy_and_resolve_references()
        unsized.data.crop = unsized.data.resize = None
        made = plan.make(
            self.config,
            self._given,
            None if self._limits.seconds is None else max(0.0, self.left() - reserve),
            folds=self._folds,
            refit=self._refit,
            size=(resolved.data.crop, resolved.data.resize),
            native=configs.resolve(unsized).data.crop,
            image_seconds=found.image_seconds,
            overhead=found.timed.rest,
        )
        plan.write(self.folder, made)
        shorter = f" instead of {self.config.steps}, by the budget" if made.steps < self.config.steps else ""
        logs.say(
            f"plan: {', '.join(made.space.methods)}; {' or '.join(map(str, made.space.crops or (made.crop,)))} px; "
            f"whole runs of {made.steps} steps{shorter}; rungs of "
            + ", ".join(f"{r.steps} steps{f' on {r.folds} folds' if r.folds > 1 else ''}" for r in made.rungs)
        )

    def _tidy(self) -> None:
        """Leaves the networks of the best whole runs on fold 0, one of which is the end where no time is left."""
        if not self._steps or (self.folder / CHOICE).exists():  # then those of the end are needed
            return
        done = [
            one
            for one in trials.results(self.folder).values()
            if not one.run.refit and one.run.seed == self.config.seed
        ]
        kept = [one for one in done if one.run.fold == 0 and one.run.setting not in (HEAD, CONFIGURED)]
        kept = sorted(kept, key=lambda one: (one.run.steps < self._steps, -one.value))[:KEPT_MODELS]
        for one in done:
            always = one.run.fold == 0 and one.run.setting in (HEAD, CONFIGURED)
            if one not in kept and not always:
                trials.forget_model(self.folder, one.run)

    def _time_left(self) -> str:
        left = self.left()
        return "" if left == float("inf") else f"; {budget.shown(max(left, 0.0))} of the budget left"


def _with_steps(config: ConfigDict) -> ConfigDict:
    """With a number of steps where the config leaves that to the number of its training images."""
    found = config.copy_and_resolve_references()
    resolved = configs.resolve(config)
    found.steps = length.settled(resolved, len(setup.found(resolved).rows("train"))).steps
    return found


def _folds(config: ConfigDict) -> tuple[int, bool]:
    """How many validation folds there are, and whether the final runs may train on them."""
    without = config.copy_and_resolve_references()
    without.data.validation_fraction, without.data.validation_fold, without.select = 0.0, 0, "last"
    if len(setup.found(configs.resolve(without)).rows("validation")):
        return 1, False  # the data set's own: always the same, and never trained on
    fraction = float(config.data.validation_fraction)
    if fraction <= 0:
        raise ConfigError(
            "--config.data.validation_fraction=0: there are no validation images to choose by; expected a part of the "
            "training images, such as 0.2; the final runs train on them, too"
        )
    return round(1 / fraction), True


def _same_search(folder: Path, resolved: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The content of tune.json: that of a search that has begun has to be the same."""
    stored = json_files.read(folder / FACTS)
    if not stored and json_files.exists(folder / "config.json"):
        raise ConfigError(f"{folder} is the workdir of a run; choose another --workdir for a search")
    if stored and (different := stored_config.differences(resolved, stored["config"])):
        listed = "\n  ".join(different)
        raise ConfigError(
            f"{folder} holds a search with another config:\n  {listed}\n"
            "Choose another --workdir, or go on with the same config"
        )
    return {"config": resolved, "given": list(given)}

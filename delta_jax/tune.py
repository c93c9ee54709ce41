"""Finds the best classifier that a time allows: settings tried on validation images, then the final run.

    python -m delta_jax.tune --config=configs/folder.py --workdir=runs/best --config.data.root=photos --budget=30m

Fields that are given on the command line are not searched. The same command again goes on where it stopped, and started
twice, in two places that see the folder, both share the work. docs/tuning.md has what is tried, and when it ends.
"""

import sys

from absl import app, flags

from delta_jax import command_line, train
from delta_jax.processes import huge_pages, interruption, process_flags
from delta_jax.training import compiled_step
from delta_jax.training.config import ConfigError
from delta_jax.tuning import budget, ending
from delta_jax.tuning.budget import Clock
from delta_jax.tuning.plan import Limits
from delta_jax.tuning.search import Search
from delta_jax.workdir import storage

flags.adopt_module_key_flags(train)  # --config and --workdir
flags.adopt_module_key_flags(process_flags)
_BUDGET = flags.DEFINE_string("budget", "", "Time for everything, such as 30m or 2h; none: until it stops paying.")
_TRIALS = flags.DEFINE_integer("trials", None, "Settings to try, beside the head alone; none: no limit.")


def limits(seconds: str, trials: int | None) -> Limits:
    """What the two flags say.

    Raises:
      ConfigError: they cannot be so.
    """
    if trials is not None and trials < 1:
        raise ConfigError(f"--trials={trials}: expected 1 (the config as it is) or more")
    return Limits(budget.seconds(seconds), trials)


def main(_: list[str]) -> None:
    """Searches, trains and shows."""
    with process_flags.set_up(), interruption.caught():
        try:
            allowed = limits(_BUDGET.value, _TRIALS.value)
            with storage.opened(str(flags.FLAGS.workdir)) as folder, Clock(folder) as clock, compiled_step.shared():
                if ending.shown_again(folder):
                    return
                config = flags.FLAGS.config
                search = Search(config, command_line.given(config), folder, allowed, clock)
                search.run()
                ending.finish(search)
        except train.KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=command_line.parse)

"""Runs an experiment of many runs: a table or figure of the paper, or one's own.

    python -m delta_jax.sweep --config=configs/paper/table1.py --workdir=runs/table1 [--config.small=True]

The same command again does what is not done yet. `--shard=2/8` does the third of eight shares, for the tasks of a job
array (launch/slurm.sbatch); `--only=stanford_dogs,delta` the runs of that data set and method; `--dry_run` says what
would be run.
"""

import re
import sys
from pathlib import Path

from absl import app, flags

from delta_jax import command_line, train
from delta_jax.processes import huge_pages, interruption, process_flags
from delta_jax.sweeps import results
from delta_jax.sweeps.runner import Sweep
from delta_jax.training.config import ConfigError
from delta_jax.workdir import logs, storage

flags.adopt_module_key_flags(train)  # --config and --workdir
flags.adopt_module_key_flags(process_flags)
_SHARD = flags.DEFINE_string("shard", "0/1", "i/n: which of n shares of the runs, counted from 0.")
_ONLY = flags.DEFINE_list("only", [], "Names of data sets, networks, variants or methods to run; all if not given.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say which runs there are, and which are done.")


def shard(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8).

    Raises:
      ConfigError: not a share.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise ConfigError(f"--shard={text}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(found[1]), int(found[2])


def main(_: list[str]) -> None:
    """Runs what is left and writes tables and page."""
    with process_flags.set_up(), interruption.caught():
        try:
            with storage.opened(str(flags.FLAGS.workdir)) as folder:
                failed = _sweep(folder)
        except train.KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")
        if failed:
            sys.exit("failed:\n  " + "\n  ".join(failed) + "\nThe same command again tries these")


def _sweep(folder: Path) -> list[str]:
    share = shard(_SHARD.value)
    sweep = Sweep(flags.FLAGS.config, folder, only=_ONLY.value)
    if _DRY_RUN.value:
        done = {record["workdir"] for record in sweep.records()}
        for run in sweep.planned():
            logs.say(f"{'done ' if run.path in done else 'to do'} {run.path}")
        return []
    sweep.check()
    failed = sweep.run(shard=share)
    results.write(sweep)
    if waiting := sweep.waiting():
        logs.say(f"{len(waiting)} runs are not done; other shards are at them, or the same command does them:")
        logs.say("  " + "\n  ".join(waiting))
    return failed


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=command_line.parse)

"""What a sweep leaves for people, made again from its runs at any time."""

from delta_jax.sweeps import records
from delta_jax.sweeps.runner import Sweep


def write(sweep: Sweep) -> None:
    """results.jsonl, of the runs that are done."""
    records.write(sweep.folder, sweep.records())

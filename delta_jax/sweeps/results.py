"""What a sweep leaves for people, made again from its runs at any time."""

from delta_jax import page, processes
from delta_jax.sweeps import figures, records, tables
from delta_jax.sweeps.runner import Sweep
from delta_jax.workdir import logs


def write(sweep: Sweep) -> None:
    """results.jsonl, of the runs that are done, and the tables, figures and page made of it."""
    found = sweep.records()
    records.write(sweep.folder, found)
    for line in records.describe_other_images(found):
        logs.say(line)
    if processes.is_first():
        tables.write(sweep.folder, found, sweep.config.table, sweep.config.against)
        figures.write(sweep.folder, found, sweep.config.variants.to_dict(), sweep.config.against)
        page.write(sweep.folder)

"""Measures the attention of a run, and shows what it says: which filters serve the target, and how sure that is.

    python -m delta_jax.attend --config=configs/elpv.py --workdir=runs/elpv [--export=channel_wei.json]

The same command again goes on where it stopped, and training in the same workdir takes what was measured.
"""

import sys
from pathlib import Path

from absl import app, flags

from delta_jax import command_line, processes, train
from delta_jax.analysis import attentions
from delta_jax.processes import huge_pages, interruption, process_flags
from delta_jax.training import advice, attention_pass, channel_weights, trainer
from delta_jax.training.config import ConfigError
from delta_jax.workdir import logs, storage

flags.adopt_module_key_flags(train)  # --config and --workdir
flags.adopt_module_key_flags(process_flags)
_EXPORT = flags.DEFINE_string("export", "", "JSON file for the mean gaps, in the format of DELTA's published code.")

PICTURE = "attention.png"


def main(_: list[str]) -> None:
    """Prints a table, writes a picture of the attention and, if asked for, the mean gaps."""
    with process_flags.set_up(), interruption.caught():
        try:
            with storage.opened(str(flags.FLAGS.workdir)) as workdir:
                written = _attend(workdir, Path(_EXPORT.value) if _EXPORT.value else None)
        except train.KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")
        for path in written:
            logs.say(f"  {path}")


def _attend(workdir: Path, export: Path | None) -> list[Path]:
    if export and export.is_dir():
        raise ConfigError(f"--export={export} is a folder; name a file, such as {export / 'channel_wei.json'}")
    config = flags.FLAGS.config
    advice.say_unread(config, command_line.given(config))
    found = trainer.attend(config, workdir)
    if not processes.is_first():
        return []
    attentions.table(attentions.summarize(found.gaps, found.weights))
    picture = workdir / PICTURE
    attentions.plot(found.gaps, found.weights, picture)
    if not export:
        return [picture]
    # What was measured is on disk already: if this fails, the next attempt takes seconds.
    export.parent.mkdir(parents=True, exist_ok=True)
    channel_weights.write(export, attention_pass.AttentionPass(found.gaps, found.images).mean())
    return [picture, export]


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=command_line.parse)

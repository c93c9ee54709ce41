"""Which pretrained weights to start from: LogME, H-scores and L2-FE of each, on features that are computed once.

    python -m delta_jax.rank --config=configs/folder.py --workdir=runs/rank --config.data.root=photos \
        --weights=pip/efficientnet-lite0,pip/mobilenet-v2,resnet50=my_weights.pth

The scores are of the training images, L2-FE's accuracy is of the validation images, and test images have no part. The
same command again measures what is not measured yet; docs/ranking.md says how far the scores can be trusted.
"""

import sys
from pathlib import Path

from absl import app, flags

from delta_jax import command_line, train
from delta_jax.processes import huge_pages, interruption, process_flags
from delta_jax.ranking import candidates, comparison
from delta_jax.workdir import storage

flags.adopt_module_key_flags(train)  # --config and --workdir
flags.adopt_module_key_flags(process_flags)
_WEIGHTS = flags.DEFINE_multi_string("weights", [], "Names of sources, ARCH=FILE or addresses; several with commas.")


def main(_: list[str]) -> None:
    """Measures, then prints a table and what it says."""
    with process_flags.set_up(), interruption.caught():
        try:
            texts = candidates.split(_WEIGHTS.value)
            with storage.opened(str(flags.FLAGS.workdir)) as workdir:
                config = flags.FLAGS.config
                comparison.compare(config, command_line.given(config), texts, Path(workdir))
        except train.KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=command_line.parse)

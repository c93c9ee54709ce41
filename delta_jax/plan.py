"""What a run takes on chips that are not here: their real compilers compile its own programs, on this CPU.

    pip install 'delta_jax[aot]'
    python -m delta_jax.plan --config=configs/elpv.py --topology=v5e:4x4 [--config.batch_size=512] [--json]

Memory, cycles and time, bytes, what is sent between chips; the largest batch that fits; what to change where it does
not; shares of the whole run. Nothing is run, no weights are loaded and no images are read; where the data are not here,
--classes and --images tell how many there are. What was compiled once is kept.
"""

import json
import os
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from delta_jax import chips, command_line, processes
from delta_jax.planning import noise, plan, tables, works
from delta_jax.planning.amounts import amounts
from delta_jax.training import config as configs
from delta_jax.training import length
from delta_jax.training.config import ConfigError
from delta_jax.training.setup import cache_dir
from delta_jax.workdir import logs

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Name of a config, such as elpv, or a file; its fields are flags.", lock_config=True
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, f"Chips to compile for: {', '.join(chips.topologies.EXAMPLES)}; cpu:4 for a stand-in."
)
_CLASSES = flags.DEFINE_integer("classes", None, "How many classes, where the data are not here.", lower_bound=2)
_IMAGES = flags.DEFINE_list(
    "images", [], "Training images or, with commas, training, validation and test images, where the data are not here."
)
_PROGRAMS = flags.DEFINE_multi_enum("program", None, works.NAMES, "Only this program of the run; may be repeated.")
_LARGEST = flags.DEFINE_bool("largest", True, "Look for the largest batch that fits, by a few more compilations.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of tables; all else goes to stderr.")
flags.mark_flags_as_required(["config", "topology"])


def main(_: list[str]) -> None:
    """Prints the plan."""
    if _JSON.value:
        logs.leave_stdout()
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is left alone
    try:
        config, images = configs.resolve(_CONFIG.value), _numbers(_IMAGES.value)
        folder = cache_dir(config) / "plans"
        with noise.kept_in(folder / "compiler.log"):
            topology = chips.find(str(_TOPOLOGY.value))
            processes.set_up_process()
            counted = amounts(config, classes=_CLASSES.value, images=images)
            logs.say(str(counted))
            names = _PROGRAMS.value or works.NAMES
            config = length.settled(config, counted.train)
            found = plan.make(config, topology, counted, folder, names=names, largest=_LARGEST.value)
    except (ConfigError, chips.TopologyError) as error:
        sys.exit(f"error: {error}")
    if _JSON.value:
        print(json.dumps(tables.as_json(found)))
    else:
        tables.show(found)


def _numbers(texts: list[str]) -> list[int]:
    if not all(text.strip().isdecimal() for text in texts) or len(texts) > 3 or (texts and int(texts[0]) < 1):
        raise ConfigError(
            f"--images={','.join(texts)}: expected one to three numbers, of training, validation and test images, such "
            "as --images=3000 or --images=12000,3000,8580"
        )
    return [int(text) for text in texts]


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)

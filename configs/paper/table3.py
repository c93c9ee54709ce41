"""Table 3: activations at the parts of birds (CUB-200-2011), with every method.

    python -m delta_jax.sweep --config=configs/paper/table3.py --workdir=runs/table3 --config.run.data.root=TFDS_DIR
    python -m delta_jax.analysis.parts runs/table3/runs/cub200/resnet101/*/seed-0

Not run so far. These are the runs of Table 1 on CUB-200-2011, where they are already there. The stand-in trains on
solar cells, which have no annotated parts: it shows that the runs work, and the second command does not apply to it.
"""

from ml_collections import ConfigDict

from delta_jax.configs.paper.table1 import get_config as get_table1
from delta_jax.configs.paper.table1 import narrow


def get_config() -> ConfigDict:
    """One seed of every method; the paper's table has no spread."""
    config = get_table1()
    config.name = "table3"
    config.title = "Table 3: activations at the parts of birds"
    narrow(config, "cub200")
    config.seeds = (0,)
    config.stand_in.seeds = (0,)
    return config

"""Figure 4: what the filters see after fine-tuning on Stanford Dogs, with every method.

    python -m delta_jax.sweep --config=configs/paper/figure4.py --workdir=runs/figure4 --config.run.data.root=TFDS_DIR

Not run so far. The figure is figures/maps-stanford_dogs-resnet101.png. Runs of Table 1 have it too, and make this
sweep unnecessary.
"""

from ml_collections import ConfigDict

from delta_jax.configs.paper.table1 import get_config as get_table1
from delta_jax.configs.paper.table1 import narrow


def get_config() -> ConfigDict:
    """One seed of every method; ResNet-101, as in the paper's section 4.4."""
    config = get_table1()
    config.name = "figure4"
    config.title = "Figure 4: activation maps after fine-tuning"
    narrow(config, "stanford_dogs")
    config.seeds = (0,)
    config.stand_in.seeds = (0,)
    return config

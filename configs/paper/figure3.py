"""Figure 3: how far the filters of ResNet-101 go from their start on Stanford Dogs, with L2-SP and with DELTA.

    python -m delta_jax.sweep --config=configs/paper/figure3.py --workdir=runs/figure3 --config.run.data.root=TFDS_DIR

Not run so far. The figure is figures/drift-stanford_dogs-resnet101.png. Runs of Table 1 have it too, and make this
sweep unnecessary. Strengths are searched as there: how far a filter goes depends on them first of all. L2-FE is among
the methods for its head, which attention is measured with.
"""

from ml_collections import ConfigDict

from delta_jax.configs.paper.table1 import get_config as get_table1
from delta_jax.configs.paper.table1 import narrow


def get_config() -> ConfigDict:
    """One seed: the distances of some 50,000 filters are the figure."""
    config = get_table1()
    config.name = "figure3"
    config.title = "Figure 3: how far filters go from their start"
    narrow(config, "stanford_dogs")
    config.methods = ("l2_fe", "l2_sp", "delta")
    for strengths in (config.strengths, config.stand_in.strengths):
        del strengths.l2, strengths.delta_without_attention
    config.seeds = (0,)
    config.stand_in.seeds = (0,)
    return config

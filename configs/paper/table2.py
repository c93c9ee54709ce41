"""Table 2: images that keep their aspect, and ten crops to test on.

    python -m delta_jax.sweep --config=configs/paper/table2.py --workdir=runs/table2 --config.run.data.root=TFDS_DIR

Not run so far. The paper has no column for L2-FE here; it takes minutes, and its head is what attention is measured
with.
"""

from ml_collections import ConfigDict

from delta_jax.configs.paper.table1 import get_config as get_table1


def get_config() -> ConfigDict:
    """Table 1's, but for how images are cut and how many crops are averaged."""
    config = get_table1()
    config.name = "table2"
    config.title = "Table 2: top-1 accuracy with the images' aspect kept and ten crops"
    config.table = "table2"
    config.run.data.aspect = "keep"
    config.run.eval_crops = 10
    config.methods = ("l2_fe", "l2", "l2_sp", "delta")
    del config.strengths.delta_without_attention, config.stand_in.strengths.delta_without_attention
    return config

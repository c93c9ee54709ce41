"""DELTA and its rivals over 16 recipes: rate x BatchNorm x start of the head, in full; docs/map.md has the questions.

python -m delta_jax.sweep --config=configs/map/recipes.py --workdir=runs/map/recipes \
    --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30
"""

import itertools

from ml_collections import ConfigDict

from delta_jax.configs.study import get_config as get_study

RATES = (0.002, 0.01, 0.05, 0.2)
BATCH_NORMS = {"batch": "train", "frozen": "frozen_stats"}
HEADS = {"random": "normal", "trained": "l2_fe"}


def get_config() -> ConfigDict:
    """10 photos a class of Caltech-101, MobileNetV2 at 72 px, 300 steps of 16; three strengths each, two seeds."""
    config = get_study()
    config.name = "map_recipes"
    config.title = "Where DELTA wins: rates, BatchNorm and the start of the head"
    config.run.batch_size = 16
    config.run.attention_images = 64
    config.run.data.shots = 10
    config.data_sets = ConfigDict({"caltech101": config.data_sets.caltech101})
    config.networks = ConfigDict({"mobilenet_v2": config.networks.mobilenet_v2})
    config.variants = ConfigDict(
        {
            f"{norm}-{head}-{rate:.0e}": {
                "learning_rate": rate,
                "batch_norm": BATCH_NORMS[norm],
                "head_init": HEADS[head],
                # What others begin with has no bound on its gradients.
                "clip_norm": 1.0 if norm == "frozen" else 0.0,
            }
            for norm, head, rate in itertools.product(BATCH_NORMS, HEADS, RATES)
        }
    )
    config.methods = ("l2", "l2_sp", "delta_without_attention", "delta")
    config.strengths = ConfigDict(
        {
            "l2": {"weight_decay": (1e-4, 1e-3, 1e-2)},
            "l2_sp": {"alpha": (1e-2, 1e-1, 1.0)},
            "delta_without_attention": {"alpha_relative": (1.0, 10.0, 100.0)},
            "delta": {"alpha_relative": (1.0, 10.0, 100.0)},
        }
    )
    config.seeds = (0, 1)
    return config

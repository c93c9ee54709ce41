"""DELTA and L2 at the corners of what configs/map/recipes.py holds still: a quarter of 2^5 cells; docs/map.md.

python -m delta_jax.sweep --config=configs/map/corners.py --workdir=runs/map/corners \
    --config.data_sets.caltech101_5.data.root=PHOTOS/caltech101_30 \
    --config.data_sets.caltech101_30.data.root=PHOTOS/caltech101_30 \
    --config.data_sets.stanford_dogs_5.data.root=PHOTOS/stanford_dogs_50 \
    --config.data_sets.stanford_dogs_30.data.root=PHOTOS/stanford_dogs_50
"""

from ml_collections import ConfigDict

from delta_jax.configs.study import get_config as get_study

# What a careful user does, and what papers did: the two ends of recipes.py, at the rate where both train.
GENTLE = {"learning_rate": 0.01, "batch_norm": "frozen_stats", "head_init": "l2_fe", "clip_norm": 1.0}
HARSH = {"learning_rate": 0.01, "batch_norm": "train", "head_init": "normal", "clip_norm": 0.0}
# Set, photos and network are crossed in full; recipe and steps are products of their signs, -1 for the first of each:
# recipe = set x photos, steps = photos x network. So no main effect is mixed up with another one.
SETS = ("caltech101", "stanford_dogs")
PHOTOS = (5, 30)
NETWORKS = ("mobilenet_v2", "efficientnet_lite0")


def get_config() -> ConfigDict:
    """Eight cells, three methods at one strength each, two seeds: 48 runs, half of them long."""
    config = get_study()
    config.name = "map_corners"
    config.title = "Where DELTA wins: photos, steps, sets and networks"
    config.run.batch_size = 16
    config.run.attention_images = 64
    config.run.data.resize = 80
    config.run.data.crop = 72
    config.run.data.validation_fraction = 0.0
    config.run.head_l2 = (1e-2,)
    roots = {name: config.data_sets[name].data.root for name in SETS}
    config.data_sets = ConfigDict(
        {
            f"{name}_{photos}": {
                "data": {"name": "folder", "root": roots[name], "shots": photos},
                **(GENTLE if (name == SETS[0]) == (photos == PHOTOS[0]) else HARSH),
            }
            for name in SETS
            for photos in PHOTOS
        }
    )
    config.networks = ConfigDict(
        {
            f"{name}_{steps}": {
                **config.networks[name].to_dict(),
                "steps": steps,
                "checkpoint_every": 300,
                "data_sets": tuple(
                    f"{data}_{photos}"
                    for data in SETS
                    for photos in PHOTOS
                    if ((photos == PHOTOS[0]) == (name == NETWORKS[0])) == (steps == 1500)
                ),
            }
            for name in NETWORKS
            for steps in (300, 1500)
        }
    )
    config.methods = ("l2", "delta_without_attention", "delta")
    config.strengths = ConfigDict(
        {
            # In the middle of recipes.py's: the harsh recipe wants more, the gentle one less.
            "l2": {"weight_decay": (1e-3,)},
            "delta_without_attention": {"alpha_relative": (10.0,)},
            "delta": {"alpha_relative": (10.0,)},
        }
    )
    config.seeds = (0, 1)
    config.refit = False
    return config

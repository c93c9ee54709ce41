"""The strength found within one run, from two starts: the same runs as configs/strength.py otherwise.

python -m delta_jax.sweep --config=configs/strength_search.py --workdir=runs/strength_search \
    --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30 \
    --config.data_sets.stanford_dogs.data.root=PHOTOS/stanford_dogs_50 \
    --config.data_sets.food101_tiny.data.root=PHOTOS/food101_tiny
"""

from delta_jax.configs.strength import get_config as get_grid


def get_config():
    """The first start is what configs/default.py has; of the other a search has to come back."""
    config = get_grid()
    config.name = "strength_search"
    config.title = "The strength found within one run, on validation images"
    config.run.strength_search = True
    config.refit = False
    config.strengths = {
        "l2": {"weight_decay": (1e-4, 1e-2)},
        "l2_sp": {"alpha": (1e-2, 1.0)},
        "delta_without_attention": {"alpha_relative": (1.0, 0.01)},
        "delta": {"alpha_relative": (1.0, 0.01)},
    }
    return config

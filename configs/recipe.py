"""What the recipe of configs/folder.py was chosen from: rates, strengths and steps, on validation images alone.

python -m delta_jax.sweep --config=configs/recipe.py --workdir=runs/recipe \
    --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30 \
    --config.data_sets.stanford_dogs.data.root=PHOTOS/stanford_dogs_50 \
    --config.data_sets.food101_tiny.data.root=PHOTOS/food101_tiny
"""

from delta_jax.configs.study import get_config as get_study


def get_config():
    """DELTA without attention, which stands for all methods: what separates them is smaller than what rates do."""
    config = get_study()
    config.name = "recipe"
    config.title = "Rates, strengths and steps, on validation images"
    config.run.head_l2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    config.run.batch_norm = "frozen_stats"
    config.run.batch_size = 16  # as in configs/folder.py
    config.data_sets.food101_tiny = {"data": {"name": "folder", "root": "photos/food101_tiny"}}
    config.variants = {
        "weak": {"alpha_relative": 0.1, "steps": 600, "checkpoint_every": 600},
        "strong": {"alpha_relative": 1.0, "steps": 600, "checkpoint_every": 600},
        "long": {"alpha_relative": 0.1, "steps": 1800, "checkpoint_every": 600},
    }
    config.methods = ("delta_without_attention",)
    config.strengths = {"delta_without_attention": {"learning_rate": (0.01, 0.02, 0.05)}}
    config.seeds = ()
    return config

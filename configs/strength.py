"""What the search for the strength within one run is measured by: five strengths of every method, on validation images.

python -m delta_jax.sweep --config=configs/strength.py --workdir=runs/strength \
    --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30 \
    --config.data_sets.stanford_dogs.data.root=PHOTOS/stanford_dogs_50 \
    --config.data_sets.food101_tiny.data.root=PHOTOS/food101_tiny

configs/strength_search.py has the runs that are compared with the best of these: docs/strength.md.
"""

from delta_jax.configs.study import get_config as get_study


def get_config():
    """The recipe of configs/folder.py on one network; the strengths are a factor of ten apart."""
    config = get_study()
    config.name = "strength"
    config.title = "Five strengths, on validation images"
    config.run.steps = 600
    config.run.batch_size = 16
    config.run.learning_rate = 0.02
    config.run.checkpoint_every = 600
    config.run.head_l2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    config.data_sets.food101_tiny = {"data": {"name": "folder", "root": "photos/food101_tiny"}}
    config.networks = {"efficientnet_lite0": config.networks.efficientnet_lite0.to_dict()}
    config.methods = ("l2", "l2_sp", "delta_without_attention", "delta")
    config.strengths = {
        "l2": {"weight_decay": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)},
        "l2_sp": {"alpha": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)},
        "delta_without_attention": {"alpha_relative": (0.001, 0.01, 0.1, 1.0, 10.0)},
        "delta": {"alpha_relative": (0.001, 0.01, 0.1, 1.0, 10.0)},
    }
    config.seeds = ()
    return config

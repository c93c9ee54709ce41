"""How much regularisation helps with fewer photos: 5, 10 and 20 of each class of Caltech-101, on EfficientNet-Lite0.

With 30 photos it is configs/study.py, whose choices are the strengths here: a fifth of 5 photos is one per class, too
few to choose by.
"""

from ml_collections import ConfigDict

from delta_jax.configs.study import get_config as get_study


def get_config() -> ConfigDict:
    """The same steps for every number of photos."""
    config = get_study()
    config.name = "study_shots"
    config.title = "Fewer photos: 5, 10 and 20 of each class"
    config.data_sets = ConfigDict({"caltech101": config.data_sets.caltech101})
    config.networks = ConfigDict({"efficientnet_lite0": config.networks.efficientnet_lite0})
    config.variants = ConfigDict({f"shots_{n:02}": {"data": {"shots": n}} for n in (5, 10, 20)})
    config.strengths = ConfigDict(
        {
            "l2_fe": {"head_l2": ((1e-2,),)},
            "l2": {"weight_decay": (1e-4,)},
            "l2_sp": {"alpha": (1e-2,)},
            "delta_without_attention": {"alpha_relative": (0.1,)},
            "delta": {"alpha_relative": (0.01,)},
        }
    )
    return config

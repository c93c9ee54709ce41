"""The method as the paper writes it, beside configs/study.py, which has it as the published code does it.

Caltech-101 on EfficientNet-Lite0. The weights per image that the paper asks for come from first-order gaps, which
rank the filters of an image well (docs/attention.md); the exact ones of every image would take the most of the time.
"""

from ml_collections import ConfigDict

from delta_jax.configs.study import get_config as get_study


def get_config() -> ConfigDict:
    """DELTA alone; its strength is searched again, as the penalty has another scale."""
    config = get_study()
    config.name = "study_presets"
    config.title = "The paper's DELTA and its published code's"
    config.data_sets = ConfigDict({"caltech101": config.data_sets.caltech101})
    config.networks = ConfigDict({"efficientnet_lite0": config.networks.efficientnet_lite0})
    config.variants = ConfigDict(
        {"paper": {"preset": "paper", "attention_images": 0, "attention_estimator": "first_order"}}
    )
    config.methods = ("l2_fe", "delta")
    return config

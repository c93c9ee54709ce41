"""ELPV in minutes on two CPU cores: 96 px, 600 steps. What came out stands in docs/results.md.

launch/elpv_study.sh runs it for every method, with three seeds.
"""

from delta_jax.configs.elpv import get_config as get_elpv


def get_config():
    """Goes on from the trained head, so that few steps are enough."""
    config = get_elpv()
    config.data.resize = 108
    config.data.crop = 96
    config.data.interpolation = "bilinear"  # what the published numbers were measured with
    config.steps = 600
    config.attention_images = 128
    config.eval_every = -1
    config.checkpoint_every = 100
    return config

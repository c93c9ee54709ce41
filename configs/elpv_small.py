"""ELPV in minutes on two CPU cores: 128 px, 300 steps. What came out stands in docs/results.md.

launch/elpv_study.sh runs it for every method, with three seeds.
"""

from configs.elpv import get_config as get_elpv


def get_config():
    """Goes on from the trained head, so that few steps are enough."""
    config = get_elpv()
    config.data.resize = 144
    config.data.crop = 128
    config.steps = 300
    config.attention_images = 128
    config.eval_every = 100
    config.checkpoint_every = 50
    return config

"""Does a better attention give better accuracy? launch/attention_study.sh runs it; docs/attention.md has what came out.

EfficientNet-Lite0 on a folder of photos with train/ and test/, 96 px, 300 steps of 32 images.
"""

from delta_jax.configs.elpv import get_config as get_elpv


def get_config():
    """Steps and rates for photos like ImageNet's, with a new head."""
    config = get_elpv()
    config.data.name = "folder"
    config.attention_images = 0
    config.data.resize = 108
    config.data.crop = 96
    config.data.interpolation = "bilinear"  # what the published numbers were measured with
    config.steps = 300
    config.batch_size = 32
    config.learning_rate = 0.02
    config.head_init = "normal"
    config.head_learning_rate_factor = 10.0
    config.eval_every = 0
    config.checkpoint_every = 300
    return config

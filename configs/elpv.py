"""Solar cells, functional or defective (ELPV, Deitsch et al. 2019): 2,624 photos, EfficientNet-Lite0.

docs/results.md has what came out.
"""

from configs.default import get_config as get_default


def get_config():
    """The full run."""
    config = get_default()
    config.data.name = "elpv"
    config.data.resize = 256
    config.data.crop = 224
    config.steps = 1000
    config.batch_size = 32
    config.attention_estimator = "first_order"
    config.eval_every = 250
    config.checkpoint_every = 250
    return config

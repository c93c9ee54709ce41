"""Solar cells, functional or defective (ELPV, Deitsch et al. 2019): 2,624 photos, EfficientNet-Lite0 at 224 px.

About 45 minutes on two CPU cores (25 images per second); not run to its end so far. configs/elpv_small.py is the
same at 96 px, with its results in docs/results.md.
"""

from delta_jax.configs.default import get_config as get_default


def get_config():
    """The full run."""
    config = get_default()
    config.data.name = "elpv"
    config.steps = 2000
    config.batch_size = 32
    config.schedule = "cosine"
    config.learning_rate = 0.005
    config.warmup_steps = 20
    config.clip_norm = 1.0  # with statistics frozen nothing else bounds the gradients
    config.batch_norm = "frozen_stats"  # with batch statistics the maps of these grey images are far from the source's
    config.head_init = "l2_fe"
    config.attention_images = 256  # as many as the published code averages over
    config.eval_every = -1
    config.checkpoint_every = 250
    return config

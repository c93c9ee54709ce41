"""The main job in minutes on two CPU cores: DELTA on photos of solar cells, small images, few steps."""

from delta_jax.configs.elpv_small import get_config as get_elpv_small


def get_config():
    """The run of docs/results.md, with the method that the project is named after."""
    config = get_elpv_small()
    config.method = "delta"
    return config

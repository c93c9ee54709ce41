"""The main job in minutes on two CPU cores: photos of solar cells, small, with the recipe of configs/folder.py."""

from delta_jax.configs.folder import get_config as get_folder


def get_config():
    """DELTA on ELPV; the strength is that which its validation images chose, see docs/own_photos.md."""
    config = get_folder()
    config.data.name = "elpv"
    config.data.resize = 108
    config.data.crop = 96
    config.data.interpolation = "bilinear"
    config.alpha_relative = 1.0
    return config

"""A folder of images of one's own: root/<class>/*.jpg, or root/{train,val,test}/<class>/*.jpg.

python -m delta_jax.train --config=configs/folder.py --workdir=runs/mine --config.data.root=photos

Or of images that a table lists, a .csv file with the columns path,label[,split] or the same as JSON lines:
add --config.data.name=manifest --config.data.root=labels.csv.

On CPUs add --config.data.resize=144 --config.data.crop=128 --config.steps=300.
"""

from delta_jax.configs.elpv import get_config as get_elpv


def get_config():
    """The settings of the ELPV run on other images; batches of 16, for folders of a few dozen images."""
    config = get_elpv()
    config.data.name = "folder"
    config.batch_size = 16
    config.attention_images = 0  # all; a small folder may have fewer than another number
    return config

"""A folder of images of one's own: root/<class>/*.jpg, or root/{train,val,test}/<class>/*.jpg.

python -m delta_jax.train --config=configs/folder.py --workdir=runs/mine --config.data.root=photos

Or of images that a table lists, a .csv file with the columns path,label[,split] or the same as JSON lines:
add --config.data.name=manifest --config.data.root=labels.csv.

On CPUs add --config.data.resize=144 --config.data.crop=128; --config.effort=0.5 takes half the steps.
"""

from delta_jax.configs.elpv import get_config as get_elpv


def get_config():
    """The recipe that docs/own_photos.md gives reasons for; configs/default.py has the paper's protocol."""
    config = get_elpv()
    config.data.name = "folder"
    config.steps = 0  # by the number of images
    config.batch_size = 16  # for folders of a few dozen images
    config.learning_rate = 0.02
    config.alpha_relative = 0.1
    config.attention_images = 0  # as many as the share pays for
    config.attention_share = 0.25
    config.attention_estimator = "two_phase"
    config.attention_shrink = True
    config.select = "wise_ft"  # never worse than the head alone on the validation images
    config.checkpoint_every = 100
    return config

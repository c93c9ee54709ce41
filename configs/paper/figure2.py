"""Figure 2: learning curves of DELTA and L2-SP on Stanford Dogs, with two schedules of the learning rate.

    python -m delta_jax.sweep --config=configs/paper/figure2.py --workdir=runs/figure2 --config.run.data.root=TFDS_DIR

Not run so far. The paper shows "a sample learning curve", and does not say with which alpha. Here strengths are not
searched: set those that Table 1 chose, such as --config.strengths.delta.alpha_relative="(0.1,)". The curves are of
validation images, as test images are looked at once, at the end: figures/learning-curves-stanford_dogs-resnet101.png.
"""

from ml_collections import ConfigDict

from delta_jax.configs.paper.table1 import get_config as get_table1
from delta_jax.configs.paper.table1 import narrow


def get_config() -> ConfigDict:
    """Accuracy on the validation images once in an epoch of 150 steps."""
    config = get_table1()
    config.name = "figure2"
    config.title = "Figure 2: learning curves with two schedules"
    config.table = ""
    narrow(config, "stanford_dogs")
    config.variants = ConfigDict(
        {
            "step": {"schedule": "step", "decay_at": 6000 / 9000, "decay_factor": 0.1},
            "exponential": {"schedule": "exponential", "epoch_decay_factor": 0.93},
        }
    )
    config.methods = ("l2_sp", "delta")
    config.strengths = ConfigDict({"l2_sp": {"alpha": (0.01,)}, "delta": {"alpha_relative": (1.0,)}})
    config.seeds = (0, 1, 2)
    config.refit = False  # the curves need images to validate on
    config.run.eval_every = 150

    config.stand_in.run.eval_every = 3
    config.stand_in.strengths = config.strengths
    return config

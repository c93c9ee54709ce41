"""Table 1: five ways to fine-tune on the data sets of the paper, ResNet-101 and Inception-V3.

    python -m delta_jax.sweep --config=configs/paper/table1.py --workdir=runs/table1 --config.run.data.root=TFDS_DIR
    python -m delta_jax.sweep --config=configs/paper/table1.py --workdir=runs/small --config.small=True

The other files of this folder start from this one. docs/experiments.md says how to prepare the data, what it costs
and how to share it out. Its full form has not been run so far.
"""

from ml_collections import ConfigDict

from delta_jax.configs.default import get_config as get_default


def get_config() -> ConfigDict:
    """Every field of a sweep, with the paper's protocol (Li et al., ICLR 2019, section 4.2)."""
    config = ConfigDict()
    config.name = "table1"
    config.title = "Table 1: top-1 accuracy of five ways to fine-tune"  # of the page
    config.table = "table1"  # of the paper, whose numbers stand beside ours; "" for none
    config.small = False  # True: the stand-in below, which shows in minutes on two CPU cores that everything works
    config.run = protocol()  # what all runs share: --config.run.FIELD

    # What is compared: the product of these. Each entry holds the fields of a run in which it differs.
    config.data_sets = ConfigDict(
        {
            "indoor67": {"data": {"name": "tfds/mit_indoor67"}},
            "stanford_dogs": {"data": {"name": "tfds/stanford_dogs"}},
            "caltech256_30": {"data": {"name": "tfds/caltech256/l2sp-30"}},
            "caltech256_60": {"data": {"name": "tfds/caltech256/l2sp-60"}},
            "cub200": {"data": {"name": "tfds/cub200_2011"}},
            "food101": {"data": {"name": "tfds/food101"}},
        }
    )
    config.networks = networks()  # a network's own `data_sets` are those it runs on; without them all
    config.variants = ConfigDict()  # a further axis, as the schedules of Figure 2; empty: none
    config.methods = ("l2_fe", "l2", "l2_sp", "delta_without_attention", "delta")

    # One field per method, chosen by validation accuracy over the folds. A comparison is fair where every method may
    # choose from as many values: five, a factor of ten apart, around the default. One value is not searched.
    config.strengths = ConfigDict(
        {
            "l2_fe": {"head_l2": ((1e-1,), (1e-2,), (1e-3,), (1e-4,), (1e-5,))},
            "l2": {"weight_decay": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)},
            "l2_sp": {"alpha": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)},
            "delta_without_attention": {"alpha_relative": (0.01, 0.1, 1.0, 10.0, 100.0)},
            "delta": {"alpha_relative": (0.01, 0.1, 1.0, 10.0, 100.0)},
        }
    )
    config.folds = (0, 1, 2, 3, 4)  # that strengths are chosen on, of the 1 / run.data.validation_fraction folds
    config.seeds = (0, 1, 2, 3, 4)  # of the final runs; () for choices alone, which leave the test images alone
    config.refit = True  # final runs train on all training images, with those that the choice held out
    config.against = ""  # the method that the others are compared with; "": every two, corrected together

    config.stand_in = stand_in()  # fields that `small` puts in place of those above
    return config


def protocol() -> ConfigDict:
    """What all runs of the paper share; most of it are the defaults."""
    run = get_default()
    run.batch_size = 64
    run.steps = 9000
    run.learning_rate = 0.01  # ResNet-101's
    run.schedule, run.decay_at, run.decay_factor = "step", 6000 / 9000, 0.1
    run.momentum = 0.9
    run.beta = 0.01
    run.data.aspect = "squash"
    run.data.validation_fraction = 0.2  # five folds
    run.eval_every = 0  # a choice is made at the end
    run.attention_images = 256  # as many as the published code averages over; each fold has its own
    return run


def networks() -> ConfigDict:
    """With the data sets that the paper has each on.

    Its Indoor 67 rows start from weights trained on Places365. There are none in public for ResNet-101 and
    Inception-V3, so ResNet-50 takes their place, and the paper has no number for it.
    """
    return ConfigDict(
        {
            "resnet101": {
                "arch": "resnet101",
                "weights": "torchvision/resnet101-v1",
                "data": {"resize": 256, "crop": 224},
                "data_sets": ("stanford_dogs", "caltech256_30", "caltech256_60", "cub200", "food101"),
            },
            "inception_v3": {
                "arch": "inception_v3",
                "weights": "torchvision/inception_v3-v1",
                "learning_rate": 0.001,
                "data": {"resize": 320, "crop": 299},
                "data_sets": ("stanford_dogs", "caltech256_30"),
            },
            "resnet50_places365": {
                "arch": "resnet50",
                "weights": "places365/resnet50",
                "data": {"resize": 256, "crop": 224},
                "data_sets": ("indoor67",),
            },
        }
    )


def narrow(config: ConfigDict, data: str) -> None:
    """Leaves one data set, and ResNet-101, as the paper's figures do."""
    config.data_sets = ConfigDict({data: config.data_sets[data]})
    config.networks = ConfigDict({"resnet101": config.networks.resnet101})
    config.networks.resnet101.data_sets = (data,)


def stand_in() -> ConfigDict:
    """Solar cells (ELPV) at 64 px on EfficientNet-Lite0, 15 steps: every file of a sweep; its numbers mean nothing."""
    return ConfigDict(
        {
            "table": "",
            "run": {
                "steps": 15,
                "batch_size": 16,
                "learning_rate": 0.005,
                "clip_norm": 1.0,
                "batch_norm": "frozen_stats",  # grey images: configs/elpv.py
                "head_init": "l2_fe",
                "attention_images": 8,
                "checkpoint_every": 15,
                "log_every": 1,
                "data": {"resize": 72, "crop": 64, "interpolation": "bilinear", "shots": 40},
            },
            "data_sets": {"elpv": {"data": {"name": "elpv"}}},
            "networks": {"efficientnet_lite0": {"arch": "efficientnet_lite0", "weights": "pip/efficientnet-lite0"}},
            "strengths": {
                "l2_fe": {"head_l2": ((1e-1,), (1e-3,))},
                "l2": {"weight_decay": (1e-4, 1e-3)},
                "l2_sp": {"alpha": (1e-2, 1e-1)},
                "delta_without_attention": {"alpha_relative": (0.1, 1.0)},
                "delta": {"alpha_relative": (0.1, 1.0)},
            },
            "folds": (0,),
            "seeds": (0, 1),
        }
    )

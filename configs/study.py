"""Five methods on three data sets, with two networks, in what two CPU cores can do: the study of docs/results.md.

python -m delta_jax.sweep --config=configs/study.py --workdir=runs/study \
    --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30 \
    --config.data_sets.stanford_dogs.data.root=PHOTOS/stanford_dogs_50
"""

from ml_collections import ConfigDict

from delta_jax.configs.default import get_config as get_default


def get_config():
    """Small images, few steps, three strengths for each method on one of five folds, three seeds."""
    run = get_default()
    run.steps = 300
    run.batch_size = 32
    run.schedule = "cosine"
    run.learning_rate = 0.02  # of 0.005, 0.02 and 0.05 the best for L2 on the validation images of Caltech-101
    run.warmup_steps = 20
    run.clip_norm = 1.0  # with statistics frozen nothing else bounds the gradients
    run.batch_norm = "frozen_stats"
    run.head_init = "l2_fe"
    run.head_l2 = (1e-1, 1e-2, 1e-3)
    run.attention_images = 128
    run.data.resize = 80
    run.data.crop = 72
    run.data.interpolation = "bilinear"
    run.eval_every = 0
    run.checkpoint_every = 300

    config = ConfigDict()
    config.name = "study"
    config.title = "Regularised fine-tuning with few images: a study on two CPU cores"
    config.table = ""
    config.small = False
    config.run = run
    config.data_sets = ConfigDict(
        {
            "caltech101": {"data": {"name": "folder", "root": "photos/caltech101_30"}},
            # At 72 px breeds are hardly told apart: 21 % of the validation images by L2-FE.
            "stanford_dogs": {
                "data": {"name": "folder", "root": "photos/stanford_dogs_50", "resize": 108, "crop": 96},
            },
            "elpv": {"data": {"name": "elpv"}},
        }
    )
    config.networks = ConfigDict(
        {
            "efficientnet_lite0": {"arch": "efficientnet_lite0", "weights": "pip/efficientnet-lite0"},
            "mobilenet_v2": {"arch": "mobilenet_v2", "weights": "pip/mobilenet-v2"},
        }
    )
    config.variants = ConfigDict()
    config.methods = ("l2_fe", "l2", "l2_sp", "delta_without_attention", "delta")
    config.strengths = ConfigDict(
        {
            "l2_fe": {"head_l2": ((1e-1,), (1e-2,), (1e-3,))},
            "l2": {"weight_decay": (1e-5, 1e-4, 1e-3)},
            "l2_sp": {"alpha": (1e-3, 1e-2, 1e-1)},
            "delta_without_attention": {"alpha_relative": (0.01, 0.1, 1.0)},
            "delta": {"alpha_relative": (0.01, 0.1, 1.0)},
        }
    )
    config.folds = (0,)
    config.seeds = (0, 1, 2)
    config.refit = True
    config.against = ""
    config.stand_in = ConfigDict({"run": {"steps": 10}, "folds": (0,), "seeds": (0, 1)})
    return config

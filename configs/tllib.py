"""The protocol of TLLib's examples of task adaptation (https://github.com/thuml/Transfer-Learning-Library, 0.4).

python -m delta_jax.train --config=configs/tllib.py --workdir=DIR --config.data.root=PHOTOS

For L2-SP add --config.method=l2_sp --config.alpha=0.01, for plain fine-tuning --config.method=l2. What differs from
theirs stands in docs/training.md.
"""

from delta_jax.configs.default import get_config as get_default


def get_config():
    """Its delta.py with --finetune; of l2 the rates and the decay of its erm.py."""
    config = get_default()
    config.preset = "tllib"  # Nesterov, the head at ten times the backbone's rate, the published code's DELTA
    config.arch = "resnet50"
    config.weights = "torchvision/resnet50-v1"
    config.data.augment = "resized_crop"
    config.data.least_area = 0.2
    config.data.aspect = "keep"
    config.batch_size = 48
    config.steps = 10000  # 20 epochs of 500
    config.decay_at = 0.6  # after 12 of them
    config.learning_rate = 0.001  # the head's is 0.01
    config.alpha = 0.48  # their 0.01, times 48: they sum over the batch
    config.weight_decay = 5e-4
    return config

"""Every field of a run. Other configs start from this one and change a few; the command line changes what is left:

python -m delta_jax.train --config=configs/default.py --workdir=DIR --config.data.root=PHOTOS --config.seed=1

A field that reads "as the preset", or "by the method", holds nothing until it is set.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The paper's protocol (Li et al., ICLR 2019, section 4.2) for a folder of images, on EfficientNet-Lite0."""
    config = ConfigDict()

    # What is compared.
    config.method = "delta"  # l2_fe, l2, l2_sp, delta, ...: docs/methods.md has all, with what each needs
    config.preset = "reference"  # the method as the paper writes it, or as its published code does it: docs/fidelity.md
    config.seed = 0  # of everything random but the splits: head, batches, crops, dropout

    # Network.
    config.arch = "efficientnet_lite0"  # one of `python -m delta_jax.describe`, or your own: package.module:function
    config.weights = "pip/efficientnet-lite0"  # named source (docs/weights.md), file or address
    config.taps = ("default",)  # module paths whose feature maps are compared; "default" for the network's own
    config.head_init = "normal"  # normal (std 0.01), zeros, or l2_fe: go on from the trained head
    config.batch_norm = (
        "train"  # train; frozen_stats: use the source's statistics; frozen: leave scale and bias, too; stochastic
    )
    config.dropout = 0.0  # rate in front of the head
    config.compute_dtype = "float32"  # or bfloat16, for GPUs and TPUs; parameters and penalties stay float32
    config.matmul_precision = "default"  # of the training step's float32 products on GPUs and TPUs; high; or highest
    config.freeze_until = ""  # module path; what has run when it returns stays as in the source; "" trains all
    config.remat = False  # for GPUs and TPUs: blocks are computed again for the gradient instead of being kept

    # Data.
    config.data = ConfigDict()
    config.data.name = "folder"  # folder, manifest, parquet, hf/NAME, elpv, elpv_4class, or tfds/NAME
    config.data.root = (
        ""  # folder of the images; .csv or .jsonl file; .parquet or .arrow file or folder; tfds' data_dir
    )
    config.data.split_column = ""  # of a table, says train or test: COLUMN, COLUMN:VALUE=SPLIT,...; none for none
    config.data.image_column = ""  # of parquet and hf/NAME, where types and names do not tell which it is
    config.data.label_column = ""  # the same, of the classes
    config.data.group = ""  # what images share that stay together: a column, a feature; a regular expression on paths
    config.data.split_seed = 0  # of the splits that the data set does not bring along
    config.data.validation_fraction = 0.2  # of the training images, held out of training; 0 for none
    config.data.validation_fold = 0  # which of the 1 / validation_fraction folds
    config.data.test_fraction = 0.25  # of all images, where the data set has no test images
    config.data.shots = 0  # images per class to train and validate on, drawn before the folds; 0 for all
    config.data.train_fraction = 1.0  # the same as a fraction of every class
    config.data.aspect = "squash"  # to a square (the paper, Table 1); keep: scale the shorter side (Table 2)
    config.data.resize = placeholder(int)  # pixels, of that side; not set: as the weights were trained
    config.data.interpolation = placeholder(str)  # bilinear or bicubic, with antialiasing; not set: as the weights
    config.data.white = placeholder(int)  # value that shows white in 10- to 32-bit images; not set: as the files say
    config.data.crop = placeholder(int)  # pixels, side of what the network sees; not set: as the weights
    config.data.mean = placeholder(tuple)  # per channel, of images scaled to [0, 1]; not set: as the weights
    config.data.std = placeholder(tuple)  # the same; images are normalised by (x - mean) / std
    config.data.augment = "crop"  # in training: random crop; resized_crop: random area and shape; none: the centre
    config.data.mirror = True  # images may be mirrored, half of those in training are; False for digits and text
    config.data.least_area = 0.08  # of resized_crop, as a share of the image
    config.data.upright = True  # photos have an up; False for those from above or of textures: turned by quarters
    config.data.color_jitter = (0.0, 0.0, 0.0, 0.0)  # strengths of brightness, contrast, saturation (0.4) and hue (0.1)
    config.data.rand_augment = (0, 9)  # random operations per training image, 0 for none; their magnitude, 0 to 30
    config.data.erase = 0.0  # probability that a rectangle of a training image is erased
    config.data.mix = (0.0, 0.0)  # training images with one another: a of Beta(a, a) for mixup, and for CutMix; 0: none
    config.data.near_doubles = False  # say which images look like one of another split or class: docs/data.md
    config.data.on_broken = "stop"  # or skip: leave images out that cannot be decoded
    config.data.on_device = "auto"  # yes, no (a batch at a time), or auto: when the decoded images fit
    config.data.cache_dir = ""  # of the decoded images; "" for $DELTA_JAX_CACHE or ~/.cache/delta_jax

    # Loss: CE + alpha * penalty + beta * 1/2 ||head||^2.
    config.alpha = placeholder(
        float
    )  # weight of the penalty, per example; not set: as published (docs/methods.md), else alpha_relative
    config.alpha_relative = (
        1.0  # penalty of a network whose feature maps are all zero; sets alpha where that is not set
    )
    config.beta = 0.01  # weight of the head's penalty; not for l2
    config.auxiliary_weight = 0.0  # of the loss of Inception-V3's second classifier, on ImageNet 0.4; 0 drops it
    config.label_smoothing = 0.0  # of training's cross-entropy; that of the attention's gaps is never smoothed
    config.imbalance = "ignore"  # weighted_loss: rare classes count more; balanced_sampling: classes equally often
    config.weight_decay = 1e-4  # of every parameter, for l2 alone; with adamw it is decoupled
    config.singular_values = 1  # of a batch's features, the smallest, that bss pushes down
    config.radius = 7.4  # of mars_sp: how far the rows of a layer may go from the source's, in the 1-norm
    config.head_radius = 7.4  # the same of the head, from 0
    config.strength_search = False  # alpha, or l2's weight_decay, moves by the validation loss: docs/strength.md
    config.rectify = placeholder(bool)  # ReLU on the maps before they are compared; as the preset
    config.penalty_scale = placeholder(str)  # paper or reference (1/2 C / (H W)); as the preset

    # Optimisation.
    config.steps = 9000  # optimizer steps; 0: by the number of training images, see docs/own_photos.md
    config.effort = 1.0  # times as many steps as that; has no effect on a given number
    config.batch_size = 64  # images per step, over all devices
    config.accumulate = 1  # parts of a batch that go through the network one after the other, to save memory
    config.learning_rate = 0.01  # after warm-up
    config.head_learning_rate_factor = placeholder(float)  # of the head's rate; as the preset: 1, tllib's is 10
    config.optimizer = placeholder(str)  # sgd, nesterov or adamw; as the preset: sgd, tllib's is nesterov
    config.momentum = 0.9  # of SGD; of AdamW its first factor, the second is 0.999
    config.schedule = "step"  # step, exponential, cosine or constant
    config.warmup_steps = 0  # steps of linear growth from 0
    config.decay_at = 2 / 3  # fraction of the steps after which `step` decays
    config.decay_factor = 0.1  # of `step`, once
    config.epoch_decay_factor = 0.93  # of `exponential`, every epoch
    config.layer_decay = 1.0  # the rate of each layer is this times that of the next one towards the head
    config.surgical = False  # rates of layers by the relative norm of their gradients
    config.unfreeze = 0.0  # share of the steps after which all layers train; one by one begins, from the head on
    config.head_restarts = 0  # times that the head is made anew, evenly over the steps
    config.average = 0.0  # decay of a moving average of the weights, such as 0.999, which is kept instead; 0: none
    config.clip_norm = 0.0  # largest global norm of the gradient; 0 for no clipping

    # Head on the frozen source (L2-FE): baseline, and what the attention is measured with.
    config.head_l2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # weights of 1/2 ||head||^2 tried; the validation loss chooses

    # Attention.
    config.attention_estimator = (
        "exact"  # exact, first_order, or mixed: docs/attention.md says what each costs and gives
    )
    config.attention_exact_filters = 64  # of mixed, per image and tap: those with the largest first-order gaps
    config.attention_images = 0  # training images it is measured on; 0 for all
    config.attention_share = 0.0  # of fine-tuning's time: no more images than it takes; 0 for no limit
    config.attention_tolerance = 0.0  # fewer images are enough when C * W is known to within this; 0: never
    config.attention_per = placeholder(str)  # weights per image (Eq. 6), class or data_set; as the preset
    config.attention_normalization = placeholder(str)  # softmax, standardized_softmax or uniform; as the preset
    config.attention_temperature = placeholder(float)  # of that softmax; as the preset
    config.attention_over = "tap"  # filters of a tap share its weights, or those of all_taps
    config.attention_shrink = False  # weights go towards uniform by as much of the gaps' spread as is noise
    config.attention_file = ""  # JSON with a list of gaps per tap, as the published code writes it; "" to measure
    config.attention_batch = placeholder(int)  # images per pass; not set: 8, or as many more as the devices take alike
    config.attention_chunk = placeholder(int)  # filters that run together; not set: as many as fill the device and fit

    # Evaluation and what is written.
    config.eval_crops = 1  # centre crop, or 10: corners and centre, mirrored, probabilities averaged
    config.eval_batch_size = 64  # images
    config.eval_every = 500  # steps between looks at the validation images; 0: none before the end; -1: a tenth
    config.patience = 0  # looks in a row without improvement that end the run, see docs/own_photos.md; 0: never
    config.select = "last"  # the last step's parameters, the best of the looks, or wise_ft: between l2_fe and these
    config.checkpoint_every = 500  # steps
    config.log_every = 20  # steps
    return config

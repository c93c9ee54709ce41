"""Lines about settings that have no effect or cancel each other, without a run."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from delta_jax import methods, models
from delta_jax.configs.default import get_config
from delta_jax.configs.elpv import get_config as get_elpv
from delta_jax.configs.folder import get_config as get_folder
from delta_jax.configs.quickstart import get_config as get_quickstart
from delta_jax.training import advice, checks, length
from delta_jax.training import config as configs

NORM = {"bn": {"mean": np.zeros(4), "var": np.ones(4)}}


def remarks(config, *, train=1000, validation=250, source=None, **changed):
    """Of a run on so many images."""
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changed.items()})
    resolved = length.settled(configs.resolve(config), train)
    rows = {"train": range(train), "validation": range(validation)}
    setup = SimpleNamespace(
        config=resolved,
        spec=models.spec(resolved.arch),
        method=methods.create(resolved.method),
        catalogue=SimpleNamespace(rows=rows.__getitem__),
        source={"params": {}, "batch_stats": NORM} if source is None else source,
    )
    return advice.remarks(setup)


@pytest.mark.parametrize("get", [get_config, get_elpv, get_folder, get_quickstart])
def test_nothing_is_said_of_the_configs_that_come_with_the_library(get, capsys):
    assert remarks(get()) == []
    for method in methods.names():
        assert remarks(get(), method=method) == []
    advice.say_unread(get(), ())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"learning_rate": 0.0}, ("--config.learning_rate=0", "stays as it starts")),
        ({"head_learning_rate_factor": 0.0}, ("--config.head_learning_rate_factor=0", "normal", "head_init=l2_fe")),
        ({"steps": 10, "batch_size": 8, "schedule": "cosine"}, ("80 of the 1000", "--config.steps=125")),
        ({"steps": 90, "warmup_steps": 60, "batch_size": 64}, ("--config.warmup_steps=60", "decays at step 60")),
        ({"select": "best", "eval_every": 9000}, ("--config.select=best", "looked at once")),
        ({"patience": 3, "eval_every": 5}, ("--config.patience=3", "960 of 1000", "--config.patience=4")),
        ({"patience": 17}, ("--config.patience=17", "18 looks", "9000 steps", "--config.eval_every=173")),
        ({"data__crop": 224, "data__resize": 224}, ("--config.data.augment=crop", "no room")),
        ({"data__crop": 224, "data__resize": 224, "eval_crops": 10, "method": "l2_fe"}, ("--config.eval_crops=10",)),
        ({"validation": 0, "method": "l2_fe"}, ("--config.head_l2", "it is 0.01 (beta)")),
        ({"batch_size": 1}, ("--config.batch_size=1 in 1 part(s)", "one image at a time", "frozen_stats")),
        ({"batch_size": 8, "accumulate": 8}, ("--config.batch_size=8 in 8 part(s)", "one image at a time")),
        # 100 -> 50 -> 25 is odd where 224 -> 112 -> 56 -> 28 -> 14 never is; 96 and 128 are multiples of 32, too.
        ({"data__crop": 100}, ("--config.data.crop=100", "224", "96 or 128")),
        ({"compute_dtype": "bfloat16"}, ("--config.compute_dtype=bfloat16", "CPU")),
        ({"remat": True}, ("--config.remat=True", "CPU")),
        ({"alpha": 0.0}, ("--config.alpha=0", "delta")),
        ({"alpha_relative": 0.0, "method": "delta_without_attention"}, ("--config.alpha_relative=0",)),
        ({"alpha": 0.0, "method": "l2_sp"}, ("--config.alpha=0", "l2_sp")),
        ({"attention_tolerance": 0.1, "attention_images": 30}, ("--config.attention_tolerance=0.1", "all 30")),
    ],
    ids=str,
)
def test_one_line_for_each_setting_that_is_hardly_meant(changed, parts):
    # In an epoch of 1,000 images there are 1,000 steps of one: enough steps, so that one remark is left.
    found = [line for line in remarks(get_config(), **changed) if parts[0] in line or "of the 1000" in parts[0]]
    assert len(found) == 1
    assert "\n" not in found[0]
    for part in parts:
        assert part in found[0]


LAYER_NORM = {"params": {"norm": {"scale": 1.0, "bias": 0.0}}}
BARE = {"params": {"conv": {"kernel": 1.0}}}


@pytest.mark.parametrize(
    ("source", "policy", "parts"),
    [
        (LAYER_NORM, "frozen_stats", ("has no running statistics", "frozen leaves scale and bias")),
        (BARE, "frozen_stats", ("has no running statistics",)),
        (BARE, "frozen", ("has no running statistics",)),
        (LAYER_NORM, "frozen", ()),
        (LAYER_NORM, "train", ()),
        (None, "frozen_stats", ()),
    ],
)
def test_statistics_cannot_be_frozen_where_there_are_none(source, policy, parts):
    found = [line for line in remarks(get_config(), source=source, batch_norm=policy) if "batch_norm" in line]
    assert len(found) == bool(parts)
    for part in parts:
        assert part in found[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 1, "batch_norm": "frozen_stats"},
        {"batch_size": 1, "source": {"params": {}}},  # a network without running statistics
        {"arch": "resnet18", "weights": "torchvision/resnet18-v1", "data__crop": 100},  # padded the same at any size
        {"arch": "efficientnet_lite1", "weights": "pip/efficientnet-lite1"},  # 240: odd at 15, as timm's
        {"method": "l2_fe", "learning_rate": 0.0, "steps": 1, "batch_size": 1, "remat": True},  # nothing of it is read
        {"steps": 90, "warmup_steps": 60, "schedule": "cosine"},
        {"patience": 16},
        {"data__crop": 224, "data__resize": 224, "data__aspect": "keep"},  # the longer side leaves room
    ],
    ids=str,
)
def test_what_is_right_is_not_remarked(changed):
    assert remarks(get_config(), **changed) == []


def test_every_field_that_may_go_unread_exists():
    fields = configs.flat(get_config().to_dict())
    methods_and_more = [{"method": method} for method in methods.names()]
    methods_and_more += [{"schedule": "cosine"}, {"attention_file": "a.json"}, {"attention_normalization": "uniform"}]
    methods_and_more += [{"alpha": 1.0}, {"data.validation_fraction": 0.0}]
    for changed in methods_and_more:
        config = get_config()
        config.update_from_flattened_dict(changed)
        for why, unread in advice._unread(configs.resolve(config)):
            assert why
            assert set(unread) <= fields.keys()


@pytest.mark.parametrize(
    ("changed", "given", "said"),
    [
        ({"method": "l2"}, ("alpha", "taps"), "--config.taps (l2 compares no feature maps); --config.alpha (l2 has no"),
        ({"method": "l2_sp"}, ("weight_decay", "alpha"), "--config.weight_decay (l2_sp has no weight decay)"),
        ({"method": "l2_fe"}, ("dropout", "steps"), "--config.dropout, --config.steps (l2_fe trains the head alone)"),
        ({"method": "l2_fe"}, ("beta",), "--config.beta (l2_fe has no penalty with a weight beta)"),
        (
            {"method": "delta_without_attention"},
            ("attention_per",),
            "--config.attention_per (delta_without_attention has no attention)",
        ),
        ({"method": "l2"}, ("preset", "taps"), "--config.preset, --config.taps (l2 compares no feature maps)"),
        ({"method": "bss"}, ("radius", "singular_values"), "--config.radius (they are not of bss)"),
        ({"schedule": "cosine"}, ("decay_at",), "--config.decay_at (schedule is cosine)"),
        ({"alpha": 1.0}, ("alpha_relative",), "--config.alpha_relative (alpha is 1)"),
        ({}, ("attention_exact_filters",), "--config.attention_exact_filters (attention_estimator is exact)"),
        ({}, ("data.least_area",), "--config.data.least_area (data.augment is crop)"),
    ],
)
def test_fields_that_are_given_and_not_read_are_one_line(changed, given, said, capsys):
    config = get_config()
    config.update_from_flattened_dict(changed)
    advice.say_unread(config, given)
    found = capsys.readouterr().out
    assert found.startswith(f"note: without effect in this run: {said}")
    assert found.count("\n") == 1
    advice.say_unread(config, ("seed", "method", "data.root"))
    assert capsys.readouterr().out == ""


def test_the_preset_of_an_optimizer_is_read_by_every_method_that_has_steps(capsys):
    config = get_config()
    config.update({"method": "l2", "preset": "tllib"})
    advice.say_unread(config, ("preset",))
    assert capsys.readouterr().out == ""


class _Config(SimpleNamespace):
    def __getitem__(self, name):
        return getattr(self, name)


def test_statistics_of_a_single_value_are_refused():
    """ResNet-18 on 24 px: 24 -> 12 -> 6 -> 3 -> 2 -> 1, one value per channel for one image; 2 x 2 at 48 px."""
    model = models.create("resnet18", num_classes=3)

    def check(batch_size, accumulate, crop, **changed):
        shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, crop, crop, 3), np.float32))
        facts = {"batch_size": batch_size, "accumulate": accumulate, "batch_norm": "train"} | changed
        checks.batch_statistics(_Config(data=_Config(crop=crop), **facts), model, shapes, ())

    for batch_size, accumulate in ((1, 1), (4, 4)):
        with pytest.raises(
            configs.ConfigError, match=r"one image, and maps of one pixel at layer4_0/bn1: .*frozen_stats"
        ):
            check(batch_size, accumulate, 24)
    check(2, 1, 24)
    check(1, 1, 48)
    check(1, 1, 24, batch_norm="frozen_stats")

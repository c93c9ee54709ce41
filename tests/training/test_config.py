"""Presets, refused values, and the workdir of another config."""

import ast
import json
import re

import pytest
from ml_collections import ConfigDict

from delta_jax import models
from delta_jax.configs.default import get_config
from delta_jax.configs.study import get_config as get_study
from delta_jax.training import config as configs
from delta_jax.training import stored_config
from tests.small_run import ROOT


def changed(**fields):
    config = get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def test_every_field_has_a_comment_and_there_are_fewer_than_105():
    # 82 were enough for the paper's protocol; the recipes of later papers say more: optimizer, labels, mixed images.
    source = (ROOT / "configs" / "default.py").read_text()
    assigned = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    lines = {ast.unparse(node.targets[0]): source.splitlines()[node.lineno - 1 : node.end_lineno] for node in assigned}
    fields = {name: text for name, text in lines.items() if "ConfigDict()" not in text[0]}
    assert 40 < len(fields) < 105
    assert [name for name, text in fields.items() if not re.search(r"  # \w", "\n".join(text))] == []


# Section 3.3 and Eq. 6 of the paper, and the published code as docs/fidelity.md describes it.
@pytest.mark.parametrize(
    ("preset", "filled"),
    [
        ("paper", (True, "paper", "image", "softmax", 1.0)),
        ("reference", (False, "reference", "data_set", "standardized_softmax", 5.0)),
        ("tllib", (False, "reference", "data_set", "standardized_softmax", 5.0)),
    ],
)
def test_a_preset_fills_in_what_is_left_open(preset, filled):
    found = configs.resolve(changed(preset=preset))
    fields = (
        "rectify",
        "penalty_scale",
        "attention_per",
        "attention_normalization",
        "attention_temperature",
    )
    assert tuple(found[field] for field in fields) == filled


def test_the_optimizer_is_the_presets_and_tllibs_looks_ahead_with_a_tenth_of_the_rate_behind_the_head():
    found = [configs.resolve(changed(preset=preset)) for preset in ("paper", "reference", "tllib")]
    assert [one.optimizer for one in found] == ["sgd", "sgd", "nesterov"]
    assert [one.head_learning_rate_factor for one in found] == [1.0, 1.0, 10.0]
    chosen = configs.resolve(changed(preset="tllib", optimizer="adamw", head_learning_rate_factor=2.0))
    assert (chosen.optimizer, chosen.head_learning_rate_factor) == ("adamw", 2.0)


def test_a_field_that_is_set_goes_before_the_preset_and_the_method():
    found = configs.resolve(changed(preset="paper", attention_temperature=3.0, rectify=False, alpha=0.25))
    assert (found.attention_temperature, found.rectify, found.alpha) == (3.0, False, 0.25)
    assert found.attention_normalization == "softmax"


def test_alpha_is_left_to_be_measured_where_the_size_of_the_penalty_depends_on_the_network():
    assert configs.resolve(changed(method="l2")).alpha == 0
    assert configs.resolve(changed(method="l2_sp")).alpha == 0.01  # the value of the authors of L2-SP
    assert configs.resolve(changed(method="delta")).alpha is None
    assert configs.resolve(changed(method="delta", alpha=0.5)).alpha == 0.5


def test_default_taps_are_those_of_the_network():
    found = configs.resolve(changed(arch="resnet18"))
    assert found.taps == models.spec("resnet18").taps


@pytest.mark.parametrize(
    ("weights", "fields", "expected"),
    [
        # As the weights' makers state them (their documentation): resize, crop, interpolation.
        ("pip/efficientnet-lite0", {}, (256, 224, "bicubic")),
        ("pip/mobilenet-v2", {}, (256, 224, "bilinear")),
        # One of the two given, the other follows in proportion.
        ("pip/mobilenet-v2", {"data__crop": 112}, (128, 112, "bilinear")),
        ("pip/mobilenet-v2", {"data__resize": 64}, (64, 56, "bilinear")),
        ("pip/mobilenet-v2", {"data__resize": 100, "data__crop": 96}, (100, 96, "bilinear")),
        # Of weights in a file only the network is known.
        ("some/file.pth", {"arch": "resnet18", "data__interpolation": "bicubic"}, (256, 224, "bicubic")),
    ],
)
def test_preprocessing_is_that_of_the_weights_where_it_is_not_set(weights, fields, expected):
    found = configs.resolve(changed(weights=weights, **fields)).data
    assert (found.resize, found.crop, found.interpolation) == expected


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


def test_where_mean_and_deviation_come_from(tmp_path):
    # field, then a file beside the weights, then a named source, then the network
    path = tmp_path / "model.safetensors"

    def resolved(**fields):
        found = configs.resolve(changed(**{"arch": "resnet34", "weights": str(path), **fields}))
        return (found.data.mean, found.data.std), configs.origin_of_preprocessing(found)

    values, line = resolved()
    assert values == IMAGENET
    assert "as usual for resnet34: nothing beside the weights" in line
    path.touch()
    cfg = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "input_size": [3, 224, 224],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet34", "pretrained_cfg": cfg}))
    values, line = resolved()
    assert values == HALF
    assert line == (
        f"images: resize 248, bicubic, crop 224; mean 0.5 0.5 0.5, std 0.5 0.5 0.5, as {tmp_path / 'config.json'} says"
    )
    values, line = resolved(data__mean=(0.1, 0.2, 0.3))
    assert values == ((0.1, 0.2, 0.3), (0.5,) * 3)
    assert (
        line
        == f"images: mean 0.1 0.2 0.3, as --config.data.mean says; std 0.5 0.5 0.5, as {tmp_path / 'config.json'} says"
    )
    assert resolved(data__mean=(0.4,), data__std=(1,))[0] == ((0.4,) * 3, (1,) * 3)  # one number for all channels
    values, line = resolved(weights="timm/inception_v3.gluon_in1k", arch="inception_v3")
    assert values == IMAGENET  # the network's own are 0.5
    assert line == ""
    assert resolved(weights="timm/resnet34.ra4_e3600_r224_in1k") == (HALF, "")
    values, line = resolved(weights="timm/resnet34.ra4_e3600_r224_in1k", data__mean=IMAGENET[0])
    assert values == (IMAGENET[0], HALF[1])
    assert line == "images: mean 0.485 0.456 0.406, as --config.data.mean says; std 0.5 0.5 0.5"


def test_a_run_of_before_mean_was_a_field_keeps_what_its_classifier_has(tmp_path):
    values = configs.resolve(changed(arch="resnet34", weights="x.pth")).to_dict()
    for field in ("mean", "std"):
        del values["data"][field]
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "classifier.json").write_text(json.dumps({"preprocessing": {"mean": [0.1] * 3, "std": [0.2] * 3}}))
    found = stored_config.read(tmp_path)
    assert (found.data.mean, found.data.std) == ((0.1,) * 3, (0.2,) * 3)
    again = configs.resolve(ConfigDict(found.to_dict()))
    assert (again.data.mean, again.data.std) == ((0.1,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        (
            {"data__mean": (123.675, 116.28, 103.53)},
            ("data.mean", "123.675", "divide them by 255: (0.485, 0.456, 0.406)"),
        ),
        ({"data__std": (58.395, 57.12, 57.375)}, ("data.std", "58.395", "by 255: (0.229, 0.224, 0.225)")),
        ({"data__std": (0.0, 0.5, 0.5)}, ("data.std", "(0.0, 0.5, 0.5)", "above 0 to 1")),
        ({"data__mean": (-0.1, 0.5, 0.5)}, ("data.mean", "-0.1", "from 0 to 1")),
        ({"data__mean": (0.5, 0.5)}, ("data.mean", "(0.5, 0.5)", "three numbers", "such as (0.485")),
        ({"data__mean": ("a",)}, ("data.mean", "'a'", "three numbers")),
        ({"data__mean": ()}, ("data.mean", "()", "three numbers")),
        ({"data__std": (float("nan"),)}, ("data.std", "nan", "three numbers")),
        ({"method": "detla"}, ("'detla'", "did you mean delta")),
        ({"arch": "resnet51"}, ("'resnet51'", "resnet50")),
        ({"preset": "papers"}, ("preset", "'papers'", "paper, reference, tllib")),
        ({"optimizer": "adam"}, ("optimizer", "'adam'", "sgd, nesterov, adamw")),
        ({"optimizer": "nesterov", "momentum": 0.0}, ("momentum", "0.0", "--config.optimizer=sgd")),
        ({"label_smoothing": 1.0}, ("label_smoothing", "1.0", "less than 1")),
        ({"layer_decay": 0.0}, ("layer_decay", "0.0", "more than 0 and at most 1")),
        ({"unfreeze": 1.5}, ("unfreeze", "1.5", "a share of the steps")),
        ({"unfreeze": 0.5, "patience": 3}, ("unfreeze", "0.5", "patience may end the run at another")),
        ({"unfreeze": 0.5, "optimizer": "adamw"}, ("unfreeze", "0.5", "--config.optimizer=sgd")),
        ({"head_restarts": 9000}, ("head_restarts", "9000", "less than steps = 9000")),
        ({"head_restarts": 2, "optimizer": "adamw"}, ("head_restarts", "2", "--config.optimizer=sgd")),
        (
            {"head_restarts": 2, "select": "wise_ft", "head_init": "l2_fe"},
            ("select", "'wise_ft'", "after 2 new heads"),
        ),
        ({"average": 1.0}, ("average", "1.0", "less than 1")),
        ({"strength_search": True, "layer_decay": 0.5}, ("layer_decay", "0.5", "strength_search", "one rate")),
        ({"strength_search": True, "optimizer": "adamw"}, ("optimizer", "adamw", "sgd or nesterov")),
        ({"strength_search": True, "data__mix": (0.2, 0.0)}, ("data.mix", "strength_search", "not mixed")),
        ({"data__erase": 1.5}, ("data.erase", "1.5", "a probability")),
        ({"data__erase": 0.5, "data__augment": "none"}, ("data.erase", "0.5", "data.augment is none")),
        ({"data__upright": False, "data__augment": "none"}, ("data.upright", "False", "data.augment is none")),
        ({"data__rand_augment": (2,)}, ("data.rand_augment", "(2,)", "how many operations")),
        ({"data__rand_augment": (2, 31)}, ("data.rand_augment", "(2, 31)", "0 to 30")),
        ({"data__rand_augment": (2.0, 9)}, ("data.rand_augment", "(2.0, 9)", "two whole numbers")),
        ({"data__rand_augment": (1, 9), "data__augment": "none"}, ("data.rand_augment", "data.augment is none")),
        ({"data__mix": (0.2,)}, ("data.mix", "(0.2,)", "two numbers")),
        ({"data__mix": (-1.0, 0.0)}, ("data.mix", "(-1.0, 0.0)", "0 or more")),
        ({"data__mix": ("a", 0.0)}, ("data.mix", "('a', 0.0)", "two numbers", '--config.data.mix="(0.2,0.0)"')),
        ({"data__mix": (0.2, 0.0), "batch_size": 1}, ("batch_size", "1", "2 or more", "within a batch")),
        ({"data__mix": (0.2, 0.0), "preset": "paper"}, ("data.mix", "(0.2, 0.0)", "attention_per=data_set")),
        ({"batch_norm": "frozen_stat"}, ("batch_norm", "frozen_stat", "train, frozen_stats, frozen")),
        ({"schedule": "linear"}, ("schedule", "'linear'", "cosine")),
        ({"compute_dtype": "float16"}, ("compute_dtype", "float16", "bfloat16")),
        ({"head_init": "zero"}, ("head_init", "'zero'", "zeros")),
        ({"attention_estimator": "fast"}, ("attention_estimator", "'fast'", "first_order")),
        ({"attention_normalization": "none"}, ("attention_normalization", "'none'", "uniform")),
        ({"penalty_scale": "mean"}, ("penalty_scale", "'mean'", "reference")),
        ({"eval_crops": 5}, ("eval_crops", "5", "1, 10")),
        ({"imbalance": "balanced"}, ("imbalance", "'balanced'", "ignore, weighted_loss, balanced_sampling")),
        ({"data__shots": -1}, ("data.shots", "-1", "0 or more")),
        ({"data__train_fraction": 0.0}, ("data.train_fraction", "0.0", "above 0 to 1")),
        ({"data__train_fraction": 0.5, "data__shots": 5}, ("data.train_fraction", "0.5", "data.shots is 5")),
        ({"select": "first"}, ("select", "'first'", "best")),
        ({"data__on_broken": "ignore"}, ("data.on_broken", "'ignore'", "skip")),
        ({"data__on_device": "maybe"}, ("data.on_device", "'maybe'", "auto")),
        ({"data__interpolation": "nearest"}, ("data.interpolation", "'nearest'", "bicubic")),
        ({"auxiliary_weight": 0.4, "arch": "resnet18"}, ("auxiliary_weight", "0.4", "0: resnet18 has no auxiliary")),
        ({"steps": -1}, ("steps", "-1", "0 or more")),
        ({"batch_size": -8}, ("batch_size", "-8", "1 or more")),
        ({"learning_rate": -0.1}, ("learning_rate", "-0.1", "0 or more")),
        ({"alpha": float("nan")}, ("alpha", "nan", "0 or more")),
        ({"momentum": 1.0}, ("momentum", "1.0", "less than 1")),
        ({"dropout": 1.5}, ("dropout", "1.5", "less than 1")),
        ({"data__test_fraction": 1.0}, ("data.test_fraction", "1.0", "less than 1")),
        ({"decay_at": 0.0}, ("decay_at", "0.0", "(0, 1]")),
        ({"decay_factor": -1.0}, ("decay_factor", "-1.0", "0 or more")),
        ({"attention_temperature": 0.0}, ("attention_temperature", "0.0", "more than 0")),
        ({"data__crop": 300, "data__resize": 256}, ("data.crop", "300", "256")),
        ({"data__aspect": "crop"}, ("data.aspect", "'crop'", "squash, keep")),
        ({"data__augment": "flip"}, ("data.augment", "'flip'", "crop, resized_crop, none")),
        ({"data__least_area": 0.0}, ("data.least_area", "0.0", "more than 0")),
        ({"data__color_jitter": (0.4,)}, ("data.color_jitter", "(0.4,)", "four strengths")),
        ({"data__color_jitter": (0.4, 0.4, 0.4, 0.6)}, ("data.color_jitter", "at most 0.5")),
        ({"data__color_jitter": (0.4, 0.0, 0.0, 0.0), "data__augment": "none"}, ("color_jitter", "augment is none")),
        ({"data__mirror": False, "eval_crops": 10}, ("eval_crops", "10", "five of the ten are mirrored")),
        ({"warmup_steps": 9000}, ("warmup_steps", "9000", "less than steps = 9000")),
        ({"head_l2": (0.0, 0.1)}, ("head_l2", "0.0", "positive")),
        ({"taps": ()}, ("taps", "()", "module paths")),
        ({"taps": (1,)}, ("taps", "(1,)", "module paths", "('layer1_0','layer2_0')")),
        ({"taps": ("a", "")}, ("taps", "('a', '')", "module paths")),
        ({"taps": ("a", "a")}, ("taps", "('a', 'a')", "once")),
        ({"head_l2": ("a",)}, ("head_l2", "('a',)", "numbers", '--config.head_l2="(0.1,0.001)"')),
        ({"head_l2": (True,)}, ("head_l2", "(True,)", "numbers")),
        ({"data__color_jitter": ("a", 0.1, 0.1, 0.1)}, ("data.color_jitter", "('a', ", "four numbers")),
        ({"select": "best", "data__validation_fraction": 0.0}, ("select", "'best'", "validation_fraction is 0")),
        ({"select": "best", "eval_every": 0}, ("eval_every", "0", "1 or more")),
        ({"attention_share": -0.1}, ("attention_share", "-0.1", "0 or more")),
        (
            {"preset": "paper", "attention_estimator": "two_phase"},
            ("attention_estimator", "two_phase", "exact", "attention_per is image"),
        ),
        (
            {"attention_estimator": "two_phase", "attention_tolerance": 0.1},
            ("attention_tolerance", "0.1", "number of images of its own"),
        ),
        ({"learning_rate": float("inf")}, ("learning_rate", "inf", "a finite number")),
        ({"data.mix": (float("inf"), 0.0)}, ("data.mix", "(inf, 0.0)", "finite numbers")),
        ({"data.rand_augment": (1000, 9)}, ("data.rand_augment", "(1000, 9)", "0 to 14")),
        ({"steps": 10**9}, ("steps", "1000000000", "10,000,000 at most")),
        ({"preset": "paper", "attention_images": 100}, ("attention_images", "100", "every training image")),
    ],
    ids=str,
)
def test_a_value_that_cannot_work_is_refused_with_field_value_and_a_way_out(fields, parts):
    with pytest.raises(configs.ConfigError) as caught:
        configs.resolve(changed(**fields))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_password_is_neither_kept_nor_shown():
    with pytest.raises(configs.ConfigError, match=r"weights: an address with a password.*netrc") as caught:
        configs.resolve(changed(weights="https://me:secret@host.org/file.pth"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("batchsize", "did you mean batch_size"),
        ("data.rot", "did you mean data.root"),
        ("root", "data.root?"),
        ("steps.x", "did you mean steps"),
        ("data.batch", "did you mean batch_norm or batch_size?"),
        ("optimizer.learning_rate", "did you mean learning_rate?"),
        ("ema", "here it is average"),
        ("mixup", "here it is data.mix"),
        ("lr", "here it is learning_rate"),
        ("quux", "the fields are accumulate, alpha, "),
    ],
)
def test_an_unknown_field_is_answered_with_the_closest(name, hint):
    with pytest.raises(configs.ConfigError, match=re.escape(hint)) as caught:
        configs.check_field(get_config(), name)
    assert f"--config.{name}: no such field" in str(caught.value)


def test_a_config_that_is_none_of_a_run_is_told_so():
    with pytest.raises(configs.ConfigError, match=r"no field method, .* and \d+ more; it is the config of a sweep"):
        configs.resolve(get_study())
    with pytest.raises(configs.ConfigError, match=r"no field method, .*; start from delta_jax.configs.default"):
        configs.resolve(ConfigDict({"steps": 3}))


def test_fields_and_groups_are_known():
    for name in ("steps", "data", "data.root"):
        configs.check_field(get_config(), name)


def test_the_fields_that_differ_from_a_run_before_are_listed_but_for_those_that_change_no_number():
    before = configs.resolve(changed(seed=1)).to_dict()
    stored = json.loads(json.dumps(before))
    now = configs.resolve(changed(seed=2, data__crop=200, log_every=3, data__root="/elsewhere", data__on_device="no"))
    assert stored_config.differences(now.to_dict(), stored) == [
        "data.crop: 224 there, 200 here",
        "data.resize: 256 there, 229 here",
        "seed: 1 there, 2 here",
    ]
    assert stored_config.differences(before, stored) == []


def test_a_run_of_before_there_were_some_fields_is_read_and_goes_on(tmp_path):
    now = configs.resolve(get_config()).to_dict()
    stored = json.loads(json.dumps(now))
    for field in (*stored_config._BEFORE, "data.mean", "data.std"):
        node = stored["data"] if field.startswith("data.") else stored
        del node[field.rpartition(".")[2]]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    read = configs.flat(stored_config.read(tmp_path).to_dict())
    assert read.keys() | {"data.mean", "data.std"} == configs.flat(now).keys()
    assert stored_config.differences(now, stored) == []
    other = configs.resolve(changed(matmul_precision="highest", data__group="patient")).to_dict()
    assert stored_config.differences(other, stored) == [
        "data.group: '' there, 'patient' here",
        "matmul_precision: 'default' there, 'highest' here",
    ]


def test_reading_the_config_of_no_run_says_so(tmp_path):
    with pytest.raises(configs.ConfigError, match="the workdir of a run"):
        stored_config.read(tmp_path)


def test_a_field_that_is_not_set_is_no_difference_to_a_run_from_before_there_was_one():
    now = configs.resolve(get_config()).to_dict()
    before = json.loads(json.dumps(now))
    del before["data"]["white"]
    assert stored_config.differences(now, before) == []
    now["data"]["white"] = 1023
    assert stored_config.differences(now, before) == ["data.white: '(not there)' there, 1023 here"]

"""The attention of a run: how its images are dealt to devices, and what is said of taps that the images disagree on."""

from types import SimpleNamespace
from typing import Any

import pytest

from delta_jax.training import attention_phase, attention_program


@pytest.mark.parametrize(
    ("devices", "images"), [(1, 8), (4, 8), (6, 12), (8, 8), (16, 16), (256, 256)]
)  # by hand: at least 8, a multiple of the devices
def test_images_of_a_pass_follow_the_devices_where_the_config_names_no_number(devices, images):
    mesh: Any = SimpleNamespace(size=devices)
    assert attention_program.images_per_pass(SimpleNamespace(attention_batch=None), mesh) == images
    assert attention_program.images_per_pass(SimpleNamespace(attention_batch=32), mesh) == 32


@pytest.mark.parametrize(
    ("changed", "end"),
    [
        ({}, "are taken as they are, --config.attention_shrink=True shrinks them towards uniform"),
        ({"attention_shrink": True}, "by which the weights of every tap are shrunk towards uniform"),
        ({"attention_per": "class", "attention_shrink": True}, "weights per class are taken as they are"),
    ],
)
def test_taps_that_two_halves_do_not_agree_on_are_named(changed, end):
    settings: dict[str, Any] = {
        "attention_normalization": "softmax",
        "attention_per": "data_set",
        "attention_shrink": False,
    }
    config = SimpleNamespace(**(settings | changed))
    line = attention_phase.unsure({"first": 0.9, "second": 0.312, "third": 0.5, "last": 0.0}, 1096, config)
    assert "two halves of the 1,096 images do not agree which filters matter at second (0.31), last (0.00): " in line
    assert line.endswith(end)
    assert attention_phase.unsure({"first": 0.9, "third": 0.5}, 1096, config) == ""
    config.attention_normalization = "uniform"
    assert attention_phase.unsure({"last": 0.0}, 1096, config) == ""

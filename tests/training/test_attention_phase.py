"""The attention of a run: how its images are dealt to devices."""

from types import SimpleNamespace
from typing import Any

import pytest

from delta_jax.training import attention_phase


@pytest.mark.parametrize(
    ("devices", "images"), [(1, 8), (4, 8), (6, 12), (8, 8), (16, 16), (256, 256)]
)  # by hand: at least 8, a multiple of the devices
def test_images_of_a_pass_follow_the_devices_where_the_config_names_no_number(devices, images):
    mesh: Any = SimpleNamespace(size=devices)
    assert attention_phase.images_per_pass(SimpleNamespace(attention_batch=None), mesh) == images
    assert attention_phase.images_per_pass(SimpleNamespace(attention_batch=32), mesh) == 32

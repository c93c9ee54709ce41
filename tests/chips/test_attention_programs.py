"""The attention compiled for TPUs that are not here: a small network, by the chips' own compiler."""

import re

import flax.linen as nn
import jax.numpy as jnp
import pytest

from delta_jax import chips
from tests.benchmark_scripts import load

pytest.importorskip("libtpu", reason="needs jax[tpu], but no TPU")
script = load("attention_compiled")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(40, (3, 3), strides=2, name="tap")(x))
        for n in range(3):
            x = x + nn.relu(nn.Conv(40, (3, 3), name=f"block_{n}")(x))
        return nn.Dense(5, name="head")(jnp.mean(x, (1, 2)))


@pytest.fixture(scope="module")
def compiled():
    arguments = {"taps": ("tap",), "devices": 4, "batch": 2, "size": 16, "chunk": 16}
    return script.compile_attention(chips.find("v5e:2x2"), Net(), **arguments)


def test_every_product_is_in_full_float32(compiled):
    products = [line for line in compiled.as_text().splitlines() if re.search(r" (convolution|dot)\(", line)]
    assert products
    assert all("operand_precision={highest,highest}" in line for line in products)


def test_devices_tell_each_other_nothing(compiled):
    assert chips.read(compiled).collectives == ()


def test_cycles_are_known_with_every_loop(compiled):
    program = chips.read(compiled)
    assert program.cycles
    assert program.unknown_loops == 0
    assert program.bounded_loops == 1  # over the chunks of 16 of 40 filters; an image may have fewer that are alive

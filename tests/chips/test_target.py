"""The device that programs are traced for, here and elsewhere."""

import jax
import jax.numpy as jnp
import pytest

from delta_jax.chips import target
from delta_jax.chips.target import Target


def test_without_a_target_it_is_the_device_that_is_here():
    found = target.current()
    assert found.platform == "cpu"
    assert found.memory is None  # CPUs do not tell


def test_the_innermost_target_holds_and_is_gone_afterwards():
    tpu, cuda = Target("tpu", 16), Target("cuda", 80)
    with target.compiling_for(tpu):
        with target.compiling_for(cuda):
            assert target.current() == cuda
        assert target.current() == tpu
    assert target.current().platform == "cpu"


def test_it_is_gone_after_an_error():
    with pytest.raises(RuntimeError, match="stop"), target.compiling_for(Target("tpu", 16)):
        raise RuntimeError("stop")
    assert target.current().platform == "cpu"


def test_a_jitted_function_is_traced_anew_for_another_device():
    traced = []

    @jax.jit
    def scaled(x):
        found = target.current()
        traced.append(found)
        return x * {"cpu": 1.0, "tpu": 2.0}[found.platform] + (0.0 if found.memory is None else found.memory)

    x, small, large = jnp.ones(()), Target("tpu", 16), Target("tpu", 32)
    assert float(scaled(x)) == 1.0
    for device, expected in ((small, 18.0), (large, 34.0)):
        with target.compiling_for(device):
            assert float(scaled(x)) == expected
    with target.compiling_for(Target("tpu", 16)):  # an equal one has its trace already
        assert float(scaled(x)) == 18.0
    assert float(scaled(x)) == 1.0
    assert [one.memory for one in traced] == [None, 16, 32]


def test_functions_inside_of_a_jitted_one_are_traced_anew_as_well():
    @jax.jit
    def inner(x):
        return x * (2.0 if target.current().platform == "tpu" else 1.0)

    outer = jax.jit(lambda x: inner(x) + 1.0)
    gradient = jax.jit(jax.grad(lambda x: jax.checkpoint(inner)(x)))
    x = jnp.ones(())
    assert (float(outer(x)), float(gradient(x))) == (2.0, 1.0)
    with target.compiling_for(Target("tpu", 16)):
        assert (float(outer(x)), float(gradient(x))) == (3.0, 2.0)

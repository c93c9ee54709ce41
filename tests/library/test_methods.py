"""What each method pays and needs, against the losses written out."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import methods
from delta_jax.configs.default import get_config

RNG = np.random.default_rng(0)
MAPS, SOURCE = ({"tap": jnp.asarray(RNG.standard_normal((2, 3, 4, 5)), jnp.float32)} for _ in range(2))
ATTENTION = {"tap": jnp.asarray(RNG.uniform(0, 1, 5), jnp.float32)}
PARAMS = {"body": {"kernel": jnp.array([1.0, 3.0])}, "head": {"kernel": jnp.array([[7.0]])}}
SOURCE_PARAMS = {"body": {"kernel": jnp.array([0.0, 1.0])}, "head": {"kernel": jnp.array([[0.0]])}}

# trains_backbone, decays_weights, penalizes_head, uses_source_maps, uses_attention: the methods compared in section 4.2
# of the paper, and its Eq. 4. L2 has weight decay on everything, the head included, instead of penalties.
NEEDS = {
    "l2_fe": (False, False, True, False, False),
    "l2": (True, True, False, False, False),
    "l2_sp": (True, False, True, False, False),
    "delta_without_attention": (True, False, True, True, False),
    "delta": (True, False, True, True, True),
    # Of their papers, or their authors' code: docs/methods.md.
    "l2_sp_kernels": (True, False, True, False, False),
    "mars_sp": (True, False, False, False, False),
    "bss": (True, True, False, False, False),
    "attention_transfer": (True, True, False, True, False),
    "afd": (True, False, True, True, False),
    "delta_cosine": (True, False, True, True, True),
    "l2_sp_fisher": (True, False, True, False, False),
    "lwf": (True, True, False, False, False),
    "co_tuning": (True, True, False, False, False),
    "bi_tuning": (True, True, False, False, False),
}
OURS = ("l2_fe", "l2", "l2_sp", "delta_without_attention", "delta")  # whose penalties are written out here


def test_every_method_says_what_it_needs():
    assert set(methods.names()) == set(NEEDS)
    for name, needs in NEEDS.items():
        method = methods.create(name)
        found = (
            method.trains_backbone,
            method.decays_weights,
            method.penalizes_head,
            method.uses_source_maps,
            method.uses_attention,
        )
        assert found == needs, name


def test_only_l2_sp_pays_for_its_parameters():
    # L2-SP: 1/2 * (1^2 + 2^2) without the head. The others pay nothing for their parameters.
    for name in OURS:
        found = methods.create(name).parameter_penalty(PARAMS, SOURCE_PARAMS, "head")
        assert found == (2.5 if name == "l2_sp" else 0.0)


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("scale", ["paper", "reference"])
def test_delta_pays_for_each_image_what_its_formula_says(scale, rectify):
    maps, source = (np.asarray(m["tap"], np.float64) for m in (MAPS, SOURCE))
    if rectify:
        maps, source = np.maximum(maps, 0), np.maximum(source, 0)
    distances = ((maps - source) ** 2).sum((1, 2))  # [2, 5]
    # "reference": 1/2 * C / (H * W) with attention, 1/2 without.
    expected = {
        "delta": (distances * np.asarray(ATTENTION["tap"])).sum(1) * (1 if scale == "paper" else 0.5 * 5 / 12),
        "delta_without_attention": distances.sum(1) * (1 if scale == "paper" else 0.5),
    }
    for name in OURS:
        method = methods.create(name, scale=scale, rectify=rectify)
        found: Any = method.example_penalty(MAPS, SOURCE, ATTENTION if method.uses_attention else None)
        if name in expected:
            np.testing.assert_allclose(found, expected[name], rtol=1e-5)
        else:
            assert found is None


def test_the_same_method_twice_is_compiled_once():
    # The step closes over a method, and jit may compare it with another one.
    assert methods.create("delta", rectify=False) == methods.create("delta", rectify=False)
    assert hash(methods.create("delta")) != hash(methods.create("delta", scale="reference"))
    assert methods.create("bss") == methods.create("bss", singular_values=1) != methods.create("bss", singular_values=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(methods.create("delta"), "scale", "reference")  # noqa: B010


def test_methods_with_one_strength():
    # An alpha or a weight decay, and no parameters of their own.
    found = {name for name in methods.names() if methods.create(name).has_one_strength}
    assert found == {"l2", *(name for name in methods.names() if name.startswith(("l2_sp", "delta")))}


def test_what_a_method_alone_reads_are_fields_of_the_config():
    assert methods.options("delta") == ()
    assert methods.options("mars_sp") == ("radius", "head_radius")
    config = get_config()
    for name in methods.names():
        made = methods.create(name)
        assert {field: getattr(made, field) for field in methods.options(name)} == {
            field: config[field] for field in methods.options(name)
        }


def test_a_method_that_does_not_exist():
    with pytest.raises(ValueError, match="no method called 'delat'; did you mean delta\\? Known: l2_fe, l2, l2_sp"):
        methods.create("delat")
    with pytest.raises(ValueError, match="no method called 'zzz'; Known"):
        methods.create("zzz")

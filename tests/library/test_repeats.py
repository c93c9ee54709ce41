"""What a network repeats, as a loop: the numbers of the plain network, in fewer convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from delta_jax.chips import target
from delta_jax.equations import program_of
from delta_jax.models.resnet import ResNet
from delta_jax.repeats import rolled
from tests.reference import random_variables

RNG = np.random.default_rng(0)


def matrices(*shape):
    return [jnp.asarray(RNG.standard_normal(shape), jnp.float32) / 4 for _ in range(5)]


A, B = matrices(6, 6), matrices(1, 6)
X = jnp.asarray(RNG.standard_normal((3, 6)), jnp.float32)


def chain(x):
    for a, b in zip(A, B, strict=True):
        x = x + jnp.tanh(x @ a + b)
    return x


def shared(x):
    for b in B:
        x = jnp.tanh(x @ A[0] + b)
    return x


def first_input_always(x):
    y = x
    for a in A:
        y = jnp.tanh(y @ a) + x
    return y


def two_arrays_in_turn(x):
    y, z = x, 2 * x
    for a in A:
        y, z = z @ a, jnp.tanh(y)
    return y, z


def results_on_the_way(x):
    found = []
    for a in A:
        x = jnp.tanh(x @ a)
        found.append(x)
    return found[1], found[3], found[4]


def dense_connections(x):
    """Each layer sees what two layers before made: no loop of one layer."""
    layers = [x, jnp.sin(x)]
    for a in A:
        layers.append(jnp.tanh(layers[-1] @ a + layers[-2]))
    return layers[-1]


def other_numbers(x):
    for n, a in enumerate(A):
        x = jnp.tanh(x @ a) * (n + 0.5)
    return x


def nothing_repeats(x):
    return jnp.tanh(x @ A[0]).sum(0)


def of_no_use(x):
    y = x
    for a in A:
        y = y @ a
    return x + 1


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (chain, 1),
        (shared, 1),
        (first_input_always, 1),
        (two_arrays_in_turn, None),
        (results_on_the_way, 1),
        (dense_connections, None),
        (other_numbers, 5),
        (nothing_repeats, 1),
        (of_no_use, 0),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_loop_has_the_numbers_of_what_it_stands_for(function, products):
    jax.tree.map(
        lambda found, plain: np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6),
        jax.jit(rolled(function))(X),
        function(X),
    )
    if products is not None:
        assert str(jax.make_jaxpr(rolled(function))(X)).count("dot_general[") == products


def test_a_loop_within_vmap():
    found = jax.jit(jax.vmap(rolled(lambda j: chain(X.at[0].set(j)))))(jnp.arange(3.0))
    plain = jnp.stack([chain(X.at[0].set(j)) for j in (0.0, 1.0, 2.0)])
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)


def test_programs_with_arrays_of_their_own_are_not_taken_for_each_other():
    def function(x):
        for n in range(3):
            own = np.full((1, 6), n + 1.0, np.float32)
            x = lax.cond(jnp.sum(x) > 0, lambda x, own=own: x * own, lambda x: x, x)
        return x

    np.testing.assert_allclose(rolled(function)(jnp.abs(X)), 6 * jnp.abs(X), rtol=1e-6)  # 1 * 2 * 3


def test_stages_of_a_resnet():
    # By hand: the stem, and in each of two stages of 4 and 5 blocks one block that differs and one for the others, in
    # the two last stages of 1 block that one; 3 convolutions a block, and one on the way around in the first of each.
    model, x = ResNet((4, 5, 1, 1), bottleneck=True, num_classes=3), jnp.asarray(RNG.standard_normal((1, 32, 32, 3)))
    x = x.astype(jnp.float32)
    variables = random_variables(model, x)
    forward = lambda x: model.apply(variables, x)  # noqa: E731
    text = str(jax.make_jaxpr(rolled(forward))(x))
    assert text.count("dot_general[") + text.count("conv_general_dilated[") == 1 + 4 * 4 + 2 * 3 + 1
    np.testing.assert_allclose(jax.jit(rolled(forward))(x), jax.jit(forward)(x), rtol=1e-4, atol=1e-5)


def test_a_loop_keeps_nothing_but_what_is_used_behind_it():
    def scan(function):
        return next(e for e in jax.make_jaxpr(rolled(function))(X).eqns if e.primitive.name == "scan")

    for function, handed_on, kept in ((chain, 1, 0), (first_input_always, 1, 0), (results_on_the_way, 1, 1)):
        found = scan(function)
        assert (found.params["num_carry"], len(found.outvars)) == (handed_on, handed_on + kept), function


@pytest.mark.parametrize(("platform", "primitive"), [("cpu", "add"), ("tpu", "mul"), ("cuda", "sub")])
def test_of_what_depends_on_the_platform_the_targets_program_stands_for_it(platform, primitive):
    def by_platform(x):
        return lax.platform_dependent(x, cpu=lambda x: x + 2, tpu=lambda x: x * 2, default=lambda x: x - 2)

    choice = next(one for one in jax.make_jaxpr(by_platform)(1.0).eqns if one.primitive.name == "cond")
    with target.compiling_for(target.Target(platform, None)):
        program, taken = program_of(choice)
    assert [one.primitive.name for one in program.jaxpr.eqns] == [primitive]
    assert taken == 1  # the number of the branch is none of its inputs

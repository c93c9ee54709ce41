"""States come back from their checkpoints as they went in: bits, types, shardings, names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax.workdir import checkpoints as module
from delta_jax.workdir.checkpoints import Checkpoints
from delta_jax.workdir.stored_trees import CheckpointError
from tests.small_states import REPLICATED, SPLIT, TX, State, bits, make_state, write


def test_a_restored_state_has_the_same_bits_types_and_sharding(tmp_path):
    state = make_state(7)
    odd = jnp.array(
        [jnp.nan, -0.0, 1e-45, jnp.inf], jnp.float32
    )  # values that a detour over text or a sum would change
    state = state.replace(params={**state.params, "odd": jax.device_put(odd, SPLIT)})
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(7, state, {"phase": "fine_tune", "fold": [1, 2]})
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
        for like in (state, shapes):
            restored, meta = checkpoints.restore(like)
            assert bits(restored) == bits(state)
            jax.tree.map(np.testing.assert_array_equal, restored, state)  # raises for another structure too
            assert [a.sharding for a in jax.tree.leaves(restored)] == [a.sharding for a in jax.tree.leaves(state)]
            assert [a.dtype for a in jax.tree.leaves(restored)] == [a.dtype for a in jax.tree.leaves(state)]
            assert meta == {"phase": "fine_tune", "fold": [1, 2]}
    # The restored state trains on, and donating it leaves the original alone.
    step = jax.jit(lambda s: s.replace(params=jax.tree.map(jnp.negative, s.params)), donate_argnums=0)
    assert bits(step(restored).params["conv"]) == bits(jax.tree.map(jnp.negative, state.params["conv"]))


# The array of one would be lost: orbax calls both "params.a.b", and keeps one of them for both.
DOTTED = [
    {"params": {"a.b": {"kernel": 1.0}, "a": {"b": {"kernel": 2.0}}}},
    {"params": {"a.b.c": 1.0, "a.b": {"c": 2.0}, "a": {"b.c": 3.0, "b": {"c": 4.0}}}},
    {"s.0": 1.0, "s": [2.0, 3.0], "s.count": 4.0},
    {"a.b/c d%2E~": {"..": 1.0}, "a": {"b/c d%2E~": {"..": 2.0}}},
]


@pytest.mark.parametrize("numbers", DOTTED, ids=str)
def test_names_with_dots_keep_their_arrays(tmp_path, numbers):
    state = jax.tree.map(lambda number: jnp.full((2, int(number)), number), numbers)  # of different shapes, too
    momentum = {"state": state, "trace": (jax.tree.map(jnp.negative, state),)}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, momentum, {"a": 1})
        restored, meta = checkpoints.restore(jax.tree.map(jnp.zeros_like, momentum))
    assert jax.tree.structure(restored) == jax.tree.structure(momentum)
    assert bits(restored) == bits(momentum)
    assert meta == {"a": 1}
    with pytest.raises(CheckpointError, match=r"Orbax joins names by dots .*(a\.b|s\.0).*--format=safetensors"):
        module.save_orbax(tmp_path / "export", state)
    assert not (tmp_path / "export").exists()


def test_a_checkpoint_that_lost_an_array_is_not_read(tmp_path, monkeypatch):
    state = jax.tree.map(jnp.asarray, DOTTED[0])
    monkeypatch.setattr(module, "_alike_to_orbax", lambda _: [])  # as it was written once
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    monkeypatch.undo()
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"one array for all .*params\.a\.b"),
    ):
        checkpoints.restore(state)


def test_other_names_lie_in_the_files_as_they_always_did(tmp_path):
    state = {"a.b": {"c/d": jnp.arange(3.0)}, "a": [jnp.ones(2)], "1": {"": jnp.zeros(1)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    with module.ocp.StandardCheckpointer() as plain:
        jax.tree.map(np.testing.assert_array_equal, plain.restore(tmp_path / "1" / "state"), state)


class LaterState(State):
    search: Any = None
    own: Any = None


def test_a_field_that_came_later_leaves_the_checkpoints_of_before_readable(tmp_path):
    # Orbax counts a None, which for jax is a subtree without leaves.
    write(tmp_path, 1)
    before = make_state(1)
    like = LaterState(step=before.step, params=before.params, opt_state=before.opt_state, tx=TX)
    with Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore(like)
        assert type(found) is LaterState
        assert found.own is found.search is None
        assert bits(found) == bits(before)
        later = like.replace(own={"queue": jnp.arange(3.0)})
        checkpoints.save(2, later, {})
        checkpoints.wait()
        again, _ = checkpoints.restore(later)
        assert bits(again) == bits(later)
        assert again.search is None


def test_a_tree_of_another_form_with_the_same_arrays_is_refused_in_words(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"trace": jnp.ones(2), "clip": optax.EmptyState()}, {})
        with pytest.raises(CheckpointError, match=r"other versions of delta_jax, optax or flax .* another directory"):
            checkpoints.restore({"trace": jnp.ones(2)})


def test_leaves_without_a_sharding_stay_free_to_follow_the_others(tmp_path):
    tree = {"n": 3, "x": jnp.arange(4.0), "y": jnp.ones(4), "host": np.arange(3.0), "scale": np.float32(0.1)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {})
        restored, _ = checkpoints.restore({**tree, "x": jax.ShapeDtypeStruct((4,), jnp.float32)})
    assert restored["n"].dtype == jnp.int32
    assert restored["n"] == 3
    assert not restored["x"].committed
    assert not restored["y"].committed
    assert type(restored["host"]) is np.ndarray
    assert restored["host"].dtype == np.float64
    assert restored["scale"] == np.float32(0.1)
    np.testing.assert_array_equal(restored["x"] + jax.device_put(restored["y"], REPLICATED), [1.0, 2.0, 3.0, 4.0])


def test_buffers_may_be_donated_or_overwritten_as_soon_as_save_returns(tmp_path):
    values = np.random.default_rng(0).standard_normal(2_000_000).astype(np.float32)
    on_device, on_host = jax.device_put(values, REPLICATED), values.copy()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"device": on_device, "host": on_host}, {})
        jax.jit(jnp.negative, donate_argnums=0)(on_device).block_until_ready()
        on_host[:] = 0
        assert on_device.is_deleted()
        restored, _ = checkpoints.restore({"device": jnp.zeros_like(values), "host": np.zeros_like(values)})
    assert restored["device"].tobytes() == values.tobytes()
    assert restored["host"].tobytes() == values.tobytes()

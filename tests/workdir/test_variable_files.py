from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax.workdir.stored_trees import CheckpointError
from delta_jax.workdir.variable_files import load_variables, save_variables

MESH = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
SPLIT = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec("data"))


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_variables_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "new" / "head.safetensors"
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = {
        "head": {"kernel": kernel.T, "bias": jnp.array([1 / 3, -0.0], jnp.bfloat16)},  # a transposed view
        "split": jax.device_put(jnp.arange(8), SPLIT),
        "empty": jnp.zeros((0, 4)),
        "count": 3,
    }
    save_variables(path, tree)
    restored = load_variables(path, tree)
    assert bits(restored) == bits(tree | {"count": np.int32(3)})
    np.testing.assert_array_equal(restored["head"]["kernel"], [[0, 3], [1, 4], [2, 5]])
    assert restored["split"].sharding == SPLIT
    save_variables(path, {"other": jnp.ones(2)})
    assert [p.name for p in path.parent.iterdir()] == ["head.safetensors"]


def test_whoever_may_read_the_folder_may_read_the_file(tmp_path):
    (tmp_path / "plain").write_text("")
    save_variables(tmp_path / "head.safetensors", {"a": jnp.arange(3)})
    assert (tmp_path / "head.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    save_variables(path, {"a": jnp.arange(3)})

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(CheckpointError, match=r"head.safetensors could not be written: no space left on device"):
        save_variables(path, {"a": jnp.arange(4)})
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]
    assert load_variables(path, {"a": jnp.zeros(3, jnp.int32)})["a"].tolist() == [0, 1, 2]


def test_odd_names_come_back(tmp_path):
    path = tmp_path / "model.safetensors"
    tree = {
        "a.b": {"c/d": jnp.arange(2)},
        "a": {"b": {"c": jnp.ones(3)}},
        "..": {"": jnp.zeros(1), "é %~": jnp.ones(2)},
    }
    save_variables(path, tree)
    assert bits(load_variables(path, tree)) == bits(tree)
    with pytest.raises(CheckpointError, match="cannot be called __metadata__"):
        save_variables(path, {"__metadata__": jnp.ones(1)})  # safetensors writes it, and then cannot read the file


def test_unusable_variables_are_one_error(tmp_path):
    path = tmp_path / "head.safetensors"
    with pytest.raises(CheckpointError, match=r"head.safetensors could not be read: No such file"):
        load_variables(path, {})
    save_variables(path, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"a is float32\[2, 3\], expected float32\[3, 2\]; b .*not expected; c is missing"
    ):
        load_variables(path, {"a": jnp.zeros((3, 2)), "c": jnp.zeros(1)})
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"head.safetensors could not be read: .*header"):
        load_variables(path, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(1)})

import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax.workdir import checkpoints as module
from delta_jax.workdir.checkpoints import Checkpoints
from delta_jax.workdir.stored_trees import CheckpointError
from tests.process_run import together
from tests.small_run import ROOT, environment


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    tx: optax.GradientTransformation = flax.struct.field(pytree_node=False)


MESH = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
REPLICATED = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec())
SPLIT = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec("data"))
TX = optax.chain(optax.clip(1.0), optax.sgd(optax.linear_schedule(0.1, 0.0, 100), momentum=0.9))


def make_state(seed: int, classes: int = 3) -> State:
    """A state after one update, so that momentum and the schedule's counter are not zero."""
    rng = np.random.default_rng(seed)
    params = {
        "conv": {"kernel": jnp.array(rng.standard_normal((3, 3, 2, 8)), jnp.float32)},
        "head": {"kernel": jnp.array(rng.standard_normal((8, classes)), jnp.bfloat16)},
    }
    grads = jax.tree.map(jnp.ones_like, params)
    updates, opt_state = TX.update(grads, TX.init(params), params)
    state = State(step=jnp.int32(seed), params=optax.apply_updates(params, updates), opt_state=opt_state, tx=TX)
    return jax.device_put(state, REPLICATED)


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def write(directory: Path, *steps: int, **metrics: float) -> None:
    """Checkpoints of `make_state(step)`; metrics as s2=0.5."""
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"step": step}, metric=metrics.get(f"s{step}"))


def data_file(directory: Path, step: int) -> Path:
    """The largest file of the arrays."""
    return max((directory / str(step) / "state").glob("ocdbt.process_0/d/*"), key=lambda file: file.stat().st_size)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


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


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 4, 5, s1=0.1, s2=0.9, s3=float("nan"), s4=0.5)
    for _ in range(2):  # also when another process looks, which may not change anything
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.steps() == [2, 4, 5]
            assert checkpoints.best_step() == 2
            assert checkpoints.latest_step() == 5
            assert bits(checkpoints.restore(make_state(0), step=2)[0]) == bits(make_state(2))
    write(tmp_path, 6, 7, s6=0.95)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "7"]


def test_without_metrics_there_is_no_best(tmp_path):
    write(tmp_path, 1, 2, 3)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == ([2, 3], None)


@pytest.mark.parametrize("harm", [truncate, flip_one_bit, Path.unlink], ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_falls_back_and_the_next_save_removes_it(tmp_path, harm, caplog, capfd):
    write(tmp_path, 10, 20, 30)
    harm(data_file(tmp_path, 30))
    with Checkpoints(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(make_state(0))
        assert bits(restored) == bits(make_state(20))
        assert meta == {"step": 20}
        assert checkpoints.latest_step() == 20
        with pytest.raises(CheckpointError, match=r"no checkpoint 30 in .*\[20\]"):
            checkpoints.restore(make_state(0), step=30)
        warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert warnings[0].startswith(f"checkpoint 30 in {tmp_path} is damaged (state/")
        assert (tmp_path / "30").exists()
        checkpoints.save(25, make_state(25), {})
        assert checkpoints.steps() == [20, 25]
    assert not (tmp_path / "30").exists()
    assert capfd.readouterr().err == ""  # none of the tracebacks of tensorstore's threads


@pytest.mark.parametrize("name", ["metrics/metrics", "meta/metadata", "files.json"])
def test_damage_outside_the_arrays_is_noticed_and_the_best_is_still_known_afterwards(tmp_path, name):
    write(tmp_path, 1, 2, 3, 4, s1=0.9, s4=0.1)
    truncate(tmp_path / "4" / name)
    with Checkpoints(tmp_path) as checkpoints:
        assert bits(checkpoints.restore(make_state(0))[0]) == bits(make_state(3))
        checkpoints.save(4, make_state(4), {}, metric=0.2)
        assert checkpoints.steps() == [1, 3, 4]
        assert checkpoints.best_step() == 1


def test_all_damaged_or_none_there_is_an_error_not_a_fresh_start(tmp_path):
    with (
        Checkpoints(tmp_path / "none") as checkpoints,
        pytest.raises(CheckpointError, match=r"no intact checkpoint in .*empty"),
    ):
        checkpoints.restore(make_state(0))
    assert not (tmp_path / "none").exists()  # reading creates nothing
    write(tmp_path / "c", 1, 2)
    for step in (1, 2):
        truncate(data_file(tmp_path / "c", step))
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoint 2 in .* is damaged"):
            checkpoints.restore(make_state(0), step=2)
        with pytest.raises(CheckpointError, match=r"no intact checkpoint in .*looked at \[1\]"):
            checkpoints.restore(make_state(0))


def test_a_state_of_another_network_is_refused_in_one_error(tmp_path):
    write(tmp_path, 1)
    other = make_state(1, classes=7)
    other.params["conv"]["bias"] = jnp.zeros(8)
    other.params["conv"]["kernel"] = other.params["conv"]["kernel"].astype(jnp.bfloat16)  # orbax would cast
    del other.params["head"]
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(other)
    message = str(error.value)
    assert "params/conv/kernel is float32[3, 3, 2, 8], expected bfloat16[3, 3, 2, 8]" in message
    assert "params/conv/bias is missing" in message
    assert "params/head/kernel is bfloat16[8, 3], not expected" in message
    assert "opt_state/1/0/trace/head/kernel is bfloat16[8, 3], expected bfloat16[8, 7]" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("state", "meta", "message"),
    [
        ({"name": "resnet18"}, {}, "name is a str; only arrays and numbers"),
        ({"key": jax.random.key(0)}, {}, "key is a typed random key; store jax.random.key_data"),
        ({"a/b": jnp.zeros(1), "a": {"b": jnp.ones(1)}}, {}, "the same name"),
        ({"a": jnp.zeros(1)}, {"path": Path()}, "meta of checkpoint 5 cannot be written as JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, state, meta, message):
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.save(5, state, meta)
    assert not (tmp_path / "c").exists()


def test_a_step_that_is_not_the_newest_is_refused(tmp_path):
    write(tmp_path, 4)
    for step in (3, 4):
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(CheckpointError, match=rf"checkpoint {step} .*newest, 4"),
        ):
            checkpoints.save(step, make_state(step), {})
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    message = r"file/c could not be opened for checkpoints: .*Not a directory"
    with Checkpoints(tmp_path / "file" / "c") as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.save(1, make_state(1), {})


def test_a_relative_directory_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("runs/c"), 1)
    with Checkpoints(Path("runs/c")) as checkpoints:
        assert bits(checkpoints.restore(make_state(0))[0]) == bits(make_state(1))


def test_an_error_of_the_background_thread_comes_out_once_and_the_run_can_go_on(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def fail(self):
        raise OSError(5, "Input/output error")

    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(module.Checkpoints, "_seal", fail)
            checkpoints.save(2, make_state(2), {})
            with pytest.raises(CheckpointError, match=r"checkpoint 2 in .* could not be written.*Input/output error"):
                checkpoints.wait()
        checkpoints.wait()
        assert checkpoints.steps() == [1]
        checkpoints.save(3, make_state(3), {})
        assert checkpoints.steps() == [1, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3"]


def run_child(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Runs `code` in a process of its own in which this file is imported as `t`."""
    command = ["-c", f"import sys; from tests.workdir import test_checkpoints as t\n{code}", *map(str, arguments)]
    if not prefix:
        return together([command], devices=4, timeout=120)[0]
    command = [*prefix, sys.executable, *command]
    return subprocess.run(command, cwd=ROOT, env=environment(4), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("moment", ["writing the arrays", "everything but the final name"])
def test_a_kill_in_the_middle_of_a_save_leaves_the_one_before(tmp_path, moment):
    child = run_child(
        """
import os, pathlib, signal
import numpy as np
directory, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
def kill(): os.kill(os.getpid(), signal.SIGKILL)
if moment == "everything but the final name":
    seal = t.Checkpoints._seal
    t.Checkpoints._seal = lambda self: (seal(self), self._saving == 2 and kill())
with t.Checkpoints(directory) as checkpoints:
    checkpoints.save(1, t.make_state(1), {"step": 1})
    checkpoints.wait()
    checkpoints.save(2, np.random.default_rng(0).standard_normal(8_000_000), {})  # takes a while to write
    while not list(directory.glob("2.*")): pass
    if moment == "writing the arrays": kill()
    checkpoints.wait()
""",
        tmp_path,
        moment,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "1").is_dir()
    assert any(path.name.startswith("2.") for path in tmp_path.iterdir())  # it was in the middle
    with Checkpoints(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(make_state(0))
        assert bits(restored) == bits(make_state(1))
        assert meta == {"step": 1}
        checkpoints.save(2, make_state(2), {})
        assert bits(checkpoints.restore(make_state(0))[0]) == bits(make_state(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(tmp_path):
    # A disk of 1 MiB, in a mount namespace of its own.
    small_disk = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"', "sh")
    if not shutil.which("unshare") or subprocess.run([*small_disk, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no user mount a small disk")
    child = run_child(
        """
import pathlib
import numpy as np
from delta_jax.workdir.variable_files import load_variables, save_variables
directory = pathlib.Path(sys.argv[1])
too_much = np.random.default_rng(0).standard_normal(1_000_000)
save_variables(directory / "head.safetensors", {"a": t.np.arange(3)})
with t.Checkpoints(directory / "c") as checkpoints:
    checkpoints.save(1, t.make_state(1), {})
    for attempt in (
        lambda: (checkpoints.save(2, {"a": too_much}, {}), checkpoints.wait()),
        lambda: save_variables(directory / "head.safetensors", {"a": too_much}),
    ):
        try:
            attempt()
        except t.CheckpointError as error:
            print(error)
    assert t.bits(checkpoints.restore(t.make_state(0))[0]) == t.bits(t.make_state(1))
    assert load_variables(directory / "head.safetensors", {"a": t.np.arange(3)})["a"].tolist() == [0, 1, 2]
    checkpoints.save(2, t.make_state(2), {})
    assert checkpoints.steps() == [1, 2]
""",
        tmp_path,
        prefix=small_disk,
    )
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert len(lines) == 2, child.stdout
    assert "checkpoint 2 in" in lines[0]
    assert "head.safetensors could not be written" in lines[1]
    assert all("no space left on device; make room" in line for line in lines)

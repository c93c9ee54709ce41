"""Which checkpoints are kept, and what is refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from delta_jax.workdir import checkpoints as module
from delta_jax.workdir.checkpoints import Checkpoints
from delta_jax.workdir.stored_trees import CheckpointError
from tests.small_states import bits, make_state, write


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

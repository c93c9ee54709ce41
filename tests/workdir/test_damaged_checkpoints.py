"""Checkpoints whose files are damaged, and saves that a kill or a full disk cuts short."""

import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from delta_jax.workdir.checkpoints import Checkpoints
from delta_jax.workdir.stored_trees import CheckpointError
from tests.process_run import together
from tests.small_run import ROOT, environment
from tests.small_states import bits, make_state, write


def data_file(directory: Path, step: int) -> Path:
    """The largest file of the arrays."""
    return max((directory / str(step) / "state").glob("ocdbt.process_0/d/*"), key=lambda file: file.stat().st_size)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


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


def run_child(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Runs `code` in a process of its own in which tests/small_states.py is imported as `t`."""
    command = ["-c", f"import sys; from tests import small_states as t\n{code}", *map(str, arguments)]
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
from delta_jax.workdir.stored_trees import CheckpointError
from delta_jax.workdir.variable_files import load_variables, save_variables
directory = pathlib.Path(sys.argv[1])
too_much = np.random.default_rng(0).standard_normal(1_000_000)
save_variables(directory / "head.safetensors", {"a": np.arange(3)})
with t.Checkpoints(directory / "c") as checkpoints:
    checkpoints.save(1, t.make_state(1), {})
    for attempt in (
        lambda: (checkpoints.save(2, {"a": too_much}, {}), checkpoints.wait()),
        lambda: save_variables(directory / "head.safetensors", {"a": too_much}),
    ):
        try:
            attempt()
        except CheckpointError as error:
            print(error)
    assert t.bits(checkpoints.restore(t.make_state(0))[0]) == t.bits(t.make_state(1))
    assert load_variables(directory / "head.safetensors", {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
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

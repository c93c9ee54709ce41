"""The same attention, and the same streamed batches, on one process and on several."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests import attention_worker, stream_worker
from tests.process_run import free_port, together


def start(module: str, count: int, folder: Path, *, devices: int) -> int:
    """Runs the module in `count` processes that find each other, each with so many devices; all have to succeed."""
    port = free_port()
    for ended in together([("-m", module, port, rank, count, folder) for rank in range(count)], devices, timeout=120):
        assert ended.returncode == 0, ended.stderr
    return count


def test_two_processes_measure_the_attention_of_one(tmp_path):
    assert jax.device_count() == 4  # conftest.py
    expected = attention_worker.run(tmp_path / "one")
    whole = (tmp_path / "one" / "gaps.f32").read_bytes()
    # The first process goes on from a table of 5 rows, of which the second knows nothing.
    (tmp_path / "table0").mkdir()
    (tmp_path / "table0" / "gaps.f32").write_bytes(whole[: 5 * 20 * 4])
    started = start("tests.attention_worker", 2, tmp_path, devices=2)
    for rank in range(started):
        with np.load(tmp_path / f"found{rank}.npz") as found:
            for name, array in expected.items():
                np.testing.assert_allclose(found[name.replace("/", "|")], array, atol=1e-6, err_msg=name)
    assert (tmp_path / "table0" / "gaps.f32").stat().st_size == len(whole)
    assert not (tmp_path / "table1" / "gaps.f32").exists()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_each_read_their_part_see_the_batches_of_one(tmp_path, count):
    expected = stream_worker.run(on_device="yes")
    start("tests.stream_worker", count, tmp_path, devices=1)
    for rank in range(count):
        with np.load(tmp_path / f"found{rank}.npz") as found:
            for name in ("image", "label", "index"):
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
            # Every image is read by one process only.
            assert int(found["read"]) == stream_worker.STEPS * stream_worker.BATCH // count

"""The same attention on four devices of one process and on two processes with two devices each."""

import socket
import subprocess
import sys

import jax
import numpy as np

from tests import attention_worker
from tests.small_run import ROOT, environment


def test_two_processes_measure_the_attention_of_one(tmp_path):
    assert jax.device_count() == 4  # conftest.py
    expected = attention_worker.run(tmp_path / "one")
    whole = (tmp_path / "one" / "gaps.f32").read_bytes()
    # The first process goes on from a table of 5 rows, of which the second knows nothing.
    (tmp_path / "table0").mkdir()
    (tmp_path / "table0" / "gaps.f32").write_bytes(whole[: 5 * 20 * 4])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.attention_worker", port, str(rank), str(tmp_path)],
            cwd=ROOT,
            env=environment(devices=2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, process in enumerate(processes):
        assert process.returncode == 0, said[rank]
        with np.load(tmp_path / f"found{rank}.npz") as found:
            for name, array in expected.items():
                np.testing.assert_allclose(found[name.replace("/", "|")], array, atol=1e-6, err_msg=name)
    assert (tmp_path / "table0" / "gaps.f32").stat().st_size == len(whole)
    assert not (tmp_path / "table1" / "gaps.f32").exists()

"""One of two processes with two devices each, for test_processes.py: the pass over images that all of them share."""

import sys
from pathlib import Path

import jax
import numpy as np


def run(folder: Path):
    """The attention pass of a small network over 10 images, 4 at a time; the first process keeps the table."""
    import flax.linen as nn
    import jax.numpy as jnp

    from delta_jax import attention
    from delta_jax.processes import sharding
    from delta_jax.training import attention_pass
    from delta_jax.workdir.gap_table import GapTable

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3), name="first")(x))
            x = nn.relu(nn.Conv(12, (3, 3), name="second")(x))
            return nn.Dense(3)(jnp.mean(x, (1, 2)))

    rng = np.random.default_rng(0)
    images = rng.standard_normal((10, 8, 8, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 10).astype(np.int32)
    mesh = sharding.make_mesh()
    variables = sharding.replicate(Net().init(jax.random.key(0), images[:1]), mesh)
    taps = ("first", "second")

    def gaps(variables, x, y):
        return attention.filter_gaps(Net(), variables, x, y, taps=taps, chunk=3)

    compiled = sharding.per_device(gaps, mesh)

    def gaps_of(picked):
        batch = sharding.split((images[picked], labels[picked]), mesh)
        return sharding.on_host(compiled(variables, *batch))

    normalization = attention_pass.Normalization("standardized_softmax", 5.0)
    found = attention_pass.measure(
        GapTable(folder, 20), {"first": 8, "second": 12}, np.arange(10), 4, gaps_of, lambda _: None
    )
    return found.gaps | {f"weight/{tap}": w for tap, w in normalization(found.mean()).items()}


if __name__ == "__main__":
    port, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[4])
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank, initialization_timeout=60)
    arrays = run(folder / f"table{rank}")
    assert jax.device_count() == 4
    np.savez(folder / f"found{rank}.npz", **{name.replace("/", "|"): array for name, array in arrays.items()})
    jax.distributed.shutdown()

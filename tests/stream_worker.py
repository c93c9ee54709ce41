"""One of several processes with a device each, for test_processes.py: batches of which each reads its part."""

import sys
from pathlib import Path

import jax
import numpy as np

STEPS, BATCH = 5, 8


def run(on_device: str) -> dict[str, np.ndarray]:
    """The batches of a made-up split, whole, and how many images this process read."""
    from delta_jax import data
    from delta_jax.processes import sharding
    from delta_jax.training.image_sets import ImageSet

    n = 30
    pixels = np.random.default_rng(0).integers(0, 256, (n, 6, 6, 3), np.uint8)
    catalogue = data.Catalogue(
        name="made",
        files=tuple(map(str, range(n))),
        labels=np.arange(n, dtype=np.int32) % 3,
        split=np.array(["train"] * 20 + ["test"] * 10),
        class_names=("a", "b", "c"),
        licence="",
        read=lambda _: b"",
        sizes=np.ones(n, np.int64),
        contents=tuple(map(str, range(n))),
    )
    read = 0

    class Counted(data.Images):
        def take(self, rows):
            nonlocal read
            read += len(rows)
            return super().take(rows)

    images = ImageSet(Counted(pixels, catalogue, ()), "train", sharding.make_mesh(), on_device=on_device)
    table = data.batch_table(0, STEPS, len(images), BATCH)
    batches = [sharding.on_host(batch) for batch in images.stream(table)]
    found = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return found | {"read": np.array(read)}


if __name__ == "__main__":
    port, rank, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=rank, initialization_timeout=60)
    np.savez(folder / f"found{rank}.npz", **run(on_device="no"))
    jax.distributed.shutdown()

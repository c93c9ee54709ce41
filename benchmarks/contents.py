"""What it costs to know the contents of files: read from the disk, read from memory, and found in the index.

    python benchmarks/contents.py --images 10000 --kilobytes 100 --folder DIR

The files hold random bytes, for nothing is decoded. For the first number the system is told to forget what it holds of
them in memory, as far as it does so.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from delta_jax import data
from delta_jax.data import contents


def make_files(folder: Path, count: int, size: int) -> data.Catalogue:
    """Two classes of them."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % 2}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(size))
    os.sync()
    return data.find("folder", root=str(folder))


def forget(catalogue: data.Catalogue) -> None:
    """Takes the files out of the system's memory."""
    for path in catalogue.paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=int, default=100, help="of each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="on the disk to be measured; the system's for temporary files")
    args = parser.parse_args()

    seconds: dict[str, list[float]] = {"from the disk": [], "from memory": [], "from the index": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        catalogue, cache = make_files(Path(folder, "photos"), args.images, args.kilobytes * 1000), Path(folder, "cache")
        time.sleep(contents.SETTLED_NS / 1e9 + 1)  # younger files do not go into the index
        for _ in range(args.repeats):
            for name, found in seconds.items():
                if name == "from the disk":
                    forget(catalogue)
                if name != "from the index":
                    shutil.rmtree(cache, ignore_errors=True)
                began = time.perf_counter()
                data.identified(catalogue, cache)
                found.append(time.perf_counter() - began)
        size = sum(path.stat().st_size for path in cache.rglob("*.json"))
    print(f"{args.images:,} files of {args.kilobytes} kB, {os.cpu_count()} cores; the index takes {size / 1e6:.1f} MB:")
    for name, found in seconds.items():
        print(f"  {name:14} {statistics.median(found):7.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()

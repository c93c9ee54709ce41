"""A process that decodes images in chunks of four and is killed after the tenth, for data/test_cache.py."""

import os
import signal
import sys

from delta_jax.data import cache, decode, find

if __name__ == "__main__":
    root, cache_dir, aspect = sys.argv[1:]
    cache.CHUNK = 4
    finished = 0

    def progress(_: int) -> None:
        global finished
        finished += 1
        if finished == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    decode(find("folder", root=root), 5, aspect=aspect, cache_dir=cache_dir, progress=progress)

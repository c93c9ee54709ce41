"""A process that prepares a data set from the server at a port, and is killed in the middle of a stage of it."""

import os
import signal
import sys

from delta_jax.data import prepare
from delta_jax.downloads import transfer
from tests import published_sets

if __name__ == "__main__":
    port, name, folder, stage = sys.argv[1:]
    transfer.CHUNK = 1000
    published_sets.publish(name, lambda file: f"http://127.0.0.1:{port}/{file}", setattr)

    def die_in(running: str):
        def told(done: int, total: int) -> None:
            if stage == running and 2 * done >= total:
                os.kill(os.getpid(), signal.SIGKILL)

        return told

    prepare(name, data_dir=folder, on_fetch=die_in("fetching"), on_image=die_in("preparing"))

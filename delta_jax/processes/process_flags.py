"""The flags of a run in several processes, for the commands that can be one."""

import contextlib
import os
import sys
from collections.abc import Iterator

from absl import flags

from delta_jax.processes import cluster, group
from delta_jax.processes.cluster import ProcessError
from delta_jax.processes.start import set_up_process

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where the first of several processes listens. SLURM, Open MPI and TPU pods tell it."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes the run has, all with the same flags.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds to wait for the other processes at the start.", lower_bound=1
)


@contextlib.contextmanager
def set_up() -> Iterator[None]:
    """What these commands do within: with the other processes of the run, if there are any, and set up for jax."""
    with contextlib.ExitStack() as stack:
        try:
            found = cluster.settings(
                os.environ,
                coordinator=_COORDINATOR.value,
                processes=_PROCESSES.value,
                process=_PROCESS.value,
                tpu_hosts=cluster.tpu_hosts,
            )
            stack.enter_context(group.together(found, timeout_s=_JOIN_TIMEOUT.value))
        except ProcessError as error:
            sys.exit(f"error: {error}")
        set_up_process()
        yield

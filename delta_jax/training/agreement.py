"""What has to be the same in all processes of a run, compared before anything slow: unlike ones would wait for ever."""

import hashlib
import json
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import jax
from ml_collections import FrozenConfigDict

from delta_jax import processes
from delta_jax.processes.cluster import ProcessError
from delta_jax.training import config as configs
from delta_jax.training import provenance
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import environment

# Folders that may be others on every host; what lies in them is compared.
_OF_A_HOST = ("data.root", "data.cache_dir")
_SEEN_WITHIN_S = 10.0  # a new file, by the other hosts of a network file system


def on_config(config: FrozenConfigDict, **flags: Any) -> None:
    """Compares every field of the resolved config, some more flags, versions, and the devices of each process.

    Raises:
      ProcessError: on every process, with what differs.
    """
    if processes.count() == 1:
        return
    fields = configs.flat(json.loads(json.dumps(config.to_dict())))
    facts: dict[str, Any] = {f"--config.{name}": value for name, value in fields.items() if name not in _OF_A_HOST}
    facts |= {f"--{name}": value for name, value in flags.items()}
    facts |= environment.versions()
    processes.agree(facts)
    # These need the other processes, and only now is it known that they are of the same kind.
    devices = jax.local_devices()
    processes.agree({"devices": f"{len(devices)} x {devices[0].device_kind}"})


def on_setup(setup: Setup, trained: Variables | None = None) -> None:
    """Compares the data, names and pixels, and weights; only hashes are sent.

    Args:
      setup: has the data and the source's weights.
      trained: a network that is to be evaluated.

    Raises:
      ProcessError: on every process, with what differs.
      DataError: an image cannot be decoded.
    """
    if processes.count() == 1:
        return
    catalogue = setup.catalogue
    facts = {
        "names and order of the images": _hash(*catalogue.files),
        "contents and labels of the images": _hash(*catalogue.contents, *map(str, catalogue.labels)),
        "splits of the images": _hash(*catalogue.split),
        "source weights": provenance.of_variables(setup.source)[:16],
    }
    if trained is not None:
        facts["trained network"] = provenance.of_variables(trained)[:16]
    processes.agree(facts)
    # The first decodes before the others of its host, which then find what it has left: it is the one that is heard.
    waits = processes.from_first(socket.gethostname()) == socket.gethostname() and not processes.is_first()
    if waits:
        processes.from_first("")
    digest = setup.images.digest
    if not waits:
        processes.from_first("")
    processes.agree({"decoded images": digest[:16]})


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def on_workdir(workdir: Path) -> None:
    """Returns when the first process has come here, too, and every process has seen a file that it wrote.

    Raises:
      ProcessError: on every process, a workdir that is not the same folder on all hosts.
    """
    if processes.count() == 1:
        return
    mark = workdir / processes.from_first(f".seen-{uuid.uuid4().hex}")
    if processes.is_first():
        mark.touch()
    processes.from_first("")
    until = time.monotonic() + _SEEN_WITHIN_S
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.2)
    told = processes.gather("" if mark.exists() else "missing")
    if processes.is_first():
        mark.unlink()
    blind = [str(process) for process, text in enumerate(told) if text]
    if blind:
        raise ProcessError(
            f"--workdir={workdir}: what process 0 writes there is not seen by process {', '.join(blind)}; several "
            "hosts need a workdir on storage that they share"
        )

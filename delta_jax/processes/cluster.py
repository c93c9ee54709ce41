"""Which processes make up a run: told by flags or the environment, or by the launcher that started them."""

import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass


class ProcessError(RuntimeError):
    """The processes of a run do not find each other, or do not fit together."""


@dataclass(frozen=True)
class Settings:
    """What `jax.distributed.initialize` is to be told; None where it finds out by itself.

    Attributes:
      source: who says that there are several processes, for messages.
      coordinator: HOST:PORT on which the first process listens.
      processes: how many.
      process: which of them this one is, from 0.
      local_devices: numbers of the GPUs that are this process's, among those it sees.
      method: jax's name of the launcher that tells the rest; "deactivate" where nothing is left to tell.
    """

    source: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] | None = None
    method: str | None = None


def settings(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    tpu_hosts: Callable[[], int] = lambda: 1,
) -> Settings | None:
    """Decides whether this process is one of several; None for a run of one process, which needs no set-up.

    Flags go first, each before the variable of the same meaning: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES,
    JAX_PROCESS_ID. Where they say nothing of numbers, Open MPI, SLURM, Cloud TPU and Kubernetes do, in this order.

    Args:
      environment: of the process.
      coordinator, processes, process: the flags; None where not given.
      tpu_hosts: asked on a Cloud TPU VM whose environment does not tell how many hosts its slice has.

    Raises:
      ProcessError: half of a set, a number that cannot be, or a launcher that leaves something open.
    """
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS") or None
    processes = _number(environment, "JAX_NUM_PROCESSES") if processes is None else processes
    process = _number(environment, "JAX_PROCESS_ID") if process is None else process
    if processes is not None and processes < 1:
        raise ProcessError(f"--processes={processes}: expected 1 or more")
    if processes is None and process is None:
        found = _launched(environment, coordinator, tpu_hosts)
        if found is None and coordinator is not None:
            raise ProcessError(f"--coordinator={coordinator} alone: expected --processes=N and --process=I beside it")
        return found
    if processes is not None and process is not None:
        _check_range(processes, process)
    if processes == 1:
        return None
    given = {"--coordinator=HOST:PORT": coordinator, "--processes=N": processes, "--process=I": process}
    missing = [flag for flag, value in given.items() if value is None]
    if missing:
        raise ProcessError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; several processes take all "
            f"three of {', '.join(given)}, or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID"
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    _check_address(coordinator)
    return Settings("--coordinator", coordinator, processes, process, _chosen_devices(environment), "deactivate")


def _check_range(processes: int, process: int) -> None:
    if not 0 <= process < processes:
        raise ProcessError(f"--process={process}: expected 0 to {processes - 1}, one of the --processes={processes}")


def _check_address(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ProcessError(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:1234")


def _launched(environment: Mapping[str, str], coordinator: str | None, tpu_hosts: Callable[[], int]) -> Settings | None:
    # Open MPI first: started within a job of SLURM, its processes see the numbers of its daemons as SLURM's.
    if (_number(environment, "OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return _open_mpi(environment, coordinator)
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        # Of a step with one task, SLURM_NTASKS may still be that of the job.
        tasks = _number(environment, "SLURM_STEP_NUM_TASKS") or _number(environment, "SLURM_NTASKS") or 1
        if tasks > 1:
            on_this_host = _tasks_of_host(environment)
            local = _local_devices(environment, on_this_host, _number(environment, "SLURM_LOCALID") or 0)
            number = _number(environment, "SLURM_PROCID")
            return Settings("SLURM", coordinator, tasks, number, local, "slurm")
        return None
    if (_number(environment, "MEGASCALE_NUM_SLICES") or 1) > 1:
        return Settings("Cloud TPU", coordinator)
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if workers:
        return Settings("Cloud TPU", coordinator) if "," in workers else None
    # jax sets this variable on the hosts of TPUs when it is imported.
    if "TPU_ML_PLATFORM" in environment and "TPU_SKIP_MDS_QUERY" not in environment:
        return Settings("Cloud TPU", coordinator) if tpu_hosts() > 1 else None
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return Settings("Kubernetes", coordinator)
    return None


def _open_mpi(environment: Mapping[str, str], coordinator: str | None) -> Settings:
    processes, process = (_number(environment, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "RANK"))
    if processes is None or process is None:
        raise ProcessError("OMPI_COMM_WORLD_SIZE is set and OMPI_COMM_WORLD_RANK is not; start with mpirun")
    _check_range(processes, process)
    if coordinator is not None:
        _check_address(coordinator)
    # Since version 5 Open MPI does not tell where it was started.
    known = "OMPI_MCA_orte_hnp_uri" in environment
    if coordinator is None and not known:
        raise ProcessError(
            "this Open MPI does not tell where the first process runs; add --coordinator=HOST:PORT, its host and a "
            "free port there"
        )
    local = _local_devices(
        environment,
        _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK") or 0,
    )
    return Settings("Open MPI", coordinator, processes, process, local, "ompi" if known else "deactivate")


def _local_devices(
    environment: Mapping[str, str], processes_of_host: int | None, local_process: int
) -> tuple[int, ...] | None:
    """Which of the GPUs that it sees are a process's own; None leaves it to jax: the one of its number on the host."""
    chosen = _chosen_devices(environment)
    if chosen:
        return chosen
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("ROCR_VISIBLE_DEVICES")
    if not visible:
        return None
    count = len(visible.split(","))
    if count == 1 or processes_of_host == 1:
        return tuple(range(count))  # given by the launcher to this process alone
    return (local_process,)


def _chosen_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    chosen = environment.get("JAX_LOCAL_DEVICE_IDS")
    if not chosen:
        return None
    try:
        return tuple(int(number) for number in chosen.split(","))
    except ValueError:
        raise ProcessError(f"JAX_LOCAL_DEVICE_IDS={chosen}: expected numbers with commas between them") from None


def _tasks_of_host(environment: Mapping[str, str]) -> int | None:
    """How many tasks SLURM runs on this host; SLURM_STEP_TASKS_PER_NODE is such as "2(x3),1" for 2, 2, 2 and 1."""
    text, node = environment.get("SLURM_STEP_TASKS_PER_NODE"), _number(environment, "SLURM_NODEID")
    if text is None or node is None:
        return None
    counts: list[int] = []
    for part in text.split(","):
        tasks, _, times = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(times or 1)
    return counts[node] if node < len(counts) else None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ProcessError(f"{name}={text}: expected a number") from None


def tpu_hosts() -> int:
    """Hosts of the slice of TPUs that this one belongs to, from Google Cloud's metadata; 1 where they do not say."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    address = f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return len(answer.read().decode().split(","))
    except OSError:  # no such attribute, no such server
        return 1

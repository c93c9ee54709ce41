"""Which processes make up a run, decided from made-up environments; the launchers' documents say what they set."""

import http.server
import threading

import pytest

from delta_jax.processes import cluster
from delta_jax.processes.cluster import ProcessError, Settings, settings

# As `srun --ntasks=8 --ntasks-per-node=4` sets them for task 5, on its second host.
SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
# As mpirun of Open MPI 4 sets them.
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GKE = {"TPU_WORKER_HOSTNAMES": "tpu-0.svc,tpu-1.svc", "TPU_WORKER_ID": "1"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JAX_NUM_PROCESSES": "1"},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # srun --ntasks=1 within a job of 8
        {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # sbatch, no srun
        OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
        {"TPU_ML_PLATFORM": "JAX"},  # a TPU VM whose metadata speak of one host
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        SLURM | {"JAX_NUM_PROCESSES": "1"},
    ],
)
def test_a_run_of_one_process_needs_no_set_up(environment):
    assert settings(environment) is None


def test_one_process_by_flag_in_spite_of_the_launcher():
    assert settings(SLURM, processes=1) is None


def test_flags_go_before_variables_and_both_before_the_launcher():
    variables = {"JAX_COORDINATOR_ADDRESS": "one:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
    by_variables = Settings("--coordinator", "one:1", 3, 2, None, "deactivate")
    assert settings(variables | SLURM | OPEN_MPI | GKE) == by_variables
    by_both = Settings("--coordinator", "two:2", 3, 0, None, "deactivate")
    assert settings(variables | SLURM, coordinator="two:2", process=0) == by_both
    assert settings({"JAX_LOCAL_DEVICE_IDS": "2,3"}, coordinator="[::1]:5", processes=2, process=1) == Settings(
        "--coordinator", "[::1]:5", 2, 1, (2, 3), "deactivate"
    )


@pytest.mark.parametrize(
    ("environment", "local"),
    [
        (SLURM, None),  # jax takes SLURM_LOCALID
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),  # all GPUs of the host are seen: one for each of 4 tasks
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, (0,)),  # --gpus-per-task=1: what is seen is the task's own
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_TASKS_PER_NODE": "7,1"}, (0, 1)),  # alone on its host
        (SLURM | {"ROCR_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_LOCAL_DEVICE_IDS": "2,3"}, (2, 3)),
    ],
)
def test_slurm_and_which_gpus_are_a_tasks_own(environment, local):
    assert settings(environment) == Settings("SLURM", None, 8, 5, local, "slurm")


def test_open_mpi_goes_before_slurm_whose_numbers_are_those_of_daemons():
    found = settings(OPEN_MPI | SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert found == Settings("Open MPI", None, 4, 3, (1,), "ompi")


def test_open_mpi_5_does_not_say_where_it_was_started():
    environment = {name: value for name, value in OPEN_MPI.items() if name != "OMPI_MCA_orte_hnp_uri"}
    with pytest.raises(ProcessError, match="add --coordinator=HOST:PORT"):
        settings(environment)
    assert settings(environment, coordinator="a:1") == Settings("Open MPI", "a:1", 4, 3, None, "deactivate")


@pytest.mark.parametrize(
    "environment",
    [
        GKE,
        {"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"},
        {"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_tpus_of_several_hosts_leave_the_rest_to_jax(environment):
    assert settings(environment) == Settings("Cloud TPU")


def test_an_indexed_job_of_kubernetes_leaves_the_rest_to_jax():
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    assert settings(environment) == Settings("Kubernetes")


@pytest.mark.parametrize(("hosts", "several"), [("10.0.0.1", False), ("u:0:10.0.0.1,v:1:10.0.0.2", True)])
def test_a_tpu_vm_asks_the_metadata_for_its_hosts(monkeypatch, hosts, several):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            right = self.path.endswith("/worker-network-endpoints") and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if right else 404)
            self.end_headers()
            self.wfile.write(hosts.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        found = settings({"TPU_ML_PLATFORM": "JAX"}, tpu_hosts=cluster.tpu_hosts)
        server.shutdown()
    assert found == (Settings("Cloud TPU") if several else None)


def test_a_machine_without_metadata_is_one_host(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")
    assert cluster.tpu_hosts() == 1


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({}, {"coordinator": "a:1"}, r"--coordinator=a:1 alone: expected --processes=N and --process=I"),
        ({}, {"processes": 2}, r"--coordinator=HOST:PORT and --process=I are missing"),
        ({}, {"coordinator": "a:1", "processes": 2}, r"--process=I is missing"),
        ({"JAX_PROCESS_ID": "1"}, {"coordinator": "a:1"}, r"--processes=N is missing"),
        ({}, {"coordinator": "a:1", "processes": 2, "process": 2}, r"--process=2: expected 0 to 1"),
        ({}, {"coordinator": "a:1", "processes": 2, "process": -1}, r"--process=-1: expected 0 to 1"),
        ({}, {"coordinator": "a:1", "processes": 0, "process": 0}, r"--processes=0: expected 1 or more"),
        ({}, {"processes": 1, "process": 1}, r"--process=1: expected 0 to 0"),
        ({}, {"coordinator": "a", "processes": 2, "process": 0}, r"--coordinator=a: expected HOST:PORT"),
        ({}, {"coordinator": "a:b", "processes": 2, "process": 0}, r"expected HOST:PORT"),
        ({}, {"coordinator": ":1", "processes": 2, "process": 0}, r"expected HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "two"}, {}, r"JAX_NUM_PROCESSES=two: expected a number"),
        ({"JAX_LOCAL_DEVICE_IDS": "a"} | SLURM, {}, r"JAX_LOCAL_DEVICE_IDS=a: expected numbers"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, r"OMPI_COMM_WORLD_RANK is not"),
    ],
)
def test_half_a_set_and_impossible_numbers_are_refused(environment, flags, message):
    with pytest.raises(ProcessError, match=message):
        settings(environment, **flags)

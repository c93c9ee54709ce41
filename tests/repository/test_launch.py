"""The scripts of launch/: what they start, when they start it again, and that a cluster would take the files."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run"])


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(script, *arguments, environment=None, cwd=ROOT):
    command = ["bash", str(LAUNCH / script), *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "CUDA_"))}
    return subprocess.run(command, cwd=cwd, env=env | (environment or {}), capture_output=True, text=True, timeout=60)


def test_shellcheck_finds_nothing():
    found = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


# local.sh


def test_local_processes_are_told_about_each_other(tmp_path):
    shown = "echo $JAX_PROCESS_ID $JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS $JAX_PLATFORMS $XLA_FLAGS"
    found = run("local.sh", "-d", 2, "-l", tmp_path, 3, "bash", "-c", shown)
    assert found.returncode == 0, found.stderr
    texts = [found.stdout.splitlines()[-1], *((tmp_path / f"process{i}.log").read_text().strip() for i in (1, 2))]
    told = [text.split() for text in texts]
    assert [one[:2] for one in told] == [["0", "3"], ["1", "3"], ["2", "3"]]
    assert len({one[2] for one in told}) == 1
    assert re.fullmatch(r"127\.0\.0\.1:\d+", told[0][2])
    assert told[0][3:] == ["cpu", "--xla_force_host_platform_device_count=2"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, ["0", "1"]), ({"CUDA_VISIBLE_DEVICES": "5,7"}, ["5", "7"]), ({"CUDA_VISIBLE_DEVICES": "5"}, ["5", "5"])],
)
def test_local_processes_get_a_gpu_each_where_there_are_enough(tmp_path, environment, expected):
    executable(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")  # as --format=csv,noheader
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    shown = "echo $CUDA_VISIBLE_DEVICES"
    found = run("local.sh", "-l", tmp_path, 2, "bash", "-c", shown, environment=path | environment)
    assert [found.stdout.split()[-1], (tmp_path / "process1.log").read_text().strip()] == expected


def test_a_local_process_that_fails_ends_the_others(tmp_path):
    began = time.monotonic()
    command = "[ $JAX_PROCESS_ID = 1 ] && { echo no such folder; exit 7; }; sleep 50"
    found = run("local.sh", "-l", tmp_path, 3, "bash", "-c", command)
    assert found.returncode == 7
    assert "process 1 of 3 ended with status 7" in found.stderr
    assert "no such folder" in found.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1"])
def test_a_signal_reaches_all_local_processes_once(tmp_path, name):
    command = f"trap 'sleep 0.3; echo saved; exit 143' {name}; echo ready; while true; do sleep 0.05; done"
    process = subprocess.Popen(
        ["bash", LAUNCH / "local.sh", "-l", tmp_path, "2", "bash", "-c", command], stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "process1.log"
    while "ready" not in process.stdout.readline():
        pass
    until = time.monotonic() + 20
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.Signals[f"SIG{name}"])
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said.count("saved") == log.read_text().count("saved") == 1


def test_local_says_how_it_is_used():
    for arguments in ((), ("2",), ("none", "true"), ("-d", "0", "2", "true")):
        found = run("local.sh", *arguments)
        assert found.returncode == 2
        assert "usage: launch/local.sh" in found.stderr


# slurm.sbatch


@pytest.fixture
def slurm(tmp_path):
    """`slurm(status, state)`: runs the job with commands of SLURM that only note how they were called."""
    calls = tmp_path / "calls"
    calls.touch()

    def job(srun, state="RUNNING", **environment):
        note = f'echo "$(basename "$0") $*" >> {calls}\n'
        executable(tmp_path / "srun", f"#!/bin/bash\n{note}{srun}\n")
        executable(tmp_path / "scontrol", f"#!/bin/bash\n{note}")
        executable(tmp_path / "squeue", f"#!/bin/bash\necho {state}\n")
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "71"}
        found = run("slurm.sbatch", "--workdir=runs/a b", environment=path | environment)
        return found, calls.read_text().splitlines()

    return job


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [
        (138, "RUNNING", True),
        (143, "RUNNING", True),
        (138, "COMPLETING", False),
        (0, "RUNNING", False),
        (1, "RUNNING", False),
    ],
)
def test_a_slurm_job_goes_back_into_the_queue_only_when_it_saved_and_is_not_cancelled(slurm, status, state, requeued):
    found, calls = slurm(f"exit {status}", state)
    assert found.returncode == status
    assert calls[0].endswith(".venv/bin/python -m delta_jax.train --workdir=runs/a b")
    assert calls[1:] == (["scontrol requeue 71"] if requeued else [])


def test_the_warning_before_the_time_limit_is_passed_on(slurm):
    # srun passes SIGUSR1 on to its tasks; here it tells the script's signal apart from others by its status.
    srun = "trap 'sleep 0.3; exit 138' USR1; kill -USR1 $PPID; while true; do sleep 0.05; done"
    found, calls = slurm(srun)
    assert found.returncode == 138
    assert calls[-1] == "scontrol requeue 71"


@pytest.mark.parametrize(("module", "share"), [("delta_jax.sweep", " --shard=2/4"), ("delta_jax.train", "")])
def test_the_tasks_of_an_array_share_a_sweep(slurm, module, share):
    # Of sbatch --array=3-6 the third task.
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    _, calls = slurm("exit 0", MODULE=module, **array)
    assert calls[0].endswith(f"-m {module} --workdir=runs/a b{share}")


def test_slurm_is_asked_to_warn_and_to_requeue():
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = re.findall(r"^#SBATCH (.*)$", text, flags=re.MULTILINE)
    assert {"--requeue", "--signal=B:USR1@300", "--open-mode=append"} <= set(asked)
    # SLURM reads these lines up to the first command only.
    assert text.index("\nset -euo") > text.rindex("\n#SBATCH")


# tpu_pod.sh

GCLOUD = r"""#!/bin/bash
# The pod is a folder, its one host a folder in it: commands for the host run there, in a shell of their own.
echo "$*" >> "$POD/calls"
command='' storage=''
for word in "$@"; do [[ $word != --command=* ]] || command=${word#--command=}; done
case "$*" in
  *queued-resources*create*) mkdir -p "$POD/host"; echo ACTIVE > "$POD/state" ;;
  *queued-resources*delete*) rm -rf "$POD/host" "$POD/state" ;;
  *queued-resources*describe*) cat "$POD/state" 2>/dev/null || { echo "NOT_FOUND: no such resource"; exit 1; } ;;
  *"tpu-vm scp"*) cp "$5" "$POD/host/delta_jax.tar.gz" ;;
  *"tpu-vm ssh"*) cd "$POD/host" && HOME=$POD/host exec bash -c "$command" ;;
  *"storage ls"*) [[ -e $POD/bucket/${3##*/} ]] ;;
esac
"""


@pytest.fixture
def pod(tmp_path):
    """`pod(script of the run, words...)`: tpu_pod.sh with a gcloud whose pod lies in a folder."""
    (tmp_path / "bucket").mkdir()
    executable(tmp_path / "bin" / "gcloud", GCLOUD)
    # `python3 -m uv venv` makes the python of the run; everything else that is installed is left out.
    executable(
        tmp_path / "bin" / "python3",
        f'#!/bin/bash\n[[ "$*" != *venv* ]] || {{ mkdir -p .venv/bin; cp {tmp_path}/run.sh .venv/bin/python; }}\n',
    )

    def start(script, *words, **environment):
        executable(tmp_path / "run.sh", f"#!/bin/bash\n{script}\n")
        settings = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "POD": str(tmp_path),
            "ZONE": "us-west4-a",
            "WORKDIR": "gs://bucket/run/",
            "SPOT": "1",
            "POLL_SECONDS": "0.1",
        }
        found = run("tpu_pod.sh", *words, environment=settings | environment)
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return found, calls

    return start


def count(calls, word):
    return sum(word in call for call in calls)


needs_git = pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git clone")


@needs_git
def test_a_run_on_a_pod_that_is_preempted_goes_on_on_another_one(pod, tmp_path):
    # The first time the pod goes away under the run; the second time the run saves; the third time it ends well.
    script = (
        'echo "$@" >> $POD/started; n=$(wc -l < $POD/started)\n'
        "[[ $n -gt 1 ]] || { echo SUSPENDED > $POD/state; sleep 1; exit 1; }\n"
        "[[ $n -gt 2 ]] || exit 143\n"
        "touch $POD/bucket/report.html"
    )
    found, calls = pod(script, "run", "--config=configs/elpv.py", "--config.taps=('a b',)")
    assert found.returncode == 0, found.stderr
    assert "the pod is SUSPENDED" in found.stdout
    assert found.stdout.splitlines()[-1] == "done: gs://bucket/run"
    started = (tmp_path / "started").read_text().splitlines()
    expected = "-m delta_jax.train --workdir=gs://bucket/run --config=configs/elpv.py --config.taps=('a b',)"
    assert started == [expected] * 3
    assert count(calls, "queued-resources create delta-jax --node-id=delta-jax --zone=us-west4-a") == 2
    assert count(calls, "queued-resources delete") == 1
    assert count(calls, "tpu-vm scp") == 2  # once per pod
    assert all("--spot" in call for call in calls if "queued-resources create" in call)
    # All is done: the same words again start nothing.
    found, later = pod(script, "run")
    assert found.returncode == 0
    assert len(later) == len(calls) + 1


@needs_git
def test_a_run_on_a_pod_that_fails_is_not_repeated(pod, tmp_path):
    found, calls = pod("echo error: no such field; echo >> $POD/started; exit 1", "run", "--config.sede=1")
    assert found.returncode == 1
    assert "the run ended with status 1" in found.stderr
    assert "error: no such field" in found.stdout
    assert len((tmp_path / "started").read_text().splitlines()) == 1
    assert not count(calls, "delete")


@needs_git
def test_a_run_whose_processes_lose_each_other_is_repeated_a_few_times(pod, tmp_path):
    found, _ = pod("echo >> $POD/started; exit 134", "run", MAX_FAILURES="3")
    assert found.returncode == 1
    assert len((tmp_path / "started").read_text().splitlines()) == 3


def test_a_dry_run_prints_the_commands_and_runs_none(pod):
    found, calls = pod("", "--dry-run", "run", "--config=configs/elpv.py")
    assert found.returncode == 0, found.stderr
    assert calls == []
    shown = [line.split() for line in re.split(r"^gcloud ", found.stderr, flags=re.MULTILINE)[1:]]
    assert [line[:4] for line in shown] == [
        ["compute", "tpus", "queued-resources", "create"],
        ["compute", "tpus", "tpu-vm", "scp"],
        ["compute", "tpus", "tpu-vm", "ssh"],
        ["compute", "tpus", "tpu-vm", "ssh"],
    ]
    _, calls = pod("", "fetch", "runs/elpv", WORKDIR="runs/elpv")
    assert calls == []
    found, _ = pod("", "run", ZONE="")
    assert "ZONE is not set" in found.stderr
    found, _ = pod("", "run", WORKDIR="/mnt/nfs/run")
    assert "NFS=HOST:/SHARE, which is not set" in found.stderr
    found, _ = pod("", "--dry-run", "run", WORKDIR="/mnt/nfs/run", NFS="10.0.0.2:/share")
    assert "sudo mount -t nfs 10.0.0.2:/share /mnt/nfs" in found.stderr


# Kubernetes

TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def fields(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items):
    return {"type": "array", "items": items, "minItems": 1}


# The fields that these files use, with their types, as the API has them: of JobSet from its resource definition
# (kubernetes-sigs/jobset, config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml, v1alpha2; its webhook knows the
# failure reasons), of Job and Pod from Kubernetes' API reference (batch/v1 JobSpec, core/v1 PodSpec). A field that is
# not here is a misspelt one, or to be looked up there.
CONTAINER = fields(
    ("name", "image"),
    name=TEXT,
    image=TEXT,
    args=listed(TEXT),
    env=listed(
        fields(
            ("name",),
            name=TEXT,
            value=TEXT,
            valueFrom=fields(fieldRef=fields(("fieldPath",), fieldPath=TEXT)),
        )
    ),
    ports=listed(fields(("containerPort",), containerPort=NUMBER)),
    resources=fields(limits={"type": "object", "additionalProperties": TEXT}),
    volumeMounts=listed(fields(("name", "mountPath"), name=TEXT, mountPath=TEXT)),
)
POD = fields(
    ("containers",),
    restartPolicy={"enum": ["Never"]},  # a podFailurePolicy needs it
    terminationGracePeriodSeconds=NUMBER,
    serviceAccountName=TEXT,
    nodeSelector={"type": "object", "additionalProperties": TEXT},
    tolerations=listed(fields(key=TEXT, operator={"enum": ["Equal", "Exists"]}, value=TEXT, effect=TEXT)),
    containers=listed(CONTAINER),
    securityContext=fields(runAsUser=NUMBER, runAsGroup=NUMBER, fsGroup=NUMBER),
    volumes=listed(
        fields(
            ("name",),
            name=TEXT,
            persistentVolumeClaim=fields(("claimName",), claimName=TEXT, readOnly=FLAG),
            emptyDir=fields(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
        )
    ),
)
POD_FAILURE_RULE = fields(
    ("action",),
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=fields(
        ("operator", "values"), containerName=TEXT, operator={"enum": ["In", "NotIn"]}, values=listed(NUMBER)
    ),
    onPodConditions=listed(fields(("type", "status"), type=TEXT, status={"enum": ["True", "False", "Unknown"]})),
)
JOB = fields(
    ("template",),
    parallelism=NUMBER,
    completions=NUMBER,
    completionMode={"enum": ["Indexed"]},
    backoffLimit=NUMBER,
    podFailurePolicy=fields(("rules",), rules=listed(POD_FAILURE_RULE)),
    template=fields(spec=POD),
)
JOBSET = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=fields(("name",), name=TEXT, annotations={"type": "object", "additionalProperties": TEXT}),
    spec=fields(
        failurePolicy=fields(
            maxRestarts=NUMBER,
            rules=listed(
                fields(
                    ("name", "action"),
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    onJobFailureReasons=listed(
                        {
                            "enum": [
                                "BackoffLimitExceeded",
                                "DeadlineExceeded",
                                "FailedIndexes",
                                "MaxFailedIndexesExceeded",
                                "PodFailurePolicy",
                            ]
                        }
                    ),
                )
            ),
        ),
        replicatedJobs=listed(fields(("name", "template"), name=TEXT, replicas=NUMBER, template=fields(spec=JOB))),
    ),
)


@pytest.fixture(params=["jobset.yaml", "jobset-tpu.yaml"])
def jobset(request):
    return yaml.safe_load((LAUNCH / "kubernetes" / request.param).read_text())


def test_a_jobset_has_the_fields_that_the_cluster_knows(jobset):
    jsonschema.validate(jobset, JOBSET)


def test_a_misspelt_field_would_be_noticed(jobset):
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(jobset, JOBSET)


def test_the_parts_of_a_jobset_fit_together(jobset):
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert job["parallelism"] == job["completions"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # A pod that saved (143), or that is sent away, fails the job for a reason that does not count as a failure.
    conditions, codes = job["podFailurePolicy"]["rules"]
    assert conditions["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert codes["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [143]}
    [rule] = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["backoffLimit"] == 0
    environment = {variable["name"]: variable for variable in container["env"]}
    if "JAX_NUM_PROCESSES" in environment:
        assert environment["JAX_NUM_PROCESSES"]["value"] == str(job["completions"])
        host, port = environment["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
        name = jobset["metadata"]["name"]
        assert host == f"{name}-{replicated['name']}-0-0.{name}"  # <set>-<job>-<job index>-<pod index>.<subdomain>
        assert {"containerPort": int(port)} in container["ports"]
        source = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert source == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    else:
        # v5e has four chips per host in slices of several hosts, and GKE tells the hosts about each other.
        across, down = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
        assert across * down == job["completions"] * int(container["resources"]["limits"]["google.com/tpu"])


def test_the_image_gets_what_the_repository_has():
    text = (LAUNCH / "kubernetes" / "Dockerfile").read_text()
    copied = [words for line in re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE) for words in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "requirements.txt", "delta_jax", "configs"} <= set(copied)
    assert 'ENTRYPOINT ["python", "-m", "delta_jax.train"]' in text
    assert "\nUSER user\n" in text

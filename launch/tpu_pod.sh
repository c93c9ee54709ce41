#!/usr/bin/env bash
# A run on a Cloud TPU pod, from any machine with gcloud; every host of the pod runs one process of it.
#
#     export TPU_NAME=delta ZONE=us-west4-a ACCELERATOR_TYPE=v5litepod-8 WORKDIR=gs://BUCKET/runs/elpv SPOT=1
#     launch/tpu_pod.sh run --config=configs/elpv.py --config.method=delta   # all of it: asks for the pod, installs, runs
#     launch/tpu_pod.sh status                                               # the pod, and the last lines of each host
#     launch/tpu_pod.sh fetch runs/elpv                                      # what the run wrote, here
#     launch/tpu_pod.sh delete
#
# The hosts of one run need a workdir that all of them see. For a slice with one host (v5litepod-8 has eight chips) that
# is a bucket; for several hosts it is a folder of a file system that NFS=HOST:/SHARE names, mounted on each at /mnt/nfs:
#
#     export ACCELERATOR_TYPE=v5litepod-16 NFS=10.0.0.2:/share WORKDIR=/mnt/nfs/runs/elpv
#
# `create` and `install` are the first parts of `run`, alone; `--dry-run` before the word prints the commands of gcloud
# and runs none.
#
# `run` returns when the run has ended well. The run itself does not hang on this script, nor on the connection: start
# the script again with the same words, and it watches the same run. A pod that was preempted is asked for anew, and the
# run goes on from WORKDIR; so does one that was signalled, or whose processes lost each other.
#
# PROJECT and the account are those of gcloud if not given. DATA=gs://BUCKET/photos is copied to every host, for
# --config.data.root=data.
set -euo pipefail

TPU_NAME=${TPU_NAME:-delta-jax}
ZONE=${ZONE:-}
PROJECT=${PROJECT:-}
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-8}
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-0}
WORKDIR=${WORKDIR:-}
DATA=${DATA:-}
NFS=${NFS:-}
POLL_SECONDS=${POLL_SECONDS:-60}
MAX_FAILURES=${MAX_FAILURES:-5} # of a run that was neither saved nor preempted

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi

fail() {
  echo "error: $*" >&2
  exit 1
}

gcloud_() { # as gcloud, or only shown
  if [[ -n $dry_run ]]; then printf '%q ' gcloud "$@" >&2 && echo >&2; else gcloud "$@"; fi
}

where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

on_all() { # COMMAND [WORKER]
  gcloud_ compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker="${2:-all}" --command="$1"
}

state() { # ACTIVE, SUSPENDED, ...; NONE where there is no such pod
  local found
  if found=$(gcloud compute tpus queued-resources describe "$TPU_NAME" "${where[@]}" \
    --format='value(state.state)' 2>&1); then
    echo "$found"
  elif [[ $found == *NOT_FOUND* || $found == *"not found"* ]]; then
    echo NONE
  else
    echo "$found" >&2
    echo UNKNOWN # the network, perhaps; whoever asks asks again
  fi
}

delete() {
  gcloud_ compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force --quiet
}

create() { # returns when the pod is there
  local now asked=''
  if [[ -n $dry_run ]]; then now=NONE; else now=$(state); fi
  while [[ $now != ACTIVE ]]; do
    case $now in
      NONE)
        [[ -z $asked || -n $dry_run ]] || echo "the request for the pod is gone; asking again"
        local spot=()
        [[ $SPOT != 1 ]] || spot=(--spot)
        gcloud_ compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" "${where[@]}" \
          --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" "${spot[@]}"
        asked=1
        ;;
      FAILED | SUSPENDED | SUSPENDING) # preempted, or never had: only a new request brings a pod
        echo "the pod is $now; asking for another one"
        delete || echo "it could not be deleted yet; trying again"
        ;;
    esac
    [[ -z $dry_run ]] || return 0
    sleep "$POLL_SECONDS"
    now=$(state)
    echo "pod $TPU_NAME: $now"
  done
}

install() { # the commit that is checked out here, on every host; once per host
  local commit archive
  commit=$(git rev-parse HEAD)
  if [[ -z $dry_run ]] && on_all "grep -qx $commit delta_jax/.installed" >/dev/null 2>&1; then return 0; fi
  archive=$(mktemp)
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud_ compute tpus tpu-vm scp "$archive" "$TPU_NAME:delta_jax.tar.gz" "${where[@]}" --worker=all || return
  rm "$archive"
  # The images of the hosts come with an older python; uv brings one.
  local steps="set -e; mkdir -p delta_jax; tar -xzf delta_jax.tar.gz -C delta_jax; cd delta_jax
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
    python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu,gcs,quickstart]'"
  [[ -z $NFS ]] || steps+="
    command -v mount.nfs >/dev/null || sudo apt-get install --yes --quiet nfs-common
    sudo mkdir -p /mnt/nfs; mountpoint -q /mnt/nfs || sudo mount -t nfs $(printf %q "$NFS") /mnt/nfs"
  [[ -z $DATA ]] || steps+="; gcloud storage rsync --recursive $(printf %q "$DATA") data"
  on_all "$steps; echo $commit > .installed"
}

start() { # FLAGS...; on every host; what the run prints, and its status in the end, lie beside the code
  local flags script
  flags=$(printf ' %q' "--workdir=$WORKDIR" "$@")
  script=".venv/bin/python -m delta_jax.train$flags; echo \$? > run.status"
  # nohup and setsid: the run outlives the connection.
  on_all "cd delta_jax || exit; rm -f run.status
    nohup setsid bash -c $(printf %q "$script") >> run.log 2>&1 </dev/null & echo \$! > run.pid"
}

running() { # as far as the first host knows
  [[ -z $dry_run ]] && on_all "cd delta_jax && [ ! -e run.status ] && kill -0 \$(cat run.pid)" 0 >/dev/null 2>&1
}

watch() { # prints the status that the run ended with; nothing if the pod went away
  local ended
  while sleep "$POLL_SECONDS"; do
    case $(state) in
      ACTIVE | UNKNOWN) ;;
      *) return ;;
    esac
    ended=$(on_all 'cat delta_jax/run.status 2>/dev/null || true' 0 2>/dev/null | tail -n 1 | tr -dc 0-9) || continue
    [[ -z $ended ]] || { echo "$ended" && return; }
  done
}

finished() { # report.html is the last file that a run writes
  [[ -z $dry_run ]] || return 1
  if [[ $WORKDIR == gs://* ]]; then
    gcloud storage ls "$WORKDIR/report.html" >/dev/null 2>&1
  else
    [[ $(state) == ACTIVE ]] && on_all "test -e $(printf %q "$WORKDIR/report.html")" 0 >/dev/null 2>&1
  fi
}

run() {
  local failures=0 ended
  until finished; do
    create
    if ! running; then
      if ! { install && start "$@"; }; then
        failures=$((failures + 1))
        [[ $failures -lt $MAX_FAILURES ]] || fail "the run could not be started on the hosts"
        sleep "$POLL_SECONDS"
        continue
      fi
    fi
    [[ -z $dry_run ]] || return 0
    echo "running; launch/tpu_pod.sh status shows what it says"
    ended=$(watch)
    case $ended in
      0) break ;;
      '') echo "the pod is gone; the run goes on from $WORKDIR on another one" ;;
      143 | 138 | 130) echo "saved; going on" ;;
      *)
        # When one host goes, the others are aborted (134), perhaps before the pod is called preempted.
        failures=$((failures + 1))
        on_all 'tail -n 20 delta_jax/run.log' 0 || true
        [[ $ended -gt 128 && $failures -lt $MAX_FAILURES ]] || fail "the run ended with status $ended; its log is above"
        echo "status $ended; going on ($failures of $MAX_FAILURES)"
        ;;
    esac
  done
  echo "done: $WORKDIR"
}

word=${1:-}
[[ $# -eq 0 ]] || shift
[[ $word =~ ^(create|install|run|status|fetch|delete)$ ]] ||
  { echo "usage: launch/tpu_pod.sh [--dry-run] create | install | run FLAGS... | status | fetch FOLDER | delete" >&2; exit 2; }
[[ -n $ZONE ]] || fail "ZONE is not set; for example ZONE=us-west4-a"
if [[ $word == run || $word == fetch ]]; then
  [[ $WORKDIR == gs://* || $WORKDIR == /mnt/nfs/* ]] ||
    fail "WORKDIR=$WORKDIR; expected gs://BUCKET/FOLDER, or /mnt/nfs/FOLDER with NFS=HOST:/SHARE: hosts of a pod come and go"
  [[ $WORKDIR == gs://* || -n $NFS ]] || fail "WORKDIR=$WORKDIR is on the file system of NFS=HOST:/SHARE, which is not set"
  WORKDIR=${WORKDIR%/}
fi
case $word in
  status)
    [[ -n $dry_run ]] || echo "pod $TPU_NAME: $(state)"
    on_all 'hostname; tail -n 5 delta_jax/run.log; cat delta_jax/run.status 2>/dev/null || true'
    ;;
  fetch)
    [[ $# -eq 1 ]] || fail "name the folder to fetch into"
    mkdir -p "$1"
    if [[ $WORKDIR == gs://* ]]; then
      gcloud_ storage rsync --recursive "$WORKDIR" "$1"
    else
      gcloud_ compute tpus tpu-vm scp --recurse "$TPU_NAME:$WORKDIR/*" "$1" "${where[@]}" --worker=0
    fi
    ;;
  *) "$word" "$@" ;;
esac

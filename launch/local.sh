#!/usr/bin/env bash
# Starts N processes of one command on this machine, which find each other as those of one run:
#
#     launch/local.sh 4 .venv/bin/python -m delta_jax.train --config=configs/elpv.py --workdir=runs/elpv
#     launch/local.sh -d 2 2 .venv/bin/python -m delta_jax.train ...    # on simulated devices of the CPU, 2 per process
#
# With N GPUs or more each process gets one of them. Process 0 writes here, the others into files of a folder that is
# named at the start (-l FOLDER chooses it). SIGINT, SIGTERM and SIGUSR1 are passed on to all of them. When one process
# fails, the others are ended, and its status is that of this script; 130, 138 and 143 (128 + the signal) mean "saved":
# the same command goes on.
set -euo pipefail

usage() {
  echo "usage: launch/local.sh [-d DEVICES_PER_PROCESS] [-l LOG_FOLDER] N COMMAND..." >&2
  exit 2
}

devices='' logs=''
while getopts 'd:l:' option; do
  case $option in
    d) devices=$OPTARG ;;
    l) logs=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ && ( -z $devices || $devices =~ ^[1-9][0-9]*$ ) ]] || usage
count=$1
shift
grace=${GRACE:-60} # seconds that the others have to end once the first one did

if [[ -n $logs ]]; then mkdir -p "$logs"; else logs=$(mktemp -d "${TMPDIR:-/tmp}/delta_jax.XXXXXX"); fi
[[ $count -eq 1 ]] || echo "output of the processes 1 to $((count - 1)): $logs"

# A port that nobody listens on. The system hands out those above 32767 by itself; in between another could take it.
port=$((20000 + RANDOM % 12000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12000)); done
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count
if [[ -n $devices ]]; then
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi

gpus=()
if [[ -z $devices ]]; then
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
  fi
fi

processes=() signalled=''
to_all() { # SIGNAL
  local process
  for process in "${processes[@]}"; do kill -s "$1" -- "-$process" 2>/dev/null || true; done
}
# shellcheck disable=SC2064 # the name of the signal is meant now
for name in INT TERM USR1; do trap "signalled=$name; to_all $name" "$name"; done
trap 'to_all KILL' EXIT

# With job control each process leads a group of its own: a signal reaches what it started, too, and Ctrl-C only this
# script, which passes it on. Without it a shell lets what runs in the background ignore SIGINT.
set -m
for ((rank = 0; rank < count; rank++)); do
  (
    export JAX_PROCESS_ID=$rank
    if [[ ${#gpus[@]} -ge $count && $count -gt 1 ]]; then export CUDA_VISIBLE_DEVICES=${gpus[rank]}; fi
    if [[ $rank -gt 0 ]]; then exec >"$logs/process$rank.log" 2>&1; fi
    exec "$@" </dev/null
  ) &
  processes+=("$!")
done
set +m

status=0
waiting=("${!processes[@]}")
until_then=''
while [[ ${#waiting[@]} -gt 0 ]]; do
  left=()
  for rank in "${waiting[@]}"; do
    if kill -0 "${processes[rank]}" 2>/dev/null; then
      left+=("$rank")
      continue
    fi
    ended=0
    wait "${processes[rank]}" || ended=$?
    [[ $ended -ne 0 && $status -eq 0 ]] || continue
    status=$ended
    if [[ -z $signalled ]]; then
      echo "process $rank of $count ended with status $status; ending the others" >&2
      [[ $rank -eq 0 ]] || tail -n 20 "$logs/process$rank.log" >&2
      to_all TERM # who got a signal already is saving now, and a second one would cut that short
    fi
    until_then=$((SECONDS + grace))
  done
  waiting=("${left[@]}")
  if [[ -n $until_then && $SECONDS -ge $until_then ]]; then to_all KILL; fi
  if [[ ${#waiting[@]} -gt 0 ]]; then sleep 0.2 || true; fi
done
exit "$status"

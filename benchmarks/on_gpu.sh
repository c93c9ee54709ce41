#!/usr/bin/env bash
# For the day a GPU is at hand: measures training step and attention beside what was predicted without one. Under ten
# minutes on one GPU; from the folder of the repository:
#
#     benchmarks/on_gpu.sh                                   # into build/on_gpu/DATE-TIME
#     benchmarks/on_gpu.sh runs/h100
#     ARCH=resnet101 BATCH=32 benchmarks/on_gpu.sh           # every word in capitals below can be set so
#     DEVICE=cpu ARCH=resnet18 SIZE=32 BATCH=4 CLASSES=5 ATTENTION_BATCH=2 FILTERS=4 REPEATS=1 benchmarks/on_gpu.sh
#                                                            # tries the script out where there is no GPU
#
# Each part has a time limit and a log of its own: one that fails or hangs does not take the others with it. The folder
# gets their JSON and logs, the versions, nvidia-smi, and summary.txt: predicted, measured, ratio. The predictions are for
# an H100, by its compiler and its published peaks (python -m delta_jax.plan, which needs the extra aot); another chip
# has to be compared with care. The status is 1 if a part failed, 2 where there is no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

DEVICE=${DEVICE:-gpu} # or cpu
ARCH=${ARCH:-resnet50}
SIZE=${SIZE:-224}
BATCH=${BATCH:-64}
CLASSES=${CLASSES:-120}
REPEATS=${REPEATS:-20}               # timed steps
ATTENTION_BATCH=${ATTENTION_BATCH:-8} # images
FILTERS=${FILTERS:-}                 # of each tap, for the exact attention; all
LIMIT=${LIMIT:-}                     # seconds for each part, in place of its own
PYTHON=${PYTHON:-.venv/bin/python}
if [[ $DEVICE == cpu ]]; then
  TOPOLOGY=${TOPOLOGY:-cpu:1}
  export JAX_PLATFORMS=cpu
else
  TOPOLOGY=${TOPOLOGY:-h100x1}
fi
out=${1:-build/on_gpu/$(date +%Y-%m-%d-%H%M%S)}
mkdir -p "$out" || exit 2

found=$("$PYTHON" -c 'import jax; print(jax.default_backend())' 2>"$out/device.log") || found=none
if [[ $found != "$DEVICE" ]]; then
  echo "error: jax finds no $DEVICE here but $found ($out/device.log); pip install 'delta_jax[cuda]' for GPUs, or" \
    "DEVICE=cpu to try this script out" >&2
  exit 2
fi

failed=()
part() { # NAME SECONDS COMMAND...; what it prints goes to NAME.txt, its errors to NAME.log
  local name=$1 seconds=${LIMIT:-$2} began=$SECONDS status=0
  shift 2
  timeout --kill-after=10 "$seconds" "$@" >"$out/$name.txt" 2>"$out/$name.log" </dev/null || status=$?
  if [[ $status == 0 ]]; then
    echo "$name: $((SECONDS - began)) s"
  else
    failed+=("$name")
    echo "$name: failed after $((SECONDS - began)) s of $seconds with status $status, see $out/$name.log"
  fi
}

echo "into $out; at most ten minutes"
part versions 20 "$PYTHON" -m pip list --format=freeze
if [[ $DEVICE == gpu ]]; then
  part nvidia-smi 10 nvidia-smi --format=csv --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit
fi

# On one GPU, where there are several; jax must not take most of its memory before it is known what a step needs.
export XLA_PYTHON_CLIENT_PREALLOCATE=false CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
network=(--arch="$ARCH" --size="$SIZE" --classes="$CLASSES")
for dtype in bfloat16 float32; do
  part "step-$dtype" 140 "$PYTHON" benchmarks/step.py "${network[@]}" --batch="$BATCH" --dtype="$dtype" \
    --method=l2,delta --repeats="$REPEATS" --json="$out/step-$dtype.json"
done
attention=("$PYTHON" benchmarks/attention.py "${network[@]}" --batch="$ATTENTION_BATCH")
part attention-exact 60 "${attention[@]}" --estimator=exact ${FILTERS:+--filters="$FILTERS"}
part attention-first_order 60 "${attention[@]}" --estimator=first_order

plan() { # NAME SECONDS FLAGS...
  part "plan-$1" "$2" "$PYTHON" -m delta_jax.plan --config=default --config.arch="$ARCH" --config.weights= \
    --config.data.resize="$SIZE" --config.data.crop="$SIZE" --topology="$TOPOLOGY" --classes="$CLASSES" --images=12000 \
    --nolargest --json "${@:3}"
}
for method in l2 delta; do
  plan "$method" 40 --program=step --config.method="$method" --config.batch_size="$BATCH" --config.compute_dtype=bfloat16
done
plan attention 50 --program=attention --config.method=delta --config.attention_batch="$ATTENTION_BATCH" \
  --config.attention_estimator=exact

"$PYTHON" benchmarks/_predicted.py "$out" | tee "$out/summary.txt"
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi

#!/usr/bin/env bash
# Every method with three seeds on ELPV, then the table of docs/results.md.
#
#     launch/elpv_study.sh runs/study [--config.FIELD=VALUE ...]
#
# Started again it goes on where it stopped: finished runs are not repeated.
set -euo pipefail
out=${1:?"usage: launch/elpv_study.sh OUTPUT_FOLDER [--config.FIELD=VALUE ...]"}
shift
python=${PYTHON:-.venv/bin/python}
for seed in 0 1 2; do
  for method in l2_fe l2 l2_sp delta_without_attention delta; do
    run="$out/$method-$seed"
    [[ -f "$run/report.html" ]] && continue
    "$python" -m delta_jax.train --config=configs/elpv_small.py --workdir="$run" \
      --config.method="$method" --config.seed="$seed" "$@"
  done
done
"$python" -m delta_jax.analysis.tables "$out"/*/

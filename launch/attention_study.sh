#!/bin/sh
# DELTA with attentions of different quality, three seeds each, on a folder of photos with train/ and test/:
#
#     launch/attention_study.sh PHOTOS runs/attention_study
#
# uniform: none. few: exact gaps of 128 images. all: of all training images. image: weights per image. shuffled: as all,
# but dealt to the filters at random: what is left when the right filters are not known. A run that is there is not run
# again; the head, which no seed changes, is trained once.
set -eu

[ $# -ge 2 ] || { echo "usage: $0 PHOTOS WORKDIR [--config.FIELD=VALUE...]" >&2; exit 2; }
photos=$1 out=$2
shift 2
python=${PYTHON:-.venv/bin/python}

run() { # NAME FLAGS...
  name=$1
  shift
  if [ -e "$out/head/head.json" ] && [ ! -e "$out/$name/head.json" ]; then
    mkdir -p "$out/$name"
    cp "$out/head/head.safetensors" "$out/head/head.json" "$out/$name/"
  fi
  [ -e "$out/$name/report.html" ] || "$python" -m delta_jax.train --config=configs/attention_study.py \
    --workdir="$out/$name" --config.data.root="$photos" "$@"
}

run head --config.method=l2_fe "$@"
"$python" -m delta_jax.attend --config=configs/attention_study.py --workdir="$out/attention" \
  --config.data.root="$photos" --export="$out/gaps.json" "$@"
for seed in 0 1 2; do
  "$python" - "$out/gaps.json" "$out/shuffled-$seed.json" "$seed" <<'EOF'
import json, pathlib, sys
import numpy as np
gaps, shuffled, seed = sys.argv[1:]
rng = np.random.default_rng(int(seed))
pathlib.Path(shuffled).write_text(json.dumps([rng.permutation(tap).tolist() for tap in json.load(open(gaps))]))
EOF
  run "uniform-$seed" --config.seed="$seed" --config.attention_normalization=uniform --config.attention_images=32 "$@"
  run "few-$seed" --config.seed="$seed" --config.attention_images=128 "$@"
  run "all-$seed" --config.seed="$seed" "$@"
  run "image-$seed" --config.seed="$seed" --config.attention_per=image "$@"
  run "shuffled-$seed" --config.seed="$seed" --config.attention_file="$out/shuffled-$seed.json" "$@"
done

"$python" - "$out" <<'EOF'
import json, pathlib, sys
import numpy as np
out = pathlib.Path(sys.argv[1])
print("| attention | validation top-1 | test top-1 | test cross-entropy |\n| --- | --- | --- | --- |")
for name in ("uniform", "few", "all", "image", "shuffled"):
    runs = [json.loads((out / f"{name}-{seed}" / "summary.json").read_text()) for seed in range(3)]
    cells = [
        [100 * run["validation"]["top1"] for run in runs],
        [100 * run["test"]["top1"] for run in runs],
        [run["test"]["cross_entropy"] for run in runs],
    ]
    spread = [f"{np.mean(cell):.{d}f} ± {np.std(cell, ddof=1):.{d}f}" for cell, d in zip(cells, (2, 2, 3))]
    print(f"| {name} | {' | '.join(spread)} |")
EOF

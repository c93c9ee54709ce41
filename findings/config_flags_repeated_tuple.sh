#!/usr/bin/env bash
# ml_collections 1.1.0 (absl-py 2.5.1): of a flag that is given twice the last value counts, but tuples are put together.
#
# A script that ends in "$@", so that its user can override what it sets, works for numbers and strings. For a tuple the
# user's value is appended to the script's, even where both are whole tuples in quotes. A group of fields that is given
# as a dict loses the fields that are not in it, although the config is locked.
# Expected: --config.taps="('a','b')" --config.taps="('c',)" gives ('c',), as --config.n=1 --config.n=2 gives 2;
#           --config.group="{'x': 5}" changes x alone, or is refused.
# Seen:
#     n      1, then 2               -> 2
#     taps   ('a','b'), then ('c',)  -> ('a', 'b', 'c')
#     group  {'x': 5}                -> {'x': 5}, and y is gone
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
"${PYTHON:-python3}" -m venv "$here/venv"
"$here/venv/bin/pip" install -q ml_collections==1.1.0 absl-py==2.5.1
cd "$here"
cat > config.py <<'P'
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({"n": 0, "taps": ("default",), "group": ConfigDict({"x": 1, "y": 2})})
P
cat > main.py <<'P'
import sys

from absl import app
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)


def main(_):
    config = CONFIG.value.to_dict()
    print(f"n      1, then 2               -> {config['n']}")
    print(f"taps   ('a','b'), then ('c',)  -> {config['taps']}")
    print(f"group  {{'x': 5}}                -> {config['group']}" + (", and y is gone" * ("y" not in config["group"])))
    sys.exit(0 if config == {"n": 2, "taps": ("a", "b", "c"), "group": {"x": 5}} else 1)


app.run(main)
P
"$here/venv/bin/python" main.py --config=config.py --config.n=1 --config.n=2 \
    "--config.taps=('a','b')" "--config.taps=('c',)" "--config.group={'x': 5}"

#!/usr/bin/env bash
# ml_collections 1.1.0 (absl-py 2.5.1): a field whose name is no Python name can be in a config and not behind its flag.
#
# A ConfigDict takes any string without a dot as a name, so experiments get sections such as "lr1e-05", "frozen-bn"
# or "lambda". The flag of a field below is read as a Python expression: it ends in a traceback that speaks of literals and
# names of ast classes. Subscripts with quotes, which the shell has to be kept from, do reach the field.
# Expected: --config.runs.lr1e-05.steps=5 sets the field that print(config) shows there.
# Seen:
#     --config.runs.plain.steps=5          -> 5
#     --config.runs.lr1e-05.steps=5        -> ValueError, invalid decimal literal
#     --config.runs.frozen-bn.steps=5      -> ValueError, malformed node or string
#     --config.runs.lambda.steps=5         -> ValueError, invalid syntax
#     --config.runs["frozen-bn"].steps=5   -> 5
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
"${PYTHON:-python3}" -m venv "$here/venv"
"$here/venv/bin/pip" install -q ml_collections==1.1.0 absl-py==2.5.1
cd "$here"
cat > config.py <<'P'
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({"runs": {name: {"steps": 1} for name in ("plain", "lr1e-05", "frozen-bn", "lambda")}})
P
cat > main.py <<'P'
import sys

from absl import flags
from ml_collections import config_flags

SEEN = {
    "runs.plain": ("plain", "5"),
    "runs.lr1e-05": ("lr1e-05", "ValueError, invalid decimal literal"),
    "runs.frozen-bn": ("frozen-bn", "ValueError, malformed node or string"),
    "runs.lambda": ("lambda", "ValueError, invalid syntax"),
    'runs["frozen-bn"]': ("frozen-bn", "5"),
}
changed = False
for path, (name, seen) in SEEN.items():
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    # Where ml_collections looks for fields.
    sys.argv = ["main.py", "--config=config.py", f"--config.{path}.steps=5"]
    try:
        values(sys.argv)
        found = str(values["config"].value.runs[name].steps)
    except ValueError as error:
        what = ("invalid decimal literal", "malformed node or string", "invalid syntax")
        found = "ValueError, " + next((one for one in what if one in str(error)), str(error))
    print(f"{sys.argv[2]:36} -> {found}")
    changed |= found != seen
sys.exit(changed)
P
"$here/venv/bin/python" main.py

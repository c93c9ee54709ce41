#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.2, ml_dtypes 0.6.0: a valid file with float8 opens for numpy, tells its types and shapes,
# and then `get_tensor` and `load_file` end in an AttributeError about numpy itself, though BF16 is read by ml_dtypes.
#
# Expected: float8 read through ml_dtypes as bfloat16 is, or a SafetensorError that says the type is not supported.
# Seen, from safe_open and from load_file: AttributeError: module 'numpy' has no attribute 'float8_e4m3fn'. A reader that takes any other exception for damage calls the file broken: ask `get_slice(name).get_dtype()`
# first.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.2 ml_dtypes==0.6.0
cd "$folder"
venv/bin/python - <<'PY'
import json
import struct
import sys

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

values = np.array([1, 0.5, -2, 448], ml_dtypes.float8_e4m3fn)
header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
with open("w.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header + values.tobytes())

with safetensors.safe_open("w.safetensors", framework="numpy") as file:
    print("type and shape:", file.get_slice("x").get_dtype(), file.get_slice("x").get_shape())
    seen = []
    for what, get in {
        "safe_open": lambda: file.get_tensor("x"),
        "load_file": lambda: safetensors.numpy.load_file("w.safetensors"),
    }.items():
        try:
            print(what, get())
        except Exception as error:
            seen.append(type(error).__name__)
            print(f"{what}: {type(error).__name__}: {error}")
sys.exit(0 if len(seen) == 2 and "SafetensorError" not in seen else 1)
PY

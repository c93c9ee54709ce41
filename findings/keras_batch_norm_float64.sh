#!/usr/bin/env bash
# keras 3.15.1 on jax 0.10.2: BatchNormalization of a model in float64 computes in float32.
#
# Expected: with jax_enable_x64 and keras.config.set_floatx("float64") a layer computes in float64; inputs, weights and
# outputs are float64, and nothing warns. Seen: keras.backend.result_type("float64", "float32") is float32, and
# BatchNormalization asks just that for its compute type, "at least float32": an output that should be right to 1e-15 is
# right to 1e-7. A Dense layer beside it is in float64.
#
# Output seen:
#   result_type(float64, float32) = float32
#   types of the layer's input, weights, output: float64 float64 float64
#   error of BatchNormalization: 1.1e-07
#   error of Dense: 0.0e+00
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 keras==3.15.1

KERAS_BACKEND=jax JAX_PLATFORMS=cpu JAX_ENABLE_X64=1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np

keras.config.set_floatx("float64")
print("result_type(float64, float32) =", keras.backend.result_type("float64", "float32"))

x = np.random.default_rng(0).standard_normal((4, 3))
norm, dense = keras.layers.BatchNormalization(), keras.layers.Dense(3)
y, z = norm(x, training=False), dense(x)
print("types of the layer's input, weights, output:", x.dtype, norm.gamma.dtype, y.dtype)
off = np.abs(np.asarray(y) - x / np.sqrt(1 + norm.epsilon)).max()
plain = np.abs(np.asarray(z) - x @ np.asarray(dense.kernel.value)).max()
print(f"error of BatchNormalization: {off:.1e}")
print(f"error of Dense: {plain:.1e}")
assert y.dtype == "float64" and off > 1e-10 and plain < 1e-14, "the behaviour has changed"
PYTHON

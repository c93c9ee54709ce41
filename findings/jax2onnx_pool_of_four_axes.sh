#!/usr/bin/env bash
# jax2onnx 0.17.1, jax 0.10.2, onnxruntime 1.32.0: `lax.reduce_window` over [B, H, W, C], the max pooling of every network
# that is no flax module, becomes an ONNX MaxPool over all four axes. The file is written and passes onnx's checker, the
# session is made, and the first run fails, because onnxruntime pools over one to three axes.
#
# Expected: a pool over the two axes of the window that are not 1, as for `flax.linen.max_pool` (the same operation).
# Seen: flax.linen.max_pool runs; lax.reduce_window ends in "Unsupported pooling size" when it is run. Besides, `lax.pad` is an
# error where the batch is symbolic, while `jnp.pad` is none. So run every file once, and trace what flax and numpy have.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax2onnx==0.17.1 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - <<'PY'
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from jax import lax
from jax2onnx import to_onnx

onnxruntime.set_default_logger_severity(4)
x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
(batch,) = jax.export.symbolic_shape("b")
seen = {}
for name, function in {
    "flax.linen.max_pool": lambda x: nn.max_pool(x, window_shape=(2, 2), strides=(2, 2)),
    "lax.reduce_window": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "jnp.pad": lambda x: jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]),
    "lax.pad": lambda x: lax.pad(x, jnp.float32(0), [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]),
}.items():
    try:
        model = to_onnx(function, [jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)])
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found = session.run(None, {session.get_inputs()[0].name: x})[0]
        seen[name] = "runs" if np.allclose(found, function(x)) else "other numbers"
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    print(f"{name}: {seen[name]}")
right = seen["flax.linen.max_pool"] == seen["jnp.pad"] == "runs"
sys.exit(0 if right and "Unsupported pooling size" in seen["lax.reduce_window"] and seen["lax.pad"] != "runs" else 1)
PY

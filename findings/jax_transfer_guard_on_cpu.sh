#!/usr/bin/env bash
# jax on CPU devices, jax.transfer_guard("disallow_explicit"): whether np.asarray of an array is refused hangs on how the array is
# laid out and on the release. Of an array that is split over four CPU devices, np.asarray copies: 0.10.2 lets it through under every
# level, 0.12.0.1 refuses it. Of an array on one device, or whole on four, both let it through under every level, as nothing is copied.
#
# The other way the guard works on CPUs: under it `array + 1` is refused by both, as the 1 would have to be brought to the device.
#
# Expected: that "disallow_explicit" refuses to bring any array to the host, as it does on an accelerator; or, as no CPU array needs a
# transfer, that it refuses none on any release. A training loop that a test ran under the guard on simulated devices, to show that it
# copies nothing unasked, passed with 0.10.2 whatever it copied, and failed with 0.12.0.1 at an np.asarray of what was split.
# jax.device_get under "disallow" works on both.
#
# Seen: (one device, whole on four, split over four): 0.10.2 through, through, through; 0.12.0.1 through, through, JaxRuntimeError.
# Python 3.11 has the former only (0.11.0 asks for 3.12), so the interpreter chooses.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.2")')
"$folder/venv/bin/pip" install -q "jax==$version" "jaxlib==$version"
cd "$folder"
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 venv/bin/python - <<'PY'
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

mesh = jax.make_mesh((4,), ("data",))
values = np.arange(24, dtype=np.float32).reshape(8, 3)
arrays = {
    "one device": jax.device_put(values, jax.devices()[0]),
    "whole on four": jax.device_put(values, NamedSharding(mesh, PartitionSpec())),
    "split over four": jax.device_put(values, NamedSharding(mesh, PartitionSpec("data"))),
}
seen = []
for name, array in arrays.items():
    computed = jax.block_until_ready(array + 1)  # nothing of it is on the host yet
    try:
        with jax.transfer_guard("disallow_explicit"):
            np.testing.assert_array_equal(np.asarray(computed), values + 1)
        seen.append("through")
        print(f"jax {jax.__version__}, {name}: through")
    except Exception as error:
        seen.append(type(error).__name__)
        print(f"jax {jax.__version__}, {name}: {type(error).__name__}: {error}")
    computed = jax.block_until_ready(array + 1)
    with jax.transfer_guard("disallow"):
        np.testing.assert_array_equal(jax.device_get(computed), values + 1)
last = "JaxRuntimeError" if jax.__version__ == "0.12.0.1" else "through"
sys.exit(0 if seen == ["through", "through", last] else 1)
PY

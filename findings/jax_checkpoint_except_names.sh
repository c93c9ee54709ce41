#!/usr/bin/env bash
# jax.checkpoint with save_anything_except_these_names: nothing is saved less. The value that checkpoint_name was given is not the
# named one: it is what the activation function returned, "anything", and is kept in the place of the named copy, as large.
#
# Expected: that the activations that carry the name are computed again in the backward pass and are not kept, as with
# nothing_saveable. A network whose activations were named took not a byte less.
#
# What does it: a policy by primitives that says no to the activation function itself.
#
# Seen: jax 0.10.2 and 0.12.0.1, of three layers the arrays of 8 x 64 kept: everything_saveable 6, save_anything_except_these_names 6,
# by primitives (products alone) 4, nothing_saveable 1. Python 3.11 has the former only, so the interpreter chooses.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.2")')
"$folder/venv/bin/pip" install -q "jax==$version" "jaxlib==$version"
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

policies = jax.checkpoint_policies


def loss(weights, x):
    for _ in range(3):
        x = checkpoint_name(jnp.sin(x @ weights), "activation")
    return jnp.sum(x)


def kept(policy):
    _, backward = jax.vjp(jax.checkpoint(loss, policy=policy), jnp.ones((64, 64)), jnp.ones((8, 64)))
    return [leaf.shape for leaf in jax.tree.leaves(backward)].count((8, 64))


found = {
    "everything_saveable": kept(policies.everything_saveable),
    "save_anything_except_these_names": kept(policies.save_anything_except_these_names("activation")),
    "by primitives": kept(lambda primitive, *_, **__: primitive.name == "dot_general"),
    "nothing_saveable": kept(policies.nothing_saveable),
}
print(f"jax {jax.__version__}: {found}")
assert list(found.values()) == [6, 6, 4, 1], found
PY

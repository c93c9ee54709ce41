#!/usr/bin/env bash
# jax.checkpoint and a custom_vjp whose forward rule calls the function itself, as the rule in many libraries does to say it once:
# policies do not see what is computed in it. A policy that keeps products (dots_saveable) keeps none of such a layer's: the backward
# pass computes each product again. The same rule with the formula written out is seen through, and its product is kept.
#
# Expected: that both are the same, as the rule is traced before the policy is asked. A network of convolutions with gradients of their
# own was to compute activations again, and computed every convolution again.
#
# Seen: jax 0.10.2 and 0.12.0.1, products in the backward pass of three layers: 9 where the rule calls the function, 6 where it has the
# formula. Python 3.11 has the former only, so the interpreter chooses.
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


def layer(calls_itself):
    @jax.custom_vjp
    def product(x, weights):
        return x @ weights

    def forward(x, weights):
        return (product(x, weights) if calls_itself else x @ weights), (x, weights)

    def backward(kept, g):
        x, weights = kept
        return g @ weights.T, x.T @ g

    product.defvjp(forward, backward)
    return product


def products_of_backward_pass(product):
    def loss(weights, x):
        for w in weights:
            x = jnp.sin(product(x, w))
        return jnp.sum(x)

    kept = jax.checkpoint(loss, policy=jax.checkpoint_policies.dots_saveable)
    _, backward = jax.vjp(kept, [jnp.ones((64, 64))] * 3, jnp.ones((8, 64)))
    return str(jax.make_jaxpr(backward)(1.0)).count("dot_general[")


found = [products_of_backward_pass(layer(calls_itself)) for calls_itself in (True, False)]
print(f"jax {jax.__version__}: products in the backward pass: {found[0]} where the rule calls the function, {found[1]} else", flush=True)
assert found == [9, 6], found
PY

"""DELTA in a loop on a module of Flax NNX: `python -m examples.nnx_loop`. Fit the head first, as own_loop.py does."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import delta_jax as dj
from delta_jax.frameworks.nnx import adapt
from examples.own_loop import stripes

TAPS = ("conv_0", "conv_1")


class Net(nnx.Module):
    """Convolutions, BatchNorm, dropout: images [B, H, W, 3] -> logits [B, 3]."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv_0, self.norm = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.conv_1, self.dropout = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits."""
        x = nnx.relu(self.conv_1(nnx.relu(self.norm(self.conv_0(x)))))
        return self.head(self.dropout(jnp.mean(x, (1, 2))))


def main(steps: int = 20, alpha: float = 0.01) -> list[float]:
    """Fine-tunes; returns the cross-entropy of every step."""
    images, labels = stripes(24)
    model, source = adapt(Net(rngs=nnx.Rngs(0)))  # your pretrained one
    gaps = dj.attention.filter_gaps(model, source, images, labels, taps=TAPS)
    weights = dj.attention.normalize({tap: jnp.mean(gap, 0) for tap, gap in gaps.items()}, "standardized_softmax")
    source_maps = jax.jit(lambda v: dj.features.apply_with_taps(model, v, images, TAPS)[1])(source)
    tx = optax.sgd(0.05)

    @jax.jit
    def step(variables, opt_state, key):
        def loss(params):
            now, options = {**variables, "params": params}, {"mutable": ("batch_stats",), "rngs": {"dropout": key}}
            logits, maps, updated = dj.features.apply_with_taps(model, now, images, TAPS, train=True, **options)
            entropies = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            penalties = alpha * dj.regularizers.feature_distance(maps, source_maps, weights)
            return jnp.mean(entropies + penalties), (jnp.mean(entropies), updated)

        gradients, (entropy, updated) = jax.grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = tx.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return {**variables, "params": params, **updated}, opt_state, entropy

    variables, opt_state, history = source, tx.init(source["params"]), []
    for number in range(steps):
        variables, opt_state, entropy = step(variables, opt_state, jax.random.key(number))
        history.append(float(entropy))
    return history  # model.module(variables) is an NNX module again


if __name__ == "__main__":
    print(*(f"{entropy:.4f}" for entropy in main()))

"""DELTA in a loop on a transform of Haiku: `python -m examples.haiku_loop`. Fit the head first, as own_loop.py does."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import delta_jax as dj
from delta_jax.frameworks.haiku import adapt
from examples.own_loop import stripes

TAPS = ("conv_0", "conv_1")


def network(x: jax.Array, is_training: bool) -> jax.Array:
    """Convolutions, BatchNorm, dropout: images [B, H, W, 3] -> logits [B, 3]."""
    x = hk.Conv2D(8, 3, 2, name="conv_0")(x)
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training))
    x = jnp.mean(jax.nn.relu(hk.Conv2D(16, 3, 2, name="conv_1")(x)), (1, 2))
    return hk.Linear(3)(hk.dropout(hk.next_rng_key(), 0.1, x) if is_training else x)


def main(steps: int = 20, alpha: float = 0.01) -> list[float]:
    """Fine-tunes; returns the cross-entropy of every step."""
    images, labels = stripes(24)
    model = adapt(hk.transform_with_state(network))
    source = model.init(jax.random.key(0), images)  # your pretrained {"params": params, "state": state}
    gaps = dj.attention.filter_gaps(model, source, images, labels, taps=TAPS)
    weights = dj.attention.normalize({tap: jnp.mean(gap, 0) for tap, gap in gaps.items()}, "standardized_softmax")
    source_maps = jax.jit(lambda v: dj.features.apply_with_taps(model, v, images, TAPS)[1])(source)
    tx = optax.sgd(0.05)

    @jax.jit
    def step(variables, opt_state, key):
        def loss(params):
            now, options = {**variables, "params": params}, {"mutable": ("state",), "rngs": {"dropout": key}}
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
    return history


if __name__ == "__main__":
    print(*(f"{entropy:.4f}" for entropy in main()))

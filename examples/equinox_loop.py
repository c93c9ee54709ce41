"""DELTA in a loop on a module of Equinox: `python -m examples.equinox_loop`. Fit the head first, as own_loop.py."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import delta_jax as dj
from delta_jax.frameworks.equinox import adapt
from examples.own_loop import stripes

TAPS = ("layers/0", "layers/3")


def network(key: jax.Array) -> eqx.nn.Sequential:
    """Convolutions, BatchNorm, dropout: an image [3, H, W] -> logits [3]."""
    nn, keys, relu = eqx.nn, jax.random.split(key, 3), eqx.nn.Lambda(jax.nn.relu)
    body = [nn.Conv2d(3, 8, 3, 2, key=keys[0]), nn.BatchNorm(8, "batch", mode="batch"), relu]
    body += [nn.Conv2d(8, 16, 3, 2, key=keys[1]), relu, nn.Lambda(lambda x: jnp.mean(x, (1, 2)))]
    return nn.Sequential([*body, nn.Dropout(0.1), nn.Linear(16, 3, key=keys[2])])


def main(steps: int = 20, alpha: float = 0.01) -> list[float]:
    """Fine-tunes; returns the cross-entropy of every step."""
    images, labels = stripes(24)
    net, state = eqx.nn.make_with_state(network)(jax.random.key(0))  # your pretrained one
    model, source = adapt(net, state)
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
    net, state = model.module(variables)  # an Equinox module again
    return history


if __name__ == "__main__":
    print(*(f"{entropy:.4f}" for entropy in main()))

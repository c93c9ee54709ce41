"""DELTA in a loop on a Keras model on JAX: `python -m examples.keras_loop`. Fit the head first, as own_loop.py does."""

import os

os.environ["KERAS_BACKEND"] = "jax"
import jax
import jax.numpy as jnp
import keras
import optax

import delta_jax as dj
from delta_jax.frameworks.keras import adapt
from examples.own_loop import stripes

TAPS = ("conv_0", "conv_1")


def network() -> keras.Model:
    """Convolutions, BatchNorm, dropout: images [B, 32, 32, 3] -> logits [B, 3]."""
    layers, inputs = keras.layers, keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, 2, name="conv_0")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(16, 3, 2, activation="relu", name="conv_1")(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def main(steps: int = 20, alpha: float = 0.01) -> list[float]:
    """Fine-tunes; returns the cross-entropy of every step."""
    images, labels = stripes(24)
    model, source = adapt(network())  # your pretrained one
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
    return history  # model.assign(variables) puts them into the Keras model


if __name__ == "__main__":
    print(*(f"{entropy:.4f}" for entropy in main()))

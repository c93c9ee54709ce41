"""The losses and the attention in a training loop and with a network that know nothing of the library."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import attention, features, regularizers

TAPS = ("features/conv_0", "features/conv_1")


class Features(nn.Module):
    @nn.compact
    def __call__(self, x, is_training):
        for i, width in enumerate((8, 12)):
            x = nn.Conv(width, (3, 3), strides=(2, 2), name=f"conv_{i}")(x)
            x = nn.BatchNorm(use_running_average=not is_training, momentum=0.9, name=f"norm_{i}")(x)
            x = nn.relu(x)
        return x


class Classifier(nn.Module):
    """Somebody else's network: its own argument for training, a setup method, a nested body."""

    classes: int

    def setup(self):
        self.features = Features()
        self.norm = nn.GroupNorm(4)
        self.out = nn.Dense(self.classes)

    def __call__(self, inputs, *, is_training):
        return self.out(jnp.mean(self.norm(self.features(inputs, is_training)), (1, 2)))


@pytest.fixture(scope="module")
def task():
    """64 images of three classes of stripes: along rows, along columns, and both."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 3
    wave = np.sin(np.arange(12) * 1.5)
    patterns = np.stack([np.tile(wave[:, None], 12), np.tile(wave, (12, 1)), wave[:, None] * wave])
    images = patterns[labels][..., None] + 0.7 * rng.standard_normal((64, 12, 12, 3))
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels)


def _fine_tune(model, start, source, images, labels, weights, alphas, steps=30):
    """A plain optax loop for each alpha; returns the losses and the distance of the feature maps at the end."""
    tx = optax.sgd(0.05, momentum=0.9)

    def distance(maps):
        source_maps = features.apply_with_taps(model, source, images, TAPS, is_training=False)[1]
        return jnp.mean(regularizers.feature_distance(maps, source_maps, weights))

    @jax.jit
    def step(variables, opt_state, alpha):
        def loss(params):
            logits, maps, updated = features.apply_with_taps(
                model, {**variables, "params": params}, images, TAPS, mutable=("batch_stats",), is_training=True
            )
            cross_entropy = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))
            return cross_entropy + alpha * distance(maps), (cross_entropy, updated)

        (_, (cross_entropy, updated)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(gradients, opt_state)
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, opt_state, cross_entropy

    for alpha in alphas:
        variables, opt_state, losses = start, tx.init(start["params"]), []
        for _ in range(steps):
            variables, opt_state, cross_entropy = step(variables, opt_state, alpha)
            losses.append(float(cross_entropy))
        yield losses, float(distance(features.apply_with_taps(model, variables, images, TAPS, is_training=False)[1]))


def test_delta_in_a_foreign_loop(task):
    images, labels = task
    model = Classifier(3)
    source = jax.jit(lambda key, x: model.init(key, x, is_training=False))(jax.random.key(0), images)

    # The head alone, on fixed features: plain gradient descent is enough for 12 of them.
    inputs = features.head_inputs(model, source, images, "out", is_training=False)

    def head_loss(head):
        logits = inputs @ head["kernel"] + head["bias"][None]
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))

    head = source["params"]["out"]
    head_gradient = jax.jit(jax.grad(head_loss))
    for _ in range(50):
        head = jax.tree.map(lambda p, g: p - 0.5 * g, head, head_gradient(head))
    l2_fe = {**source, "params": {**source["params"], "out": head}}

    gaps = attention.filter_gaps(model, l2_fe, images, labels, taps=TAPS, apply_kwargs={"is_training": False})
    assert {tap: gap.shape for tap, gap in gaps.items()} == {TAPS[0]: (64, 8), TAPS[1]: (64, 12)}
    mean_gaps = {tap: jnp.mean(gap, axis=0) for tap, gap in gaps.items()}
    weights = attention.normalize(mean_gaps, "standardized_softmax", temperature=5.0)
    np.testing.assert_allclose([float(jnp.sum(weight)) for weight in weights.values()], [1.0, 1.0], rtol=1e-5)

    runs = _fine_tune(model, l2_fe, source, images, labels, weights, alphas=(0.0, 0.1))
    (free, far), (bound, near) = runs
    assert free[-1] < 0.6 * free[0]
    assert bound[-1] < 0.9 * bound[0]
    assert near < 0.5 * far

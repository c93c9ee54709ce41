"""What the tests of all frameworks share: images, Eq. 6 as a loop over filters, and a few steps of DELTA."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import attention, features, regularizers

SIZE, CLASSES = 8, 3


def batch(n: int = 3, size: int = SIZE) -> tuple[jax.Array, jax.Array]:
    """Images [n, size, size, 3] of noise, and labels [n]."""
    images = np.random.default_rng(0).standard_normal((n, size, size, 3))
    return jnp.asarray(images), jnp.arange(n, dtype=jnp.int32) % CLASSES


def losses(logits: Any, labels: Any) -> np.ndarray:
    """Cross-entropy of each image, by numpy."""
    logits = np.asarray(logits)
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    return -np.log(exps[np.arange(len(labels)), labels] / exps.sum(-1))


def loop(run: Callable[[int | None], Any], filters: Sequence[int], labels: Any) -> np.ndarray:
    """Eq. 6, [B, filters]: `run(j)` returns the framework's own logits without filter j, `run(None)` those with all."""
    before = losses(run(None), labels)
    return np.stack([losses(run(j), labels) - before for j in filters], axis=-1)


def check_gaps(
    model: Any, variables: Any, tap: str, run: Callable[[int | None], Any], batch: Any, filters: Any
) -> None:
    """Gaps at the tap are those of the loop, to ten digits, and not all 0."""
    images, labels = batch
    gaps = attention.filter_gaps(model, variables, images, labels, taps=(tap,), filters={tap: list(filters)})[tap]
    assert gaps.dtype == jnp.float64
    expected = loop(run, filters, labels)
    assert (np.abs(expected) > 1e-6).any()
    np.testing.assert_allclose(gaps, expected, rtol=1e-8, atol=1e-10)


def fine_tune(
    model: Any,
    source: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    taps: Sequence[str],
    *,
    mutable: Sequence[str] = (),
    steps: int = 5,
    rate: float = 0.05,
) -> list[float]:
    """The losses of steps of gradient descent with DELTA's penalty, each image's distance times 0.01."""
    source_maps = jax.jit(lambda v: features.apply_with_taps(model, v, images, taps)[1])(source)
    tx = optax.sgd(rate)

    @jax.jit
    def step(variables, opt_state, key):
        def loss(params):
            found = features.apply_with_taps(
                model,
                {**variables, "params": params},
                images,
                taps,
                train=True,
                mutable=mutable,
                rngs={"dropout": key},
            )
            distance = regularizers.feature_distance(found[1], source_maps, None)
            entropy = optax.losses.softmax_cross_entropy_with_integer_labels(found[0], labels)
            return jnp.mean(entropy + 0.01 * distance), found[2] if mutable else {}

        (value, updated), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, "params": params, **updated}, opt_state, value

    variables, opt_state, values = dict(source), tx.init(source["params"]), []
    for number in range(steps):
        variables, opt_state, value = step(variables, opt_state, jax.random.key(number))
        values.append(float(value))
    return values

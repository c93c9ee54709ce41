"""DELTA in a training loop of one's own: attention, penalty and an optax step, without config, workdir or trainer.

    python -m examples.own_loop

The network is that of examples/own_model.py, called as its authors call it. Its weights are random and the images are
made here, stripes of three kinds: put your own in their place.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import delta_jax as dj
from delta_jax.training.head import fit_head, get_head, put_head
from examples.own_model import OwnNet

CLASSES, SIZE = 3, 32
HEAD, TAPS = "classifier/logits", ("encoder/stage_0/block_0", "encoder/stage_1/block_0")
ALPHA = 1.0  # in units of what it would cost to forget the source, to have feature maps of zeros


def stripes(n: int) -> tuple[jax.Array, jax.Array]:
    """n noisy images [n, SIZE, SIZE, 3], normalised, and labels [n]: stripes along rows, along columns, or both."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % CLASSES
    wave = np.sin(np.arange(SIZE) * 0.8)
    patterns = np.stack([np.tile(wave[:, None], SIZE), np.tile(wave, (SIZE, 1)), wave[:, None] * wave])
    images = patterns[labels][..., None] + 0.5 * rng.standard_normal((n, SIZE, SIZE, 3))
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32)


def main(steps: int = 30, alpha: float = ALPHA) -> list[tuple[float, float]]:
    """Fine-tunes; returns (cross-entropy, distance to the source's feature maps) of every step."""
    images, labels = stripes(24)
    model = OwnNet(widths=(8, 16), num_classes=CLASSES)
    source = jax.jit(lambda key: model.init(key, images, deterministic=True))(jax.random.key(0))

    # 1. L2-FE: the best head on the frozen source, found by L-BFGS.
    features = jax.jit(lambda v, x: dj.features.head_inputs(model, v, x, HEAD, deterministic=True))(source, images)
    head = fit_head(features, labels, get_head(source["params"], HEAD), jnp.float32(1e-2))
    source = {**source, "params": put_head(source["params"], HEAD, head)}

    # 2. Attention, Eq. 6: how much the loss grows when a filter is silenced. Here one weight per filter for all images.
    gaps = dj.attention.filter_gaps(model, source, images, labels, taps=TAPS, apply_kwargs={"deterministic": True})
    mean_gaps = {tap: jnp.mean(gap, axis=0) for tap, gap in gaps.items()}
    weights = dj.attention.normalize(mean_gaps, "standardized_softmax", temperature=5.0)

    # 3. An optimizer of your choice: here the head learns ten times as fast as the rest.
    head_path = tuple(HEAD.split("/"))

    def group(path: tuple, _: jax.Array) -> str:
        return "head" if tuple(key.key for key in path)[: len(head_path)] == head_path else "body"

    groups = jax.tree_util.tree_map_with_path(group, source["params"])
    tx = optax.multi_transform({"head": optax.sgd(0.1), "body": optax.sgd(0.01)}, groups)

    # 4. The loss, Eq. 3 to 5. With BatchNorm: mutable=("batch_stats",), and the new statistics come as a third result.
    @jax.jit
    def step(params, opt_state, images, labels):
        _, source_maps = dj.features.apply_with_taps(model, source, images, TAPS, deterministic=True)
        zeros = jax.tree.map(jnp.zeros_like, source_maps)
        forgetting = jnp.mean(dj.regularizers.feature_distance(zeros, source_maps, weights))

        def loss(params):
            logits, maps = dj.features.apply_with_taps(model, {"params": params}, images, TAPS, deterministic=False)
            cross_entropy = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))
            distance = jnp.mean(dj.regularizers.feature_distance(maps, source_maps, weights)) / forgetting
            return cross_entropy + alpha * distance, (cross_entropy, distance)

        (_, parts), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, parts

    params, opt_state = source["params"], tx.init(source["params"])
    history = []
    for _ in range(steps):
        params, opt_state, (cross_entropy, distance) = step(params, opt_state, images, labels)
        history.append((float(cross_entropy), float(distance)))
    return history


if __name__ == "__main__":
    for number, (cross_entropy, distance) in enumerate(main()):
        print(f"step {number}: cross-entropy {cross_entropy:.4f}, distance {distance:.4f}")

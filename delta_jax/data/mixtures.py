"""Images mixed with others of their batch, on the device: mixup and CutMix."""

import jax
import jax.numpy as jnp


def mix_batch(
    key: jax.Array, images: jax.Array, labels: jax.Array, num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image of a batch with the one before it, and their classes by the same share.

    - mixup (Zhang et al., ICLR 2018): m x_i + (1 - m) x_j.
    - CutMix (Yun et al., ICCV 2019): a rectangle of x_i is that of x_j; m is the share of pixels that x_i keeps.

    Before the rectangle is clipped to the image, m is drawn from Beta(a, a) for each image; the papers draw one for a
    batch. With both, a coin decides for each image.

    Args:
      key: decides; the same key gives the same mixtures on any number of devices.
      images: [B, H, W, C], floats.
      labels: int [B].
      num_classes: K.
      mixup: its a; 0 for none.
      cutmix: the same of CutMix.

    Returns:
      The mixed images, and the share of each class in them, float32 [B, K].
    """
    b, height, width = images.shape[:3]
    coin_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    kept = jnp.ones((b, 1, 1), jnp.float32)
    if cutmix:
        kept = _kept(cutmix_key, cutmix, b, height, width)
    if mixup:
        share = jax.random.beta(mixup_key, mixup, mixup, (b, 1, 1), jnp.float32)
        cut = jax.random.bernoulli(coin_key, 0.5, (b, 1, 1)) if cutmix else jnp.zeros((b, 1, 1), bool)
        kept = jnp.where(cut, kept, share)
    partners = jnp.roll(images, 1, axis=0).astype(jnp.float32)
    mixed = kept[..., None] * images.astype(jnp.float32) + (1 - kept[..., None]) * partners
    share = jnp.mean(jnp.broadcast_to(kept, (b, *kept.shape[1:])), (1, 2))[:, None]
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return mixed.astype(images.dtype), share * own + (1 - share) * jnp.roll(own, 1, axis=0)


def _kept(key: jax.Array, a: float, b: int, height: int, width: int) -> jax.Array:
    """1 where an image keeps its pixels and 0 in its rectangle, float32 [B, H, W]."""
    share_key, top_key, left_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(share_key, a, a, (b,), jnp.float32))

    def inside(key: jax.Array, length: int) -> jax.Array:
        half = jnp.floor(side * length).astype(jnp.int32)[:, None] // 2
        centre = jax.random.randint(key, (b, 1), 0, length, jnp.int32)
        place = jnp.arange(length, dtype=jnp.int32)[None]
        return (place >= centre - half) & (place < centre + half)

    rectangle = inside(top_key, height)[:, :, None] & inside(left_key, width)[:, None, :]
    return 1 - rectangle.astype(jnp.float32)

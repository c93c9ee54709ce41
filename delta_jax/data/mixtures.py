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
    coin_key, share_key, place_key = jax.random.split(key, 3)
    cut = jnp.full((b,), not mixup) if not (mixup and cutmix) else jax.random.bernoulli(coin_key, 0.5, (b,))
    # Drawn at once: to compile this distribution takes longer than all the rest.
    a = jnp.where(cut, cutmix, mixup).astype(jnp.float32)
    kept = jax.random.beta(share_key, a, a, (b,), jnp.float32)[:, None, None]
    if cutmix:
        rectangle = _rectangle(place_key, jnp.sqrt(1 - kept[:, 0]), height, width)
        kept = jnp.where(cut[:, None, None], 1 - rectangle.astype(jnp.float32), kept)
    partners = jnp.roll(images, 1, axis=0).astype(jnp.float32)
    mixed = kept[..., None] * images.astype(jnp.float32) + (1 - kept[..., None]) * partners
    share = jnp.mean(kept, (1, 2))[:, None]
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return mixed.astype(images.dtype), share * own + (1 - share) * jnp.roll(own, 1, axis=0)


def _rectangle(key: jax.Array, side: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels are within it, bool [B, H, W]; its sides are `side` [B, 1] of the image's, its middle anywhere."""

    def inside(key: jax.Array, length: int) -> jax.Array:
        half = jnp.floor(side * length).astype(jnp.int32) // 2
        centre = jax.random.randint(key, side.shape, 0, length, jnp.int32)
        place = jnp.arange(length, dtype=jnp.int32)[None]
        return (place >= centre - half) & (place < centre + half)

    top_key, left_key = jax.random.split(key)
    return inside(top_key, height)[:, :, None] & inside(left_key, width)[:, None, :]

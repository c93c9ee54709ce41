"""How many filters of a tap run together: as many as fill the target's matrix units, and fit.

They are the batch of every convolution behind the tap, so their maps' positions are the rows of its matrix products.
docs/attention.md has what the compilers say of other numbers.
"""

from delta_jax.chips.target import Target

FEWEST = 16  # and on a CPU the most: more would leave its caches
# Rows of a matrix product. A TPU's matrix unit loses a fifth of its time to loading weights for 128 rows at 640. An
# H100 has 132 multiprocessors for tiles of 128x128: 8192 rows and 512 columns are two for each.
_ROWS = {"tpu": 640, "cuda": 8192}
_TILE = 8  # of the second axis of an array on a TPU; where the batch lies there, others would be filled up to it
# Share of the memory that they may take, and what they may where the platform does not tell its memory.
_SHARE_OF_MEMORY, _UNTOLD_MEMORY = 0.25, 2**30


def filters_together(bytes_each: int, rows_each: float, target: Target) -> int:
    """How many filters of one image, or of several, are to run together.

    Args:
      bytes_each: memory that a filter may need at once.
      rows_each: positions of its maps; of maps of several sizes the harmonic mean, weighted by their multiplications.
      target: the device.
    """
    wanted = FEWEST
    if target.platform in _ROWS:
        wanted = max(FEWEST, -int(-_ROWS[target.platform] / rows_each // _TILE) * _TILE)
    fit = int(_SHARE_OF_MEMORY * (target.memory or 0) or _UNTOLD_MEMORY) // max(1, bytes_each)
    return max(1, min(fit, wanted))


def equal_parts(filters: int, together: int, target: Target) -> int:
    """Up to twice as many as `together`, where that leaves less of the last chunk empty; on accelerators."""
    if target.platform not in _ROWS or filters <= together:
        return min(filters, together)
    sizes = range(together, min(filters, 2 * together) + 1, _TILE)
    return min(sizes, key=lambda size: -(-filters // size) * size)

"""The attention over a data set: gaps of every training image, on disk batch by batch, then one attention.npz."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from delta_jax import attention


@dataclasses.dataclass(frozen=True)
class AttentionPass:
    """What the pass over the data gave.

    Attributes:
      gaps: {tap: float32 [M, C]}, loss increase per image and filter.
      images: int [M], which training examples.
    """

    gaps: Mapping[str, np.ndarray]
    images: np.ndarray

    def mean(self) -> dict[str, np.ndarray]:
        """{tap: [C]}, averaged over the images."""
        return {tap: gaps.mean(0, dtype=np.float64).astype(np.float32) for tap, gaps in self.gaps.items()}

    def standard_error(self) -> dict[str, np.ndarray]:
        """{tap: [C]}, of that mean."""
        n = max(len(self.images), 2)
        return {
            tap: (gaps.std(0, ddof=min(1, len(gaps) - 1), dtype=np.float64) / np.sqrt(n)).astype(np.float32)
            for tap, gaps in self.gaps.items()
        }

    def weights(self, normalization: str, temperature: float, *, per_image: bool) -> dict[str, np.ndarray]:
        """{tap: [C]}, or {tap: [M, C]} per image: what multiplies the distances of Eq. 5."""
        gaps = {tap: jnp.asarray(gap) for tap, gap in (self.gaps if per_image else self.mean()).items()}
        found = attention.normalize(gaps, normalization, temperature=temperature)
        return {tap: np.asarray(weights) for tap, weights in found.items()}


def measure(
    folder: Path,
    channels: Mapping[str, int],
    images: np.ndarray,
    batch_size: int,
    gaps_of: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    advance: Callable[[int], None],
) -> AttentionPass:
    """Runs over the images, or goes on where an earlier process stopped.

    Args:
      folder: for the table of gaps, float32 [M, sum of C], and the number of rows done; made if need be.
      channels: {tap: C}.
      images: int [M], the examples to measure, in order.
      batch_size: images per call of `gaps_of`.
      gaps_of: examples [batch_size] -> {tap: [batch_size, C]}; called with the last batch padded.
      advance: told how many more images are done.

    Raises:
      FloatingPointError: a gap is not finite.
      OSError: no space for the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marks, unfinished, table_path = folder / "done.json", folder / "done.tmp", folder / "gaps.npy"
    shape = (len(images), sum(channels.values()))
    done = 0
    if marks.exists() and table_path.exists():
        done = json.loads(marks.read_text())["images"]
        advance(done)
    else:
        # Written as zeros, not left sparse: a full disk then raises here, where a memory map would die of SIGBUS.
        np.save(table_path, np.zeros(shape, np.float32))
    table = np.lib.format.open_memmap(table_path, mode="r+")
    for start in range(done, len(images), batch_size):
        picked = images[start : start + batch_size]
        padded = np.concatenate([picked, np.repeat(picked[:1], batch_size - len(picked))])
        found = gaps_of(padded)
        rows = np.concatenate([np.asarray(found[tap]) for tap in channels], axis=1)[: len(picked)]
        if not np.isfinite(rows).all():
            raise FloatingPointError(
                f"gaps of the training images {picked.tolist()} are not finite; is the source network sound?"
            )
        table[start : start + len(picked)] = rows
        table.flush()
        # After the rows, or a crash would leave zeros for gaps; and whole, or it would leave an empty file.
        unfinished.write_text(json.dumps({"images": start + len(picked)}))
        unfinished.replace(marks)
        advance(len(picked))
    ends = np.cumsum(list(channels.values()))[:-1]
    return AttentionPass(dict(zip(channels, np.split(np.asarray(table), ends, axis=1), strict=True)), images)


def save(path: Path, found: AttentionPass, weights: Mapping[str, np.ndarray], taps: Sequence[str]) -> None:
    """Writes attention.npz: "gap/TAP", "standard_error/TAP" [C], "weight/TAP" [C] or [M, C], and "images" [M]."""
    arrays: dict[str, np.ndarray] = {"images": found.images}
    means, errors = found.mean(), found.standard_error()
    for tap in taps:
        arrays |= {f"gap/{tap}": means[tap], f"standard_error/{tap}": errors[tap], f"weight/{tap}": weights[tap]}
    unfinished = path.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)


def load_weights(path: Path, taps: Sequence[str]) -> dict[str, np.ndarray]:
    """{tap: weights} of an attention.npz."""
    with np.load(path) as file:
        return {tap: file[f"weight/{tap}"] for tap in taps}

"""The attention over a data set: gaps of image after image, their statistics, and when they are known well enough."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from delta_jax import attention, processes
from delta_jax.processes import interruption, sharding
from delta_jax.workdir.gap_table import GapTable

PER = ("data_set", "class", "image")
_GROUPS = 20  # of images, for the jackknife


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How gaps become weights: the arguments of `attention.normalize`."""

    how: str
    temperature: float
    over: str = "tap"

    def __call__(
        self, gaps: Mapping[str, np.ndarray], signal: Mapping[str, float] | None = None
    ) -> dict[str, np.ndarray]:
        """{tap: [..., C]} -> {tap: float32 [..., C]}; computed in float64."""
        wide = {tap: np.asarray(gap, np.float64) for tap, gap in gaps.items()}
        found = attention.normalize(wide, self.how, temperature=self.temperature, over=self.over, signal=signal)
        return {tap: weights.astype(np.float32) for tap, weights in found.items()}


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

    def signal(self) -> dict[str, float]:
        """{tap: share of the spread of the mean gaps that is no noise of the images}, see `attention.signal_of`."""
        return {tap: attention.signal_of(gaps) for tap, gaps in self.gaps.items()}

    def class_mean(self, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
        """{tap: [K, C]}, averaged over the images of each class; of all, where none of a class was measured.

        Args:
          labels: int [N], of all training examples.
          num_classes: K.
        """
        own, overall = labels[self.images], self.mean()
        found = {}
        for tap, gaps in self.gaps.items():
            rows = [
                gaps[own == k].mean(0, dtype=np.float64) if np.any(own == k) else overall[tap]
                for k in range(num_classes)
            ]
            found[tap] = np.stack(rows).astype(np.float32)
        return found

    def weights(
        self, normalization: Normalization, per: str, labels: np.ndarray, num_classes: int, *, shrink: bool = False
    ) -> dict[str, np.ndarray]:
        """What multiplies the distances of Eq. 5: {tap: [C]} per data set, {tap: [N, C]} per class or image.

        Args:
          normalization: of the gaps.
          per: "data_set"; "class": the row of an example is its class's; or "image", for which all N are measured.
          labels: int [N], of all training examples.
          num_classes: K.
          shrink: whether those per data set go towards uniform by what is no signal.
        """
        if per == "data_set":
            return normalization(self.mean(), self.signal() if shrink else None)
        if per == "class":
            by_class = normalization(self.class_mean(labels, num_classes))
            return {tap: weights[labels] for tap, weights in by_class.items()}
        if len(self.images) != len(labels):
            raise ValueError(f"weights per image need the gaps of all {len(labels)} images, not of {len(self.images)}")
        order = np.argsort(self.images)
        return normalization({tap: gaps[order] for tap, gaps in self.gaps.items()})


class WeightError:
    """The standard error of the attention's weights while the images come in, by the grouped jackknife.

    The images are dealt into 20 groups; the weights without each of them tell how much the weights of as many other
    images would differ, whatever the normalisation.
    """

    def __init__(self, channels: Mapping[str, int], normalization: Normalization):
        """Starts with no image; channels is {tap: C}."""
        self._ends = np.cumsum(list(channels.values()))
        self._taps, self._normalization = tuple(channels), normalization
        self._sums = np.zeros((_GROUPS, self._ends[-1]))
        self._counts = np.zeros(_GROUPS)

    def add(self, rows: np.ndarray) -> None:
        """Takes the gaps [n, sum of C] of n more images."""
        groups = (int(self._counts.sum()) + np.arange(len(rows))) % _GROUPS
        np.add.at(self._sums, groups, rows)
        np.add.at(self._counts, groups, 1)

    def relative(self) -> float:
        """Standard error of C * W (1 for a uniform attention), root mean square over a tap's filters; of the worst tap.

        Infinite before there are two images in each group.
        """
        if self._counts.min() < 2:
            return float("inf")
        without = (self._sums.sum(0) - self._sums) / (self._counts.sum() - self._counts)[:, None]
        by_tap = dict(zip(self._taps, np.split(without, self._ends[:-1], axis=1), strict=True))
        worst = 0.0
        for weights in self._normalization(by_tap).values():
            relative = weights.shape[-1] * weights.astype(np.float64)  # [groups, C]
            variance = (_GROUPS - 1) * relative.var(0)
            worst = max(worst, float(np.sqrt(variance.mean())))
        return worst


def measure(
    table: GapTable,
    channels: Mapping[str, int],
    images: np.ndarray,
    batch_size: int,
    gaps_of: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    advance: Callable[[int], None],
    *,
    tolerance: float = 0.0,
    normalization: Normalization | None = None,
) -> AttentionPass:
    """Runs over the images, or goes on where an earlier process, or a pass over fewer images, stopped.

    With several processes each calls this with the same arguments; the first one alone touches the table.

    Args:
      table: row i is for images[i].
      channels: {tap: C}.
      images: int [M], the examples to measure, in order.
      batch_size: images per call of `gaps_of`.
      gaps_of: examples [batch_size] -> {tap: [batch_size, C]}; called with the last batch padded.
      advance: told how many more images are done.
      tolerance: the pass ends when `WeightError.relative` is at most this; 0 for all images.
      normalization: of the weights that the tolerance is about.

    Raises:
      FloatingPointError: a gap is not finite.
      OSError: no space for the table.
      Interrupted: by a signal; the batches that were done are in the table.
    """
    first = processes.is_first()
    if first:
        table.require_space(len(images))
    rows = np.array(table.read(min(len(table), len(images)))) if first else None
    known = sharding.from_first(rows, (sum(channels.values()),))
    error = WeightError(channels, normalization) if tolerance and normalization else None
    parts, done = [], 0

    def take(rows: np.ndarray) -> bool:
        nonlocal done
        parts.append(rows)
        done += len(rows)
        advance(len(rows))
        if error is None:
            return False
        error.add(rows)
        return error.relative() <= tolerance

    # What an earlier pass measured counts batch by batch, too: it is to end where an undisturbed pass ends.
    starts = range(0, len(images), batch_size)
    for start in starts:
        picked = images[start : start + batch_size]
        if start + len(picked) <= len(known):
            enough = take(known[start : start + len(picked)])
        else:
            interruption.check(f"after {done} of {len(images)} images of the attention")
            padded = np.concatenate([picked, np.repeat(picked[:1], batch_size - len(picked))])
            found = gaps_of(padded)
            batch = np.concatenate([np.asarray(found[tap]) for tap in channels], axis=1)[: len(picked)]
            if not np.isfinite(batch).all():
                raise FloatingPointError(
                    f"gaps of the training images {picked.tolist()} are not finite; is the source network sound?"
                )
            if first:
                table.append(batch[max(0, len(known) - start) :])
            enough = take(batch)
        if enough:
            break
    ends = np.cumsum(list(channels.values()))[:-1]
    whole = np.concatenate(parts) if parts else np.zeros((0, sum(channels.values())), np.float32)
    return AttentionPass(dict(zip(channels, np.split(whole, ends, axis=1), strict=True)), images[:done])


def save(
    path: Path,
    weights: Mapping[str, np.ndarray],
    gaps: Mapping[str, np.ndarray],
    standard_errors: Mapping[str, np.ndarray] | None = None,
    images: np.ndarray | None = None,
) -> None:
    """Writes attention.npz: "weight/TAP" [C] or [N, C], "gap/TAP" and "standard_error/TAP" [C], "images" [M].

    The first process alone does.
    """
    if not processes.is_first():
        return
    arrays = {f"weight/{tap}": array for tap, array in weights.items()}
    arrays |= {f"gap/{tap}": array for tap, array in gaps.items()}
    arrays |= {f"standard_error/{tap}": array for tap, array in (standard_errors or {}).items()}
    if images is not None:
        arrays["images"] = images
    unfinished = path.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)


def load_weights(path: Path, taps: Sequence[str]) -> dict[str, np.ndarray]:
    """{tap: weights} of an attention.npz."""
    with np.load(path) as file:
        # With the suffix, or numpy takes "weight/a.npy" for the tap "a" where there is a tap "a.npy".
        return {tap: file[f"weight/{tap}.npy"] for tap in taps}

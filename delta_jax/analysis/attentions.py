"""What an attention says about its taps: how far filters differ, how sure that is, and how uneven the weights are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from scipy import special

from delta_jax.analysis import pictures
from delta_jax.workdir import logs

TOP = 8  # filters named per tap
ROW = 2.3  # inches, height of one tap in the picture


class TopFilter(NamedTuple):
    """A filter that the target misses: its number, mean gap and the standard error of that mean."""

    filter: int
    gap: float
    standard_error: float


@dataclass(frozen=True)
class TapSummary:
    """The attention at one tap.

    Attributes:
      tap: module path.
      filters: C.
      images: M, over which the gaps are averaged.
      spread: standard deviation over the filters of the mean gaps.
      standard_error: of the mean gaps, the median over the filters; NaN for one image.
      negative: share of the filters with a negative mean gap: removing them lowered the loss.
      reliability: Spearman rank correlation of the mean gaps of the even and of the odd rows. Each half has half the
        images, so that of all of them is higher. NaN below 4 images or 3 filters, or where a half ranks nothing.
      effective_filters: exp of the entropy of W, scaled to sum to 1 here; C if uniform, 1 if one filter has it all.
      smallest, largest: of C * W; 1 is uniform.
      top: the filters with the largest mean gaps, 8 or all there are, the largest first.
    """

    tap: str
    filters: int
    images: int
    spread: float
    standard_error: float
    negative: float
    reliability: float
    effective_filters: float
    smallest: float
    largest: float
    top: tuple[TopFilter, ...]


def summarize(gaps: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> list[TapSummary]:
    """One summary per tap, in the order of `gaps`.

    Args:
      gaps: {tap: [M, C]} loss increase per image and filter (Eq. 6).
      weights: {tap: [C]} normalised mean gaps.

    Raises:
      ValueError: the taps or the shapes do not go together, or there are no images.
    """
    _check(gaps, weights)
    return [_summary(tap, np.asarray(gap, np.float64), weights[tap]) for tap, gap in gaps.items()]


def profile(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The content of attention_profile.json: {"taps": [{"name", "scaled": C * W of each filter, falling}, ...]}.

    Args:
      weights: {tap: [C]}, or [N, C] for each image: then their mean over the images counts.
    """
    scaled = {tap: np.sort(one.shape[-1] * _of_data_set(one))[::-1] for tap, one in weights.items()}
    return {"taps": [{"name": tap, "scaled": [float(f"{w:.4g}") for w in one]} for tap, one in scaled.items()]}


def table(summaries: Sequence[TapSummary]) -> None:
    """Prints what the gaps, the weights and the best filters of each tap are, in three tables of at most 80 columns."""
    images = ", ".join(f"{n:,}" for n in sorted({one.images for one in summaries}))
    rows = [
        [
            one.tap,
            f"{one.filters:,}",
            f"{one.spread:.2g}",
            "-" if np.isnan(one.standard_error) else f"{one.standard_error:.2g}",
            f"{one.negative:.0%}",
            _reliability_text(one),
        ]
        for one in summaries
    ]
    columns = ["tap", "filters", "spread", "error", "negative", "reliability"]
    logs.table(f"mean gaps, measured on {images} images", columns, rows)
    logs.say(
        "  spread over the filters, and standard error of one filter's mean\n"
        "  reliability: rank correlation of two halves of the images; near 0 is noise\n"
    )
    rows = [[one.tap, _effective_text(one), f"{one.smallest:.3g} to {one.largest:.3g}"] for one in summaries]
    logs.table("attention W, a share per filter", ["tap", "effective filters", "C * W, 1 is uniform"], rows)
    logs.say("")
    rows = [[one.tap, ", ".join(str(best.filter) for best in one.top), _with_error(one.top[0])] for one in summaries]
    logs.table("filters with the largest mean gaps", ["tap", "filters", "gap of the first"], rows)


def plot(gaps: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Draws one row per tap as a PNG: its mean gaps in falling order (left), C times its weights likewise (right).

    The band around the gaps is two standard errors to each side.

    Args:
      gaps: {tap: [M, C]} loss increase per image and filter.
      weights: {tap: [C]} normalised mean gaps.
      path: of the picture; its folder exists.

    Raises:
      ValueError: the taps or the shapes do not go together, or there are no images.
    """
    summaries = summarize(gaps, weights)
    layout = ConstrainedLayoutEngine(wspace=pictures.GUTTER, hspace=pictures.GUTTER)
    figure = Figure(figsize=(11, ROW * len(gaps) + 0.7), layout=layout)
    grid = figure.subplots(len(gaps), 2, squeeze=False)
    for (left, right), one in zip(grid, summaries, strict=True):
        _draw_gaps(left, np.asarray(gaps[one.tap], np.float64))
        _draw_weights(right, weights[one.tap])
        left.set_title(one.tap, fontsize=9, loc="left", parse_math=False)
        left.set_title(f"reliability {_reliability_text(one)}", fontsize=9, loc="right")
        right.set_title(f"effective filters {_effective_text(one)}", fontsize=9, loc="right")
        for axes in (left, right):
            axes.margins(x=0.015)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8, loc="upper right")
    for axes in grid[-1]:
        axes.set_xlabel("filters, the largest first")
    figure.align_ylabels(grid)
    figure.savefig(path, format="png", dpi=pictures.DOTS_PER_INCH, metadata={"Software": None})


def _check(gaps: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> None:
    if not gaps or gaps.keys() != weights.keys():
        raise ValueError(
            f"gaps of the taps {list(gaps)} and weights of {list(weights)}; expected the same taps of both"
        )
    for tap, gap in gaps.items():
        if np.ndim(gap) != 2 or not np.size(gap):
            raise ValueError(f"{tap}: gaps of shape {np.shape(gap)}, expected (images, filters), one of each at least")
        if np.shape(weights[tap]) != np.shape(gap)[1:]:
            raise ValueError(
                f"{tap}: weights of shape {np.shape(weights[tap])}, expected {np.shape(gap)[1:]}, one per filter of "
                f"the gaps {np.shape(gap)}; weights per image have to be averaged first"
            )


def _of_data_set(weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights, np.float64).reshape(-1, np.shape(weights)[-1]).mean(0)


def _summary(tap: str, gaps: np.ndarray, weights: np.ndarray) -> TapSummary:
    images, filters = gaps.shape
    means, errors = gaps.mean(0), _standard_errors(gaps)
    weights = np.asarray(weights, np.float64)
    share = weights / weights.sum()  # W sums to 1 already, unless the filters of all taps compete
    best = np.argsort(-means, kind="stable")[:TOP]
    return TapSummary(
        tap=tap,
        filters=filters,
        images=images,
        spread=float(means.std()),
        standard_error=float(np.median(errors)),
        negative=float(np.mean(means < 0)),
        reliability=_reliability(gaps),
        effective_filters=float(np.exp(special.entr(share).sum())),
        smallest=float(filters * weights.min()),
        largest=float(filters * weights.max()),
        top=tuple(TopFilter(int(j), float(means[j]), float(errors[j])) for j in best),
    )


def _standard_errors(gaps: np.ndarray) -> np.ndarray:
    """Of the means over the images, [C]; of one image nothing is known."""
    images, filters = gaps.shape
    return gaps.std(0, ddof=1) / np.sqrt(images) if images > 1 else np.full(filters, np.nan)


def _reliability(gaps: np.ndarray) -> float:
    # Every second row: the images may be in the order of their classes.
    even, odd = gaps[::2].mean(0), gaps[1::2].mean(0) if len(gaps) > 1 else np.zeros(gaps.shape[1])
    if len(gaps) < 4 or gaps.shape[1] < 3 or np.ptp(even) == 0 or np.ptp(odd) == 0:
        return float("nan")
    from scipy import stats  # half a second to import

    return float(stats.spearmanr(even, odd).statistic)


def _reliability_text(one: TapSummary) -> str:
    return "-" if np.isnan(one.reliability) else f"{one.reliability:.2f}"


def _effective_text(one: TapSummary) -> str:
    return f"{one.effective_filters:,.0f} of {one.filters:,}"


def _with_error(one: TopFilter) -> str:
    return f"{one.gap:.2g}" + ("" if np.isnan(one.standard_error) else f" ± {one.standard_error:.2g}")


def _draw_gaps(axes: Axes, gaps: np.ndarray) -> None:
    means, errors = gaps.mean(0), _standard_errors(gaps)
    order = np.argsort(-means, kind="stable")
    means, band, rank = means[order], 2 * errors[order], np.arange(1, len(order) + 1)
    axes.fill_between(rank, means - band, means + band, color="C0", alpha=0.25, lw=0, label="± 2 standard errors")
    axes.plot(rank, means, color="C0", lw=1.2)
    axes.axhline(0, color="0.3", lw=0.8)
    axes.set_ylabel("mean gap")


def _draw_weights(axes: Axes, weights: np.ndarray) -> None:
    relative = len(weights) * np.sort(weights)[::-1]
    rank = np.arange(1, len(relative) + 1)
    axes.fill_between(rank, 1, relative, color="C1", alpha=0.25, lw=0)
    axes.plot(rank, relative, color="C1", lw=1.2)
    axes.axhline(1, color="0.3", lw=0.8)
    axes.set_ylabel("C * W")

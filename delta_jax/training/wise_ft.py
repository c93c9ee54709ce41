"""WiSE-FT: networks on the line from the source with its trained head to the fine-tuned one; validation images choose.

Ensembles in the space of the weights (Wortsman et al., CVPR 2022): (1 - m) source + m tuned. At m = 0 that is L2-FE, so
what is chosen has no larger loss than that on the validation images.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax

from delta_jax.training.state import Variables

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def interpolated(source: Variables, tuned: Variables, share: float) -> Variables:
    """(1 - share) source + share tuned, leaf by leaf; the ends are the networks themselves, bit by bit."""
    if share in (0.0, 1.0):
        return tuned if share else source
    return optax.incremental_update(dict(tuned), dict(source), share)


def choose(
    source: Variables, tuned: Variables, measures: Callable[[Variables], Mapping[str, float]]
) -> tuple[Variables, dict[str, Any]]:
    """The network with the least cross-entropy on the validation images; of equal ones the nearer to the source.

    Args:
      source: with the trained head, as fine-tuning started.
      tuned: as it ended; the same structure.
      measures: of a network on the validation images, "cross_entropy" and "top1" among them.

    Returns:
      The network and, for JSON, "share" of the tuned one and what was "tried".
    """
    tried = [(share, measures(interpolated(source, tuned, share))) for share in SHARES]
    losses = [found["cross_entropy"] for _, found in tried]
    share = SHARES[int(np.argmin(losses))]
    return interpolated(source, tuned, share), {
        "share": share,
        "tried": [
            {"share": one, "cross_entropy": found["cross_entropy"], "top1": found["top1"]} for one, found in tried
        ],
    }


def said(found: Mapping[str, Any]) -> str:
    """A line on what `choose` found, its second value."""
    by_share = {one["share"]: one for one in found["tried"]}
    chosen, tuned = by_share[found["share"]], by_share[1.0]
    if found["share"] == 1.0:
        return "WiSE-FT: the fine-tuned network itself is best on the validation images, no part of the source in it"
    return (
        f"WiSE-FT: {found['share']:.0%} of the way from L2-FE to the fine-tuned network is best on the validation "
        f"images: cross-entropy {chosen['cross_entropy']:.3f} instead of {tuned['cross_entropy']:.3f}, top-1 "
        f"{chosen['top1']:.2%} instead of {tuned['top1']:.2%}"
    )

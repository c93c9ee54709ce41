"""Whether fine-tuning helped: the test images of one run against those of the head alone, L2-FE, image by image."""

import math
from typing import Any

import numpy as np

from delta_jax.training.evaluation import Look

_Z = 1.959964  # standard errors on either side of a 95 % interval
_SAME = (
    "fine-tuning has no part in this network: on the validation images the head alone was as good as anything between "
    "it and the fine-tuned network, and is what was kept"
)
HELPED, HURT, UNDECIDED = "helped", "hurt", "no difference shown"


def against(tuned: Look, head: Look) -> dict[str, Any]:
    """Paired differences, `tuned` minus `head`, with 95 % intervals over the images, and what they say.

    Top-1 has the interval of Agresti and Min (Statistics in Medicine 24, 2005): half an image is added to each of the
    four cells of who is right, so that it does not vanish where few images are told apart; the cross-entropy has that
    of the normal distribution.

    Args:
      tuned, head: looks at the same images, M, in the same order.

    Returns:
      {} for fewer than two images; else, for JSON, "top1" and "cross_entropy", each {"difference", "low", "high"}
      (fractions, nats), "verdict" on top-1 (HELPED, HURT or UNDECIDED), and "said", a sentence.
    """
    if len(tuned.right) < 2:
        return {}
    only_tuned, only_head = (int(np.sum(a & ~b)) for a, b in ((tuned.right, head.right), (head.right, tuned.right)))
    top1 = _discordant(only_tuned, only_head, len(tuned.right))
    entropy = _mean(tuned.losses - head.losses)
    verdict = _verdict(top1["low"], top1["high"])
    found = {"top1": top1, "cross_entropy": entropy, "verdict": verdict}
    if np.array_equal(tuned.losses, head.losses):
        return found | {"said": _SAME}
    return found | {"said": _said(found, tuned, head)}


def _discordant(only_first: int, only_second: int, n: int) -> dict[str, float]:
    difference, total, m = only_first - only_second, only_first + only_second + 1, n + 2
    half = _Z * math.sqrt(total - difference**2 / m) / m
    return {"difference": difference / n, "low": difference / m - half, "high": difference / m + half}


def _mean(differences: np.ndarray) -> dict[str, float]:
    mean = float(differences.mean())
    half = _Z * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return {"difference": mean, "low": mean - half, "high": mean + half}


def _verdict(low: float, high: float) -> str:
    return HELPED if low > 0 else HURT if high < 0 else UNDECIDED


def _said(found: dict[str, Any], tuned: Look, head: Look) -> str:
    top1, entropy = found["top1"], found["cross_entropy"]
    first = {
        HELPED: "fine-tuning helped",
        HURT: "fine-tuning hurt: the head alone, --config.method=l2_fe, is the better classifier",
        UNDECIDED: "whether fine-tuning helped cannot be told from these test images",
    }[found["verdict"]]
    numbers = (
        f"top-1 {tuned.measures['top1']:.2%} instead of {head.measures['top1']:.2%} with the head alone, "
        f"{100 * top1['difference']:+.2f} points (95 % interval {100 * top1['low']:+.2f} to {100 * top1['high']:+.2f})"
    )
    better = {HELPED: "better", HURT: "worse", UNDECIDED: ""}[_verdict(-entropy["high"], -entropy["low"])]
    also = (
        f"; its probabilities are {better}: cross-entropy {tuned.measures['cross_entropy']:.3f} instead of "
        f"{head.measures['cross_entropy']:.3f}"
        if better
        else ""
    )
    return f"{first}: {numbers}{also}; over {len(tuned.right):,} images, and one seed"

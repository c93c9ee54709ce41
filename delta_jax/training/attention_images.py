"""Which training images the attention is measured on: their order, and how many a share of the fine-tuning pays for."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import attention, features
from delta_jax.chips import flops
from delta_jax.training import attention_program
from delta_jax.training.attention_program import Estimator
from delta_jax.training.programs import Programs

FEWEST = 8  # images, whatever they cost
# Of two_phase, docs/attention.md says why: images with estimates for each with exact gaps, and how many exact ones
# correct more than their own noise adds.
MANY, ENOUGH = 16, 16
# Of the gaps, in units of one of the training step. Measured on CPUs: docs/attention.md. Elsewhere arithmetic: gaps are
# in full float32, six passes in bfloat16 where the step takes one, at twice the step's use of the matrix units.
_TIME_OF_AN_OPERATION = {"cpu": 0.75}
_ELSEWHERE = 3.0


def order(labels: np.ndarray) -> np.ndarray:
    """All images in one fixed random order, of which every beginning holds the classes in proportion.

    Of m images a class has as many as its share of all, to within one. So the mean over a beginning has the mean over
    all as its expectation, without the chance of which classes it met.

    Args:
      labels: int [N].
    """
    rng = np.random.default_rng(0)
    place = np.empty(len(labels))  # in [0, 1)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
    return np.argsort(place, kind="stable")


class Number(NamedTuple):
    """How many images are measured.

    Attributes:
      of_estimators: by each of `attention_program.estimators`, in their order: the first ones of `order`.
      cost: as a share of the fine-tuning's time by counted operations; None where that is not asked for.
    """

    of_estimators: tuple[int, ...]
    cost: float | None

    @property
    def images(self) -> int:
        """That are measured in any way."""
        return self.of_estimators[0]


def number(programs: Programs, there: int) -> Number:
    """How many of `there` training images are measured: as the config says, or as many as its share pays for.

    Counted, not timed: a run that goes on, or is made again elsewhere, measures the same images.
    """
    config = programs.config
    wanted = min(config.attention_images or there, there)
    two = config.attention_estimator == "two_phase"
    if not config.attention_share:
        return Number((wanted, min(wanted, max(ENOUGH, _whole(wanted / MANY))))[: 1 + two], None)
    training = config.steps * config.batch_size * operations_of_step(programs)
    time = _TIME_OF_AN_OPERATION.get(programs.platform, _ELSEWHERE)
    costs = [time * operations_of_gaps(programs, one) / training for one in attention_program.estimators(config)]
    share = config.attention_share
    if config.attention_per == "image":  # each needs weights of its own
        images: tuple[int, ...] = (wanted,)
    elif not two:
        images = (min(wanted, _whole(share / costs[0])),)
    else:
        images = _two_phase(costs[0], costs[1], share, wanted)
    return Number(images, sum(cost * n for cost, n in zip(costs, images, strict=True)))


def _two_phase(cheap: float, exact: float, share: float, wanted: int) -> tuple[int, int]:
    """(estimated, exact) images for what one of either costs."""
    if (cheap + exact) * wanted <= share:
        return wanted, wanted
    few = share / (exact + MANY * cheap)
    if MANY * few > wanted:
        few = (share - wanted * cheap) / exact
    if few < ENOUGH:
        return min(wanted, _whole(share / cheap)), 0
    n = min(wanted, _whole(few))
    return min(wanted, MANY * n), n


def _whole(images: float) -> int:
    """In whole passes, and not too few."""
    return max(FEWEST, int(images) // FEWEST * FEWEST)


def described(chosen: Number, there: int, config: Any) -> str:
    """One line on the number that a share has set; "" where there is none."""
    if chosen.cost is None:
        return ""
    cost = f"{chosen.cost:.2g} of the fine-tuning's time by counted operations"
    few = f", {chosen.of_estimators[1]:,} of them exactly" if len(chosen.of_estimators) > 1 else ""
    found = f"attention on {chosen.images:,} of {there:,} images{few}: {cost}"
    limit = f"attention_share is {config.attention_share:g}"
    if chosen.cost <= config.attention_share:
        return f"{found} ({limit})"
    why = "each has weights of its own" if config.attention_per == "image" else "no fewer are measured"
    return f"{found}, although {limit}: {why}"


def operations_behind(model: Any, variables: Any, size: int, taps: Sequence[str]) -> dict[str, int]:
    """{tap: FLOPs of what follows it, for one filter of one image [size, size, 3]}; nothing is computed.

    Of the plain way, in which a filter that is silenced needs all of it: no closed forms, no updates of rank one.
    """
    found = {}

    def count(variables: Any, image: jax.Array) -> None:
        prefix = features.Prefix(model, variables, image)
        found.update({tap: flops.count(partial(prefix.continue_from, tap), prefix.feature_maps(tap)) for tap in taps})

    jax.eval_shape(count, variables, _image(size))
    return found


def operations_of_gaps(programs: Programs, estimator: Estimator) -> int:
    """FLOPs of one image's gaps, all filters alive."""
    model, size = programs.network(), programs.config.data.crop
    forward = flops.count(features.caller(model), programs.source, _image(size))
    if estimator.name == "first_order":
        return 3 * forward  # a backward pass is two
    if estimator.name == "linear_logits":
        return (1 + 2 * (min(programs.num_classes, attention.CLASSES) - 1)) * forward
    behind = operations_behind(model, programs.source, size, programs.config.taps)
    exact = estimator.name == "exact"
    most = max(programs.channels.values()) if exact else estimator.exact_filters or 0
    passes = sum(min(most, filters) * behind[tap] for tap, filters in programs.channels.items())
    return passes + (forward if exact else 4 * forward)


def operations_of_step(programs: Programs) -> int:
    """FLOPs of one image's part of a training step: the source forwards, the network forwards and backwards."""
    config, model, size = programs.config, programs.network(), programs.config.data.crop
    forward = trained = flops.count(features.caller(model), programs.source, _image(size))
    if config.freeze_until:  # what runs before it is the source's
        trained = operations_behind(model, programs.source, size, (config.freeze_until,))[config.freeze_until]
    return forward + 3 * trained


def _image(size: int) -> Any:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

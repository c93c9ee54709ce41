"""What every fine-tuning method says of itself: what it trains, which penalties it adds, what it needs for that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

Maps = Mapping[str, jax.Array]
Head = str | Sequence[str]  # module path of the classifier, or of several
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a penalty on a whole batch may look at.

    Attributes:
      features: float32 or wider [B, D], what the head sees of the network in training, dropout included.
      labels: int [B].
      index: int [B], rows of the examples among the training images.
      own: the method's own parameters, in training; None where it has none.
      measured: what `Method.measures` asked for, by name.
      head: the classifier in training, {"kernel": [D, K], "bias": [K]}.
      keys: [B, D], of a second view of the images, what the head sees of the network of keys; of a method that
        `carries` something, as the next two.
      key_parameters: of that network, and beside it.
      buffers: what was carried from the step before.
    """

    features: jax.Array
    labels: jax.Array
    index: jax.Array
    own: Any
    measured: Mapping[str, Any]
    head: Any = None
    keys: Any = None
    key_parameters: Any = None
    buffers: Any = None


@dataclass(frozen=True)
class Shapes:
    """Of what a method sees, for its own parameters.

    Attributes:
      maps: {tap: (H, W, C)} of the feature maps.
      features: D, what the head sees.
      source_head: {"kernel": [D, K], "bias": [K]} of the source, arrays or shapes; None where it was not asked for.
    """

    maps: Mapping[str, tuple[int, ...]]
    features: int
    source_head: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Method:
    """A method adds up to one penalty per example, one on the parameters and one on the batch, and may move parameters.

    Attributes:
      scale: "paper" or "reference", see `regularizers.feature_distance`.
      rectify: feature maps pass a ReLU before they are compared (the paper, section 3.3).

    A field that a subclass adds is a field of the config, of the same name.
    """

    scale: str = "paper"
    rectify: bool = True

    trains_backbone = True
    decays_weights = False  # weight decay on all parameters takes the place of the penalties
    penalizes_head = True
    uses_source_maps = False
    uses_attention = False
    uses_features = False  # `batch_penalty` wants to know what the head sees
    has_own_parameters = False
    own_rate_is_the_heads = True  # which is head_learning_rate_factor times the other parameters'
    uses_source_head = False
    measures: ClassVar[tuple[str, ...]] = ()  # on the source, once: see `training.measured_phase`
    carries = False  # buffers from step to step, and a network of keys that sees a second view
    knows_examples = False  # by label or row: images that are mixed are none of those that it knows
    projects = False  # moves parameters after each step
    default_alpha: ClassVar[float | None] = None  # as published; None: distances of maps differ, so it is measured

    @property
    def has_one_strength(self) -> bool:
        """Whether one number, alpha or the weight decay, is all that says how strongly the method holds back."""
        one = self.decays_weights != (self.default_alpha != 0)
        return one and self.trains_backbone and not (self.has_own_parameters or self.projects)

    def rectified(self, maps: Maps) -> Maps:
        """The maps behind a ReLU, where that is how they are compared."""
        return jax.tree.map(jax.nn.relu, dict(maps)) if self.rectify else maps

    def problem(self, shapes: Shapes, batch: int) -> str:
        """Why the method cannot work on what it is to see, with a way out; "" where it can.

        Args:
          shapes: see there.
          batch: images that go through the network together.
        """
        return ""

    def example_penalty(self, maps: Maps, source_maps: Maps, attention: Maps | None, own: Any = None) -> Any:
        """[B], or None where there is nothing to pay per example."""
        return None

    def parameter_penalty(
        self, params: Params, source_params: Params, head: Head, measured: Mapping[str, Any] | None = None
    ) -> jax.Array:
        """A scalar."""
        return jnp.zeros((), jnp.float32)

    def batch_penalty(self, seen: Seen) -> Any:
        """A scalar; None where there is nothing to pay for the batch as a whole."""
        return None

    def own_parameters(self, key: jax.Array, shapes: Shapes) -> Any:
        """What the method trains beside the network, before the first step."""
        return None

    def first_buffers(self, key: jax.Array, shapes: Shapes, params: Params, own: Any, num_classes: int) -> Any:
        """What is carried into the first step."""
        return None

    def key_parameters(self, params: Params, own: Any, buffers: Any) -> Any:
        """{"network", "own"}: the parameters that keys are made with in this step."""
        raise NotImplementedError

    def carried(self, seen: Seen) -> Any:
        """The buffers behind a step."""
        return None

    def project(self, variables: Mapping[str, Any], source: Mapping[str, Any], head: Head) -> Params:
        """The parameters after an optimizer step, moved where the method allows them to be."""
        return variables["params"]


def logits_of(head: Mapping[str, Any], features: jax.Array) -> jax.Array:
    """[B, K] of features [B, D] and a classifier {"kernel": [D, K], "bias": [K]}, or one without a bias."""
    found = features @ head["kernel"].astype(features.dtype)
    return found + head["bias"].astype(features.dtype)[None] if "bias" in head else found


def wide(x: jax.Array) -> jax.Array:
    """At least float32: sums of squares in bfloat16 lose most of their terms."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def each_unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """`x` over its 2-norm along `axes`; zeros, which have no direction, stay zeros and have gradient 0."""
    x = wide(x)
    squares = jnp.sum(jnp.square(x), axis=axes, keepdims=True)
    some = squares > 0
    return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)


def of_one_pixel(shapes: Shapes, why: str) -> str:
    """The problem of a method that compares the positions of maps, if no tap has two of them."""
    if not shapes.maps or any(height * width > 1 for height, width, _ in shapes.maps.values()):
        return ""
    return (
        f"--config.taps: the maps at {', '.join(shapes.maps)} are of one pixel, {why}; choose taps further in front, "
        "or a larger --config.data.crop"
    )

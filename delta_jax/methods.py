"""The fine-tuning methods that are compared: what each trains, which penalty it adds, what it needs for that.

The loss of every method is  CE + alpha * penalty + beta * 1/2 ||head||^2;  cross-entropy and penalties per example are
averaged over the batch.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax import regularizers

Maps = Mapping[str, jax.Array]
Head = str | Sequence[str]  # module path of the classifier, or of several


@dataclass(frozen=True)
class Method:
    """A method adds up to one penalty per example and one on the parameters.

    Attributes:
      scale: "paper" or "reference", see `regularizers.feature_distance`.
      rectify: feature maps pass a ReLU before they are compared (the paper, section 3.3).
    """

    scale: str = "paper"
    rectify: bool = True

    trains_backbone = True
    decays_weights = False  # weight decay on all parameters takes the place of the penalties
    penalizes_head = True
    uses_source_maps = False
    uses_attention = False

    def example_penalty(self, maps: Maps, source_maps: Maps, attention: Maps | None) -> jax.Array | None:
        """[B], or None where there is nothing to pay per example."""
        return None

    def parameter_penalty(self, params: Mapping[str, Any], source_params: Mapping[str, Any], head: Head) -> jax.Array:
        """A scalar."""
        return jnp.zeros((), jnp.float32)


@dataclass(frozen=True)
class L2FE(Method):
    """The source network as fixed feature extractor: only the head is trained."""

    trains_backbone = False


@dataclass(frozen=True)
class L2(Method):
    """Plain fine-tuning with weight decay on every parameter."""

    decays_weights = True
    penalizes_head = False


@dataclass(frozen=True)
class L2SP(Method):
    """Weight decay towards the source's parameters instead of towards zero (Li et al., ICML 2018)."""

    def parameter_penalty(self, params, source_params, head):
        """1/2 ||w - w*||^2 without the head."""
        return regularizers.l2_sp(params, source_params, head=head)


@dataclass(frozen=True)
class DeltaWithoutAttention(Method):
    """Distance of the feature maps to the source's, all filters alike."""

    uses_source_maps = True

    def example_penalty(self, maps, source_maps, attention):
        """Eq. 5 with W = 1, [B]."""
        if self.rectify:
            maps, source_maps = jax.tree.map(jax.nn.relu, (dict(maps), dict(source_maps)))
        return regularizers.feature_distance(maps, source_maps, attention, scale=self.scale)


@dataclass(frozen=True)
class Delta(DeltaWithoutAttention):
    """Distance of the feature maps to the source's, weighted by the target's need of each filter (Li et al., 2019)."""

    uses_attention = True


_METHODS: dict[str, type[Method]] = {
    "l2_fe": L2FE,
    "l2": L2,
    "l2_sp": L2SP,
    "delta_without_attention": DeltaWithoutAttention,
    "delta": Delta,
}


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


def create(name: str, *, scale: str = "paper", rectify: bool = True) -> Method:
    """The method `name`; ValueError with the known names when there is none."""
    if name not in _METHODS:
        close = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no method called {name!r}; {hint}Known: {', '.join(_METHODS)}")
    return _METHODS[name](scale=scale, rectify=rectify)

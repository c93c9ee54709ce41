"""MARS-SP: rows of a layer's matrix at most a radius away from the source's, in the 1-norm (Gouk et al., ICLR 2021)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax.methods.method import Method

_EPSILON = 1e-6  # beside a variance, as in the authors' code


def project_rows(kernel: jax.Array, centre: jax.Array, radius: float) -> jax.Array:
    """centre + t / max(1, ||t||_1 / radius) of each row, t = kernel - centre; a row is what makes one output.

    The maximum of ||t||_1 over the rows is the operator norm of t for the maximum norm: the maximum absolute row sum.

    Args:
      kernel, centre: [..., out], of a Dense layer or a convolution.
      radius: more than 0.
    """
    away = kernel - centre
    sums = jnp.sum(jnp.abs(away), axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    return centre + away / jnp.maximum(1.0, sums / radius)


def project_gains(
    gain: jax.Array, variance: jax.Array, centre: jax.Array, centre_variance: jax.Array, radius: float
) -> jax.Array:
    """The same of BatchNorm, which multiplies by gain / sqrt(variance): a diagonal matrix. All [C]."""
    deviation = jnp.sqrt(variance + _EPSILON)
    middle = centre / jnp.sqrt(centre_variance + _EPSILON)
    return jnp.clip(gain / deviation, middle - radius, middle + radius) * deviation


@dataclass(frozen=True)
class MarsSP(Method):
    """Fine-tuning that is moved back, after each step, to within a radius of the source, layer by layer.

    Attributes:
      radius: of the layers outside of the head, around the source's.
      head_radius: of the head's kernel, around 0.
    """

    radius: float = 7.4
    head_radius: float = 7.4

    penalizes_head = False
    projects = True
    default_alpha = 0.0

    def project(self, variables, source, head):
        """Kernels by `project_rows`, gains of BatchNorm by `project_gains`; biases are free."""
        ours, theirs = flatten_dict(dict(variables["params"])), flatten_dict(dict(source["params"]))
        stats, their_stats = (flatten_dict(dict(one.get("batch_stats", {}))) for one in (variables, source))
        heads = (head,) if isinstance(head, str) else head
        moved = {}
        for path, leaf in ours.items():
            module, name = "/".join(map(str, path[:-1])), path[-1]
            variance = (*path[:-1], "var")
            if name == "kernel" and any(f"{module}/".startswith(f"{one}/") for one in heads):
                moved[path] = project_rows(leaf, jnp.zeros_like(leaf), self.head_radius)
            elif name == "kernel":
                moved[path] = project_rows(leaf, theirs[path], self.radius)
            elif name == "scale" and variance in stats:
                moved[path] = project_gains(leaf, stats[variance], theirs[path], their_stats[variance], self.radius)
            else:
                moved[path] = leaf
        return unflatten_dict(moved)

"""L2-SP: weight decay towards the source, 1/2 ||w - w*||^2 (Li, Grandvalet, Davoine, ICML 2018)."""

from dataclasses import dataclass

from delta_jax import regularizers
from delta_jax.methods.method import Method


@dataclass(frozen=True)
class L2SP(Method):
    """Weight decay towards the source's parameters: all but the head, BatchNorm's too, as DELTA's code compares it."""

    default_alpha = 0.01

    def parameter_penalty(self, params, source_params, head, measured=None):
        """1/2 ||w - w*||^2 without the head."""
        return regularizers.l2_sp(params, source_params, head=head)


@dataclass(frozen=True)
class L2SPKernels(Method):
    """The same on kernels alone: what L2-SP's authors' code does unless told otherwise."""

    default_alpha = 0.1

    def parameter_penalty(self, params, source_params, head, measured=None):
        """1/2 ||w - w*||^2 of the kernels outside of the head."""
        return regularizers.l2_sp(params, source_params, head=head, kernels=True)

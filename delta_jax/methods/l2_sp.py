"""L2-SP: weight decay towards the source, 1/2 ||w - w*||^2 (Li et al., ICML 2018)."""

from dataclasses import dataclass

from delta_jax import regularizers
from delta_jax.methods.method import Method


@dataclass(frozen=True)
class L2SP(Method):
    """Weight decay towards the source's parameters instead of towards zero (Li et al., ICML 2018)."""

    def parameter_penalty(self, params, source_params, head):
        """1/2 ||w - w*||^2 without the head."""
        return regularizers.l2_sp(params, source_params, head=head)

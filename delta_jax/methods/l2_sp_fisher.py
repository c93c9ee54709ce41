"""L2-SP-Fisher: 1/2 sum_j F_j (w_j - w*_j)^2, F how much the source's answers depend on w_j (Li et al., ICML 2018)."""

from dataclasses import dataclass

from delta_jax import regularizers
from delta_jax.methods.method import Method


@dataclass(frozen=True)
class L2SPFisher(Method):
    """L2-SP on kernels that weighs each number by the diagonal of the source's Fisher information; its mean is 1."""

    measures = ("fisher",)
    uses_source_head = True
    default_alpha = 0.1

    def parameter_penalty(self, params, source_params, head, measured=None):
        """1/2 sum F (w - w*)^2 of the kernels outside of the head."""
        return regularizers.l2_sp(params, source_params, head=head, kernels=True, weights=measured["fisher"])

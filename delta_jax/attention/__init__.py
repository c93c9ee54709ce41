"""Which filters of the source network serve the target already: DELTA's supervised attention (ICLR 2019), Eq. 6."""

from delta_jax.attention.gaps import CLASSES, ESTIMATORS, filter_gaps
from delta_jax.attention.weights import NORMALIZATIONS, SCOPES, normalize, signal_of

__all__ = ["CLASSES", "ESTIMATORS", "NORMALIZATIONS", "SCOPES", "filter_gaps", "normalize", "signal_of"]

"""Fine-tuning of pretrained CNNs with feature-map regularisation (DELTA) in JAX and Flax.

Pure functions of arrays and Flax variables; importing this loads no data pipeline, checkpointing or flags.
"""

from delta_jax import attention, features, methods, models, precision, regularizers, weights

__version__ = "0.1.0"
__all__ = ["attention", "features", "methods", "models", "precision", "regularizers", "weights"]

"""Models of other frameworks as ones that `features` and `attention` take: one file each, imported only when used.

`adapt` of `nnx`, `equinox`, `haiku` or `keras` here returns a model and its variables. None of the frameworks is needed
for the rest of delta_jax.
"""

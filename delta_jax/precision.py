"""Products of matrices in full float32, on every chip, and which ones of a model are not.

TPUs multiply float32 in bfloat16 by default, and GPUs since the A100 in TF32. Gaps are differences of losses of about
1e-4: they would be noise.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# Of products of float32, see `of`.
PRECISIONS = ("default", "high", "highest")

_PRODUCTS = ("dot_general", "conv_general_dilated")
_FULL = (lax.Precision.HIGHEST, lax.DotAlgorithmPreset.F32_F32_F32, lax.DotAlgorithmPreset.F64_F64_F64)


def of(name: str) -> AbstractContextManager:
    """Context in which jax traces products of float32 in a precision, but for layers that ask for one of their own.

    To be entered inside of a function that is traced: then the function is the same whoever calls it.

    Args:
      name: "default": the caller's, `jax.default_matmul_precision`, or else the chip's own; "high": three passes in
        bfloat16 on TPUs, TF32 on GPUs; "highest": float32.
    """
    return nullcontext() if name == "default" else jax.default_matmul_precision(name)


def full() -> AbstractContextManager:
    """As `of`: full float32 on every chip."""
    return of("highest")


def computes_bfloat16() -> bool:
    """Whether the default device gets a compiled block of a network right: product, shortcut, ReLU and mean.

    XLA for CPUs, in jax 0.11.2 to 0.12.0.1, returns NaN or numbers of up to 1e38 for it
    (findings/jax_bfloat16_on_cpu.sh).
    """

    def block(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jnp.maximum(x, 0)
        return jnp.mean(jnp.maximum(x + x @ kernel, 0).astype(jnp.float32), 1)

    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((24, 16, 40), np.float32), rng.standard_normal((40, 40), np.float32)
    positive = np.maximum(x, 0)
    right = np.maximum(positive + positive @ kernel, 0).mean(1)
    found = np.asarray(jax.jit(block)(jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)))
    # Three roundings to 8 bits; NaN is not close.
    return bool(np.allclose(found, right, rtol=0, atol=0.02 * right.max()))


def narrow_products(function: Callable[..., Any], *args: Any) -> list[str]:
    """Convolutions and matrix products of a function that are not in full float32 even under `full`.

    Args:
      function: of arrays; it is traced, not run.
      *args: its arguments, or their shapes.

    Returns:
      For each what it computes in: "bfloat16", or a precision that a layer asked for, such as "DEFAULT".
    """
    with full():
        closed = jax.make_jaxpr(function)(*args)
    return [what for equation in _equations(closed.jaxpr) if (what := _narrower(equation))]


def _narrower(equation: JaxprEqn) -> str:
    if equation.primitive.name not in _PRODUCTS:
        return ""
    types: list[Any] = [operand.aval for operand in equation.invars[:2]]
    floats = [one.dtype for one in types if jnp.issubdtype(one.dtype, jnp.inexact)]
    if narrow := [dtype for dtype in floats if jnp.finfo(dtype).bits < 32]:
        return np.dtype(narrow[0]).name
    if all(jnp.finfo(dtype).bits > 32 for dtype in floats):
        return ""  # no chip has less to offer for float64
    asked = equation.params["precision"]
    both = asked if isinstance(asked, tuple) else (asked,)
    return next((getattr(one, "name", str(one)) for one in both if one not in _FULL), "")


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)

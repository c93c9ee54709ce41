"""How many floating-point operations a function takes: those of its convolutions and matrix products."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of `function(*arguments)`; a multiplication with its addition counts as two.

    Nothing is computed or compiled: the equations of the traced function are added up. Convolutions and matrix products
    count, as in published figures for networks, which give half of this number (multiply-adds); padding is counted like
    pixels. A while loop counts as one round, of a branch the most expensive side.

    Args:
      function: traceable by jax.
      *arguments: pytrees of arrays, or of their shapes.
    """
    return _of_equations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_equations(jaxpr: Any) -> int:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    kind, parameters = equation.primitive.name, equation.params
    if kind == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        filters = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * math.prod(kernel) // filters
    if kind == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    inner = [_of_equations(jaxpr) for jaxpr in _inner(parameters)]
    if kind == "cond":
        return max(inner)
    return parameters["length"] * sum(inner) if kind == "scan" else sum(inner)


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(one, "jaxpr", one)  # of a closed one
            if hasattr(jaxpr, "eqns"):
                yield jaxpr

"""The network of a run as one program, images in and probabilities out, also in operations that other programs know."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from delta_jax import data, equations, models, precision
from delta_jax.exports.errors import ExportError
from delta_jax.training.classifier import Classifier

Program = Callable[[jax.Array], jax.Array]
Rule = Callable[[core.JaxprEqn, Sequence[Any]], Any]  # returns None where it does not apply

# Repeats of a lax.scan that are written out; onnxruntime's loops are slow, and LiteRT's converter has none for weights.
_LONGEST_SCAN = 64
# Equations that only say something to compilers.
_MARKS = frozenset(["name", "optimization_barrier", "tap"])


def program(trained: Classifier, *, pixels: bool) -> Program:
    """Images [B, crop, crop, 3] -> probabilities [B, K], float32; the variables are part of it.

    Args:
      trained: what a run ended with.
      pixels: whether the images are uint8 as decoded and cropped, or normalised float32.

    Raises:
      ExportError: when it is traced, where the network wants the number of images to be known.
    """
    model = models.create(trained.arch, num_classes=len(trained.class_names))
    seen = trained.preprocessing

    def run(images: jax.Array) -> jax.Array:
        with precision.full():
            given = data.normalize(images, seen.mean, seen.std) if pixels else images
            try:
                logits: Any = model.apply(trained.variables, given)
            except Exception as error:  # a network of one's own raises what it likes
                line = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ExportError(
                    f"{trained.arch} does not take images [{', '.join(map(str, images.shape))}], where batch stands "
                    f"for any number ({line}); a network that asks for len(x) is to take x.shape[0]"
                ) from error
        return jax.nn.softmax(logits.astype(jnp.float32))

    return run


def images_of(trained: Classifier, batch: Any, *, pixels: bool) -> jax.ShapeDtypeStruct:
    """Shape and type of the program's input for a batch of so many images, a number or symbolic."""
    side = trained.preprocessing.crop
    return jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8 if pixels else jnp.float32)


def plain(function: Program, images: jax.ShapeDtypeStruct, rules: Mapping[str, Rule] | None = None) -> Program:
    """The same function without calls, custom derivatives, names and choices by platform; not to be differentiated.

    What does not depend on the images, such as scale and shift of a BatchNorm, is computed here.

    Args:
      function: of one array.
      images: what it is traced for; the result takes images of that shape and type.
      rules: {name of a primitive: (equation, inputs) -> its one output, written otherwise}.
    """
    closed = jax.make_jaxpr(function)(images)

    def walk(jaxpr: core.Jaxpr, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *given), strict=True))

        def read(v: Any) -> Any:
            return v.val if isinstance(v, core.Literal) else known[v]

        for equation in jaxpr.eqns:
            if equation.primitive.name == "platform_index":  # says which branch; `_inner` has chosen
                known[equation.outvars[0]] = None
                continue
            if equation.primitive.name == "scan" and equation.params["length"] <= _LONGEST_SCAN:
                found = _written_out(equation, [read(v) for v in equation.invars], walk)
            elif inner := _inner(equation):
                called, left_out = inner
                found = walk(called.jaxpr, called.consts, [read(v) for v in equation.invars[left_out:]])
            else:
                found = _evaluated(equation, [read(v) for v in equation.invars], rules or {})
            known.update(zip(equation.outvars, found, strict=True))
        return [read(v) for v in jaxpr.outvars]

    return lambda x: walk(closed.jaxpr, closed.consts, [x])[0]


def _inner(equation: core.JaxprEqn) -> tuple[core.ClosedJaxpr, int] | None:
    """As `equations.program_of`, but of a choice by platform the branch for all the others: XLA's own operations."""
    if not (platforms := equation.params.get("branches_platforms")):
        return equations.program_of(equation)
    branches = zip(equation.params["branches"], platforms, strict=True)
    # In order: the branch for no platform in particular, that for CPUs, and whatever there is.
    return min(branches, key=lambda branch: (branch[1] is not None, branch[1] and "cpu" not in branch[1]))[0], 1


def _written_out(equation: core.JaxprEqn, inputs: Sequence[Any], walk: Callable[..., list[Any]]) -> list[Any]:
    """A lax.scan as its steps, one after the other."""
    params, times = equation.params, range(equation.params["length"])
    body, first, carried = params["jaxpr"], params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, stacked = inputs[:first], inputs[first:carried], inputs[carried:]
    outputs: dict[int, list[Any]] = {}
    for time in reversed(times) if params["reverse"] else times:
        found = walk(body.jaxpr, body.consts, [*consts, *carry, *(_of_time(array, time) for array in stacked)])
        carry, outputs[time] = found[: params["num_carry"]], found[params["num_carry"] :]
    used = [type(v).__name__ != "DropVar" for v in equation.outvars[params["num_carry"] :]]
    stacks = zip(used, zip(*(outputs[time] for time in times), strict=True), strict=True)
    return [*carry, *(jnp.stack(arrays) if wanted else None for wanted, arrays in stacks)]


def _of_time(array: Any, time: int) -> Any:
    if isinstance(array, jax.core.Tracer):
        return array[time]
    with jax.ensure_compile_time_eval():  # weights: else each step would hold those of all
        return jnp.asarray(array)[time]


def _evaluated(equation: core.JaxprEqn, inputs: Sequence[Any], rules: Mapping[str, Rule]) -> list[Any]:
    name = equation.primitive.name
    if name in _MARKS:
        return list(inputs)
    if not any(isinstance(value, jax.core.Tracer) for value in inputs):
        with jax.ensure_compile_time_eval():
            return _bound(equation, inputs)
    changed = rules[name](equation, inputs) if name in rules else None
    return _bound(equation, inputs) if changed is None else [changed]


def dense_as_convolution(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Any:
    """A rule for dot_general: a Dense layer on [B, ..., C] as a convolution of 1 x 1."""
    (x, kernel), params = inputs, equation.params
    if params["dimension_numbers"] != (((x.ndim - 1,), (0,)), ((), ())) or x.ndim < 3 or kernel.ndim != 2:
        return None
    found = lax.conv_general_dilated(
        x.reshape(x.shape[0], math.prod(x.shape[1:-1]), 1, x.shape[-1]),
        kernel[None, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return found.reshape(*x.shape[:-1], kernel.shape[-1])


def _bound(equation: core.JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    with equation.ctx.manager:
        out = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
    return list(out) if equation.primitive.multiple_results else [out]


def padding_of_numpy(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Any:
    """A rule for pad: `jax.numpy.pad`, for programs that know this one."""
    (x, value), config = inputs, equation.params["padding_config"]
    if isinstance(value, jax.core.Tracer) or any(low < 0 or high < 0 or between for low, high, between in config):
        return None
    return jnp.pad(x, [(low, high) for low, high, _ in config], constant_values=np.asarray(value).item())


def pooling_of_flax(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Any:
    """A rule for reduce_window_max and reduce_window_sum: flax's pooling, for programs that know this one.

    Windows that reach over images or channels, or have gaps, are left as they are.
    """
    (x,), params = inputs, equation.params
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    ends = [(window[i], strides[i], tuple(padding[i])) for i in (0, -1)] if len(window) > 2 else []
    gaps = (*params["base_dilation"], *params["window_dilation"])
    if ends != [(1, 1, (0, 0))] * 2 or any(gap != 1 for gap in gaps):
        return None
    largest = equation.primitive.name == "reduce_window_max"
    if any(low or high for low, high in padding):
        x = jnp.pad(x, padding, constant_values=-np.inf if largest else 0)
    inside = tuple(window[1:-1])
    # By keyword, and no padding of its own: that much is what jax2onnx knows of them.
    where = {"window_shape": inside, "strides": tuple(strides[1:-1]), "padding": "VALID"}
    if largest:
        return nn.max_pool(x, **where)
    return nn.avg_pool(x, **where) * jnp.array(math.prod(inside), x.dtype)

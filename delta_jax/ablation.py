"""One filter set to zero: what follows from it, at the price of what it changes.

A network behind a tap first treats each channel on its own (BatchNorm, ReLU, pooling, a skip connection), then mixes
the channels (a convolution, a linear layer). Up to the mixing, all filters can be silenced in one pass, each in its own
channel. In the mixing itself one changed channel adds a term of rank one to what is known already. Only behind it does
every filter need a forward pass of its own. Where nothing follows but pooling and a linear head, none is left: the rank
one terms are the closed form.

All of this is found in the program that jax traces, so it holds for any model.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from delta_jax import equations, repeats, winograd

# Primitives whose output at a position depends on their inputs at that position alone.
# fmt: off
_ELEMENTWISE = frozenset(
    [
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
        "ceil", "clamp", "convert_element_type", "copy", "cos", "cosh", "digamma", "div", "eq", "erf",
        "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le",
        "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name", "ne", "neg", "nextafter", "not", "or",
        "pow", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square",
        "stop_gradient", "sub", "tan", "tap", "tanh", "xor",
    ]
)
# fmt: on
_REDUCTIONS = frozenset(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"])
_WINDOWS = frozenset(["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"])
_MIXING = frozenset(["dot_general", "conv_general_dilated", "cond", "while", "scan"])
# A kernel with more positions than this is not unrolled into shifted sums.
_MOST_SHIFTS = 49


@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
    """An array of the program.

    Attributes:
      base: what it is when no filter is silenced; where nobody asks for that, its shape and type.
    """

    base: Any


@dataclasses.dataclass(frozen=True, eq=False)
class _Channelwise(_Value):
    """Silencing filter j changes channel first + j alone.

    Attributes:
      silenced: as `base`, with every filter's channel as it is when that filter is silenced.
      axis: of the channels.
      first: channel of filter 0.
    """

    silenced: Any
    axis: int
    first: int

    def materialize(self, j: jax.Array) -> jax.Array:
        """The whole array when filter j is silenced."""
        channel = lax.broadcasted_iota(jnp.int32, jnp.shape(self.base), self.axis)
        return jnp.where(channel == j + self.first, self.silenced, self.base)

    def change(self, j: jax.Array) -> jax.Array:
        """What silencing filter j adds to its channel; the channel axis is gone."""
        return lax.dynamic_index_in_dim(self.silenced - self.base, j + self.first, self.axis, keepdims=False)

    def channel(self, operand: jax.Array, axis: int, j: jax.Array) -> jax.Array:
        """What `operand` holds for the channel of filter j along its axis `axis`, which is gone then."""
        return lax.dynamic_index_in_dim(operand, j + self.first, axis, keepdims=False)


@dataclasses.dataclass(frozen=True, eq=False)
class _PerFilter(_Value):
    """Silencing a filter may change all of it."""


@dataclasses.dataclass(frozen=True)
class _Equation:
    """A step of the program that runs once per filter.

    Attributes:
      inputs, outputs: of the step.
      run: arrays of the inputs -> arrays of the outputs.
      term: filter -> what silencing it adds to the one output; None where it has to be run.
      mixes: whether it is a convolution, a matrix product or a control flow that has to be run.
      product: (rows, multiplications) of a convolution or matrix product.
    """

    inputs: list[_Value]
    outputs: list[_Value]
    run: Callable[[Sequence[Any]], list[Any]]
    term: Callable[[jax.Array], jax.Array] | None
    mixes: bool
    product: tuple[int, int] | None


class Ablation:
    """A function of feature maps, with one filter of the maps set to zero.

    Use it inside one `jit`.

    Attributes:
      output: of the function, with all filters in place.
      live: bool [C]; where False, silencing the filter changes nothing behind the channel-wise part, bit for bit.
      bytes_per_filter: memory that `without` may need at once.
      rows_per_filter: positions of the maps that `without` convolves or multiplies: their harmonic mean, weighted by
        the multiplications; 1 where there are none.
      has_closed_form: whether `without` has no convolution, matrix product or loop to run, so that it costs next to
        nothing.
    """

    def __init__(self, function: Callable[[jax.Array], jax.Array], maps: jax.Array, *, rolled: bool = False):
        """Runs the function once, and its channel-wise part for all filters.

        Args:
          function: maps -> one array.
          maps: [..., C], C filters.
          rolled: whether what repeats in the function is compiled once, see `repeats`.
        """
        closed = jax.make_jaxpr(function)(maps)
        self._equations: list[_Equation] = []
        self._rolled = rolled
        # Behind a barrier: XLA would work out the pooling of a constant while it compiles, which takes it seconds.
        zeros = lax.optimization_barrier(jnp.zeros_like(maps))
        start = _Channelwise(maps, zeros, maps.ndim - 1, 0)
        found = self._run(closed, start)
        if len(found) != 1:
            raise ValueError(f"the model returns {len(found)} arrays, expected one: logits [B, K]")
        self._result = found[0]
        self.output: jax.Array = repeats.rolled(partial(self._outcome, None))() if rolled else self._result.base
        self.live = self._find_live(maps.shape[-1])
        self.bytes_per_filter = self._peak_bytes()
        self.rows_per_filter = self._mean_rows()
        self.has_closed_form = not any(one.mixes for one in self._equations)

    def without(self, j: jax.Array) -> jax.Array:
        """The function's output when filter j, an integer scalar, is zero; to be vmapped over j."""
        return repeats.rolled(self._outcome)(j) if self._rolled else self._outcome(j)

    def _outcome(self, j: jax.Array | None) -> jax.Array:
        """The function's output without filter j, or with all; the channel-wise part has been run."""
        found: dict[int, Any] = {}

        def now(value: _Value) -> Any:
            if isinstance(value, _Channelwise) and j is not None:
                return value.materialize(j)
            return found[id(value)] if isinstance(value, _PerFilter) else value.base

        for one in self._equations:
            if one.term:
                new = [one.outputs[0].base if j is None else one.outputs[0].base + one.term(j)]
            else:
                new = one.run([now(value) for value in one.inputs])
            found |= {id(value): array for value, array in zip(one.outputs, new, strict=True)}
        return now(self._result)

    def _run(self, closed: ClosedJaxpr, argument: _Value) -> list[_Value]:
        program = equations.flat(closed)
        known = {name: _Value(constant) for name, constant in program.constants.items()}
        known |= dict.fromkeys(program.arguments, argument)
        for step in program.steps:
            arrays = iter([known[name] for name in step.inputs])
            inputs = [_Value(v.val) if isinstance(v, Literal) else next(arrays) for v in step.equation.invars]
            known |= zip(step.outputs, self._step(step, inputs), strict=True)
        return [known[name] for name in program.results]

    def _step(self, step: equations.Step, inputs: list[_Value]) -> list[_Value]:
        equation = step.equation
        run: Callable[[Sequence[Any]], list[Any]] = partial(_bind, step)
        if all(type(value) is _Value for value in inputs):
            return [_Value(base) for base in run([value.base for value in inputs])]
        axis = _channel_axis_after(equation, inputs)
        if axis is not None:
            local = [value for value in inputs if isinstance(value, _Channelwise)]
            silenced = run([v.silenced if isinstance(v, _Channelwise) else v.base for v in inputs])
            bases = run([value.base for value in inputs])
            first = local[0].first + _channels_in_front(equation, inputs)
            return [_Channelwise(base, one, axis, first) for base, one in zip(bases, silenced, strict=True)]
        run = _faster(step, inputs) or run
        term = _rank_one(equation, inputs)
        # By the same operations as without a filter: what they round alike cancels in the difference.
        known = [value.base for value in inputs]
        bases = run(known) if term or not self._rolled else jax.eval_shape(run, known)
        outputs: list[_Value] = [_PerFilter(base) for base in bases]
        mixes = term is None and equation.primitive.name in _MIXING
        self._equations.append(_Equation(inputs, outputs, run, term, mixes, _product(equation, inputs)))
        return outputs

    def _find_live(self, filters: int) -> jax.Array:
        used = [value for one in self._equations for value in one.inputs] + [self._result]
        frontier = {id(value): value for value in used if isinstance(value, _Channelwise)}
        live = jnp.zeros((filters,), bool)
        for value in frontier.values():
            others = tuple(axis for axis in range(value.base.ndim) if axis != value.axis)
            # Not equal, rather than a difference that is not 0: true for NaN as well.
            changed = jnp.any(value.silenced != value.base, others)
            live |= lax.slice_in_dim(changed, value.first, value.first + filters)
        return live

    def _peak_bytes(self) -> int:
        """Of the arrays of `without` that wait for their last use, were none of them fused away."""
        last_use = {id(value): t for t, one in enumerate(self._equations) for value in one.inputs}
        alive: dict[int, int] = {}
        peak = 0
        for t, one in enumerate(self._equations):
            alive |= {id(value): value.base.size * value.base.dtype.itemsize for value in one.outputs}
            peak = max(peak, sum(alive.values()))
            alive = {key: size for key, size in alive.items() if last_use.get(key, -1) > t}
        return peak

    def _mean_rows(self) -> float:
        products = [one.product for one in self._equations if one.mixes and one.product]
        return sum(n for _, n in products) / (sum(n / rows for rows, n in products) or 1) if products else 1.0


def _product(equation: JaxprEqn, inputs: Sequence[_Value]) -> tuple[int, int] | None:
    """(rows, multiplications) of a convolution or matrix product of one filter's maps; None for what is neither."""
    name, params = equation.primitive.name, equation.params
    shapes = [jnp.shape(value.base) for value in inputs]
    if name == "dot_general":
        contracted = params["dimension_numbers"][0]
        maps = next(side for side, value in enumerate(inputs) if type(value) is not _Value)
        depth = math.prod(shapes[maps][axis] for axis in contracted[maps])
        return math.prod(shapes[maps]) // depth, math.prod(_shape_of_output(equation)) * depth
    if name == "conv_general_dilated":
        out, kernel = params["dimension_numbers"].out_spec, params["dimension_numbers"].rhs_spec
        shape = _shape_of_output(equation)
        size, features = math.prod(shape), shape[out[1]]
        return size // features, size * math.prod(shapes[1]) // shapes[1][kernel[0]]
    return None


def _bind(step: equations.Step, operands: Sequence[Any]) -> list[Any]:
    """Outputs of a step from all its operands; those that are literals are so whatever is given."""
    variables = zip(step.equation.invars, operands, strict=True)
    return step.run([operand for v, operand in variables if not isinstance(v, Literal)])


def _faster(step: equations.Step, inputs: Sequence[_Value]) -> Callable[[Sequence[Any]], list[Any]] | None:
    """Another way to run a 3x3 convolution with a kernel that all filters share; None where there is none."""
    if step.equation.primitive.name != "conv_general_dilated" or type(inputs[1]) is not _Value:
        return None
    kernel, params = inputs[1].base, step.equation.params
    if not winograd.suits(inputs[0].base, kernel, params):
        return None
    transformed = winograd.transform_kernel(kernel)  # here, once for all filters

    def run(arguments: Sequence[Any]) -> list[Any]:
        # GPUs and TPUs have their own algorithms.
        on_cpu = partial(winograd.convolve, padding=params["padding"])
        by_platform = lax.platform_dependent(
            arguments[0],
            kernel,
            transformed,
            cpu=lambda x, _, transformed: on_cpu(x, transformed),
            default=lambda x, kernel, _: _bind(step, [x, kernel])[0],
        )
        return [by_platform]

    return run


def _channel_axis_after(equation: JaxprEqn, inputs: Sequence[_Value]) -> int | None:
    """Where the channels lie in the output, if each of its channels depends on the same channel of the input alone."""
    local = [value for value in inputs if isinstance(value, _Channelwise)]
    if not local or any(isinstance(value, _PerFilter) for value in inputs):
        return None
    axis, first, name = local[0].axis, local[0].first, equation.primitive.name
    if any((value.axis, value.first) != (axis, first) for value in local):
        return None
    shape, params = local[0].base.shape, equation.params
    if name in _ELEMENTWISE:
        return axis if _shape_of_output(equation) == shape else None
    if name == "concatenate":
        return axis if params["dimension"] != axis or len(local) == 1 else None
    if inputs[0] is not local[0] or len(local) > 1:
        return None
    if name == "conv_general_dilated":
        dimensions = params["dimension_numbers"]
        depthwise = dimensions.lhs_spec[1] == axis and params["feature_group_count"] == shape[axis]
        one_each = _shape_of_output(equation)[dimensions.out_spec[1]] == shape[axis]
        return dimensions.out_spec[1] if depthwise and one_each and params["batch_group_count"] == 1 else None
    return _axis_after_reshaping(name, params, shape, axis)


def _shape_of_output(equation: JaxprEqn) -> tuple[int, ...]:
    aval: Any = equation.outvars[0].aval
    return aval.shape


def _axis_after_reshaping(name: str, params: Any, shape: tuple[int, ...], axis: int) -> int | None:
    """The same for primitives that move, drop, cut or reduce axes of one array of the given shape."""
    if name == "broadcast_in_dim":
        target = params["broadcast_dimensions"][axis]
        return target if params["shape"][target] == shape[axis] else None
    if name == "reshape":
        new, behind = params["new_sizes"], math.prod(shape[axis + 1 :])
        fits = (a for a, size in enumerate(new) if size == shape[axis] and math.prod(new[a + 1 :]) == behind)
        return next(fits, None) if params["dimensions"] is None else None
    if name == "transpose":
        return params["permutation"].index(axis)
    if name == "squeeze":
        return None if axis in params["dimensions"] else axis - sum(d < axis for d in params["dimensions"])
    if name in _REDUCTIONS:
        return None if axis in params["axes"] else axis - sum(a < axis for a in params["axes"])
    if name in _WINDOWS:
        alone = (
            params["window_dimensions"][axis] == params["window_strides"][axis] == 1
            and tuple(params["padding"][axis]) == (0, 0)
            and params["base_dilation"][axis] == params["window_dilation"][axis] == 1
        )
        return axis if alone else None
    if name == "pad":
        return axis if tuple(params["padding_config"][axis]) == (0, 0, 0) else None
    if name == "slice":
        whole = params["start_indices"][axis] == 0 and params["limit_indices"][axis] == shape[axis]
        return axis if whole and (params["strides"] is None or params["strides"][axis] == 1) else None
    if name == "rev":
        return None if axis in params["dimensions"] else axis
    return None


def _channels_in_front(equation: JaxprEqn, inputs: Sequence[_Value]) -> int:
    """How many channels a concatenation along the channel axis puts before those of the filters."""
    count = 0
    if equation.primitive.name == "concatenate":
        dimension = equation.params["dimension"]
        for value in inputs:
            if isinstance(value, _Channelwise):
                return count if value.axis == dimension else 0
            count += value.base.shape[dimension]
    return 0


def _rank_one(equation: JaxprEqn, inputs: Sequence[_Value]) -> Callable[[jax.Array], jax.Array] | None:
    """Filter -> what silencing it adds to the output of an operation that is linear over the channels, or None."""
    name, params, source = equation.primitive.name, equation.params, inputs[0]
    if name == "dot_general":
        return _rank_one_product(params, inputs)
    if not isinstance(source, _Channelwise):
        return None
    if name == "conv_general_dilated" and type(inputs[1]) is _Value:
        return _rank_one_convolution(params, source, inputs[1].base)
    if name == "reduce_sum" and jnp.issubdtype(source.base.dtype, jnp.floating):
        axes = tuple(a - (a > source.axis) for a in params["axes"] if a != source.axis)
        return lambda j: jnp.sum(source.change(j), axes)
    return None


def _rank_one_product(params: Any, inputs: Sequence[_Value]) -> Callable[[jax.Array], jax.Array] | None:
    (contracted, batch) = params["dimension_numbers"]
    if len(contracted[0]) != 1 or batch[0]:
        return None
    for side, other in ((0, 1), (1, 0)):
        source, operand = inputs[side], inputs[other]
        if isinstance(source, _Channelwise) and type(operand) is _Value and source.axis == contracted[side][0]:
            dtype = params["preferred_element_type"] or jnp.result_type(source.base, operand.base)
            return partial(_outer, source, operand.base, contracted[other][0], dtype, side == 1)
    return None


def _outer(
    source: _Channelwise, operand: jax.Array, axis: int, dtype: Any, operand_first: bool, j: jax.Array
) -> jax.Array:
    """The change of a filter's channel times what the other operand of a product has for it along `axis`."""
    pair = source.change(j).astype(dtype), source.channel(operand, axis, j).astype(dtype)
    return jnp.multiply.outer(*(pair[::-1] if operand_first else pair))


def _rank_one_convolution(
    params: Any, source: _Channelwise, kernel: jax.Array
) -> Callable[[jax.Array], jax.Array] | None:
    """The change of one channel, shifted to every position of the kernel and weighed with what the kernel has there."""
    dimensions = params["dimension_numbers"]
    groups = params["feature_group_count"], params["batch_group_count"]
    window = [kernel.shape[axis] for axis in dimensions.rhs_spec[2:]]
    if source.axis != dimensions.lhs_spec[1] or groups != (1, 1) or math.prod(window) > _MOST_SHIFTS:
        return None
    strides, dilations, into = params["window_strides"], params["rhs_dilation"], dimensions.rhs_spec[1]
    edges = [(low, high, d - 1) for (low, high), d in zip(params["padding"], params["lhs_dilation"], strict=True)]
    # From the layouts of the operands, less the channel axis, to [B, spatial...] and [spatial..., out], and back.
    image_axes = [a - (a > source.axis) for a in (dimensions.lhs_spec[0], *dimensions.lhs_spec[2:])]
    kernel_axes = [a - (a > into) for a in (*dimensions.rhs_spec[2:], dimensions.rhs_spec[0])]
    out_axes = np.argsort([dimensions.out_spec[0], *dimensions.out_spec[2:], dimensions.out_spec[1]])
    dtype = params["preferred_element_type"] or jnp.result_type(source.base, kernel)

    def term(j: jax.Array) -> jax.Array:
        change = lax.transpose(source.change(j), image_axes)
        change = lax.pad(change, jnp.zeros((), change.dtype), [(0, 0, 0), *edges])
        weights = lax.transpose(source.channel(kernel, into, j), kernel_axes).astype(dtype)
        sizes = [
            (n - (w - 1) * d - 1) // s + 1
            for n, w, d, s in zip(change.shape[1:], window, dilations, strides, strict=True)
        ]
        total: Any = None
        for position in itertools.product(*map(range, window)):
            starts = [p * d for p, d in zip(position, dilations, strict=True)]
            ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, sizes, strides, strict=True)]
            shifted = lax.slice(change, (0, *starts), (change.shape[0], *ends), (1, *strides)).astype(dtype)
            one = shifted[..., None] * jnp.expand_dims(weights[position], tuple(range(shifted.ndim)))
            total = one if total is None else total + one
        return lax.transpose(total, out_axes)

    return term

"""What the classifier of a network gets to see."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax import equations, precision
from delta_jax.features.forward import Pass, ambiguous
from delta_jax.features.marks import Path

_PRODUCTS = ("dot_general", "conv_general_dilated")


def head_inputs(model: Any, variables: Any, x: Any, head: str, **kwargs: Any) -> jax.Array:
    """What the head gets to see: the features [B, D] on which a linear classifier is trained (L2-FE).

    They are what the head's kernel is multiplied with in the program, before a head that computes in fewer bits rounds
    them. Products are in full float32 on every chip, see `precision.full`.

    Args:
      model: as of `apply_with_taps`; its output should be what the linear layer at `head` returns.
      variables: its variables.
      x: images [B, H, W, 3].
      head: module path of the classifier, or of its kernel, among the parameters.
      **kwargs: passed on to the model.

    Raises:
      ValueError: there is no linear layer at `head`, or it does not run once, on features [B, D].
    """
    leaves = _kernels(variables, head)
    with precision.full():
        forward = Pass(model, variables, x, kwargs)
    program = equations.flat(forward.closed, lambda equation: not equations.has_rule(equation))
    name, axes = _seen(program, variables, leaves, head, [forward.arguments[n].ndim for n in leaves])
    known = program.constants | dict(zip(program.arguments, forward.arguments, strict=True))
    steps = [step for step in program.steps if not step.equation.effects]
    equations.run(equations.needed(steps, [name]), known, [name])
    return jnp.transpose(known[name], axes)


def with_head_inputs(
    run: Callable[..., Any], variables: Any, others: Sequence[Any], head: str
) -> tuple[Any, jax.Array]:
    """What `run(variables, *others)` returns, and what the head gets to see on the way [B, D]: one pass, not two.

    Both can be differentiated. Unlike `head_inputs` it leaves the precision of products as it is.

    Args:
      run: has the head's product in it once, outside of `jax.checkpoint` and of functions with gradient rules.
      variables: of the network.
      others: images, and whatever else depends on them.
      head: module path of the classifier.

    Raises:
      ValueError: as `head_inputs`.
    """
    leaves = _kernels(variables, head)
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(variables, *others)
    program = equations.flat(closed, _is_plain_call)
    arguments = jax.tree.leaves((variables, *others))
    name, axes = _seen(program, variables, leaves, head, [arguments[n].ndim for n in leaves])
    known = program.constants | dict(zip(program.arguments, arguments, strict=True))
    wanted = [*program.results, name]
    equations.run(equations.needed(program.steps, wanted), known, wanted)
    outputs = jax.tree.unflatten(jax.tree.structure(shapes), [known[one] for one in program.results])
    return outputs, jnp.transpose(known[name], axes)


def _is_plain_call(equation: Any) -> bool:
    special = equations.has_rule(equation) or equations.is_checkpoint(equation)
    return not (special or equation.params.get("branches_platforms"))


def _kernels(variables: Any, head: str) -> list[int]:
    """Numbers of the head's leaves among those of the variables."""
    leaves = parameters(variables)
    modules = {path[:end] for path in leaves for end in range(1, len(path) + 1)}
    paths = [path for path in modules if "/".join(path) == head]
    if len(paths) > 1:
        raise ambiguous(head)
    if not paths:
        names = ["/".join(path) for path in modules - leaves.keys()]
        close = difflib.get_close_matches(head, names, n=3) or sorted({path[0] for path in modules})
        raise ValueError(f"no module {head!r} in the parameters; did you mean {' or '.join(map(repr, close))}?")
    return [n for path, n in leaves.items() if paths[0] in (path, path[:-1])]


def _seen(
    program: equations.Steps, variables: Any, leaves: Sequence[int], head: str, dimensions: Sequence[int]
) -> tuple[int, Any]:
    """(name of what the head's kernel is multiplied with, axes of it that make [B, D])."""
    kernels = [program.arguments[n] for n, ndim in zip(leaves, dimensions, strict=True) if ndim > 1]
    seen = _multiplied(program, len(jax.tree.leaves(variables)), kernels)
    if len(seen) != 1 or not seen[0][2]:
        shapes = ", ".join(str(shape) for _, shape, _ in seen) or "nothing"
        raise ValueError(
            f"the head {head!r} has to be a Dense layer that runs once, on features [B, D]; it was given {shapes}"
        )
    return seen[0][0], seen[0][2]


def parameters(variables: Any) -> dict[Path, int]:
    """{path: number among the leaves of all variables} of the parameters, which are all where none are called so."""
    found = {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path): number
        for number, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(variables)[0])
    }
    if not (hasattr(variables, "keys") and "params" in variables):
        return found
    return {path[1:]: number for path, number in found.items() if path[0] == "params"}


def _multiplied(program: equations.Steps, variables: int, kernels: list[int]):
    """[(name, shape, axes of it that make [B, D], or None)] of what is multiplied with the kernels."""
    _, of_images = equations.behind(program.steps, program.arguments[variables:])
    _, of_kernels = equations.behind(program.steps, kernels)
    of_kernels -= of_images  # reshaped, transposed, standardised
    made = {step.outputs[0]: step for step in program.steps if step.equation.primitive.name == "convert_element_type"}
    seen = []
    for step in program.steps:
        if step.equation.primitive.name not in _PRODUCTS or of_kernels.isdisjoint(step.inputs):
            continue
        for side, name in enumerate(step.inputs):
            if name not in of_images:
                continue
            operand: Any = step.equation.invars[side].aval
            shape = operand.shape
            axes = None
            if step.equation.primitive.name == "dot_general" and len(shape) == 2:
                contracted, batch = step.equation.params["dimension_numbers"]
                if len(contracted[side]) == 1 and not batch[side]:
                    axes = (1 - contracted[side][0], contracted[side][0])
            while (cast := made.get(name)) and _narrows(cast):
                name = cast.inputs[0]
            seen.append((name, shape, axes))
    return seen


def _narrows(cast: equations.Step) -> bool:
    before: Any = cast.equation.invars[0].aval
    after: Any = cast.equation.outvars[0].aval
    return before.dtype.itemsize > after.dtype.itemsize

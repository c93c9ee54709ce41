"""A forward pass with some of its values read, replaced or taken from another one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from delta_jax import equations
from delta_jax.equations import Step, Steps
from delta_jax.features.forward import Pass
from delta_jax.features.marks import mark_of

Changes = Mapping[str, Callable[[jax.Array], jax.Array] | None]  # None: only to be read


def run(
    forward: Pass, changes: Changes, replay: Mapping[str, Any] | None = None
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """(output, updated collections, {tap: maps}) of the pass with `changes[tap]` of the maps in their place.

    Gradients are those of the plain pass: only calls that have one of the taps in them are taken apart.

    Args:
      forward: the pass.
      changes: {tap: function of maps, or None}.
      replay: {name: output} from `Prefix.outputs_until`.
    """
    if changes:
        forward.check(changes)
    found: dict[str, jax.Array] = {}
    results = _evaluate(forward, forward.closed, forward.arguments, changes, found, replay or {})
    return *forward.results(results), {tap: found[tap] for tap in changes}


def _evaluate(
    forward: Pass,
    closed: ClosedJaxpr,
    arguments: Sequence[Any],
    changes: Changes,
    found: dict[str, jax.Array],
    replay: Mapping[str, Any],
) -> list[Any]:
    """The program's results; maps go into `found`."""
    names = forward.names

    def enters(equation: JaxprEqn) -> bool:
        within = names.of_call(equation)
        closes = equations.has_rule(equation) or equations.is_checkpoint(equation)
        return not within.isdisjoint(replay) or not (closes or within.isdisjoint(changes))

    program = equations.flat(closed, enters)
    known = program.constants | dict(zip(program.arguments, arguments, strict=True))
    touched = [step for step in program.steps if not names.touched(step.equation).isdisjoint(changes)]
    wanted = {name for step in touched for name in step.outputs}
    steps, results = program.steps, program.results
    if replay:
        steps, results = _without_replayed(forward, program, wanted, known, replay)
    outputs = partial(_outputs, forward, changes, found)
    equations.run(equations.needed(steps, wanted | set(results)), known, results, outputs)
    lost = names.of(closed.jaxpr).ruled.intersection(replay)
    return [without_rule(min(lost), known[name]) if lost else known[name] for name in results]


def _outputs(
    forward: Pass, changes: Changes, found: dict[str, jax.Array], step: Step, arrays: Sequence[Any]
) -> Sequence[Any]:
    """What a step returns."""
    equation = step.equation
    touched = forward.names.touched(equation).intersection(changes)
    if mark := mark_of(equation):
        if not touched:
            return arrays
        found[mark.name] = changed(mark.name, arrays[0], changes[mark.name])
        return [found[mark.name]]
    inner = equations.program_of(equation)
    if not touched or not inner:
        return step.run(arrays)
    called, taken = inner

    def open_call(*operands: Any) -> tuple[list[Any], dict[str, jax.Array]]:
        maps: dict[str, jax.Array] = {}
        return _evaluate(forward, called, operands, {name: changes[name] for name in touched}, maps, {}), maps

    operands = step.operands(arrays)[taken:]
    if equations.is_checkpoint(equation):
        how = {name: equation.params[name] for name in ("policy", "prevent_cse")}
        results, maps = jax.checkpoint(open_call, **how)(*operands)
    else:
        results, maps = open_call(*operands)
        # A function whose maps are only read keeps the rule of its gradient.
        only_read = all(changes[name] is None for name in touched)
        results = step.run(arrays) if only_read else [without_rule(min(touched), result) for result in results]
    found |= maps
    return results


def _without_replayed(
    forward: Pass, program: Steps, wanted: Collection[int], known: dict[int, Any], replay: Mapping[str, Any]
) -> tuple[list[Step], list[int]]:
    """(steps that are left, results) when what is replayed has been put into `known`."""
    given: dict[int, Any] = {}
    for step in program.steps:
        if (mark := mark_of(step.equation)) and mark.name in replay:
            given[step.outputs[0]] = replay[mark.name] if mark.leaf is None else replay[mark.name][mark.leaf]
    output, updated = forward.results(program.results)
    ends = {*wanted, *jax.tree.leaves(output)}
    others = [step for step in program.steps if given.keys().isdisjoint(step.outputs) and not step.equation.effects]
    taken = given.keys() & ends.union(*(step.inputs for step in equations.needed(others, ends)))
    known |= {name: given[name] for name in taken}
    steps = [step for step in program.steps if taken.isdisjoint(step.outputs)]
    # Of the statistics that the pass updates, those in front of what is replayed stay as they are.
    _, reached = equations.behind(steps, taken)
    paths = jax.tree_util.tree_flatten_with_path
    before = {str(path): n for (path, _), n in zip(paths(forward.variables)[0], program.arguments, strict=False)}
    after = [name if name in reached else before.get(str(path), name) for path, name in paths(updated)[0]]
    return steps, [*jax.tree.leaves(output), *after]


def changed(tap: str, maps: jax.Array, change: Callable[[jax.Array], jax.Array] | None) -> jax.Array:
    """The changed maps; ValueError where they do not fit into their place."""
    new = maps if change is None else change(maps)
    if (new.shape, new.dtype) != (maps.shape, maps.dtype):
        raise ValueError(f"{tap} is to be {new.dtype}{list(new.shape)}, expected {maps.dtype}{list(maps.shape)}")
    return new


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def without_rule(tap: str, x: jax.Array) -> jax.Array:
    """The array as it is, not to be differentiated: the function that made it has lost the rule for its gradient."""
    return x


@without_rule.defjvp
def _(tap: str, *_: Any) -> Any:
    raise ValueError(
        f"{tap} lies within a function that has a gradient rule of its own, which does not hold for a part of it; mark "
        "what that function returns instead, or do not differentiate"
    )

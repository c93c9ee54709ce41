"""What a network repeats, as a loop: a compiler then sees one block of a stage instead of 22.

XLA's compiler for TPUs takes two seconds for every convolution in full float32. Repeated blocks are found in the
program that jax traces, so this holds for any model; weights that differ between the blocks are stacked.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from delta_jax.chips import target

# Calls whose inner program stands for them: {name of the primitive: parameter that holds it}.
_CALLS = {
    "jit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
_WORTH_A_LOOP = frozenset(["dot_general", "conv_general_dilated", "cond"])


def rolled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, with what it repeats as a `lax.scan`; not to be differentiated."""

    def run(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        outputs = _evaluate(closed, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return run


def separated(function: Callable[..., Any], x: jax.Array) -> tuple[Callable[..., Any], list[Any]]:
    """(run, known) with run(known, x) == function(x); `known` are the arrays that the function has besides x.

    So what `known` is made of can be computed elsewhere.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
    jaxpr = closed.jaxpr
    used, kept = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not used.isdisjoint(equation.outvars):
            used.update(v for v in equation.invars if not isinstance(v, core.Literal))
            kept.append(equation)
    known = {v: const for v, const in zip(jaxpr.constvars, closed.consts, strict=True) if v in used}
    program = jaxpr.replace(eqns=kept[::-1], constvars=list(known))

    def run(known: Sequence[Any], x: jax.Array) -> Any:
        found = core.jaxpr_as_fun(core.ClosedJaxpr(program, list(known)))(x)
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return run, list(known.values())


def program_of(equation: core.JaxprEqn) -> tuple[core.ClosedJaxpr, int] | None:
    """The program that stands for a call, or for `lax.platform_dependent` on the target's platform; None for others.

    With it how many of the first inputs it does not take.
    """
    params = equation.params
    if params.get("branches_platforms"):
        platform = target.current().platform
        branches = zip(params["branches"], params["branches_platforms"], strict=True)
        return next(branch for branch, ones in branches if ones is None or platform in ones), 1
    program = params[_CALLS[equation.primitive.name]] if equation.primitive.name in _CALLS else None
    if program is None or isinstance(program, core.ClosedJaxpr):
        return None if program is None else (program, 0)
    return core.ClosedJaxpr(program, ()), 0


def bind(equation: core.JaxprEqn, arguments: Sequence[Any]) -> list[Any]:
    """Runs one equation."""
    with equation.ctx.manager:
        out = equation.primitive.bind(*arguments, **equation.primitive.get_bind_params(equation.params))
    return list(out) if equation.primitive.multiple_results else [out]


@dataclass(frozen=True, eq=False)
class _Step:
    """An equation; inputs and outputs are the names of arrays, numbers.

    Attributes:
      equation: with the literals among its inputs.
      inputs: of its other inputs.
      outputs: in its order.
      signature: equal for equations that do the same to other arrays.
    """

    equation: core.JaxprEqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature: Hashable

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        given = iter(arrays)
        return bind(
            self.equation, [v.val if isinstance(v, core.Literal) else next(given) for v in self.equation.invars]
        )


_Place = tuple[int, int]  # an output of a step of a loop's body: (which step, which output)


@dataclass(frozen=True)
class _Source:
    """Where an input of a loop's body comes from: a place of the same time, or of the time before, or outside."""

    kind: Literal["same", "before", "outside"]
    place: _Place = (0, 0)


@dataclass(frozen=True)
class _Loop:
    """The steps start to start + period, again and again.

    Attributes:
      sources: of every input of every step, from the second time on.
    """

    start: int
    period: int
    times: int
    sources: list[list[_Source]]

    @property
    def end(self) -> int:
        return self.start + self.period * self.times

    @property
    def handed_on(self) -> set[_Place]:
        """What a time takes from the one before."""
        return {source.place for step in self.sources for source in step if source.kind == "before"}


def _evaluate(closed: core.ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    known: dict[int, Any] = {}
    steps, results = _flat(closed, arguments, known)
    steps = _needed(steps, set(results))
    last_use = {name: n for n, step in enumerate(steps) for name in step.inputs} | dict.fromkeys(results, len(steps))
    numbers: dict[Hashable, int] = {}
    signatures = np.array([numbers.setdefault(step.signature, len(numbers)) for step in steps], np.int64)
    at = 0
    for loop in _loops(steps, signatures, last_use, 0, len(steps)):
        _run(steps[at : loop.start], known)
        _run_loop(steps, loop, last_use, known)
        at = loop.end
    _run(steps[at:], known)
    return [known[name] for name in results]


def _flat(closed: core.ClosedJaxpr, arguments: Sequence[Any], known: dict[int, Any]) -> tuple[list[_Step], list[int]]:
    """The program's steps without calls, and the names of its results; its own arrays are put into `known`."""
    steps: list[_Step] = []
    count = iter(range(2**62))

    def name_of(array: Any) -> int:
        name = next(count)
        known[name] = array
        return name

    def walk(jaxpr: core.Jaxpr, consts: Sequence[int], given: Sequence[int]) -> list[int]:
        names: dict[Any, int] = dict(zip(jaxpr.constvars, consts, strict=True))
        names |= dict(zip(jaxpr.invars, given, strict=True))
        for equation in jaxpr.eqns:
            if inner := program_of(equation):
                program, taken = inner
                inputs = [name_of(v.val) if isinstance(v, core.Literal) else names[v] for v in equation.invars[taken:]]
                outputs = walk(program.jaxpr, [name_of(const) for const in program.consts], inputs)
            else:
                inputs = [names[v] for v in equation.invars if not isinstance(v, core.Literal)]
                outputs = [next(count) for _ in equation.outvars]
                steps.append(_Step(equation, tuple(inputs), tuple(outputs), _signature(equation)))
            names |= dict(zip(equation.outvars, outputs, strict=True))
        return [name_of(v.val) if isinstance(v, core.Literal) else names[v] for v in jaxpr.outvars]

    results = walk(closed.jaxpr, [name_of(const) for const in closed.consts], [name_of(a) for a in arguments])
    return steps, results


def _needed(steps: list[_Step], wanted: set[int]) -> list[_Step]:
    """Those that the wanted arrays depend on."""
    used, kept = set(wanted), []
    for step in reversed(steps):
        if step.equation.effects or not used.isdisjoint(step.outputs):
            used.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _signature(equation: core.JaxprEqn) -> Hashable:
    """Equal only for equations that do the same; what cannot be told apart safely equals nothing else."""
    inner = [value for params in equation.params.values() for value in _programs(params)]
    if equation.effects or any(not _is_told_by_its_text(program) for program in inner):
        return object()
    literals = []
    for v in equation.invars:
        if isinstance(v, core.Literal) and np.ndim(v.val):
            return object()
        literals.append((np.asarray(v.val).item(), str(v.aval)) if isinstance(v, core.Literal) else str(v.aval))
    params = tuple(sorted((name, str(value)) for name, value in equation.params.items()))
    return equation.primitive.name, params, tuple(literals), tuple(str(v.aval) for v in equation.outvars)


def _programs(value: Any) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    for one in value if isinstance(value, tuple | list) else (value,):
        if isinstance(one, core.ClosedJaxpr | core.Jaxpr):
            yield one


def _is_told_by_its_text(program: core.ClosedJaxpr | core.Jaxpr) -> bool:
    """Whether the program has no arrays of its own: its text leaves them out."""
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    if isinstance(program, core.ClosedJaxpr) and program.consts:
        return False
    return all(
        not any(isinstance(v, core.Literal) and np.ndim(v.val) for v in equation.invars)
        and all(_is_told_by_its_text(p) for params in equation.params.values() for p in _programs(params))
        for equation in jaxpr.eqns
    )


def _loops(
    steps: list[_Step], signatures: np.ndarray, last_use: Mapping[int, int], low: int, high: int
) -> Iterator[_Loop]:
    """Loops among the steps low to high, in order and none within another; the one that saves most is taken first.

    Of several that save as much, the one that hands on the fewest arrays: from the end of a block to the next.
    """
    found = []
    for period in range(1, (high - low) // 2 + 1):
        same = signatures[low : high - period] == signatures[low + period : high]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            # Steps that look alike may still take their inputs from elsewhere, such as those before a stage's first
            # whole block: then a loop begins later.
            for start in range(begin, min(begin + period, end - period + 1)):
                times = (end - start) // period + 1
                found.append((period * (times - 1), -period, low + start, times))
    best, merit = None, (0, 0)
    for most, period, start, times in sorted(found, reverse=True):
        if most < merit[0]:
            break
        if loop := _loop(steps, start, -period, times):
            inside = (name for step in steps[loop.start : loop.end] for name in step.outputs)
            behind = sum(last_use.get(name, -1) >= loop.end for name in inside)
            found_merit = loop.period * (loop.times - 1), -behind - len(loop.handed_on)
            if best is None or found_merit > merit:
                best, merit = loop, found_merit
    if best:
        yield from _loops(steps, signatures, last_use, low, best.start)
        yield best
        yield from _loops(steps, signatures, last_use, best.end, high)


def _loop(steps: list[_Step], start: int, period: int, times: int) -> _Loop | None:
    """The loop, for as long as each time takes its inputs from where the second did; None if that is not even twice."""
    if not any(step.equation.primitive.name in _WORTH_A_LOOP for step in steps[start : start + period]):
        return None
    made = {
        name: (i // period, (i % period, n))
        for i, step in enumerate(steps[start : start + period * times])
        for n, name in enumerate(step.outputs)
    }

    def source(name: int, time: int) -> _Source | None:
        when, place = made.get(name, (-1, (0, 0)))
        if when < 0:
            return _Source("outside")
        return _Source("same" if when == time else "before", place) if time - when <= 1 else None

    def sources(time: int) -> list[list[_Source | None]]:
        body = steps[start + time * period : start + (time + 1) * period]
        return [[source(name, time) for name in step.inputs] for step in body]

    second: Any = sources(1)
    kinds = {one and one.kind for inputs in second for one in inputs}
    if None in kinds or "before" not in kinds:  # nothing is handed on: not layers one after another, but side by side
        return None
    initial: dict[_Place, int] = {}
    for step, own, later in zip(steps[start : start + period], sources(0), second, strict=True):
        for name, at_first, then in zip(step.inputs, own, later, strict=True):
            if at_first != (_Source("outside") if then.kind == "before" else then):
                return None
            if then.kind == "before" and initial.setdefault(then.place, name) != name:
                return None
    same = next((time for time in range(2, times) if sources(time) != second), times)
    return _Loop(start, period, same, second)


def _run(steps: Sequence[_Step], known: dict[int, Any]) -> None:
    for step in steps:
        known |= zip(step.outputs, step.run([known[name] for name in step.inputs]), strict=True)


def _run_loop(steps: list[_Step], loop: _Loop, last_use: Mapping[int, int], known: dict[int, Any]) -> None:
    """Runs a loop; those of its arrays that are used behind it are put into `known`."""
    times = [steps[i : i + loop.period] for i in range(loop.start, loop.end, loop.period)]
    carry: dict[_Place, Any] = {}
    stacks: dict[tuple[int, ...], Any] = {}  # of arrays from outside that differ from time to time
    for n, sources in enumerate(loop.sources):
        for i, source in enumerate(sources):
            names = tuple(time[n].inputs[i] for time in times)
            if source.kind == "before":
                carry[source.place] = known[names[0]]
            elif source.kind == "outside" and len(set(names)) > 1 and names not in stacks:
                stacks[names] = jnp.stack([known[name] for name in names])
    all_times: list[_Place] = []
    for n, step in enumerate(times[0]):
        for i, v in enumerate(step.equation.outvars):
            aval: Any = v.aval
            used = [last_use.get(time[n].outputs[i], -1) >= loop.end for time in times]
            if any(used[:-1]):
                all_times.append((n, i))
            elif used[-1] and (n, i) not in carry:
                # Handed on, too, and never looked at: an output of a scan is kept of every time.
                carry[n, i] = jnp.zeros(aval.shape, aval.dtype)

    def body(before: dict[_Place, Any], own: dict[tuple[int, ...], Any]) -> tuple[dict[_Place, Any], list[Any]]:
        made: dict[_Place, Any] = {}

        def array(source: _Source, names: tuple[int, ...]) -> Any:
            if source.kind == "outside":
                return own[names] if names in own else known[names[0]]
            return (made if source.kind == "same" else before)[source.place]

        for n, (step, sources) in enumerate(zip(times[0], loop.sources, strict=True)):
            names = zip(*(time[n].inputs for time in times), strict=True)
            found = step.run([array(*pair) for pair in zip(sources, names, strict=True)])
            made |= {(n, i): one for i, one in enumerate(found)}
        return {place: made[place] for place in before}, [made[place] for place in all_times]

    last, stacked = lax.scan(body, carry, stacks, length=loop.times)
    known |= {times[-1][n].outputs[i]: array for (n, i), array in last.items()}
    for (n, i), arrays in zip(all_times, stacked, strict=True):
        known |= {time[n].outputs[i]: arrays[t] for t, time in enumerate(times)}

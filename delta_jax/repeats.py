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

from delta_jax import equations
from delta_jax.equations import Step

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
    program = equations.flat(closed)
    known = program.constants | dict(zip(program.arguments, arguments, strict=True))
    results = program.results
    steps = equations.needed(program.steps, results)
    last_use = {name: n for n, step in enumerate(steps) for name in step.inputs} | dict.fromkeys(results, len(steps))
    numbers: dict[Hashable, int] = {}
    signatures = np.array([numbers.setdefault(_signature(step.equation), len(numbers)) for step in steps], np.int64)
    at = 0
    for loop in _loops(steps, signatures, last_use, 0, len(steps)):
        equations.run(steps[at : loop.start], known, None)
        _run_loop(steps, loop, last_use, known)
        at = loop.end
    equations.run(steps[at:], known, None)
    return [known[name] for name in results]


def _signature(equation: core.JaxprEqn) -> Hashable:
    """Equal only for equations that do the same; what cannot be told apart safely equals nothing else."""
    inner = equations.programs_within(equation)
    if equation.effects or not all(map(_is_told_by_its_text, inner)):
        return object()
    if equation.primitive.name in ("name", "tap"):
        return "name", *(str(v.aval) for v in equation.invars)  # what it is called is nothing that it does
    literals = []
    for v in equation.invars:
        if isinstance(v, core.Literal) and np.ndim(v.val):
            return object()
        literals.append((np.asarray(v.val).item(), str(v.aval)) if isinstance(v, core.Literal) else str(v.aval))
    params = tuple(sorted((name, str(value)) for name, value in equation.params.items()))
    return equation.primitive.name, params, tuple(literals), tuple(str(v.aval) for v in equation.outvars)


def _is_told_by_its_text(program: core.ClosedJaxpr | core.Jaxpr) -> bool:
    """Whether the program has no arrays of its own: its text leaves them out."""
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    if isinstance(program, core.ClosedJaxpr) and program.consts:
        return False
    return all(
        not any(isinstance(v, core.Literal) and np.ndim(v.val) for v in equation.invars)
        and all(map(_is_told_by_its_text, equations.programs_within(equation)))
        for equation in jaxpr.eqns
    )


def _loops(
    steps: list[Step], signatures: np.ndarray, last_use: Mapping[int, int], low: int, high: int
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


def _loop(steps: list[Step], start: int, period: int, times: int) -> _Loop | None:
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


def _run_loop(steps: list[Step], loop: _Loop, last_use: Mapping[int, int], known: dict[int, Any]) -> None:
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

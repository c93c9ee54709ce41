"""A traced program as a list of steps: what reads a model's program, changes it or runs a part of it starts here."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
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


_CHECKPOINTS = ("checkpoint", "remat2")
_WITH_RULES = ("custom_jvp_call", "custom_vjp_call")


def is_checkpoint(equation: core.JaxprEqn) -> bool:
    """Whether it is a call whose insides the backward pass computes again."""
    return equation.primitive.name in _CHECKPOINTS


def has_rule(equation: core.JaxprEqn) -> bool:
    """Whether it is a call of a function that has a gradient rule of its own."""
    return equation.primitive.name in _WITH_RULES


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


def programs_within(equation: core.JaxprEqn) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    """All programs that an equation holds: bodies of loops, branches, calls."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr | core.Jaxpr):
                yield one


@dataclass(frozen=True, eq=False)
class Step:
    """An equation; inputs and outputs are the names of arrays, numbers.

    Attributes:
      equation: with the literals among its inputs.
      inputs: of its other inputs.
      outputs: in its order.
      program: that the equation is one of.
      scope: of the calls that it was taken out of, as `jax.named_scope` has it.
    """

    equation: core.JaxprEqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    program: core.Jaxpr
    scope: str

    def operands(self, arrays: Sequence[Any]) -> list[Any]:
        """All inputs of the equation, from the arrays of `inputs`."""
        given = iter(arrays)
        return [v.val if isinstance(v, core.Literal) else next(given) for v in self.equation.invars]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs, from the arrays of `inputs`."""
        variables = [v for v in self.equation.invars if not isinstance(v, core.Literal)]
        alone = self.program.replace(
            constvars=[], invars=variables, outvars=self.equation.outvars, eqns=[self.equation]
        )
        # Not `bind`: layers keep their names in the compiled program, and errors the lines that they come from.
        with jax.named_scope(self.scope) if self.scope else nullcontext():
            return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*arrays)


@dataclass(frozen=True)
class Steps:
    """A program without the calls that were entered.

    Attributes:
      steps: in order.
      arguments, results: names of the program's.
      constants: {name: array} of what the program brings along.
    """

    steps: list[Step]
    arguments: list[int]
    results: list[int]
    constants: dict[int, Any]


def flat(closed: core.ClosedJaxpr, enters: Callable[[core.JaxprEqn], bool] = lambda _: True) -> Steps:
    """The program as steps; the inner program of a call stands for it where `enters` says so."""
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    count = itertools.count()

    def constant(array: Any) -> int:
        name = next(count)
        constants[name] = array
        return name

    def walk(closed: core.ClosedJaxpr, given: Sequence[int], scope: str) -> list[int]:
        jaxpr = closed.jaxpr
        names: dict[Any, int] = dict(zip(jaxpr.constvars, map(constant, closed.consts), strict=True))
        names |= zip(jaxpr.invars, given, strict=True)

        def name_of(v: Any) -> int:
            return constant(v.val) if isinstance(v, core.Literal) else names[v]

        for equation in jaxpr.eqns:
            if enters(equation) and (inner := program_of(equation)):
                called, taken = inner
                within = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
                outputs = walk(called, [name_of(v) for v in equation.invars[taken:]], within)
            else:
                inputs = tuple(names[v] for v in equation.invars if not isinstance(v, core.Literal))
                outputs = [next(count) for _ in equation.outvars]
                steps.append(Step(equation, inputs, tuple(outputs), jaxpr, scope))
            names |= zip(equation.outvars, outputs, strict=True)
        return [name_of(v) for v in jaxpr.outvars]

    arguments = [next(count) for _ in closed.jaxpr.invars]
    results = walk(closed, arguments, "")
    return Steps(steps, arguments, results, constants)


def needed(steps: Sequence[Step], wanted: Collection[int]) -> list[Step]:
    """Those that the wanted arrays depend on, and those that have effects."""
    used, kept = set(wanted), []
    for step in reversed(steps):
        if step.equation.effects or not used.isdisjoint(step.outputs):
            used.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def behind(steps: Sequence[Step], names: Collection[int]) -> tuple[list[Step], set[int]]:
    """Those that depend on the arrays of these names, and the names of all that do."""
    reached, found = set(names), []
    for step in steps:
        if not reached.isdisjoint(step.inputs):
            reached.update(step.outputs)
            found.append(step)
    return found, reached


def run(
    steps: Sequence[Step],
    known: dict[int, Any],
    wanted: Collection[int] | None,
    outputs: Callable[[Step, Sequence[Any]], Sequence[Any]] = Step.run,
) -> None:
    """Runs the steps on what is known.

    Args:
      steps: in order.
      known: {name: array}; the outputs are put into it.
      wanted: all others leave `known` after their last use; None to keep all.
      outputs: how to run a step.
    """
    last_use = {name: number for number, step in enumerate(steps) for name in step.inputs}
    kept = None if wanted is None else frozenset(wanted)
    for number, step in enumerate(steps):
        known |= zip(step.outputs, outputs(step, [known[name] for name in step.inputs]), strict=True)
        if kept is not None:
            for name in {*step.inputs, *step.outputs} - kept:
                if last_use.get(name, -1) <= number:
                    del known[name]

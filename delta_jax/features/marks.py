"""Marks: what values of a traced program are called, so that they can be read and replaced there."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir

from delta_jax import equations

Path = tuple[str, ...]


class Mark(NamedTuple):
    """What a value is called.

    Attributes:
      path: of the module that returns it; of what was marked by hand, its name alone.
      leaf: which of the arrays of a module that returns a tree of them; None if it is all.
      shape: when it was marked, which nn.vmap does not show; None where any will do.
    """

    path: Path
    leaf: int | None = None
    shape: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Never taken apart again: a slash may stand in a module's own name, too."""
        return "/".join(self.path)


_tap_p = Primitive("tap")
_tap_p.def_impl(lambda x, *, mark: x)
_tap_p.def_abstract_eval(lambda x, *, mark: x)
ad.primitive_jvps[_tap_p] = lambda primals, tangents, *, mark: (_tap_p.bind(*primals, mark=mark), tangents[0])
mlir.register_lowering(_tap_p, lambda context, x, *, mark: [x])


def _batched(operands, axes, *, mark):
    # jax puts the images' axis of a product last, say: a tap has it in front.
    return _tap_p.bind(jnp.moveaxis(operands[0], axes[0], 0), mark=mark), 0


batching.primitive_batchers[_tap_p] = _batched


def tap(x: jax.Array, name: str) -> jax.Array:
    """The feature maps [B, ..., C] as they are, marked as a tap of that name for any model that jax can trace.

    In a model of one image that runs under `jax.vmap` they are [..., C].
    """
    return put(x, Mark((name,)))


def put(x: jax.Array, mark: Mark) -> jax.Array:
    """The array as it is, marked."""
    return _tap_p.bind(x, mark=mark)


def mark_of(equation: JaxprEqn) -> Mark | None:
    """The mark that the equation puts on its operand; None for other equations."""
    return equation.params["mark"] if equation.primitive is _tap_p else None


class Reached(NamedTuple):
    """Names of the marks in a program.

    Attributes:
      plainly: reached through calls alone.
      ruled: those of them that lie within functions which have a gradient rule of their own.
      hidden: {name: primitive} of those within loops, branches and other programs that are no plain calls.
    """

    plainly: frozenset[str]
    ruled: frozenset[str]
    hidden: Mapping[str, str]


class Names:
    """Finds the names of the marks in programs, looking through each of them once."""

    def __init__(self) -> None:
        self._found: dict[int, Reached] = {}

    def of(self, jaxpr: Jaxpr) -> Reached:
        """The names in a program, which has to be kept by somebody else."""
        if id(jaxpr) in self._found:
            return self._found[id(jaxpr)]
        plainly: set[str] = set()
        ruled: set[str] = set()
        hidden: dict[str, str] = {}
        for equation in jaxpr.eqns:
            if mark := mark_of(equation):
                plainly.add(mark.name)
            elif inner := self._called(equation):
                within = self.of(inner.jaxpr)
                plainly |= within.plainly
                ruled |= within.plainly if equations.has_rule(equation) else within.ruled
                hidden |= dict(within.hidden)
            else:
                for within in map(self._within, equations.programs_within(equation)):
                    hidden |= dict.fromkeys(within.plainly, equation.primitive.name) | dict(within.hidden)
        self._found[id(jaxpr)] = Reached(frozenset(plainly), frozenset(ruled), hidden)
        return self._found[id(jaxpr)]

    def of_call(self, equation: JaxprEqn) -> frozenset[str]:
        """Names that are reached in a call; none for other equations."""
        inner = self._called(equation)
        return self.of(inner.jaxpr).plainly if inner else frozenset()

    def _called(self, equation: JaxprEqn) -> ClosedJaxpr | None:
        """The program of a call; of a choice by platform only where there are marks to find: to choose starts jax."""
        if equation.params.get("branches_platforms"):
            branches = map(self._within, equations.programs_within(equation))
            if not any(one.plainly or one.hidden for one in branches):
                return None
        inner = equations.program_of(equation)
        return inner[0] if inner else None

    def _within(self, program: ClosedJaxpr | Jaxpr) -> Reached:
        return self.of(program.jaxpr if isinstance(program, ClosedJaxpr) else program)

    def touched(self, equation: JaxprEqn) -> frozenset[str]:
        """As `of_call`, or the name that the equation itself puts on a value."""
        mark = mark_of(equation)
        return frozenset([mark.name]) if mark else self.of_call(equation)

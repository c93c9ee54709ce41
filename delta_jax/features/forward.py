"""One forward pass as a traced program, and its taps."""

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax

from delta_jax import equations
from delta_jax.features import linen
from delta_jax.features.marks import Mark, Names, Path, mark_of


def caller(model: Any) -> Callable[..., Any]:
    """The function (variables, images, **kwargs) that runs the model: its `apply`, or the model itself."""
    return getattr(model, "apply", model)


class Pass:
    """The program of one forward pass.

    Attributes:
      closed: the program; its results are the leaves of the output and those of the updated collections.
      arguments: its arguments, arrays or shapes: the leaves of the variables and those of the images.
      variables: as they were given.
      names: those of the marks in its programs.
      has_paths: whether its taps are called as its parameters.
    """

    def __init__(
        self,
        model: Any,
        variables: Any,
        x: Any,
        kwargs: Mapping[str, Any],
        *,
        mutable: Sequence[str] = (),
        recompute: Collection[str] = (),
    ):
        """Traces the model; arguments as of `apply_with_taps`."""
        self._calls: Counter[Path] = Counter()
        self._is_linen = isinstance(model, nn.Module)
        self.has_paths = hasattr(model, "apply")
        if self._is_linen:
            run = linen.forward(model, kwargs, mutable, recompute, self._calls)
        elif recompute:
            raise ValueError("only Linen modules can be recomputed by their paths; use jax.checkpoint in the model")
        else:
            run = _forward(model, kwargs, mutable)
        self.closed, shapes = jax.make_jaxpr(run, return_shape=True)(variables, x)
        self.arguments = jax.tree.leaves((variables, x))
        self.variables, self._shapes = variables, shapes
        self.names = Names()

    @cached_property
    def opened(self) -> equations.Steps:
        """The program without the calls that have marks in them."""
        return equations.flat(self.closed, lambda equation: bool(self.names.of_call(equation)))

    @cached_property
    def marks(self) -> list[tuple[Mark, Any]]:
        """Every mark that is reached, in order, with the shape and type of the array."""
        found = [(mark_of(step.equation), step.equation) for step in self.opened.steps]
        return [(mark, equation.outvars[0].aval) for mark, equation in found if mark]

    @cached_property
    def arrays(self) -> dict[Mark, Any]:
        """The marks that tell their array from all others."""
        times = Counter((mark.name, mark.leaf) for mark, _ in self.marks)
        hidden = self.names.of(self.closed.jaxpr).hidden
        return {
            mark: aval
            for mark, aval in self.marks
            if times[mark.name, mark.leaf] == 1 and mark.name not in hidden and mark.shape in (None, aval.shape)
        }

    @cached_property
    def taps(self) -> dict[str, Any]:
        """{tap: shape and type of its maps [B, ..., C]}, in order."""
        return {mark.name: aval for mark, aval in self.arrays.items() if mark.leaf is None and aval.ndim >= 2}

    def results(self, leaves: Sequence[Any]) -> tuple[Any, Any]:
        """(output, updated collections) from the program's results."""
        return jax.tree.unflatten(jax.tree.structure(self._shapes), leaves)

    def check(self, taps: Collection[str]) -> None:
        """Raises ValueError, with the closest known names, unless every one is a tap."""
        wrong = [tap for tap in taps if tap not in self.taps]
        for tap in wrong:
            if len({mark.path for mark, _ in self.marks if mark.name == tap}) > 1:
                raise ambiguous(tap)
        if taps and not wrong:
            return
        close = {name for tap in wrong for name in difflib.get_close_matches(tap, self.taps, n=3, cutoff=0.3)}
        near = ", ".join(sorted(close) or sorted(self.taps)[:8])
        found = f"no tap called {', '.join(map(repr, wrong))}" if wrong else "no taps given"
        reasons = "".join(f"; {reason}" for reason in filter(None, map(self._reason, wrong)))
        instead = f"; did you mean {near}?" if near else "; it has none."
        kind = (
            "the path of a module that runs once per forward pass, outside nn.scan and nn.vmap, and returns an array "
            "[B, ..., C]"
            if self._is_linen
            else "an array [B, ..., C] that the model marks by features.tap and reaches once per forward pass, outside "
            "loops and branches"
        )
        raise ValueError(f"{found} in the network{reasons}{instead} A tap is {kind}")

    def _reason(self, name: str) -> str:
        """Why there is no tap of this name, where more is known than that nothing is called so."""
        times = Counter(mark.path for mark, _ in self.marks if mark.leaf in (None, 0))
        if self._is_linen and (borrowed := [path for path in times if times[path] > self._calls[path]]):
            others = ", ".join("/".join(path) for path in borrowed[:3])
            return (
                f"the modules {others} run again in a trace that nn.jit made for another, so that their taps cannot "
                "be told apart: take nn.jit out of the model and put jax.jit around the whole step"
            )
        own = [aval for mark, aval in self.marks if mark.name == name and mark.leaf is None]
        if around := self.names.of(self.closed.jaxpr).hidden.get(name):
            return f"{name!r} is reached within {around}"
        if len(own) > 1:
            return f"{name!r} is reached {len(own)} times"
        return f"{name!r} has the shape {own[0].shape}" if own else ""


def _forward(model: Any, kwargs: Mapping[str, Any], mutable: Sequence[str]) -> Callable[[Any, Any], tuple[Any, Any]]:
    if mutable:
        return lambda variables, x: caller(model)(variables, x, mutable=tuple(mutable), **kwargs)
    return lambda variables, x: (caller(model)(variables, x, **kwargs), {})


def ambiguous(name: str) -> ValueError:
    """The error for a name that two modules have."""
    return ValueError(
        f"two modules of the network are called {name!r}, with a slash in a name or between two names; rename one"
    )

"""One forward pass as a traced program: its taps, and how to run it with other values at some of them."""

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from delta_jax import equations
from delta_jax.equations import Step, Steps
from delta_jax.features.marks import Mark, Path, mark_of, of_modules

Changes = Mapping[str, Callable[[jax.Array], jax.Array] | None]  # None: as it is, and to be returned

_serial = itertools.count()
_REMAT = ("checkpoint", "remat2")
_WITH_RULE = ("custom_jvp_call", "custom_vjp_call")


def caller(model: Any) -> Callable[..., Any]:
    """The function (variables, images, **kwargs) that runs the model: its `apply`, or the model itself."""
    return getattr(model, "apply", model)


def _traceable(
    model: Any, kwargs: Mapping[str, Any], mutable: Sequence[str], recompute: Collection[str], calls: Counter[Path]
) -> Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]:
    """(variables, x) -> (output, updated collections) of the model, with its taps marked."""

    def linen(variables, x):
        # nn.jit keeps its traces by the names of the mutable collections. Under a name used before, it would go on
        # with a trace without marks, or with those of another model.
        own = f"taps {next(_serial)}"
        with nn.intercept_methods(of_modules(calls, recompute)):
            output, updated = model.apply(variables, x, mutable=[*mutable, own], **kwargs)
        return output, {name: value for name, value in updated.items() if name != own}

    def other(variables, x):
        if recompute:
            raise ValueError("recompute takes the paths of Linen modules; elsewhere, use jax.checkpoint in the model")
        found = caller(model)(variables, x, **kwargs, **({"mutable": tuple(mutable)} if mutable else {}))
        return found if mutable else (found, {})

    return linen if isinstance(model, nn.Module) else other


class Pass:
    """The program of one forward pass."""

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
        """Traces the model; arguments as of `apply_with_taps`, arrays or their shapes."""
        self._calls: Counter[Path] = Counter()
        self.by_path = isinstance(model, nn.Module)
        self.has_paths = hasattr(model, "apply")
        run = _traceable(model, kwargs, mutable, recompute, self._calls)
        self.closed, shapes = jax.make_jaxpr(run, return_shape=True)(variables, x)
        self._structures: Any = tuple(map(jax.tree.structure, shapes))
        self._outputs = len(jax.tree.leaves(shapes[0]))
        self._variables, self.arguments = variables, jax.tree.leaves((variables, x))
        self._names = _Names()

    @cached_property
    def opened(self) -> Steps:
        """The program without the calls that have marks in them."""
        return equations.flat(self.closed, lambda equation: bool(self._names.of_call(equation)))

    @cached_property
    def marks(self) -> list[tuple[Mark, Any]]:
        """Every mark that is reached, in order, with the shape and type of the array."""
        found = [(mark_of(step.equation), step.equation) for step in self.opened.steps]
        return [(mark, equation.outvars[0].aval) for mark, equation in found if mark]

    @cached_property
    def arrays(self) -> dict[Mark, Any]:
        """The marks that tell their array from all others."""
        times = Counter((mark.name, mark.leaf) for mark, _ in self.marks)
        hidden = self._names.of(self.closed.jaxpr)[1]
        return {
            mark: aval
            for mark, aval in self.marks
            if times[mark.name, mark.leaf] == 1 and mark.name not in hidden and mark.shape in (None, aval.shape)
        }

    @cached_property
    def taps(self) -> dict[str, Any]:
        """{tap: shape and type of its maps [B, ..., C]}, in order."""
        return {mark.name: aval for mark, aval in self.arrays.items() if mark.leaf is None and aval.ndim >= 2}

    def check(self, taps: Collection[str]) -> None:
        """Raises ValueError, with the closest known names, unless every one is a tap."""
        wrong = [tap for tap in taps if tap not in self.taps]
        for tap in wrong:
            if len({mark.path for mark, _ in self.marks if mark.name == tap}) > 1:
                raise ambiguous(tap)
        if taps and not wrong:
            return
        close = sorted({name for tap in wrong for name in difflib.get_close_matches(tap, self.taps, n=3, cutoff=0.3)})
        found = f"no tap called {', '.join(map(repr, wrong))}" if wrong else "no taps given"
        reasons = "".join(f"; {reason}" for reason in filter(None, map(self._reason, wrong)))
        instead = (
            f"; did you mean {', '.join(close or sorted(self.taps)[:8])}?" if self.taps else "; it has none at all."
        )
        kind = (
            "the path of a module that runs once per forward pass, outside nn.scan and nn.vmap, and returns an array "
            "[B, ..., C]"
            if self.by_path
            else "an array [B, ..., C] that the model marks by features.tap once per forward pass, outside loops and "
            "branches"
        )
        raise ValueError(f"{found} in the network{reasons}{instead} A tap is {kind}")

    def _reason(self, name: str) -> str:
        """Why there is no tap of this name, where more is known than that nothing is called so."""
        times = Counter(mark.path for mark, _ in self.marks if mark.leaf in (None, 0))
        if self.by_path and (borrowed := [path for path in times if times[path] > self._calls[path]]):
            others = ", ".join("/".join(path) for path in borrowed[:3])
            return (
                f"the modules {others} run again in a trace that nn.jit made for another, so that their taps cannot "
                "be told apart: take nn.jit out of the model and put jax.jit around the whole step"
            )
        own = [(mark, aval) for mark, aval in self.marks if mark.name == name]
        if name in self._names.of(self.closed.jaxpr)[1]:
            return f"{name} is reached within a loop or a branch"
        if len(own) > 1 and own[0][0].leaf is None:
            return f"{name} is reached {len(own)} times"
        return f"{name} is of shape {own[0][1].shape}" if own and own[0][0].leaf is None else ""

    def run(self, changes: Changes, replay: Mapping[str, Any] | None = None) -> tuple[Any, Any, dict[str, jax.Array]]:
        """(output, updated collections, {tap: maps}) with `changes[tap]` of the maps in their place.

        Args:
          changes: {tap: function of maps, or None for the maps as they are}.
          replay: {name: output} from `Prefix.outputs_until`, of which the rest goes on.
        """
        if changes:
            self.check(changes)
        found: dict[str, jax.Array] = {}
        results = self._evaluate(self.closed, self.arguments, changes, found, replay or {})
        return *self.unflatten(results), {tap: found[tap] for tap in changes}

    def unflatten(self, results: Sequence[Any]) -> tuple[Any, Any]:
        """(output, updated collections) from the program's results."""
        of_output, of_updated = self._structures
        return jax.tree.unflatten(of_output, results[: self._outputs]), jax.tree.unflatten(
            of_updated, results[self._outputs :]
        )

    def _evaluate(
        self,
        closed: ClosedJaxpr,
        arguments: Sequence[Any],
        changes: Changes,
        found: dict[str, jax.Array],
        replay: Mapping[str, Any],
    ) -> list[Any]:
        def enters(equation: JaxprEqn) -> bool:
            names = self._names.of_call(equation)
            closes = with_rule(equation) or equation.primitive.name in _REMAT
            return not names.isdisjoint(replay) or not (closes or names.isdisjoint(changes))

        program = equations.flat(closed, enters)
        known = program.constants | dict(zip(program.arguments, arguments, strict=True))
        steps, results = program.steps, program.results
        wanted = {name for step in steps if self._touches(step, changes) for name in step.outputs}
        if replay:
            steps, results = self._without_replayed(program, wanted, known, replay)
        outputs = partial(self._run_step, changes=changes, found=found)
        run(equations.needed(steps, wanted | set(results)), known, results, outputs)
        return [known[name] for name in results]

    def _touches(self, step: Step, changes: Changes) -> bool:
        mark = mark_of(step.equation)
        return mark.name in changes if mark else not self._names.of_call(step.equation).isdisjoint(changes)

    def _without_replayed(
        self, program: Steps, wanted: Collection[int], known: dict[int, Any], replay: Mapping[str, Any]
    ) -> tuple[list[Step], list[int]]:
        """(steps that are left, results) when what is replayed is put into `known`."""
        given = {}
        for step in program.steps:
            if (mark := mark_of(step.equation)) and mark.name in replay:
                given[step.outputs[0]] = replay[mark.name] if mark.leaf is None else replay[mark.name][mark.leaf]
        outputs = self._outputs
        pure = [step for step in program.steps if step.outputs and step.outputs[0] not in given]
        ends = {*wanted, *program.results[:outputs]}
        used = ends.union(*(step.inputs for step in equations.needed(pure, ends)))
        # Of what is replayed, only that which the rest takes: then nothing in front of it depends on it.
        known |= {name: array for name, array in given.items() if name in used}
        steps = [step for step in program.steps if used.isdisjoint(given.keys() & step.outputs)]
        reached = equations.behind(steps, given.keys() & used)[1]
        # The statistics of what is replayed stay as they are.
        before = {
            jax.tree_util.keystr(path): name
            for (path, _), name in zip(
                jax.tree_util.tree_flatten_with_path(self._variables)[0], program.arguments, strict=False
            )
        }
        updated = jax.tree.unflatten(self._structures[1], program.results[outputs:])
        after = [
            name if name in reached else before.get(jax.tree_util.keystr(path), name)
            for path, name in jax.tree_util.tree_flatten_with_path(updated)[0]
        ]
        return steps, [*program.results[:outputs], *after]

    def _run_step(self, step: Step, arrays: Sequence[Any], changes: Changes, found: dict[str, Any]) -> Sequence[Any]:
        equation = step.equation
        if mark := mark_of(equation):
            if mark.name not in changes:
                return arrays
            found[mark.name] = changed(mark.name, arrays[0], changes[mark.name])
            return [found[mark.name]]
        names = self._names.of_call(equation).intersection(changes)
        inner = equations.program_of(equation)
        if not names or not inner:
            return step.run(arrays)
        called, taken = inner
        operands = step.operands(arrays)[taken:]

        def plain(*operands: Any) -> tuple[list[Any], dict[str, Any]]:
            maps: dict[str, Any] = {}
            return self._evaluate(called, operands, {name: changes[name] for name in names}, maps, {}), maps

        if equation.primitive.name in _REMAT:
            params = equation.params
            again = jax.checkpoint(plain, policy=params["policy"], prevent_cse=params["prevent_cse"])
            results, maps = again(*operands)
        else:
            results, maps = plain(*operands)
            # What is only read leaves the gradient's rule of the function in force.
            read = all(changes[name] is None for name in names)
            results = step.run(arrays) if read else [_without_rule(min(names), result) for result in results]
        found |= maps
        return results


def with_rule(equation: JaxprEqn) -> bool:
    """Whether it is a call of a function that has a gradient rule of its own."""
    return equation.primitive.name in _WITH_RULE


def ambiguous(name: str) -> ValueError:
    """The error for a name that two modules have."""
    return ValueError(
        f"two modules of the network are called {name!r}, with a slash in a name or between two names; rename one"
    )


def run(
    steps: Sequence[Step],
    known: dict[int, Any],
    wanted: Collection[int],
    outputs: Callable[[Step, Sequence[Any]], Sequence[Any]] = Step.run,
) -> None:
    """Runs the steps, by `outputs`; what is not wanted leaves `known` after its last use."""
    last_use = {name: number for number, step in enumerate(steps) for name in step.inputs}
    kept = set(wanted)
    for number, step in enumerate(steps):
        known |= zip(step.outputs, outputs(step, [known[name] for name in step.inputs]), strict=True)
        for name in {*step.inputs, *step.outputs} - kept:
            if last_use.get(name, -1) <= number:
                del known[name]


def changed(tap: str, maps: jax.Array, change: Callable[[jax.Array], jax.Array] | None) -> jax.Array:
    """The changed maps; ValueError where they do not fit into their place."""
    new = maps if change is None else change(maps)
    if (new.shape, new.dtype) != (maps.shape, maps.dtype):
        raise ValueError(f"{tap} is to be {new.dtype}{list(new.shape)}, expected {maps.dtype}{list(maps.shape)}")
    return new


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _without_rule(tap: str, x: jax.Array) -> jax.Array:
    return x


@_without_rule.defjvp
def _(tap: str, *_: Any) -> Any:
    raise ValueError(
        f"{tap} lies within a function that has a gradient rule of its own, which is none of the changed function's; "
        "mark what that function returns instead, or do not differentiate"
    )


class _Names:
    """Names of the marks in programs, each looked through once."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[frozenset[str], frozenset[str]]] = {}

    def of(self, jaxpr: Jaxpr) -> tuple[frozenset[str], frozenset[str]]:
        """(names that are reached through calls alone, names within loops and branches)."""
        if id(jaxpr) not in self._found:
            reached: set[str] = set()
            hidden: set[str] = set()
            for equation in jaxpr.eqns:
                if mark := mark_of(equation):
                    reached.add(mark.name)
                elif inner := equations.program_of(equation):
                    more = self.of(inner[0].jaxpr)
                    reached |= more[0]
                    hidden |= more[1]
                else:
                    for one in equations.programs_within(equation):
                        hidden.update(*self.of(one.jaxpr if isinstance(one, ClosedJaxpr) else one))
            self._found[id(jaxpr)] = frozenset(reached), frozenset(hidden)
        return self._found[id(jaxpr)]

    def of_call(self, equation: JaxprEqn) -> frozenset[str]:
        """Names that are reached in a call; none for other equations."""
        inner = equations.program_of(equation)
        return self.of(inner[0].jaxpr)[0] if inner else frozenset()

"""The part of a forward pass that ends at a tap, kept so that the rest can run again with other maps."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax

from delta_jax import equations
from delta_jax.equations import Step
from delta_jax.features.forward import Pass, ambiguous
from delta_jax.features.heads import parameters
from delta_jax.features.marks import Path, mark_of
from delta_jax.features.rerun import changed, without_rule


class Prefix:
    """A forward pass of which every value is kept, so that what follows a tap can run again with other maps there.

    What follows are the operations of the plain forward pass that depend on the tap, on the same numbers; what is not
    used of the rest is dead code and never computed. Use it inside one `jit`.
    """

    def __init__(self, model: Any, variables: Any, x: Any, **kwargs: Any):
        """Runs the model once.

        Args:
          model: as of `apply_with_taps`.
          variables: its variables.
          x: images [B, H, W, 3].
          **kwargs: passed on to the model.
        """
        self._variables = variables
        self._pass = Pass(model, variables, x, kwargs)
        program = self._pass.opened
        self._known = program.constants | dict(zip(program.arguments, self._pass.arguments, strict=True))
        self._at = {mark: step.outputs[0] for step in program.steps if (mark := mark_of(step.equation))}
        self._needed = equations.needed(program.steps, [*program.results, *self._at.values()])
        equations.run(self._needed, self._known, None, _outputs)

    @property
    def output(self) -> Any:
        """The model's output when nothing is replaced."""
        return self._output(self._known)

    def _output(self, known: dict[int, Any]) -> Any:
        return self._pass.results([self._guarded(known[name]) for name in self._pass.opened.results])[0]

    def _guarded(self, array: Any) -> Any:
        lost = self._pass.names.of(self._pass.closed.jaxpr).ruled
        return without_rule(min(lost), array) if lost else array

    def feature_maps(self, tap: str) -> jax.Array:
        """The recorded output [B, ..., C] of the tap; ValueError when there is no such tap."""
        return self._guarded(self._known[self._number(tap)])

    def _number(self, tap: str) -> int:
        self._pass.check((tap,))
        return next(number for mark, number in self._at.items() if mark.name == tap and mark in self._pass.arrays)

    def continue_from(self, tap: str, maps: jax.Array) -> Any:
        """The model's output when the tap returns `maps` [B, ..., C] instead of what was recorded."""
        number = self._number(tap)
        known = self._known | {number: changed(tap, self._known[number], lambda _: maps)}
        steps, _ = equations.behind(self._needed, [number])
        equations.run(equations.needed(steps, self._pass.opened.results), known, None, _outputs)
        return self._output(known)

    def outputs_until(self, tap: str) -> dict[str, Any]:
        """{name: output} of all that has run when `tap` returns; of Linen modules, none within another.

        To be given to `apply_with_taps` as `replay`. The output of a module that returns a tree is the list of its
        arrays.

        Raises:
          ValueError: there is no such tap (the closest names are given), or what runs before it has parameters and
            cannot be replayed, because it is called several times, say.
        """
        last = self._number(tap)
        done = [mark for mark, number in self._at.items() if number <= last]
        several = {mark.path for mark in done if mark not in self._pass.arrays}
        single = [mark for mark in done if mark.path not in several]
        paths = {mark.path for mark in single}
        kept = [mark for mark in single if not any(mark.path[:n] in paths for n in range(1, len(mark.path)))]
        outputs: dict[str, Any] = {}
        for mark in sorted(kept):
            array = self._known[self._at[mark]]
            if mark.leaf is None:
                outputs[mark.name] = array
            else:
                outputs.setdefault(mark.name, []).append(array)
        for mark in done:
            if mark.path in several and len({one.path for one in self._at if one.name == mark.name}) > 1:
                raise ambiguous(mark.name)
        self._check_parameters(tap, last, outputs, {self._at[mark] for mark in kept})
        return outputs

    def _check_parameters(self, tap: str, last: int, outputs: Mapping[str, Any], kept: Collection[int]) -> None:
        """Raises ValueError where one that is used up to the tap is not replaced by the outputs, or used again."""
        program = self._pass.opened
        leaves = parameters(self._variables)
        images = program.arguments[len(jax.tree.leaves(self._variables)) :]
        _, of_images = equations.behind(program.steps, images)
        made_of = {program.arguments[number]: {path} for path, number in leaves.items()}

        def used(steps: Iterable[Step]) -> set[Path]:
            own = (made_of.get(name, ()) for step in steps for name in step.inputs if touches(step))
            return set().union(*own)

        def touches(step: Step) -> bool:
            return not of_images.isdisjoint(step.inputs)

        for step in self._needed:
            if not touches(step):
                made_of |= dict.fromkeys(step.outputs, set().union(*(made_of.get(name, ()) for name in step.inputs)))
        pure = [step for step in self._needed if not step.equation.effects]
        rest = [step for step in pure if step.outputs[0] not in kept]
        again = used(equations.needed(rest, program.results))
        for path in sorted(used(step for step in pure if step.outputs[0] <= last)):
            name = "/".join(path)
            replayed = not self._pass.has_paths or any(name.startswith(f"{one}/") for one in outputs)
            if path in again or not replayed:
                raise ValueError(
                    f"{'/'.join(path[:-1]) or name} runs before {tap} and cannot be replayed: it is called several "
                    "times, or returns no arrays; choose a module in front of it, or one that contains all its calls"
                )


def _outputs(step: Step, arrays: Sequence[Any]) -> Sequence[Any]:
    return arrays if mark_of(step.equation) else step.run(arrays)

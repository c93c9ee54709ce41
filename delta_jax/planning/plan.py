"""The plan of a run: its programs, the batch that fits, what to change where one does not, and shares of the time."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delta_jax.chips import Topology
from delta_jax.planning import costs, fitting, works
from delta_jax.planning.amounts import Amounts
from delta_jax.planning.costs import Cost
from delta_jax.planning.fitting import Change, Largest
from delta_jax.planning.works import Work
from delta_jax.processes import sharding
from delta_jax.training import checks
from delta_jax.training.programs import Programs
from delta_jax.workdir import logs


@dataclasses.dataclass(frozen=True)
class Part:
    """A program of the run, with its costs on one device.

    Attributes:
      work: the program.
      cost: of a call.
      memory: bytes that a device needs for it, what lies beside it included.
      fits: whether it has them.
      seconds: of a call, by the compiler's cycles; None where it counts none.
      least_seconds: by arithmetic: as if the device did nothing but products at its peak, or nothing but move what goes
        in and out.
    """

    work: Work
    cost: Cost
    memory: int
    fits: bool
    seconds: float | None
    least_seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run takes on a topology.

    Attributes:
      topology: the devices.
      programs: of the run.
      amounts: classes and images.
      parts: by program, in the order of the run.
      largest: batch of the training step; None where it was not looked for.
      changes: of the config, that were tried because the step does not fit.
    """

    topology: Topology
    programs: Programs
    amounts: Amounts
    parts: Sequence[Part]
    largest: Largest | None
    changes: Sequence[Change]

    def phases(self) -> list[tuple[str, str, int, float | None]]:
        """(phase of the run, program, calls, seconds of them all) in the order of the run."""
        return [
            (phase, part.work.name, calls, None if part.seconds is None else calls * part.seconds)
            for part in self.parts
            for phase, calls in part.work.calls.items()
        ]


def make(
    config: Any,
    topology: Topology,
    amounts: Amounts,
    folder: Path,
    *,
    names: Sequence[str] = works.NAMES,
    largest: bool = True,
) -> Plan:
    """Compiles what has not been compiled before.

    Args:
      config: of the run, resolved.
      topology: to compile for.
      amounts: classes and images.
      folder: where costs of programs are kept.
      names: of the programs that are wanted.
      largest: whether the largest batch is looked for.

    Raises:
      ConfigError: the run would not begin on these devices.
    """
    mesh, memory = sharding.mesh_of(topology.devices), topology.chip.memory
    checks.batches_divide(config, mesh)
    checks.enough_to_train(config, amounts.train)
    with topology.compiling():
        programs = Programs(config, mesh, amounts.classes)
    found = [work for work in works.works(programs, amounts, memory) if work.name in names]
    parts = []
    with logs.progress(len(found), "compile", unit="programs") as bar:
        for work in found:
            parts.append(_part(work, costs.cost(work, topology, folder), topology))
            bar.advance(1)
    step = next((part for part in parts if part.work.name == works.STEP), None)
    best, tried = None, tuple[Change, ...]()
    if step:
        room = memory - step.work.beside

        def cost_of(other: Programs) -> Cost:
            cost = costs.cost(works.step(other, amounts, memory), topology, folder)
            bar.advance(1)
            return cost

        if not step.fits:
            with logs.progress(fitting.MOST_CHANGES, "compile changes", unit="programs") as bar:
                tried = tuple(fitting.changes(programs, cost_of, room))
        if largest:
            least = mesh.size * config.accumulate
            with logs.progress(fitting.TRIES, "compile batches", unit="programs") as bar:
                best = fitting.largest_batch(
                    lambda size: cost_of(works.changed(programs, batch_size=size)),
                    config.batch_size,
                    least,
                    amounts.train,
                    room,
                )
    return Plan(topology, programs, amounts, parts, best, tried)


def _part(work: Work, cost: Cost, topology: Topology) -> Part:
    chip, memory = topology.chip, cost.memory + work.beside
    return Part(
        work=work,
        cost=cost,
        memory=memory,
        fits=memory <= chip.memory,
        seconds=None if cost.cycles is None or chip.clock is None else cost.cycles / chip.clock,
        least_seconds=max(cost.flops / chip.flops, cost.held / chip.bandwidth),
    )

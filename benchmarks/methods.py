"""What a training step of every method takes: time beside L2's, measured and counted, and memory.

    python benchmarks/methods.py --arch=efficientnet_lite0 --size=72 --batch=16
    python benchmarks/methods.py --arch=resnet50 --size=224 --batch=32 --methods=l2,delta,bss --json=methods.json

Each is the step of `delta_jax.train` as configs/rivals.py has it, augmentation included, on random weights and images;
the methods take turns, step by step, so all see the same machine, which should be idle. Counted are the convolutions
and matrix products of the traced step (`delta_jax.chips.flops`); memory is what the compiler set aside: state, source
and batch, and what it works with.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import _random_network
import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import methods
from delta_jax.chips import flops
from delta_jax.configs.rivals import get_config
from delta_jax.processes import huge_pages, sharding
from delta_jax.training import config as configs
from delta_jax.training import measured_phase, step_program
from delta_jax.training.programs import IMAGENET_CLASSES, Programs

WARM_UP = 2  # steps before the clock counts
BASE = "l2"


class Cost(NamedTuple):
    """Of a step.

    Attributes:
      seconds: of each timed step.
      flops: of convolutions and matrix products, as traced.
      held: bytes of state, source and batch.
      temporary: bytes beside them, while it works.
    """

    seconds: list[float]
    flops: int
    held: int
    temporary: int


def programs_of(method: str, args: argparse.Namespace) -> Programs:
    """Of configs/rivals.py with this method, network and size."""
    config = get_config().run
    config.update({"method": method, "arch": args.arch, "batch_size": args.batch, "taps": ("default",)})
    config.data.update({"resize": args.size * 10 // 9, "crop": args.size})
    return Programs(configs.resolve(config), sharding.make_mesh(), args.classes)


def arguments_of(programs: Programs, variables: Any, rows: int) -> tuple[Any, ...]:
    """Arrays of the shapes of `step_program.arguments`, with `variables` as source and start."""
    config, rng = programs.config, np.random.default_rng(0)
    if programs.shapes.source_head:
        head = jax.tree.map(
            lambda leaf: rng.normal(0, 0.01, leaf.shape).astype(np.float32), programs.shapes.source_head
        )
        programs.shapes = dataclasses.replace(programs.shapes, source_head=head)
    _, _, batch, attention, _ = step_program.arguments(programs, programs.pixels(config.batch_size), rows)
    state = step_program.initial_state(programs, variables)  # type: ignore[arg-type]
    measured = jax.tree.map(
        lambda leaf: rng.uniform(0, 2 / IMAGENET_CLASSES, leaf.shape).astype(np.float32),
        measured_phase.shapes(programs, rows),
    )
    source = {**variables, "measured": measured} if measured else variables
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 1 / leaf.shape[-1], np.float32), attention)
    numbers = {
        "image": rng.integers(0, 256, batch["image"].shape, np.uint8),
        "label": rng.integers(0, programs.num_classes, config.batch_size).astype(np.int32),
        "index": np.arange(config.batch_size, dtype=np.int32),
    }
    chosen = step_program.hyperparameters(programs, 1e-3, np.full(1024, 1e-4, np.float32))  # type: ignore[arg-type]
    return state, jax.tree.map(jnp.copy, source), jax.tree.map(jnp.asarray, numbers), weights, chosen


class Running:
    """One method's step, compiled, with its state."""

    def __init__(self, method: str, args: argparse.Namespace, variables: Any):
        programs = programs_of(method, args)
        self.method, self.seconds = method, []
        # Its own copy: the state is donated.
        self._state, *self._rest = arguments_of(programs, jax.tree.map(jnp.copy, variables), rows=args.batch)
        function = step_program.function(programs)
        self.flops = flops.count(function, self._state, *self._rest)
        self._compiled = function.lower(self._state, *self._rest).compile()

    def run(self) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self._state, metrics = self._compiled(self._state, *self._rest)
        jax.block_until_ready(metrics)
        return time.perf_counter() - began

    def cost(self) -> Cost:
        """What was measured and counted so far."""
        found = self._compiled.memory_analysis()
        held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return Cost(self.seconds, self.flops, held, found.temp_size_in_bytes)


def measure(args: argparse.Namespace) -> dict[str, Cost]:
    """{method: what its step takes}."""
    _, variables, _, _ = _random_network.create(
        args.arch, dtype="float32", classes=args.classes, batch=args.batch, size=args.size
    )
    running = [Running(method, args, variables) for method in args.methods]
    for turn in range(WARM_UP + args.repeats):
        # Each turn begins with another method, lest one always follows the same other.
        for one in running[turn % len(running) :] + running[: turn % len(running)]:
            seconds = one.run()
            if turn >= WARM_UP:
                one.seconds.append(seconds)
    return {one.method: one.cost() for one in running}


def table(found: dict[str, Cost]) -> str:
    """In Markdown: a row per method, ratios to L2."""
    base = found[BASE]
    lines = [
        "| method | time beside L2's | quartiles | counted | state, source and batch, MB | while it works, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method, cost in found.items():
        ratios = np.divide(cost.seconds, base.seconds)  # of the same turn
        low, median, high = np.percentile(ratios, (25, 50, 75))
        lines.append(
            f"| `{method}` | {median:.2f} | {low:.2f} to {high:.2f} | {cost.flops / base.flops:.2f} "
            f"| {cost.held / 1e6:,.0f} | {cost.temporary / 1e6:,.0f} |"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    trained = [name for name in methods.names() if methods.create(name).trains_backbone]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=72, help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--methods", default=",".join(trained), help=f"names with commas between; {BASE} among them")
    parser.add_argument("--repeats", type=int, default=30, help="timed steps of each method")
    parser.add_argument("--json", help="file for everything that was measured")
    args = parser.parse_args(arguments)
    args.methods = args.methods.split(",")
    if wrong := [name for name in args.methods if name not in trained]:
        parser.error(f"no method with steps called {', '.join(wrong)}; known: {', '.join(trained)}")
    if BASE not in args.methods:
        parser.error(f"all are held against {BASE}: name it, too")
    return args


def main() -> None:
    args = parse()
    found = measure(args)
    base = statistics.median(found[BASE].seconds)
    device = jax.devices()[0].device_kind
    print(f"{args.arch} {args.size} px batch {args.batch} on {device}, jax {jax.__version__}, {args.repeats} turns")
    print(f"a step of {BASE}: {1000 * base:.0f} ms, {found[BASE].flops / 1e9:.2f} GFLOP\n")
    print(table(found))
    if args.json:
        facts = {
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "date": datetime.now(UTC).date().isoformat(),
            "jax": jax.__version__,
            "device": device,
            **{field: getattr(args, field) for field in ("arch", "size", "batch", "classes")},
            "methods": {method: cost._asdict() for method, cost in found.items()},
        }
        Path(args.json).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    huge_pages.restart()
    main()

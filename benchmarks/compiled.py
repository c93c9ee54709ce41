"""The training step compiled for chips that are not here, beside the same step as a Flax user writes it.

    python benchmarks/compiled.py --networks=mobilenet_v2 --methods=l2,delta --topologies=v5e:2x2
    python benchmarks/compiled.py --networks=resnet50,resnet101 --topologies=v5e:2x2,h100x1 --json=compiled.json

Needs the chips' compilers, pip install 'delta_jax[aot]', and no chip. Both sides compute in bfloat16, from float32
images and with float32 parameters, momentum and statistics, and step by SGD with momentum; the other side is
`_plain_networks.py`. Each program takes seconds to minutes; what was compiled once is kept in --cache, by the program's
text and the versions.

All numbers are per chip and the compilers' own: cycles are an estimate, loops included, of what runs on the chip, and
know nothing of waiting for other chips or for memory. Compilers for GPUs estimate neither cycles nor bytes.
"""

import argparse
import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import _kept_programs
import _plain_networks
import collectives
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from delta_jax import chips, models

SIDES = ("ours", "plain")
COLUMNS = {
    "Mcycles": lambda found: found.cycles and found.cycles / 1e6,
    "GB accessed": lambda found: found.bytes_accessed and found.bytes_accessed / 1e9,
    "GB temporary": lambda found: found.temporary / 1e9,
    "GB arguments": lambda found: found.arguments / 1e9,
    "all-reduces": lambda found: sum(one.kind == "all-reduce" for one in found.collectives),
}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(")
_NAME = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# What computes nothing, goes on beside the operations, or is counted by its body.
_APART = (
    *(
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "copy",
        "slice",
        "while",
        "conditional",
        "call",
    ),
    *("custom-call AllocateBuffer", "custom-call ConcatBitcast"),
)
LARGE = 1_000_000  # numbers in an array


def lower(
    side: str, network: str, topology: chips.Topology, *, method: str, batch: int, size: int, classes: int
) -> Any:
    """One side's step for all devices of the topology, the batch split among them; not yet compiled."""
    mesh = Mesh(np.array(topology.devices), ("data",))
    with topology.compiling():
        if side == "ours":
            model = models.create(network, num_classes=classes, dtype=jnp.bfloat16, platform=topology.platform)
            sizes = {"batch": batch, "size": size, "platform": topology.platform}
            return collectives.lower_step(models.spec(network), model, mesh, method=method, **sizes)
        images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
        step, arguments = _plain_networks.build(network, images, labels, classes=classes, method=method)
        whole, split = collectives.placed(arguments[:4], mesh), collectives.placed(arguments[4:], mesh, "data")
        traced = jax.jit(step, donate_argnums=(0, 1, 2)).trace(*whole, *split)
        return traced.lower(lowering_platforms=(topology.platform,))


def operations(text: str) -> Iterator[tuple[str, str, str, int | None]]:
    """(opcode, shape, name in the traced program, estimated cycles) of what the entry computation starts."""
    for line in text[text.index("\nENTRY ") :].splitlines():
        if match := _INSTRUCTION.match(line):
            name, cycles, target = _NAME.search(line), _CYCLES.search(line), _TARGET.search(line)
            opcode = f"custom-call {target[1]}" if target else match[2]
            yield opcode, match[1], name[1] if name else "", int(cycles[1]) if cycles else None


def uncounted(text: str) -> Mapping[str, int]:
    """{opcode: how often} of what works on maps and has no estimate, which the sum of cycles therefore lacks.

    Copies that go on beside the operations, collectives and loops, whose bodies are counted, are none of them.
    """
    return Counter(
        opcode
        for opcode, shape, _, cycles in operations(text)
        if cycles is None
        and opcode.removesuffix("-start") not in (*_APART, *chips.collectives.KINDS)
        and not opcode.endswith("-done")
        and (opcode.startswith("custom-call") or _size(shape) >= LARGE)
    )


def heaviest(text: str, most: int) -> list[tuple[int, int, str]]:
    """(cycles, operations, kind) of the kinds of operations that cost most: direction, layer and what is done there."""
    cycles: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for opcode, _, name, estimate in operations(text):
        direction = "backward" if "transpose(" in name else "forward" if "jvp(" in name else "source, update"
        # Blocks and layers by kind: their numbers off.
        layer = "/".join(re.sub(r"_?\d+$", "", part) for part in name.split("/")[-2:])
        kind = f"{direction}: {layer or opcode}"
        cycles[kind] += estimate or 0
        number[kind] += estimate is not None
    return [(cost, number[kind], kind) for kind, cost in cycles.most_common(most)]


def _size(shape: str) -> int:
    arrays = re.findall(r"\[([\d,]+)\]", shape)
    return max((math.prod(map(int, array.split(","))) for array in arrays), default=0)


def record(kept: _kept_programs.Kept) -> dict[str, Any]:
    """One side's numbers."""
    found = kept.program
    sent: Counter[str] = Counter()
    for one in found.collectives:
        sent[one.kind] += one.bytes
    return {
        **{name: column(found) for name, column in COLUMNS.items()},
        "compile s": kept.seconds,
        "collective bytes": sent,
        "unknown loops": found.unknown_loops,
        "without estimate": uncounted(kept.text) if found.cycles else {},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Lines for people: three of each network, method and topology."""
    columns = (*COLUMNS, "compile s")
    lines = [f"{'':44}" + "".join(f"{column:>14}" for column in columns)]
    for row in rows:
        title = f"{row['network']} {row['size']} px, {row['method']}, {row['topology']}, {row['per chip']} a chip"
        lines.append(title)
        for side in SIDES:
            cells = (row[side][column] for column in columns)
            lines.append(f"  {side:42}" + "".join(_cell(cell) for cell in cells))
        ratios = (row["ratio"].get(column) for column in columns)
        lines.append(f"  {'ours / plain':42}" + "".join(_cell(ratio) for ratio in ratios))
        for side in SIDES:
            lacking = dict(row[side]["without estimate"])
            if row[side]["unknown loops"]:
                lacking["loops of unknown length, counted once"] = row[side]["unknown loops"]
            if lacking:
                what = ", ".join(f"{count} {name}" for name, count in sorted(lacking.items()))
                lines.append(f"  not in the cycles of {side}: {what}")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    text = "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
    return f"{text:>14}"


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every topology, network and method that both sides compile for; written to --json after each."""
    rows = []
    for name in args.topologies:
        topology = chips.find(name)
        for network, method in itertools.product(args.networks, args.methods):
            size = args.size or models.spec(network).input_size
            batch = args.per_chip * len(topology.devices)
            row = {"topology": name, "chips": len(topology.devices), "network": network, "method": method}
            row |= {
                "per chip": args.per_chip,
                "size": size,
                "classes": args.classes,
                "versions": _kept_programs.versions(),
            }
            for side in SIDES:
                print(f"{network} {method} for {name}, {side} ...", end=" ", flush=True, file=sys.stderr)
                sizes = {"method": method, "batch": batch, "size": size, "classes": args.classes}
                try:
                    kept = _kept_programs.compiled(lower(side, network, topology, **sizes), topology, Path(args.cache))
                except jax.errors.JaxRuntimeError as error:  # more memory than there is
                    print(f"left out, the compiler refuses it: {str(error).splitlines()[0]}", file=sys.stderr)
                    break
                print(f"compiled in {kept.seconds:.0f} s", file=sys.stderr)
                row[side] = record(kept)
                if args.heaviest:
                    row[side]["heaviest"] = heaviest(kept.text, args.heaviest)
            else:
                row["ratio"] = {
                    column: row["ours"][column] / row["plain"][column] for column in COLUMNS if row["plain"][column]
                }
                rows.append(row)
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    def words(known: Iterable[str] | None = None) -> Callable[[str], list[str]]:
        def split(text: str) -> list[str]:
            found = text.split(",")
            if known and (wrong := [word for word in found if word not in known]):
                raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not among {', '.join(known)}")
            return found

        return split

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=words(_plain_networks.NETWORKS), default=["resnet18"])
    parser.add_argument("--methods", type=words(_plain_networks.METHODS), default=list(_plain_networks.METHODS))
    parser.add_argument("--topologies", type=words(), default=["v5e:2x2"], help="as v5e:4x4 or h100x1")
    parser.add_argument("--per-chip", type=int, default=32, help="images")
    parser.add_argument("--size", type=int, help="height and width, pixels; default: the network's own")
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--json", help="file for all numbers")
    parser.add_argument("--heaviest", type=int, default=0, help="kinds of operations to list, by estimated cycles")
    parser.add_argument("--cache", default=".cache/compiled", help="folder of what was compiled before")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    jax.config.update("jax_platforms", "cpu")  # a chip that is here is left alone
    try:
        rows = compare(args)
    except chips.TopologyError as error:
        raise SystemExit(f"error: {error}") from None
    print(table(rows))
    for row, side in itertools.product(rows if args.heaviest else [], SIDES):
        print(f"{row['network']}, {row['method']}, {row['topology']}, {side}: Mcycles, operations")
        for cycles, number, kind in row[side]["heaviest"]:
            print(f"  {cycles / 1e6:8.2f} {number:5} {kind}")


if __name__ == "__main__":
    main()

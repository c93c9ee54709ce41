"""Training steps on random weights and images: speed, compile time, memory, share of the chip's peak.

    python benchmarks/step.py --arch=mobilenet_v2 --size=128 --batch=32 --method=delta
    python benchmarks/step.py --arch=resnet50 --size=224 --batch=16 --method=l2,l2_sp,delta --json=step.json
    python benchmarks/step.py --arch=resnet50 --size=224 --batch=16 --method=l2,delta --peer=torch_delta.py \\
        --peer-python=~/torch/bin/python

The methods take turns, step by step, and so does the other implementation of --peer, run by run: all see the same
machine, which should be idle. The last line is images per second of the last method, and nothing else.
"""

import argparse
import json
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _peaks
import _peer
import _profile
import _random_network
import _training_step
import jax

from delta_jax import methods, models
from delta_jax.processes import huge_pages

WARM_UP = 2  # steps before the clock counts


def names_of_methods(values: list[str]) -> list[str]:
    found = [name for value in values for name in value.split(",")]
    if wrong := [name for name in found if name not in methods.names()]:
        raise SystemExit(f"error: no method called {', '.join(wrong)}; known: {', '.join(methods.names())}")
    if more := [name for name in found if _has_more_than_a_loss(methods.create(name))]:
        raise SystemExit(f"error: {', '.join(more)}: more than a loss on two networks; benchmarks/methods.py times it")
    return found


def _has_more_than_a_loss(method: methods.Method) -> bool:
    return method.has_own_parameters or method.carries or method.projects or bool(method.measures)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything but the profile, as one JSON object; "methods" has a record for each."""
    spec = models.spec(args.arch)
    model, source, images, labels = _random_network.create(
        args.arch, dtype=args.dtype, classes=args.classes, batch=args.batch, size=args.size
    )
    peak, peak_source = _peaks.peak(args.dtype)
    running = [_training_step.Running(name, spec, model, source, images, labels) for name in args.methods]
    for one in running:
        for _ in range(WARM_UP):
            one.run()
    peer: dict[str, list[float]] = {name: [] for name in args.methods}
    ratios: dict[str, list[float]] = {name: [] for name in args.methods}
    for _ in range(args.rounds if args.peer else 1):
        seconds: dict[str, list[float]] = {name: [] for name in args.methods}
        for _ in range(args.repeats):
            for one in running:
                seconds[one.method].append(one.run())
        for one in running:
            one.seconds += seconds[one.method]
        if args.peer:
            command = [str(Path(path).expanduser()) for path in (args.peer_python, args.peer)]
            printed = _peer.measure(
                command,
                arch=args.arch,
                size=args.size,
                batch=args.batch,
                classes=args.classes,
                bfloat16=args.dtype == "bfloat16",
            )
            for name, rate in _peer.parse(printed, args.methods).items():
                peer[name].append(rate)
                ratios[name].append(args.batch / statistics.median(seconds[name]) / rate)

    records = {}
    base = statistics.median(running[0].seconds)
    for one in running:
        median = statistics.median(one.seconds)
        counted = _training_step.counted_flops(model, source, images, methods.create(one.method))
        records[one.method] = {
            "images_per_second": args.batch / median,
            "seconds": one.seconds,
            "compile_seconds": one.compile_seconds,
            "bytes": one.memory(),
            "flops": counted,
            "executed_flops": one.executed_flops(),
            "share_of_peak": counted / median / peak if peak else None,
            f"time_over_{running[0].method}": median / base,
            "peer_images_per_second": peer[one.method],
            "over_peer": ratios[one.method],
        }
    stats = jax.devices()[0].memory_stats() or {}
    result = {
        "arch": args.arch,
        "size": args.size,
        "batch": args.batch,
        "classes": args.classes,
        "dtype": args.dtype,
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
        "jax": jax.__version__,
        "peak_flops_per_second": peak,
        "peak_source": peak_source,
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "methods": records,
    }
    if args.profile:
        result["profile"] = {}
        for one in running:
            print(f"{one.method}:")
            folder = Path(args.profile) / one.method
            result["profile"][one.method] = _profile.report(folder, one.run, one.program, args.repeats)
    return result


def show(result: dict[str, Any]) -> None:
    """A line per method."""
    print(f"{result['arch']} {result['size']} px batch {result['batch']} {result['dtype']} on {result['device']}")
    if result["peak_flops_per_second"]:
        print(f"peak {result['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s: {result['peak_source']}")
    if result["device_peak_bytes"]:
        print(f"the device held {result['device_peak_bytes'] / 1e6:,.0f} MB at most, all methods together")
    first = next(iter(result["methods"]))
    peer = any(record["over_peer"] for record in result["methods"].values())
    columns = [
        "images/s",
        "spread",
        f"time/{first}",
        "compile s",
        "MB",
        "of peak",
        *(["peer", "over peer"] if peer else []),
    ]
    print(f"{'':24}" + "".join(f"{column:>12}" for column in columns))
    for name, record in result["methods"].items():
        rates = sorted(result["batch"] / seconds for seconds in record["seconds"])
        share, memory = record["share_of_peak"], record["bytes"].get("in all")
        cells = [
            f"{record['images_per_second']:.1f}",
            f"{rates[0]:.1f}-{rates[-1]:.1f}",
            f"{record[f'time_over_{first}']:.2f}",
            f"{record['compile_seconds']:.1f}",
            f"{memory / 1e6:,.0f}" if memory else "-",
            f"{share:.1%}" if share else "-",
        ]
        if peer:
            has = bool(record["over_peer"])
            cells.append(f"{statistics.median(record['peer_images_per_second']):.1f}" if has else "-")
            cells.append(f"{statistics.median(record['over_peer']):.2f}" if has else "-")
        print(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=models.names(), default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=128, help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--method", action="append", help="one, or several with commas between; default: delta")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each method, in each round")
    parser.add_argument("--rounds", type=int, default=3, help="turns with --peer")
    parser.add_argument("--json", help="file for everything that was measured")
    parser.add_argument("--profile", help="folder for a trace of each method; prints the heaviest operations")
    parser.add_argument("--peer", help="script of another implementation, see _peer.py")
    parser.add_argument("--peer-python", default="python3", help="its interpreter")
    args = parser.parse_args(arguments)
    args.methods = names_of_methods(args.method or ["delta"])
    return args


def main() -> None:
    args = parse()
    if args.peer:
        # jax would take most of a GPU's memory at once, and leave the other process too little.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    result = measure(args)
    show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{args.methods[-1]}, images per second:")
    print(f"{result['methods'][args.methods[-1]]['images_per_second']:.1f}")


if __name__ == "__main__":
    huge_pages.restart()
    main()

"""Seconds per image of the attention, all filters of the default taps; the last line is the number.

    python benchmarks/attention.py --arch=mobilenet_v2 --size=128 --batch=8 --estimator=exact

Weights and images are random. To compare with another implementation run both right after each other on the same idle
machine.
"""

import argparse
import statistics
import time

import _random_network
import jax

from delta_jax import attention, features, models
from delta_jax.processes import huge_pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=models.names(), default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=128, help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images per call")
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--estimator", choices=attention.ESTIMATORS, default="exact")
    parser.add_argument("--chunk", type=int, help="filters that run together; default: as the library chooses")
    parser.add_argument("--filters", type=int, help="filters per tap, the first ones; default: all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    spec = models.spec(args.arch)
    model, variables, images, labels = _random_network.create(
        args.arch, dtype=args.dtype, classes=args.classes, batch=args.batch, size=args.size
    )
    shapes = features.list_taps(model, variables, images)
    filters = args.filters and {tap: range(min(args.filters, shapes[tap][-1])) for tap in spec.taps}

    def run() -> float:
        began = time.perf_counter()
        found = attention.filter_gaps(
            model,
            variables,
            images,
            labels,
            taps=spec.taps,
            estimator=args.estimator,
            filters=filters,
            chunk=args.chunk,
        )
        jax.block_until_ready(found)
        return time.perf_counter() - began

    first = run()
    times = [run() for _ in range(args.repeats)]
    print(f"first call, with compilation: {first:.1f} s on {jax.devices()[0].device_kind}")
    count = sum(shapes[tap][-1] for tap in spec.taps) if not filters else sum(map(len, filters.values()))
    print(f"{args.estimator} {args.arch} {args.size} px batch {args.batch} {args.dtype}, {count} filters")
    print("seconds per image:")
    print(f"{statistics.median(times) / args.batch:.5f}")


if __name__ == "__main__":
    huge_pages.restart()
    main()

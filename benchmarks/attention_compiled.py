"""What the attention costs on chips that are not here, from their compiler; the last line is JSON.

    python benchmarks/attention_compiled.py --topology=v5e:2x2 --devices=1 --arch=resnet101 --estimator=exact

Needs jax[tpu], or jax-cuda13-plugin and jax-cuda13-pjrt for h100x1, and none of their chips. Nothing is run: cycles are
the TPU compiler's own estimate, with every filter alive; it knows nothing of waiting for other chips or for the host.
"""

import argparse
import json
import math
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from delta_jax import attention, chips, models
from delta_jax.processes import sharding


def compile_attention(
    topology: chips.Topology,
    model: Any,
    *,
    taps: tuple[str, ...],
    devices: int,
    batch: int,
    size: int,
    **arguments: Any,
) -> Any:
    """The pass as `delta_jax.attend` runs it, for `batch` images on each of the first `devices` devices."""
    mesh = Mesh(np.array(topology.devices[:devices]), ("data",))

    def gaps(variables: Any, images: Any, labels: Any) -> Any:
        return attention.filter_gaps(model, variables, images, labels, taps=taps, **arguments)

    def placed(tree: Any, *axes: str) -> Any:
        on_mesh = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_mesh), tree)

    images = jax.ShapeDtypeStruct((devices * batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((devices * batch,), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    function = sharding.per_device(gaps, mesh)
    return topology.compile(function, placed(variables), *placed((images, labels), "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2", help="v5e:4x4, h100x1, ...")
    parser.add_argument("--devices", type=int, help="only the first so many of them")
    parser.add_argument("--arch", choices=models.names(), default="resnet101")
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images per device and call")
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--estimator", choices=attention.ESTIMATORS, default="exact")
    parser.add_argument("--chunk", type=int, help="filters that run together; default: as the library chooses")
    parser.add_argument("--images", type=int, default=12_000, help="of the data set")
    args = parser.parse_args()
    if args.topology.startswith("h100"):
        os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")  # it would time algorithms on the chip
    jax.config.update("jax_platforms", "cpu")

    topology = chips.find(args.topology)
    devices = args.devices or len(topology.devices)
    began, own = time.perf_counter(), time.process_time()
    compiled = compile_attention(
        topology,
        models.create(args.arch, num_classes=args.classes),
        taps=models.spec(args.arch).taps,
        devices=devices,
        batch=args.batch,
        size=args.size,
        estimator=args.estimator,
        chunk=args.chunk,
    )
    program, chip = chips.read(compiled), topology.chip
    found = {
        **vars(args),
        "devices": devices,
        "chip": chip.name,
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_of_cpu": round(time.process_time() - own, 1),
        "held": program.held,
        "temporary": program.temporary,
        "collectives": len(program.collectives),
        "cycles": program.cycles,
        "bounded_loops": program.bounded_loops,
        "unknown_loops": program.unknown_loops,
    }
    print(f"{args.estimator} {args.arch} {args.size} px, {args.batch} images on each of {devices} {chip.name}")
    print(f"compiled in {found['seconds']:.0f} s, {found['seconds_of_cpu']:.0f} s of one core")
    print(f"memory {program.held / 1e6:,.0f} MB held, {program.temporary / 1e6:,.0f} MB temporary")
    if program.cycles and chip.clock:
        calls = math.ceil(args.images / devices / args.batch)
        found["hours"] = calls * program.cycles / chip.clock / 3600
        print(f"{program.cycles / args.batch:,.0f} cycles an image, if no filter is dead")
        print(f"{args.images:,} images: {found['hours']:.2f} hours at {chip.clock / 1e9:.2f} GHz")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

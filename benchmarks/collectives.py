"""What the devices tell each other in a training step and in the attention pass, from programs compiled, not run.

    python benchmarks/collectives.py --arch=resnet101 --size=224 --batch=256 --devices=8 --dtype=bfloat16

The devices are simulated on the CPU, which needs no other hardware. The program is traced as for a TPU (--platform),
whose convolutions are not those that this library takes on CPUs; the CPU's compiler then splits and combines it.
"""

import argparse
import os
import time
from typing import Any

import _training_step
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from delta_jax import attention, methods, models
from delta_jax.chips import collectives
from delta_jax.processes import sharding


def shapes_of(spec: models.ModelSpec, model: Any, *, batch: int, size: int) -> tuple[Any, Any, Any]:
    """(variables, images, labels), shapes alone."""
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), images), images, labels


def placed(tree: Any, mesh: Any, *axes: str) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def lower_step(
    spec: models.ModelSpec, model: Any, mesh: Any, *, method: str, batch: int, size: int, platform: str = "tpu"
) -> Any:
    """The training step, to be compiled for the mesh with the batch split and all else whole on every device."""
    shapes = shapes_of(spec, model, batch=batch, size=size)
    step = _training_step.build(spec, model, *shapes[:2], method=method, platform=platform)
    state, source, examples, weights, *rest = jax.eval_shape(step.arguments, *shapes)
    arguments = [*placed([state, source], mesh), placed(examples, mesh, "data"), placed(weights, mesh)]
    traced = jax.jit(step.function, donate_argnums=0).trace(*arguments, *placed(rest, mesh))
    return traced.lower(lowering_platforms=(platform,))


def compile_attention(
    spec: models.ModelSpec, model: Any, mesh: Any, *, batch: int, size: int, platform: str = "tpu"
) -> Any:
    """The attention pass over a batch, by its fastest estimator, compiled as `delta_jax.attend` runs it."""
    variables, images, labels = shapes_of(spec, model, batch=batch, size=size)

    def gaps(variables: Any, images: Any, labels: Any) -> Any:
        return attention.filter_gaps(model, variables, images, labels, taps=spec.taps, estimator="first_order")

    function = sharding.per_device(gaps, mesh)
    traced = function.trace(placed(variables, mesh), *placed([images, labels], mesh, "data"))
    return traced.lower(lowering_platforms=(platform,)).compile()


def show(title: str, compiled: Any) -> None:
    text = compiled.as_text()
    found = collectives.of_program(text)
    print(title)
    for kind in collectives.KINDS:
        of_kind = [one for one in found if one.kind == kind]
        small = [one for one in of_kind if one.only_vectors]
        large = [one for one in of_kind if not one.only_vectors]
        for name, ones in (("of vectors only", small), ("with larger arrays", large)):
            if ones:
                arrays = sum(len(one.arrays) for one in ones)
                print(f"  {kind} {name}: {len(ones)}, {arrays} arrays, {sum(one.bytes for one in ones):,} bytes")
    if not found:
        print("  no collectives")
    started = collectives.operations(text)
    products = started.get("convolution", 0) + started.get("dot", 0)
    print(f"  operations started: {sum(started.values()):,}, of them {products:,} bare convolutions and products")
    costs = compiled.cost_analysis() or {}
    gigaflops, megabytes = costs.get("flops", 0) / 1e9, costs.get("bytes accessed", 0) / 1e6
    print(f"  per device: {gigaflops:,.2f} GFLOP, {megabytes:,.0f} MB accessed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=models.names(), default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=32, help="images per step, over all devices")
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--method", choices=methods.names(), default="delta")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--frozen-stats", action="store_true", help="BatchNorm with the source's running statistics")
    parser.add_argument("--devices", type=int, default=4, help="simulated")
    parser.add_argument("--platform", choices=("tpu", "cuda", "cpu"), default="tpu", help="whose operations are traced")
    args = parser.parse_args()

    # Read when the first device is asked for, which is later than the import.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={args.devices}"
    jax.config.update("jax_platforms", "cpu")
    spec, mesh = models.spec(args.arch), sharding.make_mesh()
    dtype = None if args.dtype == "float32" else jnp.dtype(args.dtype)
    form = {"frozen_norm": args.frozen_stats, "platform": args.platform}
    model = models.create(args.arch, num_classes=args.classes, dtype=dtype, **form)
    sizes = {"batch": args.batch, "size": args.size, "platform": args.platform}

    parameters = jax.tree.leaves(shapes_of(spec, model, batch=1, size=args.size)[0]["params"])
    count = sum(leaf.size for leaf in parameters)
    print(f"{args.arch} {args.size} px batch {args.batch} {args.dtype}, {args.devices} devices, as for {args.platform}")
    print(f"{count:,} parameters, {4 * count:,} bytes")
    began = time.perf_counter()
    step = lower_step(spec, model, mesh, method=args.method, **sizes).compile()
    show(f"training step, {args.method}:", step)
    show("attention pass:", compile_attention(spec, model, mesh, **sizes))
    print(f"compiled in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

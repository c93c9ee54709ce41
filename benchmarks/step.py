"""Images per second of one training step, on random weights and images; the last line is the number.

    python benchmarks/step.py --arch=mobilenet_v2 --size=128 --batch=32 --method=delta

To compare with another implementation run both right after each other on the same idle machine.
"""

import argparse
import statistics
import time

import _random_network
import jax
import jax.numpy as jnp

from delta_jax import features, methods, models
from delta_jax.training import optim, state, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=models.names(), default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=128, help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=120)
    parser.add_argument("--method", choices=methods.names(), default="delta")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()

    spec = models.spec(args.arch)
    model, source, images, labels = _random_network.create(
        args.arch, dtype=args.dtype, classes=args.classes, batch=args.batch, size=args.size
    )
    shapes = features.list_taps(model, source, images)
    attention = {tap: jnp.full((shapes[tap][-1],), 1.0 / shapes[tap][-1]) for tap in spec.taps}

    method = methods.create(args.method, scale="reference", rectify=False)
    tx = optim.make_optimizer(
        source["params"], lambda step: 1e-4, head=spec.head, weight_decay=1e-4 if method.decays_weights else 0.0
    )
    loss = steps.make_loss(model, model, method, taps=spec.taps, head=spec.head, alpha=0.01, beta=0.01)
    train_step = jax.jit(steps.make_train_step(loss, tx, lambda key, x: x), donate_argnums=0)
    batch = {"image": images, "label": labels, "index": jnp.arange(args.batch)}
    train_state, key = state.init_state(source, tx), jax.random.key(2)

    began = time.perf_counter()
    compiled = train_step.lower(train_state, source, batch, attention, key).compile()
    print(f"compiled in {time.perf_counter() - began:.1f} s on {jax.devices()[0].device_kind}")
    times = []
    for _ in range(args.repeats + 2):
        began = time.perf_counter()
        train_state, metrics = compiled(train_state, source, batch, attention, key)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    print(f"{args.method} {args.arch} {args.size} px batch {args.batch} {args.dtype}, images per second:")
    print(f"{args.batch / statistics.median(times[2:]):.1f}")


if __name__ == "__main__":
    main()

"""What an operation of the gaps takes, in units of one of the training step: the constant of `attention_images`.

    python benchmarks/attention_share.py --arch=efficientnet_lite0 --size=96

Weights and images are random. Both programs run in turn; processor seconds count, so that other work on the machine
disturbs little. The last line is the number.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import models
from delta_jax.configs.folder import get_config
from delta_jax.processes import huge_pages, sharding
from delta_jax.training import attention_images, attention_program, step_program
from delta_jax.training import config as configs
from delta_jax.training.programs import Programs


def filled(shapes: Any) -> Any:
    """Random arrays of these shapes; scales and variances, which have one axis, near 1."""
    rng = np.random.default_rng(0)

    def one(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(0.05 * rng.standard_normal(leaf.shape) + (len(leaf.shape) < 2), leaf.dtype)
        return jnp.asarray(rng.integers(0, 2, leaf.shape), leaf.dtype)

    return jax.tree.map(one, shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=models.names(), default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=96, help="height and width, pixels")
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--estimator", choices=("exact", "first_order", "mixed"), default="exact")
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()

    config = get_config()
    config.steps = 300
    config.arch, config.attention_estimator = args.arch, args.estimator
    config.data.crop, config.data.resize = args.size, args.size * 9 // 8
    programs = Programs(configs.resolve(config), sharding.make_mesh(), args.classes)
    (estimator,), batch = attention_program.estimators(programs.config), programs.config.batch_size
    step = step_program.function(programs)
    state, *others = filled(step_program.arguments(programs, programs.pixels(batch), 64))
    gaps = attention_program.program(programs, estimator, None)
    images = attention_program.images_per_pass(programs.config, programs.mesh)
    inputs = filled(attention_program.arguments(programs))

    seconds: dict[str, list[float]] = {"step": [], "gaps": []}  # of an image
    for _ in range(1 + args.repeats):
        began = time.process_time()
        for _ in range(8):
            state, _ = step(state, *others)
        jax.block_until_ready(state)
        between = time.process_time()
        found = jax.block_until_ready(gaps(*inputs))
        seconds["step"].append((between - began) / (8 * batch))
        seconds["gaps"].append((time.process_time() - between) / images)
    dead = {tap: float(np.mean(np.asarray(gap) == 0)) for tap, gap in found.items()}
    least = {name: min(values[1:]) for name, values in seconds.items()}  # the first ones compile
    counted = attention_images.operations_of_gaps(programs, estimator) / attention_images.operations_of_step(programs)
    print(f"{args.arch}, {args.size} px, {args.estimator}, on {jax.devices()[0].device_kind}")
    print("share of gaps that are 0: " + ", ".join(f"{tap} {share:.2f}" for tap, share in dead.items()))
    print("processor seconds an image: " + ", ".join(f"{name} {value:.4f}" for name, value in least.items()))
    print(f"operations of the gaps over those of the step: {counted:.2f}")
    print(f"{least['gaps'] / least['step'] / counted:.2f}")


if __name__ == "__main__":
    huge_pages.restart()
    main()

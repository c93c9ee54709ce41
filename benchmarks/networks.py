"""Compile time and speed of networks on this machine: a forward pass, and one with gradients of all parameters.

    python benchmarks/networks.py --networks=resnet18,densenet121 [--size=128] [--batch=8] [--rounds=3]

Prints rows of a table in Markdown: parameters, seconds to compile, images a second (the best of the rounds).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import models


def measured(name: str, size: int, batch: int, rounds: int) -> list[str]:
    """A row: name, parameters in millions, and of both programs compile time and images a second."""
    model = models.create(name)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, size, size, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)

    def loss(params, rest, x):
        logits, _ = model.apply({**rest, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1))

    rest = {collection: value for collection, value in variables.items() if collection != "params"}
    programs = [(model.apply, (variables, x)), (jax.grad(loss), (variables["params"], rest, x))]
    row = [name, f"{sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) / 1e6:.1f}"]
    for function, arguments in programs:
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*arguments).compile()
        row.append(f"{time.perf_counter() - start:.0f}")
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            seconds.append(time.perf_counter() - start)
        row.append(f"{batch / min(seconds[1:]):.1f}")
    return row


def main() -> None:
    """Measures one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", required=True, help="names of models.names(), with commas")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.networks.split(","):
        print(f"| {' | '.join(measured(name, options.size, options.batch, options.rounds))} |", flush=True)


if __name__ == "__main__":
    main()

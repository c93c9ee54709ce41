"""Cycles of one filter against how many run together, for the first two blocks of a ResNet's stage; one JSON line each.

    python benchmarks/attention_chunks.py --stage=4 --chunk 8 16 64

Needs jax[tpu], but no TPU: nothing is run, and the cycles are the compiler's own estimate. `least` are those of a
matrix unit that is never idle: what the chip's figures allow in full float32, which takes six passes in bfloat16.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from delta_jax import chips, precision
from delta_jax.ablation import Ablation
from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.resnet import Block

PASSES = 6  # in bfloat16, for a product of float32


class Rest(nn.Module):
    """What follows a tap at the end of a stage, cut off after two bottleneck blocks."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [1, H, W, C] -> logits."""
        x = relu(BatchNorm(name="bn")(x, False))
        x = Block(self.width, stride=2, bottleneck=True, downsample=True, name="block_0")(x, False)
        x = Block(self.width, bottleneck=True, name="block_1")(x, False)
        return nn.Dense(120, name="head")(jnp.mean(x, (1, 2)))


def compile_chunks(topology: chips.Topology, model: Rest, maps: Any, chunk: int) -> Any:
    """A loop over chunks of filters of one image's maps."""
    everywhere = NamedSharding(Mesh(np.array(topology.devices[:1]), ("data",)), PartitionSpec())
    placed = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)  # noqa: E731

    def logits(variables: Mapping[str, Any], maps: jax.Array) -> jax.Array:
        with precision.full():
            ablation = Ablation(lambda maps: model.apply(variables, maps), maps)
            chunks = jnp.arange(maps.shape[-1], dtype=jnp.int32).reshape(-1, chunk)
            return jax.lax.map(jax.vmap(lambda j: ablation.without(j)[0]), chunks)

    variables = jax.eval_shape(model.init, jax.random.key(0), maps)
    return topology.compile(jax.jit(logits), jax.tree.map(placed, variables), placed(maps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--stage", type=int, choices=(2, 3, 4), default=4)
    parser.add_argument("--size", type=int, default=224, help="of the images, pixels")
    parser.add_argument("--chunk", type=int, nargs="+", default=[16])
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    topology, width, size = chips.find(args.topology), 64 * 2 ** (args.stage - 1), args.size // 2**args.stage
    maps = jax.ShapeDtypeStruct((1, size, size, 2 * width), jnp.float32)
    # 3x3 and the 1x1 behind it in the first block, 1x1, 3x3, 1x1 in the second; the first 1x1 is a term of rank one.
    multiplications = (size // 2) ** 2 * width**2 * (9 + 4 + 4 + 9 + 4)
    least = PASSES * 2 * multiplications * topology.chip.clock / topology.chip.flops
    for chunk in args.chunk:
        program = chips.read(compile_chunks(topology, Rest(width), maps, chunk))
        cycles = None if program.cycles is None else round(program.cycles / maps.shape[-1])
        found = {**vars(args), "chunk": chunk, "cycles": cycles, "least": round(least)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

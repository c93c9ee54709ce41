"""A training step on many chips, on paper: seconds from counted work and published figures. docs/scale.md explains it.

Everything here is arithmetic. The numbers it starts from are those of the network, counted from its shapes, those of
the chips, published, and three assumptions, which are named below.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import jax

from delta_jax.analysis.overview import overview
from delta_jax.models import create
from delta_jax.models.checks import init_shapes
from delta_jax.training import attention_images

# Of a chip's published peaks (operations and memory alike), what a whole training step reaches. It is set so that the
# model gives the 2,470 images/s that NVIDIA publishes for ResNet-50 on an A100 (DeepLearningExamples, ResNet50 v1.5
# for PyTorch, mixed precision): 0.41.
ATTAINABLE = 0.4
# An operation on next to nothing takes this long, seconds, and a layer's forward, backward and update are so many.
OPERATION, OPERATIONS_PER_LAYER = 2e-6, 8
# How often the output of a convolution passes through memory beside the convolutions that write and read it. BatchNorm
# and ReLU in training: read for the statistics, read and written to normalise; backward twice read together with its
# gradient, which is written once. In evaluation: read and written.
PASSES, SOURCE_PASSES = 8, 2


@dataclass(frozen=True)
class Network:
    """What one image, or one step, of a network costs.

    Attributes:
      parameters: their number.
      norm_layers: BatchNorm layers.
      norm_channels: channels of all of them.
      layers: convolutions and linear layers.
      forward_flops: of a forward pass of one image; a multiplication with its addition counts as two.
      outputs: numbers that the convolutions put out for one image.
      kept_bytes: what the backward pass needs of one image's forward passes, in float32, by `overview`.
      ablation_flops: of the attention of one image: what follows a tap, once for every filter of it.
    """

    parameters: int
    norm_layers: int
    norm_channels: int
    layers: int
    forward_flops: int
    outputs: int
    kept_bytes: int
    ablation_flops: int


def of_network(arch: str, *, size: int, num_classes: int) -> Network:
    """Counts a network from its shapes; nothing is computed."""
    found = overview(arch, size=size, num_classes=num_classes, batch=1)
    model = create(arch, num_classes=num_classes)
    variables = init_shapes(model, size)
    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    kernels = {"/".join(str(key.key) for key in path[:-1]): leaf for path, leaf in paths if path[-1].key == "kernel"}
    means = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("batch_stats", {}))
        if path[-1].key == "mean"
    ]
    behind = attention_images.operations_behind(model, variables, size, found.default_taps)
    return Network(
        parameters=sum(found.parameters.values()),
        norm_layers=len(means),
        norm_channels=sum(leaf.size for leaf in means),
        layers=len(kernels),
        forward_flops=found.flops,
        outputs=sum(math.prod(found.taps[path]) for path, kernel in kernels.items() if kernel.ndim == 4),
        kept_bytes=found.memory["activations"],
        ablation_flops=sum(found.taps[tap][-1] * each for tap, each in behind.items()),
    )


class Links(Protocol):
    """How chips are connected."""

    def all_reduce(self, size: float, chips: int) -> float:
        """Seconds until every chip has the sum of `size` bytes of each."""
        ...


@dataclass(frozen=True)
class Torus:
    """A square grid of chips, each with links to its neighbours; an axis of full length closes to a ring.

    Attributes:
      side: chips along a full axis.
      link: bytes per second of one link, in one direction.
      hop: seconds from one chip to the next.
    """

    side: int
    link: float
    hop: float

    def axes(self, chips: int) -> tuple[int, int]:
        """Chips along the two axes of a slice: as square as powers of two allow."""
        if chips > self.side**2 or chips & (chips - 1):
            raise ValueError(f"{chips} chips are no slice; expected a power of 2, at most {self.side**2}")
        short = 2 ** (int(math.log2(chips)) // 2)
        return short, chips // short

    def all_reduce(self, size: float, chips: int) -> float:
        """Both directions of every axis at once; scatter, then gather, which take the same time."""
        if chips == 1:
            return 0.0
        lengths = [length for length in self.axes(chips) if length > 1]
        hops = sum(length / 2 if length == self.side else length - 1 for length in lengths)
        # The chip at the end of an axis that is no ring has one link there.
        links = sum(2 if length == self.side else 1 for length in lengths)
        return 2 * (hops * self.hop + size * (chips - 1) / chips / (links * self.link))


@dataclass(frozen=True)
class Nodes:
    """Machines of a few chips with fast links inside, and one network port per chip between them.

    Attributes:
      chips: per machine.
      inside: bytes per second of a chip to the others of its machine, in one direction.
      port: bytes per second of a chip's network port, in one direction.
      start: seconds that a collective takes to begin.
      hop_inside, hop_between: seconds of a message inside a machine, and between machines.
      slower_beside: what hop_inside is multiplied by where there are several machines.
    """

    chips: int
    inside: float
    port: float
    start: float
    hop_inside: float
    hop_between: float
    slower_beside: float

    def all_reduce(self, size: float, chips: int) -> float:
        """A chain in every machine and a tree over the machines, up and down; large sums are scattered first."""
        if chips == 1:
            return 0.0
        local, machines = min(chips, self.chips), max(chips // self.chips, 1)
        hop = self.hop_inside * (self.slower_beside if machines > 1 else 1)
        latency = self.start + 2 * ((local - 1) * hop + math.log2(machines) * self.hop_between)
        seconds = 2 * size * (local - 1) / local / self.inside
        seconds += 2 * size / local * (machines - 1) / machines / self.port
        return latency + seconds


@dataclass(frozen=True)
class Chip:
    """Published figures.

    Attributes:
      name: for the tables.
      flops: per second, bfloat16, dense.
      float32_flops: per second, with all digits of float32: what the attention is computed in.
      memory: bytes.
      bandwidth: of the memory, bytes per second.
      links: to other chips.
    """

    name: str
    flops: float
    float32_flops: float
    memory: float
    bandwidth: float
    links: Links


# cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s; four ports, 400 GB/s in both directions together, so 50
# each way; 16 x 16 chips. A hop takes about 1 us (jax-ml.github.io/scaling-book, part 3, "a note on ICI latency").
# Full float32 products are six in bfloat16 (jax's precision "highest").
V5E = Chip("TPU v5e", 197e12, 197e12 / 6, 16e9, 819e9, Torus(16, 50e9, 1e-6))
# nvidia.com/en-us/data-center/h100, SXM: 989 TFLOP/s dense, float32 67, 80 GB, 3.35 TB/s, NVLink 900 GB/s in both
# directions together; ports of 400 Gb/s. Times of messages: NCCL's own tables for its trees, protocol LL
# (src/graph/tuning.cc at 01afd20).
H100 = Chip("H100", 989e12, 67e12, 80e9, 3.35e12, Nodes(8, 450e9, 50e9, 4.4e-6, 0.52e-6, 5.0e-6, 1.8))


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step by what takes them; nothing overlaps.

    Attributes:
      arithmetic: convolutions and products.
      memory: what passes through memory between them.
      operations: the time that operations take however small they are.
      statistics: sums for BatchNorm over all chips, one after the other.
      gradients: their sum over all chips; XLA can hide part of it behind the backward pass.
    """

    arithmetic: float
    memory: float
    operations: float
    statistics: float
    gradients: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.arithmetic + self.memory + self.operations + self.statistics + self.gradients


def step_bytes(network: Network, *, source: bool = True) -> int:
    """That pass through memory beside the convolutions for one image of a step, in bfloat16."""
    return (PASSES + SOURCE_PASSES * source) * 2 * network.outputs


def gradient_bytes(network: Network) -> int:
    """That a step sums over the chips, in bfloat16: what the network computes in, the compiled program sums."""
    return 2 * network.parameters


def statistics_all_reduces(network: Network) -> int:
    """Of a step whose BatchNorm uses those of the whole batch: each layer waits twice, forward and backward."""
    return 2 * network.norm_layers


def step_time(
    network: Network, chip: Chip, *, batch: int, chips: int, source: bool = True, batch_statistics: bool = True
) -> StepTime:
    """A step in bfloat16, the batch split evenly, everything else whole on every chip.

    Args:
      network: counted.
      chip: published.
      batch: images, over all chips.
      chips: their number.
      source: whether the source network runs along (delta), in evaluation.
      batch_statistics: whether BatchNorm uses those of the whole batch; not with frozen or per-chip ones.
    """
    if batch < chips:
        raise ValueError(f"a batch of {batch} images cannot be split over {chips} chips")
    images = math.ceil(batch / chips)
    forwards = 3 + source
    # Two sums over images and positions, forward; the gradients of scale and shift, backward.
    vectors = 2 * 4 * network.norm_channels / max(network.norm_layers, 1)
    waiting = statistics_all_reduces(network) * chip.links.all_reduce(vectors, chips)
    return StepTime(
        arithmetic=images * forwards * network.forward_flops / (ATTAINABLE * chip.flops),
        memory=images * step_bytes(network, source=source) / (ATTAINABLE * chip.bandwidth),
        operations=network.layers * (OPERATIONS_PER_LAYER + 2 * source) * OPERATION,
        statistics=waiting if batch_statistics else 0.0,
        gradients=chip.links.all_reduce(gradient_bytes(network), chips),
    )


def fits(network: Network, chip: Chip, *, batch: int, chips: int) -> bool:
    """Whether a step's memory does: parameters, source, gradients and momentum in float32, activations in bfloat16."""
    return 4 * 4 * network.parameters + math.ceil(batch / chips) * network.kept_bytes / 2 <= chip.memory


def attention_seconds(network: Network, chip: Chip, *, images: int, chips: int) -> float:
    """The exact attention pass in float32; chips share the images, and nothing is sent before the end."""
    return math.ceil(images / chips) * network.ablation_flops / (ATTAINABLE * chip.float32_flops)

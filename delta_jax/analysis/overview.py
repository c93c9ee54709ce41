"""A network before it is run: parameters, taps, operations, and the memory that a training step will want."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax import features, methods, models
from delta_jax.chips import flops
from delta_jax.models.checks import init_shapes
from delta_jax.training import optim, steps


@dataclass(frozen=True)
class Overview:
    """What shapes alone tell of a network.

    Attributes:
      arch: of the network.
      size: height and width of the images, pixels.
      num_classes: outputs of the head.
      batch: images per training step.
      parameters: {module at the top: number of its parameters}.
      statistics: numbers in the running statistics of BatchNorm.
      head: module path of the classifier.
      features: inputs of the head.
      taps: {module path: shape of its output for one image}, in the order of `features.list_taps`.
      default_taps: those that DELTA compares when no others are named.
      flops: of a forward pass of one image, see `flops.count`.
      memory: bytes of a training step of DELTA with SGD and momentum, by what they hold. "activations" are what the
        backward pass needs of the forward passes as jax traces them. XLA recomputes and reuses some of it, and needs
        other memory while it works: compiled steps take between half and all of the sum, or a little more.
    """

    arch: str
    size: int
    num_classes: int
    batch: int
    parameters: Mapping[str, int]
    statistics: int
    head: str
    features: int
    taps: Mapping[str, tuple[int, ...]]
    default_taps: tuple[str, ...]
    flops: int
    memory: Mapping[str, int]


def overview(arch: str, *, size: int | None = None, num_classes: int = 1000, batch: int = 64) -> Overview:
    """What there is to know about the network `arch` without running it.

    Args:
      arch: as in `models.spec`.
      size: height and width of the images, pixels; what the network was trained with when not given.
      num_classes: outputs of the head.
      batch: images per training step.

    Raises:
      ValueError: no such network, or it does not run on such images (see `models.check`), or lacks a default tap.
    """
    if batch < 1 or num_classes < 1 or (size is not None and size < 1):
        raise ValueError(f"size {size}, batch {batch} and classes {num_classes} have to be 1 or more")
    spec, network = models.spec(arch), models.create(arch, num_classes=num_classes)
    size = size or spec.input_size
    models.check(network, spec.head, num_classes, size=size)
    variables = init_shapes(network, size)
    image: Any = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if spec.taps:
        features.check_taps(network, variables, image, spec.taps)
    shapes = features.list_taps(network, variables, image)
    return Overview(
        arch=arch,
        size=size,
        num_classes=num_classes,
        batch=batch,
        parameters={name: _number(module) for name, module in variables["params"].items()},
        statistics=_number(variables.get("batch_stats", {})),
        head=spec.head,
        features=models.check_head(variables["params"], spec.head)["kernel"].shape[0],
        taps={tap: shape[1:] for tap, shape in shapes.items()},
        default_taps=spec.taps,
        flops=flops.count(network.apply, variables, image),
        memory=step_memory(arch, variables, size=size, num_classes=num_classes, batch=batch),
    )


def step_memory(arch: str, variables: Any, *, size: int, num_classes: int, batch: int) -> dict[str, int]:
    """`Overview.memory`; `variables` of the network, or their shapes."""
    spec, network = models.spec(arch), models.create(arch, num_classes=num_classes)
    # Without taps there are no feature maps to compare.
    method = methods.create("delta" if spec.taps else "l2")
    loss = steps.make_loss(network, network, method, taps=spec.taps, head=spec.head, alpha=1.0, beta=1.0)
    images: Any = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    labels: Any = jax.ShapeDtypeStruct((batch,), jnp.int32)
    shapes = features.list_taps(network, variables, images)
    attention: Any = {tap: jax.ShapeDtypeStruct(shapes[tap][-1:], jnp.float32) for tap in spec.taps}

    def kept(variables, source, images, labels, attention, key):
        def of_parameters(params):
            return loss(params, variables.get("batch_stats", {}), source, images, labels, attention, key)

        _, backward, _ = jax.vjp(of_parameters, variables["params"], has_aux=True)
        elsewhere = {id(leaf) for leaf in jax.tree.leaves((variables, source))}
        # One array may serve the backward pass of several operations.
        own = {id(leaf): leaf for leaf in jax.tree.leaves(backward) if id(leaf) not in elsewhere}
        return list(own.values())

    key = jax.eval_shape(jax.random.key, 0)
    activations = jax.eval_shape(kept, variables, variables, images, labels, attention, key)
    optimizer = optim.make_optimizer(variables["params"], lambda _: 0.1, head=spec.head)
    return {
        "parameters": _bytes(variables),
        "source network": _bytes(variables),
        "gradients": _bytes(variables["params"]),
        "optimizer": _bytes(jax.eval_shape(optimizer.init, variables["params"])),
        "activations": _bytes(activations),
    }


def _number(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

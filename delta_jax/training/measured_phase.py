"""What a method measures on the source network before fine-tuning: measured.safetensors of the workdir.

All on centre crops of the training images, with the classifier that the source's weights bring along. Runs with other
seeds, strengths and schedules find it in the cache.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax import features, precision
from delta_jax.methods.method import logits_of
from delta_jax.processes import sharding
from delta_jax.training import attention_images, provenance
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import logs
from delta_jax.workdir.variable_files import kept_variables, save_variables

FILE = "measured.safetensors"
VERSION = 1  # to be raised when something else is measured than before
FISHER_IMAGES = 1024  # at most, classes in proportion: a mean of squares over more says little more


def shapes(programs: Programs, images: int) -> dict[str, Any]:
    """Of what the method measures on so many training images, by name; {} for most methods."""
    method, head = programs.method, programs.shapes.source_head
    found: dict[str, Any] = {}
    if "fisher" in method.measures:
        found["fisher"] = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), _kernels(programs.source["params"], programs)
        )
    for name, rows in (("source_logits", images), ("relationship", programs.num_classes)):
        if name in method.measures and head is not None:
            found[name] = jax.ShapeDtypeStruct((rows, head["kernel"].shape[-1]), jnp.float32)
    return found


def measured(setup: Setup, workdir: Path) -> dict[str, Any]:
    """What the method asks for, on every device; measured, or from the workdir. {} where it asks for nothing."""
    if not setup.method.measures:
        return {}
    path, like = workdir / FILE, _arrays(shapes(setup, len(setup.train)))
    found = kept_variables(path, like)
    if found is None:
        found = {name: _shared(setup, name, like[name]) for name in setup.method.measures}
        save_variables(path, found)
    return sharding.replicate(found, setup.mesh)


def _arrays(of: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), of)


def _shared(setup: Setup, name: str, like: Any) -> Any:
    """One of these from the cache, in a folder that is named after all it depends on, or measured."""
    depends = {
        "version": VERSION,
        "measured": name,
        "arch": provenance.of_network(setup),
        "variables": provenance.of_variables(setup.source),
        "source_head": provenance.of_variables(setup.shapes.source_head or {}),
        "train": provenance.of_examples(setup.train),
        "frozen": list(setup.frozen) if name == "fisher" else [],
        **provenance.of_pixels(setup),
    }
    path = setup.cache_dir / "measured" / provenance.key(depends) / FILE
    kept = kept_variables(path, {name: like})
    if kept is not None:
        logs.say(f"measured before on the source: {name}, {path.parent}")
        return kept[name]
    began = time.monotonic()
    found = sharding.tree_from_first(sharding.on_host(_MEASURES[name](setup)))
    save_variables(path, {name: found})
    logs.say(f"measured on the source: {name}, {time.monotonic() - began:.1f} s")
    return found


def _source_logits(setup: Setup) -> np.ndarray:
    """What the source says of each training image, float32 [N, K_s]."""
    model = setup.network(platform=setup.platform)

    @jax.jit
    def compute(variables: Variables, head: Any, pixels: Any) -> jax.Array:
        seen = features.head_inputs(model, variables, setup.centre(pixels), head=setup.spec.head)
        with precision.full():
            return logits_of(head, seen.astype(jnp.float32))

    head = sharding.replicate(setup.shapes.source_head, setup.mesh)
    parts = []
    with logs.progress(len(setup.train), "the source's answers") as bar:
        for _, mask, batch in setup.train.batches(setup.config.eval_batch_size):
            kept = int(mask.sum())
            parts.append(sharding.on_host(compute(setup.source, head, batch["image"]))[:kept])
            bar.advance(kept)
    return np.concatenate(parts)


def relationship(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """p(y_s | y_t), float32 [K_t, K_s]: the mean of the source's probabilities over the images of each class.

    That is the paper's direct approach. Rows of classes without an image, which no example asks for, are zeros.

    Args:
      logits: [N, K_s], of the source.
      labels: int [N].
      num_classes: K_t.
    """
    from scipy import special  # not wanted by most runs, and slow to import

    sums = np.zeros((num_classes, logits.shape[-1]))
    np.add.at(sums, labels, special.softmax(logits.astype(np.float64), axis=-1))
    counts = np.bincount(labels, minlength=num_classes)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def _relationship(setup: Setup) -> np.ndarray:
    return relationship(_source_logits(setup), setup.train.labels, setup.num_classes)


def _fisher(setup: Setup) -> Any:
    """The diagonal of the Fisher information of the source's kernels outside of the head, over its mean.

    Of every image the square of the gradient of log p(y), with y drawn from what the source itself says, p: on average
    the sum over all classes that the paper has, at the cost of one. The images are the target's: the source's own,
    which the paper takes, are not here.
    """
    count = min(len(setup.train), FISHER_IMAGES)
    picked = attention_images.order(setup.train.labels)[:count]
    together = setup.mesh.size * max(1, min(8, count // setup.mesh.size))
    padded = np.resize(picked, -(-count // together) * together).reshape(-1, together)
    weights = (np.arange(padded.size) < count).astype(np.float32).reshape(padded.shape)
    add = fisher_program(setup)
    kernels = _kernels(setup.source["params"], setup)
    total = sharding.replicate(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), kernels), setup.mesh)
    head = sharding.replicate(setup.shapes.source_head, setup.mesh)
    with logs.progress(count, "Fisher information of the source") as bar:
        for rows, counted in zip(padded, weights, strict=True):
            batch = setup.train.batch(rows)
            total = add(total, setup.source, head, batch["image"], batch["index"], sharding.split(counted, setup.mesh))
            bar.advance(int(counted.sum()))
    found = sharding.on_host(total)
    leaves = jax.tree.leaves(found)
    mean = sum(float(leaf.sum(dtype=np.float64)) for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jax.tree.map(lambda leaf: (leaf / mean).astype(np.float32) if mean > 0 else leaf, found)


def fisher_program(programs: Programs) -> Any:
    """(sums, source, head, decoded images, index [B], weights [B]) -> sums + the squared gradients of the images."""
    model = programs.network(platform=programs.platform)
    fixed = jax.random.key(0)  # for every seed: runs share what was measured

    def of_device(whole: Any, images: jax.Array, index: jax.Array, weights: jax.Array) -> Any:
        source, head = whole
        every = flatten_dict(dict(source["params"]))
        kernels = flatten_dict(_kernels(source["params"], programs))

        def log_p(kernels: Any, image: jax.Array, number: jax.Array) -> jax.Array:
            variables = {**source, "params": unflatten_dict({**every, **kernels})}
            seen = features.head_inputs(model, variables, image[None], head=programs.spec.head)
            logits = logits_of(head, seen.astype(jnp.float32))[0]
            drawn = jax.random.categorical(jax.random.fold_in(fixed, number), jax.lax.stop_gradient(logits))
            return jax.nn.log_softmax(logits)[drawn]

        def one(sums: Any, example: Any) -> tuple[Any, None]:
            image, number, weight = example
            gradient = jax.grad(log_p)(kernels, image, number)
            return jax.tree.map(lambda total, g: total + weight * jnp.square(g), sums, gradient), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), kernels)
        sums, _ = jax.lax.scan(one, zeros, (images, index, weights))
        return jax.tree.map(lambda leaf: leaf[None], unflatten_dict(sums))

    each = sharding.per_device(of_device, programs.mesh)

    @jax.jit
    def add(sums: Any, source: Variables, head: Any, pixels: Any, index: jax.Array, weights: jax.Array) -> Any:
        with precision.full():
            found = each((source, head), programs.centre(pixels), index, weights)
        return jax.tree.map(lambda total, parts: total + jnp.sum(parts, axis=0), sums, found)

    return add


def _kernels(params: Mapping[str, Any], programs: Programs) -> Any:
    """Those outside of the heads and of what is frozen."""
    left_out = (*programs.heads, *programs.frozen)
    kept = {
        path: leaf
        for path, leaf in flatten_dict(dict(params)).items()
        if path[-1] == "kernel" and not any(f"{'/'.join(map(str, path))}/".startswith(f"{one}/") for one in left_out)
    }
    return unflatten_dict(kept)


_MEASURES = {"source_logits": _source_logits, "relationship": _relationship, "fisher": _fisher}

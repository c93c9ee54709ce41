"""What can be wrong with a network or its variables, found from shapes alone."""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from delta_jax.models.adapter import name_of

KEPT = ("params", "batch_stats")  # the collections that a training state holds


def init_shapes(network: Any, size: int) -> dict[str, Any]:
    """Shapes and types of the network's variables for images of `size` pixels; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)  # a real one would start the accelerator and take its memory
    return jax.eval_shape(network.init, key, images)


def check(
    network: Any, head: str, num_classes: int, *, size: int = 224, variables: Mapping[str, Any] | None = None
) -> None:
    """Raises unless the network can be fine-tuned here, and `variables` are complete and have the right head.

    Args:
      network: called as `apply(variables, images)`, as those of `create` are.
      head: module path of the classifier.
      num_classes: outputs that it should have.
      size: height and width of the images, pixels.
      variables: of the network, or their shapes; not looked at when not given.

    Raises:
      ValueError: the network does not run on such images or returns no logits [B, num_classes]; its head is not there
        or no Dense layer of that many outputs; it keeps state that no training state holds; variables lack one of its
        collections, such as the running statistics of BatchNorm, or have a head of another shape.
    """
    called = name_of(network)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    try:
        shapes = init_shapes(network, size)
        output = jax.eval_shape(network.apply, shapes, images)
    except Exception as error:  # whatever a user's network raises
        raise ValueError(f"{called} does not run on images [B, {size}, {size}, 3]: {error}") from error
    if alike := _alike(shapes):
        raise ValueError(
            f"{called} has modules or parameters called {alike[0]!r} and {alike[1]!r} beside each other: names are "
            f"joined by slashes here, so what is in them cannot be told apart; rename one, such as to "
            f"{alike[1].rpartition('/')[2]!r}"
        )
    expected = check_head(shapes["params"], head, num_classes)
    if getattr(output, "shape", None) != (2, num_classes):
        found = jax.tree.map(lambda leaf: leaf.shape, output)
        raise ValueError(
            f"{called} returns {found} for 2 images, expected logits (2, {num_classes}), those of its head {head!r}"
        )
    if strange := sorted(shapes.keys() - set(KEPT)):
        raise ValueError(
            f"{called} has the collections {', '.join(strange)}; a training state keeps {' and '.join(KEPT)} only: "
            "make them constants of the module, or parameters"
        )
    if variables is None:
        return
    if lacking := sorted(name for name in shapes if not variables.get(name)):
        what = " (running statistics of BatchNorm)" if lacking == ["batch_stats"] else ""
        raise ValueError(
            f"{called} needs the collection {', '.join(lacking)}{what}, and the variables hold only "
            f"{', '.join(variables) or 'nothing'}; take it from where the parameters come from, or fresh from init()"
        )
    ours, theirs = (_shapes(node) for node in (expected, check_head(variables["params"], head)))
    if ours != theirs:
        raise ValueError(
            f"the head {head!r} of the variables has {theirs}, expected {ours}; training.head.new_head makes one of "
            "another number of classes, and weights.load does so by itself"
        )


def check_head(params: Mapping[str, Any], head: str, num_classes: int | None = None) -> Mapping[str, Any]:
    """The head {"kernel": [D, K]} or {"kernel": [D, K], "bias": [K]} at the module path `head`.

    Raises:
      ValueError: there is no such module (the closest paths are given), or it is no Dense layer of `num_classes`.
    """
    found: Any = params
    for name in module_path(params, head):
        found = found[name]
    if not _is_dense(found):
        raise ValueError(
            f"the head {head!r} is no Dense layer with a kernel [D, K] and a bias [K]: it holds {_shapes(found)}; "
            f"Dense layers are {', '.join(_dense(params)) or 'not to be found'}"
        )
    outputs = found["kernel"].shape[1]
    if num_classes is not None and outputs != num_classes:
        raise ValueError(
            f"the head {head!r} has {outputs} outputs where {num_classes} classes are asked for; does the module use "
            "its num_classes there?"
        )
    return found


def module_path(params: Mapping[str, Any], module: str) -> tuple[str, ...]:
    """The keys that lead to the module path `module`; a slash may stand in a key, too.

    Raises:
      ValueError: there is no such module; the closest paths are given.
    """
    known = _modules(params)
    if module not in known:
        close = difflib.get_close_matches(module, known, n=3) or _dense(params)[-3:]
        raise ValueError(
            f"no module {module!r} in the parameters to be the head; did you mean {' or '.join(close) or 'another'}?"
        )
    return known[module]


def _modules(params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    leaves = flatten_dict(dict(params))
    return {"/".join(path[:end]): path[:end] for path in leaves for end in range(1, len(path))}


def _dense(params: Mapping[str, Any]) -> list[str]:
    found = []
    for module, path in _modules(params).items():
        node: Any = params
        for name in path:
            node = node[name]
        found += [module] if _is_dense(node) else []
    return found


def _is_dense(node: Mapping[str, Any]) -> bool:
    """Kernel [D, K], and bias [K] or none."""
    if not {"kernel"} <= set(node) <= {"kernel", "bias"} or isinstance(node["kernel"], Mapping):
        return False
    kernel = node["kernel"].shape
    return len(kernel) == 2 and ("bias" not in node or node["bias"].shape == (kernel[1],))


def _alike(variables: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two names of which one, "a/b", reads as if it were inside of the other, "a"; None where there are none."""
    for collection in variables.values():
        leaves = flatten_dict(dict(collection))
        nodes = {"/".join(path[:end]): path[:end] for path in leaves for end in range(1, len(path) + 1)}
        for path in leaves:
            name, parents = "/".join(path), {"/".join(path[:end]) for end in range(len(path))}
            starts = [name[:i] for i, letter in enumerate(name) if letter == "/"]
            if clash := [start for start in starts if start in nodes and start not in parents]:
                longer = min((parent for parent in (*parents, name) if parent.startswith(f"{clash[0]}/")), key=len)
                return clash[0], longer
    return None


def _shapes(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "a module" if isinstance(leaf, Mapping) else tuple(leaf.shape) for name, leaf in node.items()}

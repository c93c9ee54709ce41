"""Trees of arrays as they are stored: what they are called, whether they fit, where they go once they are read.

What `checkpoints` and `variable_files` share, and the one error that both raise.
"""

import errno
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Signature = dict[str, str]  # "params/head/kernel" -> "float32[512, 7]"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, is not there, is damaged, or belongs to another network."""


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree under names such as "params/head/kernel"; CheckpointError if two share one."""
    leaves = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise CheckpointError(
            "two arrays of this tree have the same name once their keys are joined by '/'; rename one"
        )
    return named


def signature_of(tree: Any) -> Signature:
    """Dtype and shape of every leaf; CheckpointError for a leaf that cannot be stored."""
    return {name: f"{dtype_of(name, leaf)}{list(np.shape(leaf))}" for name, leaf in named_leaves(tree).items()}


def dtype_of(name: str, leaf: Any) -> np.dtype:
    """Dtype that a leaf is stored with; CheckpointError, by this name, if it is no array and no number."""
    try:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)  # a Python int is what jit makes of it
    except TypeError as error:
        raise CheckpointError(f"{name} is a {type(leaf).__name__}; only arrays and numbers can be stored") from error
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise CheckpointError(f"{name} is a typed random key; store jax.random.key_data of it")
    return dtype


def compare(found: Signature, expected: Signature, where: str) -> None:
    """One error with all names that are missing, unexpected, or of another shape or dtype."""
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is {found[name]}, not expected" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in found.keys() & expected.keys()
        if found[name] != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"{where} is of another network or configuration: {'; '.join(sorted(problems)[:8])}{more}. "
            "Use the configuration it was written with, or another directory"
        )


def storable(leaf: Any) -> Any:
    """The leaf as an array: of JAX if it is one, else of numpy."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, dtype=dtype_of("", leaf))


def sharding_of(like: Any) -> jax.sharding.Sharding | None:
    """Where an array read in place of `like` belongs; None leaves it open."""
    # An uncommitted array follows the others of its computation; a committed one on device 0 clashes with a mesh.
    return None if isinstance(like, jax.Array) and not like.committed else getattr(like, "sharding", None)


def place(array: Any, like: Any) -> Any:
    """The array on the devices of `like`; one of numpy stays on the host if `like` is of numpy, too."""
    if isinstance(array, jax.Array) or isinstance(like, np.ndarray | np.generic):
        return array
    sharding = sharding_of(like)
    return jnp.array(array) if sharding is None else jax.device_put(array, sharding, may_alias=False)


def reason(error: BaseException) -> str:
    """One line that says why: a full disk by name, else the first line of the error."""
    text = str(error).strip() or type(error).__name__
    for number in (errno.ENOSPC, errno.EDQUOT):
        if getattr(error, "errno", None) == number or os.strerror(number) in text:
            return f"{os.strerror(number).lower()}; make room or use another directory, and start again"
    return text.splitlines()[0][:300]

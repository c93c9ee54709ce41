"""What a measurement depends on, as hashes: runs that agree in it share what took minutes, others never do."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import data
from delta_jax.models.networks import NETWORKS
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables


def of_network(setup: Setup) -> str:
    """The name of a network of the library; of a user's own, also the SHA-256 of the operations it consists of."""
    if setup.spec in NETWORKS:
        return setup.config.arch
    image = jax.ShapeDtypeStruct((1, setup.preprocessing.crop, setup.preprocessing.crop, 3), jnp.float32)
    operations = str(jax.make_jaxpr(setup.network().apply)(setup.source, image))
    without_addresses = re.sub(r"0x[0-9a-f]+", "", operations)
    return f"{setup.config.arch} {hashlib.sha256(without_addresses.encode()).hexdigest()}"


def of_variables(variables: Variables) -> str:
    """SHA-256 of all arrays and their names."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        value = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        found.update(np.ascontiguousarray(value).data)
    return found.hexdigest()


def of_examples(images: ImageSet) -> str:
    """SHA-256 of what their files hold, in which order, and their labels; names do not count."""
    return hashlib.sha256(json.dumps([images.contents, images.labels.tolist()]).encode()).hexdigest()


def of_pixels(setup: Setup) -> dict[str, Any]:
    """What the centre crops of a run depend on, beside which images they are."""
    config = setup.config
    return {
        "decoder": data.decoder(),
        "white": setup.preprocessing.white,
        "resize": [config.data.resize, config.data.interpolation, config.data.aspect],
        "crop": config.data.crop,
        "mean": list(setup.preprocessing.mean),
        "std": list(setup.preprocessing.std),
    }


def key(facts: Mapping[str, Any]) -> str:
    """The name of a folder for what depends on these facts."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

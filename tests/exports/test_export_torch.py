"""Exports in torchvision and timm themselves: skipped where they are not installed (pip install torchvision timm)."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from delta_jax import models
from delta_jax.exports import formats, instructions
from delta_jax.training.classifier import Classifier
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import torch_schemes
from tests.exports.test_export import SEEN, WITH_AUXILIARY, executed, finished, photos
from tests.golden import recipe
from tests.reference import relative

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
CASES = [
    (arch, scheme)
    for arch in models.names()
    for scheme in torch_schemes(models.spec(arch))
    if scheme in ("torchvision", "timm")
]
# Pixels. Of EfficientNet-Lite, sizes whose halves are even or odd as those of 240 and 260, which its padding is for.
SIZES = {"efficientnet_lite1": 48, "efficientnet_lite2": 68, "inception_v3": 139}


@pytest.mark.parametrize(("arch", "form"), CASES)
def test_loads_strictly_and_computes_the_same_logits(tmp_path, arch, form):
    size = SIZES.get(arch, 64)
    seen = dataclasses.replace(SEEN, resize=size + 8, crop=size)
    trained = Classifier(finished(tmp_path / "run", arch, seen))
    usage = formats.export(trained, form, tmp_path / "out")
    assert "expect other logits" not in usage
    images = recipe.images("delta", arch, "export", 2, size, size)
    names = executed(usage, tmp_path)  # strict=True in the lines themselves; timm's own loading is strict
    with torch.no_grad():
        found = names["model"](torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = jax.jit(models.create(arch, num_classes=3).apply)(trained.variables, images)
    assert relative(found, expected) < 1e-5
    if form == "timm":
        assert names["model"].pretrained_cfg["label_names"] == list(trained.class_names)
        state = names["model"].state_dict()
        other = eval(usage.partition("The weights alone: ")[2], {"timm": timm}).state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize("form", ["torchvision", "timm"])
@pytest.mark.parametrize("aspect", ["squash", "keep"])
def test_photos_are_prepared_as_the_run_did(tmp_path, aspect, form):
    # Photos that are not square.
    seen = dataclasses.replace(SEEN, aspect=aspect, white=4095)
    trained = Classifier(finished(tmp_path / "run", "resnet18", seen))
    usage = formats.export(trained, form, tmp_path / "out")
    photo = tmp_path / instructions.PHOTO
    for name, file in photos():
        names = executed(usage, tmp_path, file)
        image = names["preprocess"](names["photo"]) if form == "timm" else names["image"]
        decoded = trained.decode(photo)
        expected = seen.views(decoded[None])[0, 0]
        np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), expected, atol=1e-5, err_msg=name)
        found = torch.softmax(names["logits"], -1).detach().numpy()
        np.testing.assert_allclose(found, trained.probabilities([decoded]), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("arch", WITH_AUXILIARY)
@pytest.mark.parametrize("form", ["torchvision", "timm"])
def test_auxiliary_classifiers_load_strictly_too(tmp_path, arch, form):
    shapes = variable_shapes(arch, 3, True)
    tenths = unflatten_dict({path: np.full(shape, 0.1, np.float32) for path, shape in shapes.items()})
    size = models.spec(arch).input_size  # timm runs the auxiliary classifier, which needs that much
    trained = Classifier(finished(tmp_path / "run", arch, dataclasses.replace(SEEN, resize=size, crop=size), tenths))
    names = executed(formats.export(trained, form, tmp_path / "out"), tmp_path)
    found = names["model"].AuxLogits.fc.bias.detach().numpy()
    np.testing.assert_array_equal(found, np.full(3, 0.1, np.float32))
    assert names["logits"].shape == (1, 3)

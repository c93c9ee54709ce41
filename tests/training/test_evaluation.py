"""Measures, padding and the ten crops, against numpy and scikit-learn."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from delta_jax import data
from delta_jax.training import evaluation
from delta_jax.training.classifier import Classifier, Preprocessing
from delta_jax.training.setup import Setup

CROP, SIDE = 6, 10
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Small(nn.Module):
    """Not the same on an image and on its mirror image."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def network():
    model = Small()
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    variables = model.init(jax.random.key(0), np.zeros((1, CROP, CROP, 3), np.float32))
    return model, variables, images


def test_score_of_four_images_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]], np.float32)
    found = evaluation.score(probabilities, np.array([0, 1, 1, 2]))
    # Right: the first, third and fourth. Recalls: 1, 1/2, 1; precisions: 1/2, 1, 1. Likelihoods: 0.7, 0.3, 0.8, 0.5.
    assert found["top1"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx(2.5 / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert "top5" not in found  # of three classes
    assert found["cross_entropy"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5]).mean(), rel=1e-6)
    assert found["n"] == 4


def test_score_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(7), 200)
    labels = rng.integers(0, 7, 200)
    found = evaluation.score(probabilities, labels)
    predicted = probabilities.argmax(1)
    assert found["top1"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([(predicted[labels == k] == k).mean() for k in range(7)])
    )
    assert found["cross_entropy"] == pytest.approx(metrics.log_loss(labels, probabilities))
    assert found["top5"] == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    each = metrics.f1_score(labels, predicted, average=None)
    np.testing.assert_allclose(evaluation.f1_scores(evaluation.confusion_matrix(probabilities, labels)), each)


def test_a_split_without_examples_of_a_predicted_class_gives_no_warning():
    found = evaluation.score(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([0, 0]))
    assert found["balanced_accuracy"] == 0.5


def test_confusion_and_recalls_by_hand():
    # Truth 0, 0, 1, 1, 3 of four classes, taken for 0, 1, 1, 1, 0.
    probabilities = np.eye(4)[[0, 1, 1, 1, 0]]
    found = evaluation.confusion_matrix(probabilities, np.array([0, 0, 1, 1, 3]))
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    assert evaluation.recalls(found) == [0.5, 1.0, None, 0.0]
    assert evaluation.f1_scores(found) == [0.5, 0.8, None, 0.0]  # 2 * right / (taken for it + of it): 2 / 4, 4 / 5
    assert evaluation.score(probabilities, np.array([0, 0, 1, 1, 3]))["balanced_accuracy"] == 0.5  # of the three


def test_a_likelihood_of_zero_is_not_infinitely_bad():
    assert np.isfinite(evaluation.score(np.array([[0.0, 1.0]]), np.array([0]))["cross_entropy"])


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def one_crop(model, variables, pixels):
    normalised = (pixels.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return softmax(np.asarray(model.apply(variables, normalised)))


def test_ten_crops_are_the_mean_of_ten_single_ones(network):
    model, variables, images = network
    predict = evaluation.make_predict(model, evaluation.make_views(CROP, MEAN, STD, crops=10))
    far, middle = SIDE - CROP, (SIDE - CROP) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    views = [images[:, y : y + CROP, x : x + CROP] for y, x in corners]
    views += [view[:, :, ::-1] for view in views]
    expected = np.mean([one_crop(model, variables, view) for view in views], axis=0)
    np.testing.assert_allclose(jax.jit(predict)(variables, images), expected, atol=1e-6)


def test_one_crop_is_the_centre(network):
    model, variables, images = network
    predict = evaluation.make_predict(model, evaluation.make_views(CROP, MEAN, STD))
    expected = one_crop(model, variables, images[:, 2:8, 2:8])
    np.testing.assert_allclose(jax.jit(predict)(variables, images), expected, atol=1e-6)


@pytest.mark.parametrize("crops", [1, 10])
def test_photos_by_themselves_get_the_probabilities_of_those_in_a_data_set(network, tmp_path, crops):
    """Whole photos, wide and high, and a last batch that is not full."""
    model, variables, _ = network
    rng = np.random.default_rng(3)
    files = []
    for i, shape in enumerate([(12, 19), (23, 11), (10, 10), (10, 20), (13, 17)]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(files[-1])
    classifier = object.__new__(Classifier)  # without a workdir
    classifier.preprocessing = Preprocessing(SIDE, "bicubic", CROP, crops, MEAN, STD, aspect="keep")
    classifier.variables = variables
    classifier._predict = jax.jit(evaluation.make_predict(model, classifier.preprocessing.views))
    found = classifier.probabilities([classifier.decode(file) for file in files])

    expected = []
    for file in files:
        image = Image.open(file)
        width, height = (SIDE * side // min(image.size) for side in image.size)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        corners = [(0, 0), (0, width - CROP), (height - CROP, 0), (height - CROP, width - CROP)]
        middle = (round((height - CROP) / 2), round((width - CROP) / 2))
        places = [*corners, middle] if crops == 10 else [middle]
        views = [pixels[y : y + CROP, x : x + CROP] for y, x in places]
        views += [pixels[:, ::-1][y : y + CROP, x : x + CROP] for y, x in places] if crops == 10 else []
        expected.append(one_crop(model, variables, np.stack(views)).mean(0))
    np.testing.assert_allclose(found, expected, atol=1e-6)

    catalogue = data.Catalogue(
        name="photos",
        files=tuple(map(str, files)),
        labels=np.zeros(5, np.int32),
        split=np.array(["test"] * 5),
        class_names=("only",),
        licence="none",
        read=lambda i: files[i].read_bytes(),
        sizes=np.arange(5),
    )
    images = data.decode(catalogue, SIDE, interpolation="bicubic", aspect="keep", cache_dir=tmp_path / "decoded")
    batches = [
        np.asarray(classifier._predict(variables, images.take(rows)))[: int(mask.sum())]
        for rows, mask in data.padded_batches(5, 2)
    ]
    np.testing.assert_allclose(np.concatenate(batches), found, atol=1e-6)


@pytest.mark.parametrize("mirror", [True, False])
def test_the_head_sees_mirror_images_where_images_may_be_mirrored(network, mirror):
    model, variables, images = network
    settings = SimpleNamespace(data=SimpleNamespace(mirror=mirror))
    setup = SimpleNamespace(
        network=lambda **_: model,
        platform="cpu",
        centre=lambda x: x,
        spec=SimpleNamespace(head="Dense_0"),
        config=settings,
    )
    pixels = images[:, :CROP, :CROP].astype(np.float32)
    found = Setup.head_features(setup)(variables, pixels)
    head = jax.tree.map(np.asarray, variables["params"]["Dense_0"])
    views = [pixels, pixels[:, :, ::-1]] if mirror else [pixels]
    expected = [np.asarray(model.apply(variables, view)) for view in views]
    np.testing.assert_allclose(np.asarray(found) @ head["kernel"] + head["bias"], expected, rtol=1e-4, atol=1e-3)

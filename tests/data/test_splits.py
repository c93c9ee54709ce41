"""Few shots, fractions and folds: by seed, balanced, and without ever touching the test images."""

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import DataError, decode, find
from delta_jax.data.splits import draw

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [7, 20, 133]))
NAMES = ("a", "b", "c")


@pytest.mark.parametrize("shots", [1, 5, 7])
def test_shots_are_as_many_of_every_class_and_fewer_are_part_of_more(shots):
    chosen = draw(LABELS, NAMES, seed=3, shots=shots)
    np.testing.assert_array_equal(np.bincount(LABELS[chosen]), [shots] * 3)
    assert not (chosen & ~draw(LABELS, NAMES, seed=3, shots=7)).any()
    np.testing.assert_array_equal(chosen, draw(LABELS, NAMES, seed=3, shots=shots))
    if shots < 7:
        assert (chosen != draw(LABELS, NAMES, seed=4, shots=shots)).any()


def test_shots_of_every_seed_come_to_all_images_equally_often():
    # 3 of 7, 20 and 133: of 2000 seeds each image is chosen by 3 / n, give or take 5 standard deviations.
    share = np.mean([draw(LABELS, NAMES, seed=seed, shots=3) for seed in range(2000)], axis=0)
    for label, n in enumerate((7, 20, 133)):
        p = 3 / n
        assert abs(share[label == LABELS] - p).max() < 5 * np.sqrt(p * (1 - p) / 2000)


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.1, [1, 2, 13]), (0.5, [4, 10, 67]), (0.01, [1, 1, 1]), (1, [7, 20, 133])]
)
def test_a_fraction_is_one_of_every_class(fraction, counts):
    # Rounded half up: 0.7, 2, 13.3; 3.5, 10, 66.5; below a half there is still one image.
    np.testing.assert_array_equal(np.bincount(LABELS[draw(LABELS, NAMES, seed=0, fraction=fraction)]), counts)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shots") / "set"
    for split, counts in (("train", (12, 40)), ("test", (4, 9))):
        for name, count in zip(("rare", "common"), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / split / name / f"{i}.png")
    return str(folder)


def of(catalogue, split):
    return {catalogue.files[i] for i in catalogue.rows(split)}


def test_folds_lie_within_the_shots_and_the_test_images_stay(root):
    whole = find("folder", root=root)
    pools = []
    for seed in (0, 1):
        folds = [find("folder", root=root, shots=10, seed=seed, fold=fold) for fold in range(5)]
        for found in folds:
            assert of(found, "test") == of(whole, "test")
            assert found.counts()["train"] == {"common": 8, "rare": 8}
            assert found.counts()["validation"] == {"common": 2, "rare": 2}
        pool = set.union(*(of(found, "validation") for found in folds))
        assert len(pool) == 20
        assert all(of(found, "train") | of(found, "validation") == pool for found in folds)
        pools.append(pool)
    assert pools[0] != pools[1]
    assert of(find("folder", root=root, shots=5), "train") < pools[0]


def test_images_that_are_not_used_are_counted_and_share_the_decoded_array(root, tmp_path):
    few, whole = find("folder", root=root, train_fraction=0.25, validation_fraction=0), find("folder", root=root)
    assert few.counts()["train"] == {"common": 10, "rare": 3}
    assert [line.split() for line in few.describe().splitlines()[1:]] == [
        ["class", "train", "validation", "test", "unused"],
        ["common", "10", "0", "9", "30"],
        ["rare", "3", "0", "4", "9"],
        ["all", "13", "0", "13", "39"],
    ]
    assert "unused" not in whole.describe()
    decode(whole, 4, cache_dir=tmp_path)
    decoded = []
    decode(few, 4, cache_dir=tmp_path, progress=decoded.append)
    assert decoded == []


def test_many_classes_are_summed_up(root):
    lines = find("folder", root=root).describe(max_classes=1).splitlines()
    assert lines[2].split() == ["common", "32", "8", "9"]
    assert lines[3].split() == ["...", "1", "more,", "each", "9", "3", "4"]


def test_shots_of_the_solar_cells_leave_the_published_test_cells():
    whole = find("elpv")
    for shots in (5, 20):
        few = find("elpv", shots=shots)
        assert of(few, "test") == of(whole, "test")
        assert few.counts()["train"] == {"functional": shots * 4 // 5, "defective": shots * 4 // 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 13}, r"shots is 13, but there are fewer images .* in: rare \(12\); choose at most 12"),
        ({"shots": 1}, r"shots 1 leaves 1 image of common, too few .* validation_fraction=0"),
        ({"shots": 3}, r"makes 5 folds, but no class has more than 3 images .* at least 0.3333"),
        ({"shots": -1}, "shots is -1, expected 0"),
        ({"train_fraction": 0.0}, "train_fraction is 0.0, expected above 0"),
        ({"train_fraction": 1.5}, "train_fraction is 1.5, expected"),
        ({"train_fraction": 0.05}, "train_fraction 0.05 leaves 1 image of rare"),
        ({"shots": 2, "train_fraction": 0.5}, "set one of them"),
    ],
)
def test_shots_and_fractions_that_cannot_be(root, options, message):
    with pytest.raises(DataError, match=message):
        find("folder", root=root, **options)

"""Words for the parts of a data set, as folders and tables of others spell them."""

import pytest

from delta_jax.data.split_words import is_unclear, meaning


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", ("train", "Training", "TRAIN", " train ", "training_set", "Train Images", "data-train", "trainval")),
        ("validation", ("val", "Valid", "validation", "val_data", "dev")),
        ("test", ("test", "Testing", "test-set", "TestImages", "tst")),
        (None, ("", "set", "images", "training day", "trains", "testimony", "invalid", "te", "eval", "holdout", "0")),
    ],
)
def test_words_for_splits_mean_their_split(split, words):
    assert [meaning(word) for word in words] == [split] * len(words)


def test_words_for_either_validation_or_test_images():
    assert all(map(is_unclear, ("eval", "Evaluation", "hold-out", "held out", "eval_set")))
    assert not any(map(is_unclear, ("train", "val", "evaluate", "retrieval", "")))

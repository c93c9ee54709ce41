"""Words by which folders and tables of other people say which part of a data set an image belongs to."""

import re

_MEANINGS = {
    "train": ("train", "training", "trn", "trainval", "trainvalidation"),
    "validation": ("validation", "validating", "validate", "valid", "val", "dev", "devel"),
    "test": ("test", "testing", "tst"),
}
# In small letters, without blanks, hyphens and underscores. "tr" and "te" are left out: they are languages as well.
WORDS = {word: split for split, words in _MEANINGS.items() for word in words}
# Not for training; but some call their validation images so, and others their test images.
UNCLEAR = ("eval", "evaluation", "holdout", "heldout")
# What may stand before or behind such a word: "Train Images", "test_set", "data-train".
_CONTENTS = ("set", "sets", "split", "data", "dataset", "image", "images", "img", "imgs", "samples")


def meaning(text: str) -> str | None:
    """ "train", "validation" or "test" for a word such as "Training", "val", "test_set" or "Test Images"; else None."""
    return next((WORDS[stem] for stem in _stems(text) if stem in WORDS), None)


def is_unclear(text: str) -> bool:
    """Whether a word names a part of a data set, but not whether it is for validation or for testing."""
    return any(stem in UNCLEAR for stem in _stems(text))


def of_a_word(name: str) -> str | None:
    """The split that one word of several in a name speaks of, as in seg_train or train2017."""
    meanings = {meaning(word) for word in words(name)} - {None}
    return meanings.pop() if len(meanings) == 1 else None


def words(name: str) -> list[str]:
    """Of a name, and its numbers: "train", "A" of trainA."""
    return re.findall(r"[^\W\d_]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))


def _stems(text: str) -> list[str]:
    word = re.sub(r"[\W_]+", "", text.casefold())
    tails = [word.removesuffix(content) for content in _CONTENTS if word.endswith(content)]
    heads = [word.removeprefix(content) for content in _CONTENTS if word.startswith(content)]
    return [word, *tails, *heads]

"""What the columns of other people's tables mean, as far as it can be told by their names and by what stands there."""

import re
from collections.abc import Mapping, Sequence

from delta_jax.data.errors import DataError
from delta_jax.data.filling import UNUSED
from delta_jax.data.split_words import WORDS, is_unclear, meaning
from delta_jax.data.splits import listed

IGNORE = "none"  # in place of a column's name: there is none that says the split
MOST_PARTS = 20  # more values than this are no parts of a data set, nor folds
REST = "*"

_PART = "|".join(
    sorted({*WORDS, "split", "subset", "partition", "fold", "phase", "usage", "eval", "holdout", "set", "cv", "tvt"})
)
# Of a name of several words one is enough: "strat_fold", "my_split", "split_by_patient", "held_out".
_SPLIT_WORD = re.compile(
    r"(?:.*[\W_])?(?:(?:k|[0-9]+)?(?:folds?(?!.change)|splits?)[0-9]*|subset|partition|held[\W_]?out)(?:[\W_].*)?"
)
_AROUND = (
    "is|in|for|use|used|data|dataset|images?|img|sample|k|n|id|idx|index|no|nr|num|number|name|type|flag|or|and|official|"
    "original|orig|default|predefined|recommended|random|cross|outer|inner|s|[0-9]"
)
# "is_training_image", "Official Split", "fold2", "train_or_test"; a column "dataset" says where images come from.
_SPLIT_NAME = re.compile(f"(?!datasets?$)(?:{_AROUND})*(?:{_PART})(?:{_PART}|{_AROUND})*")
_SHARED = (
    "patient|pt|subject|subj|lesion|case|study|session|site|video|clip|group|individual|animal|person|participant|slide|scan|"
    "series|sequence|seq|donor|specimen|camera|location|plant|eye|client|owner|user|speaker|author|artist|photographer|"
    "hospital|cent(?:er|re)|clinic|exam|examination|visit|accession|encounter|burst|track|scene|batch|plate|mouse|panel|"
    "module|device|wsi|mrn|pid|tree|plot|field|tumou?r|family|household|record|movie|film|original|parent"
)
_GROUP_NAME = re.compile(
    f"(?:anon|anonymi[sz]ed|source|src|image|photo|dicom|is|id)*(?:{_SHARED}|source(?=image|photo|id))"
    "(?:s|instance|image|photo|file|id|uid|uuid|no|nr|num|number|name|key|code|hash|index|idx)*"
)
_ANY_ID = re.compile(r".+[\W_]u?id")
_FOLD = re.compile(r"folds?[\W_]*[0-9]+")
_PATH_NAME = re.compile("(?:image|img|photo|picture|pic|file|frame)s?(?:file|path|name|id|url|uri|index)*|src")
_LABEL_NAME = re.compile(
    "labels?|class|classes|classname|classid|classlabel|target|category|categories|categoryname|dx|diagnosis|species|"
    "breed|y|findinglabels|finding|annotation|groundtruth|gt|tag"
)
_YES, _NO = ("1", "true", "yes", "y", "t", "1.0"), ("0", "false", "no", "n", "f", "0.0")
_TAKEN_AS = {True: {"train": "train", "validation": "validation", "test": "test"}}
_TAKEN_AS[False] = {"train": "test", "validation": "train", "test": "train"}


def says_split(name: str, values: Sequence[str]) -> bool:
    """Whether a column may say which images are for training: by its name, or because all its values are such words.

    A column that says one thing of all images says nothing, unless that is a part other than train.
    """
    found = {value.strip().casefold() for value in values}
    if not 1 < len(found) <= MOST_PARTS:
        return any(map(_is_held_out, found)) and len(found) == 1
    words = all(_is_held_out(value) or meaning(value) or _FOLD.fullmatch(value) for value in found - {""})
    return words or bool(_SPLIT_WORD.fullmatch(name.casefold()) or _SPLIT_NAME.fullmatch(_squeezed(_last(name))))


def _is_held_out(word: str) -> bool:
    return meaning(word) in ("validation", "test") or is_unclear(word)


def says_group(name: str, values: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether a column may say which images belong together: by its name, if images share values that are no class."""
    pairs = [(value, label) for value, label in zip(values, labels, strict=True) if value.strip()]
    distinct = len({value for value, _ in pairs})
    if not 1 < distinct < len(pairs) or len(set(pairs)) == distinct == len(set(labels)):
        return False
    return bool(_GROUP_NAME.fullmatch(_squeezed(_last(name))) or _ANY_ID.fullmatch(name.casefold()))


def is_label(name: str) -> bool:
    """Whether a column is called like the classes of images."""
    return bool(_LABEL_NAME.fullmatch(_squeezed(_last(name))))


def is_image(name: str) -> bool:
    """Whether a column is called like images, or like their paths."""
    return bool(_PATH_NAME.fullmatch(_squeezed(_last(name))))


def renaming(names: Sequence[str]) -> str:
    """What to rename in a header that lacks path or label; "" where nothing looks like it."""
    found = []
    for wanted, form in (("path", _PATH_NAME), ("label", _LABEL_NAME)):
        near = [name for name in names if form.fullmatch(_squeezed(_last(name)))]
        if wanted not in names and near:
            found.append(f"rename {near[0]} to {wanted}")
    return " and ".join(found)


def part_of(path: str) -> str:
    """The first folder of a path that is called like a part of a data set, as "test" in test/cat/1.png; "" for none."""
    folders = re.split(r"[/\\]", path)[:-1]
    return next((folder for folder in folders if meaning(folder) or is_unclear(folder)), "")


def chosen(given: str, names: Sequence[str], flag: str) -> tuple[str, Mapping[str, str]]:
    """Takes "COLUMN" or "COLUMN:VALUE=SPLIT,..." apart: the column, and {value: split} with small letters.

    Args:
      given: as on the command line; the value * stands for all that are not named and do not say a split themselves.
      names: of the columns, small letters.
      flag: where it was given, for messages.
    """
    whole = given.strip().casefold()
    name, _, rules = (whole, "", "") if whole in names else whole.partition(":")
    if name not in names:
        raise DataError(f"{flag}={given}: there is no column {name}; there are {listed(list(names))}")
    table = {}
    for rule in filter(None, rules.split(",")):
        value, _, word = rule.rpartition("=")
        split = UNUSED if word.strip() == UNUSED else meaning(word)
        if not value or split is None:
            raise DataError(f"{flag}={given}: found {rule!r} behind the column, expected VALUE=SPLIT, such as 0=train")
        table[value.strip()] = split
    return name, table


def example(values: Sequence[str], known: Sequence[str]) -> str:
    """What could be told of values that are no words for a split: "VALUE=SPLIT,..."; with * where there are many.

    Args:
      values: those that are no such words.
      known: "train", "validation" or "test" of the others.
    """
    found = sorted(set(values))
    rest = "test" if set(known) == {"train"} else "train"
    if found == [""]:
        return f"{REST}={rest}"
    # "PrivateTest" is no such word, but holds one.
    guessed = {value: next((s for s in ("train", "val", "test") if s in value.casefold()), "") for value in found}
    if all(guessed.values()):
        return ",".join(f"{value}={split}" for value, split in list(guessed.items())[:MOST_PARTS])
    if len(found) == 2 and all(found):
        return f"{found[0]}=train,{found[1]}=test"
    return f"{next(filter(None, found), '1')}=test,{REST}=train"


def as_split(name: str, value: str, table: Mapping[str, str]) -> str | None:
    """ "train", "validation" or "test" for what stands in a column; None where that cannot be known.

    Args:
      name: of the column: that of is_test turns 1 into test, and that of is_train into train.
      value: what stands there.
      table: {value: split} of those that were told; that of * holds for values that say nothing by themselves.
    """
    value = value.strip().casefold()
    return table.get(value) or _by_itself(name, value) or table.get(REST)


def _by_itself(name: str, value: str) -> str | None:
    if (split := meaning(value)) is not None:
        return split
    stem = _squeezed(_last(name)).removesuffix("flag")
    of = next((m for prefix in ("", "is", "in", "for") if (m := meaning(stem.removeprefix(prefix)))), None)
    if of is None or value not in _YES + _NO:
        return None
    return _TAKEN_AS[value in _YES][of]


def _last(name: str) -> str:
    """Of "outer.inner" what stands last; "patient no." is no such name."""
    return name.rstrip(".").rpartition(".")[2]


def _squeezed(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())

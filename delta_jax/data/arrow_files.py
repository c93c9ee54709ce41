"""Which Parquet and Arrow files a data set consists of, what part of it each one is, and what lies beside them.

Understood are a file; what `datasets` writes (`save_to_disk`, its cache); the layout of the Hugging Face Hub, such as
data/train-00000-of-00001.parquet, with README.md; and any folder of such files, whose names may say the parts.
Formats: https://huggingface.co/docs/datasets/loading, https://huggingface.co/docs/hub/datasets-manual-configuration.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from delta_jax.data import split_words
from delta_jax.data.errors import DataError
from delta_jax.data.splits import listed

PARQUET, ARROW = (".parquet", ".parq", ".pq"), (".arrow", ".feather", ".ipc")
SUFFIXES = PARQUET + ARROW
LAYOUT = (
    f"expected a file ({', '.join(SUFFIXES)}), a folder of such files, such as data/train-00000-of-00001.parquet, or "
    "what Dataset.save_to_disk of the package datasets wrote"
)
_SHARD = re.compile(r"[-_. ]*[0-9]+(?:[-_]of[-_][0-9]+)?$")  # "-00000-of-00003", "_2", or all of "0000"
# Beside the data, datasets keeps results of its map and filter, and what it is about to write.
_BESIDE = re.compile(r"cache-.*|tmp.*|.*-indices-.*")


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a data set.

    Attributes:
      root: the file or folder they were found in.
      files: (path, what its name calls its part) of each, in their order; "" where no name says a part.
      features: {column: {"_type": "ClassLabel", "names": [...]}, ...} of what lies beside them; {} for nothing.
      licence: as it is stated there, or "".
    """

    root: Path
    files: tuple[tuple[Path, str], ...]
    features: Mapping[str, Mapping[str, Any]]
    licence: str


def is_set(root: Path) -> bool:
    """Whether this is a file of such a format, or a folder with some."""
    if root.is_file():
        return root.suffix.lower() in SUFFIXES
    return bool((root / "dataset_dict.json").exists() or (root / "state.json").exists() or _walk(root))


def find(root: Path, config: str = "") -> Found:
    """Looks at names and at the texts beside the data.

    Args:
      root: the file or folder.
      config: which of the data sets that README.md lists there; "" for the default, or the only one.

    Raises:
      DataError: no such files, or not clear which.
    """
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(f"{root} is no Parquet or Arrow file by its name; {LAYOUT}")
        return Found(root, ((root, ""),), {}, "")
    if not root.is_dir():
        raise DataError(f"{root} is not there; {LAYOUT}")
    if (root / "dataset_dict.json").exists():
        parts = _json(root / "dataset_dict.json").get("splits", [])
        files = tuple((file, str(part)) for part in parts for file in _saved(root / _plain(root, part)))
        return Found(root, files, *_info(root / str(parts[0]) if parts else root))
    if (root / "state.json").exists():
        return Found(root, tuple((file, "") for file in _saved(root)), *_info(root))
    card = _card(root)
    chosen = _config(root, card, config)
    files = _by_patterns(root, chosen) if chosen else _by_names(root)
    if not files:
        raise DataError(f"no Parquet or Arrow files in {root}; {LAYOUT}")
    features, licence = _info(root)
    return Found(root, files, features or _card_features(card, chosen), licence or str(card.get("license", "")))


def _saved(folder: Path) -> list[Path]:
    """The files that save_to_disk lists."""
    state = _json(folder / "state.json")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(
            f"{folder} was saved by an old version of datasets with the order of its rows in a file of its own; load "
            "it there and save .flatten_indices()"
        )
    names = [entry.get("filename") for entry in state.get("_data_files") or [] if isinstance(entry, dict)]
    files = [folder / _plain(folder, name) for name in names]
    if gone := [file.name for file in files if not file.is_file()]:
        raise DataError(f"{folder} lacks {listed(gone)}, which state.json there lists; copy the folder again")
    return files


def _plain(folder: Path, name: Any) -> str:
    """A name that leads nowhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise DataError(f"the files of {folder} are listed as {name!r}; expected names in that folder")
    return name


def _by_names(root: Path) -> tuple[tuple[Path, str], ...]:
    files = _walk(root)
    parts = {file: _part(file, root) for file in files}
    if any(parts.values()):
        parts = {file: part or _stem(file) for file, part in parts.items()}
    of_one: dict[str, set[Path]] = {}
    for file, part in parts.items():
        # The folder of a part may be called like it: train/0000.parquet.
        folder = file.parent if _stem(file) or file.parent == root else file.parent.parent
        of_one.setdefault(part, set()).add(folder)
    if several := next((folders for part, folders in of_one.items() if part and len(folders) > 1), None):
        raise DataError(
            f"{root} holds several data sets, it seems: {listed([str(f.relative_to(root)) for f in sorted(several)])}; "
            "give data.root one of these folders"
        )
    return tuple(parts.items())


def _walk(root: Path) -> list[Path]:
    def is_data(path: Path) -> bool:
        inner = path.relative_to(root).parts
        return not any(name.startswith(".") for name in inner) and not _BESIDE.fullmatch(path.name) and path.is_file()

    return [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and is_data(path)]


def _stem(file: Path) -> str:
    """ "train" of train-00000-of-00001.parquet, "" of 0000.parquet."""
    return _SHARD.sub("", file.stem)


def _part(file: Path, root: Path) -> str:
    stem = _stem(file)
    folders = list(file.relative_to(root).parent.parts)
    # datasets' cache has NAME-SPLIT.arrow, and a name may have such words.
    for name in (stem.rpartition("-")[2], stem, *reversed(folders)):
        if split_words.meaning(name) or split_words.is_unclear(name) or split_words.of_a_word(name):
            return split_words.meaning(name) or split_words.of_a_word(name) or name
    return ""


def _config(root: Path, card: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
    """The entry of `configs` in README.md; {} where there is none with files."""
    listed_there = card.get("configs") or []
    configs = [c for c in listed_there if isinstance(c, dict) and c.get("data_files")]
    names = [str(c.get("config_name", "default")) for c in configs]
    if wanted:
        if wanted not in names:
            raise DataError(f"{root} has no data set {wanted!r}; its README.md lists {listed(names) or 'none'}")
        return configs[names.index(wanted)]
    chosen = [c for c in configs if c.get("default") is True] or [
        c for c, name in zip(configs, names, strict=True) if name == "default" or len(names) == 1
    ]
    if configs and not chosen:
        raise DataError(
            f"{root} holds several data sets: {listed(names)}; say which as --config.data.name=hf/NAME:{names[0]}"
        )
    return chosen[0] if chosen else {}


def _by_patterns(root: Path, config: Mapping[str, Any]) -> tuple[tuple[Path, str], ...]:
    """The files that README.md names: a pattern, patterns, or {"split": ..., "path": ...} of each part."""
    given, found = config["data_files"], []
    for entry in given if isinstance(given, list) else [given]:
        part, paths = (entry.get("split", ""), entry.get("path")) if isinstance(entry, dict) else ("", entry)
        for pattern in paths if isinstance(paths, list) else [paths]:
            if not isinstance(pattern, str) or "://" in pattern or {"..", "/"} & set(PurePosixPath(pattern).parts):
                raise DataError(f"README.md of {root} lists the files {pattern!r}; expected names below that folder")
            files = [path for path in sorted(root.glob(pattern)) if path.suffix.lower() in SUFFIXES]
            if not files:
                raise DataError(f"{root} lacks {pattern}, which its README.md lists; fetch the data set again")
            found += [(file, str(part)) for file in files]
    return tuple(found)


def _card(root: Path) -> Mapping[str, Any]:
    """What stands in README.md between the lines ---; {} for nothing."""
    import yaml

    try:
        text = (root / "README.md").read_text("utf-8")
        found = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---")) if text.startswith("---") else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _card_features(card: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The features of README.md as `datasets` writes them elsewhere."""
    infos = card.get("dataset_info") or []
    infos = [info for info in (infos if isinstance(infos, list) else [infos]) if isinstance(info, dict)]
    wanted = config.get("config_name", "default")
    info: Mapping[str, Any] = next((i for i in infos if i.get("config_name", wanted) == wanted), {})
    found: dict[str, Mapping[str, Any]] = {}
    for column in info.get("features") or []:
        if not isinstance(column, dict) or "name" not in column:
            continue
        kind = column.get("dtype")
        if isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
            names = kind["class_label"].get("names") or []
            if isinstance(names, dict):
                names = [names[number] for number in sorted(names, key=int)]
            found[str(column["name"])] = {"_type": "ClassLabel", "names": [str(name) for name in names]}
        elif kind == "image":
            found[str(column["name"])] = {"_type": "Image"}
    return found


def _info(folder: Path) -> tuple[Mapping[str, Mapping[str, Any]], str]:
    """Features and licence of dataset_info.json; ({}, "") where it is not there, or is another's."""
    path = folder / "dataset_info.json"
    found = _json(path) if path.exists() else {}
    return features_of(found), str(found.get("license") or "")


def features_of(info: Any) -> Mapping[str, Mapping[str, Any]]:
    """Of what datasets keeps in dataset_info.json, and in the schema of each file, "outer.inner" for those in objects;
    what is no feature is left out."""
    features = info.get("features") if isinstance(info, dict) else None
    found: dict[str, Mapping[str, Any]] = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        if isinstance(feature, dict) and "_type" in feature:
            found[str(name)] = feature
        elif isinstance(feature, dict):
            found |= {f"{name}.{inner}": one for inner, one in features_of({"features": feature}).items()}
    return found


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); copy the data set again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object; copy the data set again")
    return found


def names_of(files: Iterable[Path], root: Path) -> list[str]:
    """Each file as it is called in messages and tables."""
    return [file.name if file == root else file.relative_to(root).as_posix() for file in files]

"""Prepared TensorFlow Datasets, read without tensorflow."""

import difflib

import numpy as np

from delta_jax.data import columns, filling, splits
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.contents import digest_of
from delta_jax.data.errors import DataError
from delta_jax.data.grouping import Groups
from delta_jax.data.splits import listed


def find(
    name: str,
    root: str,
    how: splits.Splitting,
    *,
    group: str = "",
) -> Catalogue:
    """Reads the labels of a prepared data set; see `delta_jax.data.find`.

    With train and only one other split, that one is the test split: so it is in the sets published with two parts
    (the "validation" of food101 is its test set). Validation images are then taken from train.

    Args:
      name: "NAME", "NAME/CONFIG" or with ":VERSION", without "tfds/".
      root: tfds' data_dir, or "" for its default.
      how: what to draw of the splits that it does not bring along.
      group: the feature, a text or a number, of what images share that are kept together; "" for none.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, root)
    if _is_own(name):
        prepare = f"run: python -m delta_jax.prepare --data={name}{f' --data_dir={root}' if root else ''}"
    else:
        prepare = (
            f"prepare it once, on a machine with tensorflow: tfds.builder({name!r}, file_format='array_record'"
            f"{f', data_dir={root!r}' if root else ''}).download_and_prepare()"
        )
    features = dict(builder.info.features.items())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(
            f"tfds/{name} has the features {', '.join(features)}; expected 'image' (Image) and 'label' (ClassLabel): "
            "choose another data set or export this one to folders"
        )

    if not builder.info.splits:
        raise DataError(f"tfds/{name} is not prepared in {builder.data_dir}; {prepare}")

    plain = {n for n, f in features.items() if isinstance(f, (tfds.features.Text, tfds.features.Scalar))}
    plain |= {n for n, f in features.items() if isinstance(f, tfds.features.ClassLabel)} - {"label"}
    if group and group not in plain:
        raise DataError(
            f"group is {group!r}; expected a text or a number that tfds/{name} has: {listed(sorted(plain))}"
        )
    named = isinstance(features.get("file"), tfds.features.Text)
    sources, labels, sizes, contents, files, split_names = [], [], [], [], [], []
    values: dict[str, list[str]] = {name: [] for name in sorted(plain)}
    for split, tfds_split in _split_names(name, list(builder.info.splits)).items():
        try:
            source = builder.as_data_source(tfds_split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise DataError(
                f"tfds/{name} in {builder.data_dir} is stored as {builder.info.file_format.value}, which allows no "
                f"access by number; delete it there and {prepare}"
            ) from error
        for i in range(len(source)):
            example = source[i]
            labels.append(int(example["label"]))
            sizes.append(len(example["image"]))
            contents.append(digest_of(example["image"]))  # the record has been read for its label anyway
            files.append(example["file"].decode() if named else f"{tfds_split}[{i}]")
            split_names.append(split)
            for feature, found in values.items():
                one = example[feature]
                found.append(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one))
            sources.append((source, i))
    label_array = np.array(labels, np.int32)
    if not label_array.size:
        raise DataError(f"tfds/{name} in {builder.data_dir} holds no images; delete it there and {prepare}")
    if label_array.min() < 0:
        raise DataError(f"tfds/{name} has images without a label (-1), such as {files[int(label_array.argmin())]}")
    if label_array.max() >= label.num_classes:
        worst = int(label_array.argmax())
        raise DataError(
            f"tfds/{name}: {files[worst]} has the label {label_array[worst]}, expected 0 to {label.num_classes - 1}; "
            f"delete it in {builder.data_dir} and {prepare}"
        )

    def read(i: int) -> bytes:
        source, row = sources[i]
        return source[row]["image"]

    class_names = tuple(label.names)
    texts = [class_names[label] for label in labels]
    alike = [Groups.of(n, v) for n, v in values.items() if n != group and columns.says_group(n, v, texts)]
    shared = Groups.of(group, values[group]) if group else None
    filled, notes = filling.fill(np.array(split_names), label_array, class_names, how, group=shared, alike=alike)
    return Catalogue(
        name=f"tfds/{builder.info.full_name}",
        files=tuple(files),
        labels=label_array,
        split=filled,
        class_names=class_names,
        licence=str(builder.info.redistribution_info) or f"not stated, see {builder.info.homepage}",
        read=read,
        sizes=np.array(sizes, np.int64),
        contents=tuple(contents),
        notes=notes,
    )


def _builder(name: str, root: str):
    import tensorflow_datasets as tfds

    from delta_jax.data import builders

    try:
        if not _is_own(name):
            return tfds.builder(name, data_dir=root or None)
        base, _, config = name.partition("/")
        own = builders.BUILDERS[base](config=config or None, data_dir=root or None)
        if not own.info.splits:
            # tfds has builders of its own for stanford_dogs and food101, which may have been used.
            theirs = tfds.builder(name, data_dir=root or None)
            return theirs if theirs.info.splits else own
        return own
    except tfds.core.DatasetNotFoundError:
        base = name.split("/")[0].split(":")[0]
        near = difflib.get_close_matches(base, tfds.list_builders(with_community_datasets=False), n=3)
        # tfds' own message goes on with the hundreds of names that it knows.
        raise DataError(
            f"tfds knows no data set {base!r} and finds none prepared in {root or 'its default data_dir'}; "
            + (f"close: {', '.join(near)}" if near else "check the name, or root")
        ) from None
    except (ValueError, AssertionError) as error:
        raise DataError(f"tfds/{name} cannot be opened: {str(error).splitlines()[0]}") from error


def _is_own(name: str) -> bool:
    from delta_jax.data import builders

    return name.split("/")[0] in builders.BUILDERS


def _split_names(name: str, found: list[str]) -> dict[str, str]:
    """{"train": ..., "validation": ..., "test": ...}: which split of the data set serves as which of ours."""
    chosen = {"train": "train"} if "train" in found else {}
    if not chosen:
        raise DataError(f"tfds/{name} has the splits {', '.join(found)}; expected at least train")
    validation = next((split for split in ("validation", "valid", "val", "dev") if split in found), None)
    if validation is not None:
        chosen["validation" if "test" in found else "test"] = validation
    if "test" in found:
        chosen["test"] = "test"
    return chosen

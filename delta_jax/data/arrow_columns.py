"""Which columns of a table hold images and labels, by types and names, and what a table is that has none."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from delta_jax.data import columns
from delta_jax.data.errors import DataError
from delta_jax.data.names import nfc
from delta_jax.data.splits import listed

if TYPE_CHECKING:
    import pyarrow as pa

Types = Mapping[str, "pa.DataType"]
Features = Mapping[str, Mapping[str, Any]]


def image_column(types: Types, features: Features, given: str, where: str, flag: str) -> str:
    """The column that holds encoded images, or the paths of files.

    Args:
      types: of the columns.
      features: what `datasets` wrote of them.
      given: on the command line, or "".
      where: the table, for messages.
      flag: how it is given, for messages.

    Raises:
      DataError: there is none, or not clear which; or it holds something else.
    """
    if given:
        name = _named(types, given, flag, where)
        if not (is_picture(types[name]) or _is_text(types[name])):
            raise DataError(f"{flag}={given}: {where} has {_kind(types[name])} there; {_WANTED}")
        return name
    known = [name for name in types if features.get(name, {}).get("_type") == "Image" and is_picture(types[name])]
    pictures = known or [name for name, kind in types.items() if is_picture(kind)]
    paths = [name for name, kind in types.items() if _is_text(kind) and columns.is_image(name)]
    for some in (pictures, paths):
        # Masks and the like may lie beside the image.
        named = [name for name in some if columns.is_image(name)]
        if len(some) == 1 or len(named) == 1:
            return (named or some)[0]
        if some:
            raise DataError(f"{where}: images in several columns: {listed(some)}; say which by {flag}={some[0]}")
    inside = [f"{name} ({_kind(kind)})" for name, kind in types.items()]
    raise DataError(f"{where} has no column of images: {listed(inside)}; {_WANTED}, or say which by {flag}=COLUMN")


_WANTED = "expected encoded images (JPEG, PNG; bytes, or bytes and path as the package datasets keeps them) or paths"


def label_column(
    types: Types, features: Features, image: str, given: str, where: str, flag: str, numbers: Mapping[str, set[Any]]
) -> str:
    """The column that holds the class of each image: a whole number or a text.

    Args:
      types: of the columns.
      features: what `datasets` wrote of them.
      image: the column of the images.
      given: on the command line, or "".
      where: the table, for messages.
      flag: how it is given, for messages.
      numbers: {column of whole numbers: what stands there}, to tell what a table without labels is.

    Raises:
      DataError: there is none, or not clear which; or the table is one of another task.
    """
    if given:
        name = _named(types, given, flag, where)
    else:
        classes = [n for n in types if features.get(n, {}).get("_type") == "ClassLabel" and _is_class(types[n])]
        some = classes or [n for n in types if n != image and columns.is_label(n)]
        named = [n for n in some if n.casefold() == "label"]
        if len(some) > 1 and len(named) != 1:
            raise DataError(f"{where}: classes in several columns: {listed(some)}; say which by {flag}={some[0]}")
        if not some:
            raise DataError(f"{where} has no column of labels: {_instead(types, image, numbers)}{flag}=COLUMN")
        name = (named or some)[0]
    kind = types[name]
    if not _is_class(kind):
        raise DataError(
            f"{where}: {name} holds {_kind(kind)}, {_task(kind)}; expected one class per image, a whole number or a "
            f"text; give the column that has it by {flag}=COLUMN"
        )
    return name


def class_names(cells: Sequence[Any], feature: Mapping[str, Any]) -> tuple[list[str | None], tuple[str, ...]]:
    """The class of each row by name, None where none is stated, and the names that `datasets` knows, in their order.

    Args:
      cells: numbers, texts, or None.
      feature: what `datasets` wrote of the column; {} for nothing.

    Raises:
      DataError: a number without a name.
    """
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    numbers = {cell for cell in cells if isinstance(cell, int) and not isinstance(cell, bool)}
    if not isinstance(names, list) or len(numbers) + (None in cells) < len(set(cells)):
        texts = [None if cell is None else str(cell).strip() for cell in cells]
        return [nfc(text) if text else None for text in texts], ()
    known = tuple(nfc(str(name).strip()) for name in names)
    if wrong := sorted(n for n in numbers if not -1 <= n < len(known)):  # -1: datasets' word for no label
        raise DataError(f"the label {wrong[0]} stands for no class: there are {len(known)}, {listed(known)}")
    return [None if cell in (None, -1) else known[cell] for cell in cells], known


def is_picture(kind: "pa.DataType") -> bool:
    """Bytes, or an object of bytes and perhaps a path, as the feature Image of datasets is stored."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    inner = {field.name: field.type for field in kind}
    return "bytes" in inner and _is_bytes(inner["bytes"]) and all(_is_text(inner[n]) for n in {"path"} & set(inner))


def is_plain(kind: "pa.DataType") -> bool:
    """Whether cells are texts, numbers or truth values."""
    import pyarrow as pa

    return _is_class(kind) or pa.types.is_floating(kind)


def _named(types: Types, given: str, flag: str, where: str) -> str:
    name = next((n for n in types if n.strip().casefold() == given.strip().casefold()), None)
    if name is None:
        raise DataError(f"{flag}={given}: {where} has no column {given}; it has {listed(list(types))}")
    return name


def _instead(types: Types, image: str, numbers: Mapping[str, set[Any]]) -> str:
    others = {name: kind for name, kind in types.items() if name != image}
    flags = [name for name, found in numbers.items() if name in others and found <= {0, 1}]
    if len(flags) > 1:
        return (
            f"taken for a table of several labels per image, as {listed(flags)} hold 0 and 1 alone; expected one "
            "column with the class of each image; say which by "
        )
    inside = [f"{name} ({_kind(kind)})" for name, kind in others.items()]
    return f"beside {image} there is {listed(inside) or 'nothing'}; call one label, or say which by "


def _task(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "taken for values to be predicted (regression)"
    if _is_list(kind):
        return "taken for several labels per image (multi-label, or boxes of objects)"
    return "which is no class"


def _kind(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if _is_list(kind):
        return f"lists of {_kind(kind.value_type).removeprefix('lists of ')}"
    if pa.types.is_struct(kind):
        return f"objects of {listed([field.name for field in kind])}"
    for is_so, word in (
        (_is_text, "texts"),
        (is_picture, "bytes"),
        (pa.types.is_boolean, "truth values"),
        (pa.types.is_integer, "whole numbers"),
        (pa.types.is_floating, "numbers with a fraction"),
    ):
        if is_so(kind):
            return word
    return str(kind)


def _is_class(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in is_list)

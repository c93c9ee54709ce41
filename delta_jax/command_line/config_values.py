"""What may stand behind --config.FIELD=, by the type of the field; one line with an example for everything else."""

import ast
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ml_collections import ConfigDict

from delta_jax.training.config import ConfigError

_SWITCH = ("true", "t", "1", "false", "f", "0")  # what absl takes
_OF_UNSET = (0.5, 0.5, 0.5)  # stands for a tuple without a value, such as data.mean
_WORD = re.compile(r"[^\s,()\[\]{}'\"]+")


def is_switch(config: ConfigDict, name: str) -> bool:
    """Whether a field needs no value: --config.remat, --noconfig.remat."""
    return _find(config, name)[1] is bool


def check(config: ConfigDict, name: str, texts: Sequence[str | None]) -> None:
    """Raises ConfigError unless every text can be a value of the field, and a tuple is given once.

    Args:
      config: that the field is in.
      name: of a field, or a group, that is there.
      texts: as they are given, the last one counts; None where there is none.
    """
    value, kind = _find(config, name)
    if isinstance(value, ConfigDict):
        for text in texts:
            _check_group(name, value, text)
    elif isinstance(value, list) or (value is None and kind is type(None)):
        what = "a list; make it a tuple" if isinstance(value, list) else "None; make it a placeholder of ml_collections"
        raise ConfigError(f"--config.{name}: in the config it is {what}, or change it in the file")
    elif kind is tuple:
        value = _OF_UNSET if value is None else value
        if len(texts) > 1:
            # ml_collections puts them together, though of every other field the last one counts.
            every = tuple(element for text in texts for element in _elements(text or "") or ())
            raise ConfigError(
                f"--config.{name} is given {len(texts)} times; expected once, with all its values, such as "
                f"{as_flag(name, every or value or ())}"
            )
        _check_tuple(name, value or (), texts[0])
    else:
        for text in texts:
            _check_plain(name, value, kind, text)


def as_flag(name: str, value: tuple[Any, ...]) -> str:
    """How a tuple is written in a shell."""
    text = ",".join(map(repr, value)) + ("," if len(value) == 1 else "")
    return f'--config.{name}="({text})"'


def _find(config: ConfigDict, name: str) -> tuple[Any, type]:
    *groups, last = name.split(".")
    for group in groups:
        config = config[group]
    return config[last], config.get_type(last)


def _check_plain(name: str, value: Any, kind: type, text: str | None) -> None:
    if kind is bool:
        if text is not None and text.lower() not in _SWITCH:
            _refuse(name, text, "True or False", f"--config.{name}=True")
    elif text is None:
        raise ConfigError(f"--config.{name} has no value; expected --config.{name}=VALUE")
    elif kind is int and not (_is(int, text) or re.fullmatch(r"-?0[xo][0-9a-fA-F]+", text)):
        meant = round(float(text)) if _is(float, text) and abs(float(text)) < 1e15 else 64 if value is None else value
        _refuse(name, text, "a whole number", f"--config.{name}={meant}")
    elif kind is float and not _is(float, text):
        _refuse(name, text, "a number", f"--config.{name}={0.1 if value is None else value:g}")


def _is(kind: Callable[[str], Any], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _check_group(name: str, group: ConfigDict, text: str | None) -> None:
    """One of groups, as `data_sets` of a sweep, may be given anew; of fields ml_collections would drop the others."""
    fields = [field for field, value in group.items() if not isinstance(value, ConfigDict)]
    if fields or not isinstance(_literal(text or ""), dict):
        field = [*fields, *(f"{inner}.FIELD" for inner in group), "NAME"][0]
        _refuse(name, text or "", "one of the fields of this group", f"--config.{name}.{field}=VALUE")


def _check_tuple(name: str, value: tuple[Any, ...], text: str | None) -> None:
    found = _elements(text or "")
    # Of tuples in a tuple, and an empty one, nothing is known.
    what = next((what for what, belongs in _KINDS.items() if value and all(map(belongs, value))), "values")
    if found is not None and all(map(_KINDS.get(what, lambda _: True), found)):
        return
    words = tuple(re.findall(_WORD, text or ""))
    _refuse(
        name, text or "", f"a tuple of {what}", as_flag(name, value if value and what != "words" else words or value)
    )


_KINDS: dict[str, Callable[[Any], bool]] = {
    "words": lambda one: isinstance(one, str) and one != "",
    "whole numbers": lambda one: isinstance(one, int) and not isinstance(one, bool),
    "numbers": lambda one: isinstance(one, int | float) and not isinstance(one, bool),
}


def _elements(text: str) -> tuple[Any, ...] | None:
    """What ml_collections makes of it, but None for "a,b", which it takes for one word, and for sets and the like."""
    value = _literal(text)
    if value is ...:
        return (text,) if _WORD.fullmatch(text) else None
    if isinstance(value, tuple | list):
        return tuple(value)
    return (value,) if isinstance(value, str | int | float) else None


def _literal(text: str) -> Any:
    """A value of Python; `...` where the text is none."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ...


def _refuse(name: str, text: str, expected: str, example: str) -> NoReturn:
    raise ConfigError(f"--config.{name}={text}: expected {expected}, such as {example}")

"""What may stand behind --config=: the name of a config that comes with delta_jax, or a file."""

import difflib
import re
from pathlib import Path

from delta_jax import configs
from delta_jax.training.config import ConfigError


def names() -> list[str]:
    """Of the configs that come with delta_jax, such as "folder" and "paper/table1"."""
    folder = _folder()
    files = (file.relative_to(folder) for file in folder.rglob("*.py") if file.stem != "__init__")
    return sorted(file.with_suffix("").as_posix() for file in files)


def locate(given: str) -> str:
    """The file of a config.

    Args:
      given: name or file, and ":ARGUMENT" behind it where the config takes one. A name comes first; a file that is
        called as one can be given as "./folder".

    Returns:
      The same, with the file in place of the name.

    Raises:
      ConfigError: neither a name nor a file.
    """
    name, colon, argument = given.partition(":")
    known = names()
    if name in known:
        return f"{_folder() / name}.py{colon}{argument}"
    if not Path(name).is_file():
        files = map(str, Path(name).parent.glob("*.py"))
        plain = re.sub(r"^(?:.*/)?configs/|\.py$", "", name)  # configs/folder.py, where there is no checkout
        close = difflib.get_close_matches(name, files, n=2) or difflib.get_close_matches(plain, known, n=2)
        hint = f"; did you mean {' or '.join(close)}?" if name and close else ";"
        raise ConfigError(f"--config={name}: no such file{hint} the names of those that are here: {', '.join(known)}")
    return given


def _folder() -> Path:
    return Path(configs.__path__[0])

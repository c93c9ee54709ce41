"""Names as people see them: one Unicode form, and which of them look alike."""

import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

# Blank, though Unicode counts some as letters or marks: fillers of Hangul, joiners of graphemes, empty Braille.
_INVISIBLE = {"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u2800", "\u3164", "\uffa0"}
ALIKE = "differ only by case, blanks, invisible characters or width"


def nfc(text: str) -> str:
    """The composed form: macOS writes an accent as a character of its own, other systems and most tables do not."""
    return unicodedata.normalize("NFC", text)


def problem(name: str) -> str:
    """Why no class can have this name: "" where nothing is wrong with it."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "not UTF-8 (convmv turns many names at once: convmv -f latin1 -t utf8 -r --notest FOLDER)"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "one with control characters"
    return ""


def shown(name: str) -> str:
    """A name to print: what cannot be seen, or is no character, as an escape such as \\u200b or \\xe9."""
    return "".join(letter if not _is_hidden(letter) else _escape(letter) for letter in name)


def look(name: str) -> str:
    """The same for names that a reader may take for one another: see ALIKE."""
    plain = "".join(c for c in unicodedata.normalize("NFKC", name) if not c.isspace() and not _is_hidden(c))
    return unicodedata.normalize("NFKC", plain.casefold())


def alike(names: Iterable[str]) -> str:
    """ "'Cat' and 'cat', 'a b' and 'ab' differ only by ..." of the names that look alike; "" where none do."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(look(name), []).append(f"'{shown(name)}'")
    twins = [" and ".join(group) for group in groups.values() if len(group) > 1]
    if not twins:
        return ""
    return ", ".join(twins[:10]) + (f" and {len(twins) - 10} more" if len(twins) > 10 else "") + f" {ALIKE}"


def existing(path: str | Path, folders: dict[Path, dict[str, str]] | None = None) -> Path:
    """The path as it is on disk, where only the Unicode form of its names is another; else as given.

    Args:
      path: perhaps not there.
      folders: what was read for earlier paths, {folder: {composed name: name}}; it is filled.
    """
    path, folders = Path(path), {} if folders is None else folders
    try:
        path.lstat()
        return path
    except (OSError, ValueError):
        pass
    if path.parent == path:
        return path
    parent = existing(path.parent, folders)
    if parent not in folders:
        try:
            folders[parent] = {nfc(entry.name): entry.name for entry in parent.iterdir()}
        except (OSError, ValueError):  # a name with a zero byte
            folders[parent] = {}
    name = folders[parent].get(nfc(path.name))
    return path if name is None else parent / name


def common(ours: Collection[str], theirs: Collection[str]) -> set[str]:
    """What names look like that both have."""
    return {look(name) for name in ours} & {look(name) for name in theirs}


def _is_hidden(letter: str) -> bool:
    return (
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        or letter in _INVISIBLE
        or 0xFE00 <= ord(letter) <= 0xFE0F  # variation selectors: with and without colour
        or 0xE0100 <= ord(letter) <= 0xE01EF
    )


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

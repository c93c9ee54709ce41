"""Tables as Markdown and as LaTeX."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """Plain text, in whatever language it ends up."""

    text: str
    bold: bool = False
    slanted: bool = False


class Table(NamedTuple):
    """A table with a first column of names.

    Attributes:
      caption: a sentence or more about it.
      blocks: each a header and rows, all with as many entries.
    """

    caption: str
    blocks: tuple[tuple[tuple[Entry, ...], tuple[tuple[Entry, ...], ...]], ...]


def markdown(table: Table) -> str:
    """One table per block, behind the caption."""
    parts = [_markdown(Entry(table.caption))]
    for header, rows in table.blocks:
        lines = [header, tuple(Entry("---") for _ in header), *rows]
        parts.append("\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines))
    return "\n\n".join(parts)


def latex(table: Table) -> str:
    r"""A `table` environment with a rule between blocks; needs \usepackage{booktabs}."""
    columns = "l" + "c" * (max(len(header) for header, _ in table.blocks) - 1)
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(Entry(table.caption))}}}",
    ]
    lines.append(rf"\begin{{tabular}}{{{columns}}}")
    for number, (header, rows) in enumerate(table.blocks):
        lines += [r"\midrule" if number else r"\toprule", _latex_row(header), r"\midrule", *map(_latex_row, rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_row(row: Sequence[Entry]) -> str:
    return " & ".join(map(_latex, row)) + r" \\"


def _markdown(entry: Entry) -> str:
    text = re.sub(r"([\\`*_|~]|<(?=[\w/!]))", r"\\\1", entry.text)
    if not text:
        return ""
    return f"**{text}**" if entry.bold else f"*{text}*" if entry.slanted else text


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex(entry: Entry) -> str:
    text = "".join(_LATEX.get(character, character) for character in entry.text)
    text = re.sub(r"(?<!\w)-(?=\d)", "$-$", text)  # a minus, which is longer than a hyphen
    return rf"\textbf{{{text}}}" if entry.bold else rf"\textit{{{text}}}" if entry.slanted else text

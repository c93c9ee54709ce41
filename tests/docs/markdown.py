"""Markdown as GitHub and the site both read it: links, names of headings, text without code."""

import json
import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pages() -> list[Path]:
    """Every page that a reader may open, the notebooks too."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")]
    return [*named, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "docs").rglob("*.ipynb"))]


def text_of(page: Path) -> str:
    """The Markdown of a page; of a notebook that of its text cells."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_code(text: str) -> str:
    """The text without fenced and indented blocks and without `code`; its lines keep their numbers."""
    kept, fence, before = [], "", ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence:
            fence = "" if mark and line.strip() == fence else fence
            kept.append("")
        elif mark:
            fence = mark[1]
            kept.append("")
        elif line.startswith("    ") and (not before.strip() or before.startswith("    ")) and not _in_list(kept):
            kept.append("")
        else:
            kept.append(line)
        before = line
    return re.sub(
        r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", lambda code: re.sub(r"[^\n]", "x", code[0]), "\n".join(kept), flags=re.S
    )


def _in_list(lines: list[str]) -> bool:
    """Whether the last paragraph that was not indented is an item of a list."""
    flat = [line for line in lines if line.strip() and not line.startswith(" ")]
    return bool(flat) and re.match(r"([-*+]|\d+[.)]) ", flat[-1]) is not None


def links(text: str) -> list[tuple[int, str]]:
    """(line, target) of every link and picture, those with [names][of their own] left out."""
    found = re.finditer(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", without_code(text))
    return [(text.count("\n", 0, match.start()) + 1, match[1]) for match in found]


def anchors(text: str) -> list[str]:
    """The names of the headings, as GitHub makes them and mkdocs.yml asks for; only the first of several alike."""
    heads = re.findall(r"^#{1,6} +(.*?)#*$", _without_fences(text), flags=re.M)
    return [anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)) for head in heads]


def anchor(heading: str) -> str:
    """The name of one heading: lower case, no punctuation but - and _, and - for each space."""
    kept = re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", heading.strip()).lower())
    return kept.replace(" ", "-")


def _without_fences(text: str) -> str:
    return re.sub(r"^\s*(`{3,}|~{3,})[^\n]*\n.*?^\s*\1\s*$", "", text, flags=re.M | re.S)

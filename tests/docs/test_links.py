"""Pages that a reader follows from one to the next: every link leads somewhere, on GitHub and in the site alike."""

import ast
import re

import pytest

from tests.docs import markdown
from tests.docs.markdown import ROOT

PAGES = {page.relative_to(ROOT).as_posix(): page for page in markdown.pages()}


def dead_links(page, text: str) -> list[str]:
    """The links of a page to files and headings that are not there; addresses of the internet are not asked."""
    dead = []
    for line, target in markdown.links(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT):
            dead.append(f"{line}: {target}: no such file")
        elif heading and heading not in markdown.anchors(text if file == page else markdown.text_of(file)):
            dead.append(f"{line}: {target}: no such heading")
    return dead


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name):
    dead = dead_links(PAGES[name], markdown.text_of(PAGES[name]))
    assert not dead, "\n".join([name, *dead])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[a](data.md)", []),
        ("[a](nowhere.md)", ["no such file"]),
        ("[a](../README.md#train)", []),
        ("[a](../README.md#trian)", ["no such heading"]),
        ("# Two  words, and `code`!\n[a](#two--words-and-code)", []),  # GitHub keeps both spaces
        ("# Über uns\n[a](#über-uns)\n[b](#uber-uns)", ["no such heading"]),
        ("[a](../../outside.md)", ["no such file"]),
        ("![a](images/curves.png) and [b](images/curve.png)", ["no such file"]),
        ("text\n\n    d[tap](its)\n\n```\n[a](nowhere.md)\n```\n`[a](nowhere.md)`", []),  # code
        ("- item\n\n    [a](nowhere.md)", ["no such file"]),  # a second paragraph of an item is no code
        ("[a](https://example.org/nowhere)", []),
    ],
)
def test_a_dead_link_is_found(text, found):
    dead = dead_links(ROOT / "docs" / "index.md", text)
    assert [line.rpartition(": ")[2] for line in dead] == found


@pytest.mark.parametrize("name", PAGES)
def test_a_list_begins_after_an_empty_line(name):
    # GitHub sees a list right below a line of text, the site a paragraph with dashes in it.
    lines = markdown.without_code(markdown.text_of(PAGES[name])).splitlines()
    item = re.compile(r"\s*([-*+]|\d+[.)]) ")
    glued, in_list = [], False
    for number, line in enumerate(lines, 1):
        if item.match(line):
            if not in_list and number > 1 and lines[number - 2].strip():
                glued.append(f"{name}:{number}: {line}")
            in_list = True
        elif not line.strip() or line.startswith("#"):
            in_list = False
    assert not glued, "\n".join(glued)


def test_every_page_of_docs_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    in_docs = [name.removeprefix("docs/").replace(".ipynb", ".md") for name in PAGES if name.startswith("docs/")]
    missing = [name for name in in_docs if not re.search(rf"[ :]{re.escape(name)}$", config, flags=re.M)]
    assert not missing, f"nav of mkdocs.yml lacks {missing}"


def test_what_the_navigation_shows_of_the_repository_is_there():
    pages = re.findall(r"[ :]repository/(\S+)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    assert len(pages) > 3
    assert [page for page in pages if not any((ROOT / name).is_file() for name in (page, page[:-3]))] == []


@pytest.mark.parametrize(
    "module", ["regularizers", "features", "attention", "methods", "precision", "models", "weights", "data"]
)
def test_the_reference_has_every_public_function_and_class(module):
    package = ROOT / "delta_jax" / module
    file = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    body = ast.parse(file.read_text()).body
    public = [
        node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    imported = [alias.asname or alias.name for node in imports for alias in node.names if not _is_constant(node, alias)]
    exported = next((ast.literal_eval(node.value) for node in body if _is_all(node)), [])
    # Constants and types of arrays have no docstring, and modules their own pages elsewhere.
    public += [name for name in exported if name in imported and name not in NO_DOCSTRING]
    listed = re.findall(rf"^::: delta_jax\.{module}\.(\w+)$", (ROOT / f"docs/api/{module}.md").read_text(), flags=re.M)
    assert sorted(listed) == sorted(set(public))


NO_DOCSTRING = ("Variables", "Pixels", "builders")


def _is_constant(node: ast.ImportFrom, alias: ast.alias) -> bool:
    file = ROOT.joinpath(*(node.module or "").split(".")).with_suffix(".py")
    return alias.name.isupper() and not (file.is_file() and f"class {alias.name}(" in file.read_text())


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"

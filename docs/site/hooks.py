"""What mkdocs adds to the pages of docs/: the files of the repository that they link to, and the notebooks.

In the repository a link like ../configs/default.py leads to the file. The site has a page of it, so that nothing leads
out of the site. The navigation names such a page repository/configs/default.py.md.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#:]+)((?:#[^)\s]*)?)\)")
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of notebooks, and of all files outside of docs/ that the navigation or a page links to."""
    named = {uri for uri in _strings(config.nav) if uri.startswith("repository/")}
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        content = markdown_of(json.loads(notebook.content_string))
        files.append(File.generated(config, page_of(f"docs/{notebook.src_uri}"), content=content))
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files if file.is_documentation_page()]
    waiting += [("docs/index.md", f"[]({'../' + source_of(uri)})") for uri in sorted(named)]
    seen = set()
    while waiting:
        source, text = waiting.pop()
        for _, link, _ in LINK.findall(text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            if target in seen or target.startswith(("docs/", "../")) or not (ROOT / target).is_file():
                continue
            seen.add(target)
            content = (ROOT / target).read_text()
            if target.endswith(".md"):
                waiting.append((target, content))
                content = rewritten(content, target)
            else:
                content = listing(target, content)
            inclusion = InclusionLevel.UNDEFINED if page_of(target) in named else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, page_of(target), content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """The page with links that hold in the site."""
    return markdown if page.file.src_uri.startswith("repository/") else rewritten(markdown, f"docs/{page.file.src_uri}")


def page_of(source: str) -> str:
    """The site's page of a file of the repository, "configs/default.py"."""
    inside = source.startswith("docs/")
    page = source.removeprefix("docs/") if inside else f"repository/{source}"
    if source.endswith(".ipynb"):
        return page.removesuffix(".ipynb") + ".md"
    return page if inside or source.endswith(".md") else f"{page}.md"


def source_of(page: str) -> str:
    """The file outside of docs/ that a page "repository/..." shows."""
    source = page.removeprefix("repository/")
    return source if (ROOT / source).is_file() else source.removesuffix(".md")


def rewritten(markdown: str, source: str) -> str:
    """The text of the repository's file `source`, with the site's pages in place of files. Folders lose their link."""

    def link(match: re.Match) -> str:
        text, to, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), to))
        if (ROOT / target).is_dir():
            return text
        if not (ROOT / target).is_file():
            return match[0]
        return f"[{text}]({posixpath.relpath(page_of(target), posixpath.dirname(page_of(source)))}{anchor})"

    return LINK.sub(link, markdown)


def listing(source: str, content: str) -> str:
    """A page of a file that is no Markdown; the search leaves it out."""
    code = _fenced(content, LANGUAGES.get(Path(source).suffix, "text"))
    return f"---\nsearch:\n  exclude: true\n---\n\n# {source}\n\n{code}"


def markdown_of(notebook: dict) -> str:
    """The cells of a notebook (nbformat 4), code with what it printed and drew."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(_fenced(text, "python") if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = "".join(data["image/png"]).strip()
                parts.append(f"![what the code above draws](data:image/png;base64,{picture})")
            else:
                parts.append(_fenced("".join(data["text/plain"]), "{ .text .output }"))
    return "\n\n".join(parts) + "\n"


def _fenced(text: str, language: str) -> str:
    fence = max(["```", *(run + "`" for run in re.findall(r"`{3,}", text))], key=len)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _strings(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [text for item in (nav.values() if isinstance(nav, dict) else nav) for text in _strings(item)]

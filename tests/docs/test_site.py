"""The site that `make docs` builds, where its tools are installed: no warning, and nothing that a page fetches."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.docs.markdown import ROOT

TOOLS = ("mkdocs", "material", "mkdocstrings")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(tool) is None for tool in TOOLS), reason="make docs has not installed mkdocs"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_fetches_nothing(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    fetched = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
    found = {address for page in pages for address in fetched.findall(page.read_text())}
    sheets = "".join(sheet.read_text() for sheet in site.rglob("*.css"))
    assert found == set()
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')]+", sheets) == []


def test_links_between_pages_are_files(site):
    # What is opened from disk shows no index.html for a folder.
    dead = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # for servers: its links begin at the root
        for link in re.findall(r"<a\b[^>]*?\bhref=\"?([^\"\s>#?]+)", page.read_text()):
            if not re.match(r"[a-z]+:", link) and not (page.parent / link).is_file():
                dead.append(f"{page.relative_to(site)}: {link}")
    assert dead == []


def test_the_reference_shows_docstrings_in_their_parts(site):
    text = re.sub(r"<[^>]+>|\s+", " ", (site / "api" / "attention.html").read_text())
    text = re.sub(r"\s+", " ", text)
    for part in ("Parameters:", "Returns:", "Raises:", "{tap: [B, C]}, or [B, n] for chosen filters."):
        assert part in text
    # A word in < > that a browser takes for a tag would vanish from the page.
    data = (site / "api" / "data.html").read_text()
    assert "root/&lt;class&gt;/*" in data


def test_a_file_outside_of_docs_is_a_page(site):
    listing = (site / "repository" / "examples" / "own_loop.py.html").read_text()
    assert "filter_gaps" in listing
    assert 'href="repository/README.html"' not in (site / "index.html").read_text()  # README.md becomes index.html
    assert (site / "repository" / "index.html").exists()

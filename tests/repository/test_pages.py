"""What the pages name exists: fields, flags, functions and files; and each begins by saying what it is for."""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from delta_jax.configs.default import get_config as get_run
from delta_jax.configs.paper.table1 import get_config as get_sweep

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("launch/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
PER_NAME = ("data_sets", "networks", "strengths", "variants")  # of a sweep: what follows is a name of its own


def _fields(config: ConfigDict, path: str = "") -> set[str]:
    inner = (_fields(value, f"{path}{key}.") for key, value in config.items() if isinstance(value, ConfigDict))
    return {path + key for key in config}.union(*inner)


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_says_first_what_it_is_for(page):
    heading, empty, first = TEXTS[page].split("\n")[:3]
    assert heading.startswith("# ")
    assert not empty
    assert re.match(r"[A-Z][a-z]", first), f"no sentence but {first!r}"


@pytest.mark.parametrize("page", TEXTS)
def test_a_field_that_is_named_can_be_set(page):
    fields = _fields(get_run()) | _fields(get_sweep())
    named = set(re.findall(r"--config\.([a-z][a-z0-9_.]*[a-z0-9_])", TEXTS[page]))
    assert [name for name in sorted(named) if name not in fields and name.split(".")[0] not in PER_NAME] == []


def _missing(name: str) -> bool:
    """Whether a dotted name is none of a module, nor of something in one. What runs as a command is not imported."""
    module, *rest = name.split(".")
    while rest and (found := find_spec(module)) and found.submodule_search_locations:
        if not find_spec(f"{module}.{rest[0]}"):
            break
        module = f"{module}.{rest.pop(0)}"
    return bool(rest) and not hasattr(importlib.import_module(module), rest[0])


@pytest.mark.parametrize("page", TEXTS)
def test_a_function_that_is_named_can_be_called(page):
    names = re.findall(r"\b(?:dj|delta_jax)((?:\.[a-z_]\w*)+)", TEXTS[page])
    assert [name for name in sorted(set(names)) if _missing(f"delta_jax{name}")] == []


@pytest.mark.parametrize("page", TEXTS)
def test_a_file_that_is_named_is_there(page):
    folders = "configs|benchmarks|examples|findings|launch|delta_jax|tests"
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w./*-]*\w", TEXTS[page])
    assert [file for file in sorted(set(named)) if not list(ROOT.glob(file))] == []

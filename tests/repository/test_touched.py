"""Which tests `make check` runs: the graph of imports by hand, and the choice by numbers made up."""

import pytest

from tests import touched

MODULES = ("pkg", "pkg.low", "pkg.mid", "pkg.room", "pkg.room.inner", "tests.test_low", "tests.test_mid")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pkg.low", {"pkg.low"}),
        ("from pkg import low, other", {"pkg", "pkg.low"}),
        ("from pkg.low import function", {"pkg.low"}),
        ("def f():\n    from pkg.mid import g", {"pkg.mid"}),
        ("from . import inner", {"pkg.room.inner", "pkg.room"}),
        ("from ..low import x", {"pkg.low"}),
        ("import numpy", set()),
    ],
)
def test_imports_are_seen_however_they_are_written(source, expected):
    found = touched.imported("pkg.room.here", source, MODULES, package=False)
    assert found == expected


def test_a_package_resolves_dots_from_itself():
    assert touched.imported("pkg.room", "from .inner import x", MODULES, package=True) == {"pkg.room.inner"}


def test_a_test_is_touched_through_the_modules_between():
    arrows = {
        "pkg.low": set(),
        "pkg.mid": {"pkg.low"},
        "tests.test_low": {"pkg.low"},
        "tests.test_mid": {"pkg.mid"},
        "tests.test_other": set(),
    }
    assert touched.distances(arrows, ["pkg.low"]) == {
        "pkg.low": 0,
        "pkg.mid": 1,
        "tests.test_low": 1,
        "tests.test_mid": 2,
    }
    assert touched.distances(arrows, ["pkg.mid"]) == {"pkg.mid": 0, "tests.test_mid": 1}


def test_imports_in_a_circle_come_to_an_end():
    assert touched.distances({"a": {"b"}, "b": {"a"}}, ["a"]) == {"a": 0, "b": 1}


def test_near_and_quick_files_come_first_and_what_does_not_fit_is_told():
    near = {"changed": 0, "near": 1, "near_slow": 1, "far": 2}
    seconds = {"changed": 50.0, "near": 2.0, "near_slow": 30.0, "far": 3.0}
    assert touched.fitting(near, seconds, 60) == (["changed", "near", "far"], ["near_slow"])
    assert touched.fitting(near, seconds, 10) == (["changed"], ["near", "near_slow", "far"])
    # 5 s is taken for one that never ran here.
    assert touched.fitting({"new": 1, "old": 1}, {"old": 1.0}, 5.5) == (["old"], ["new"])


def test_how_long_files_took_is_kept_beside_what_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(touched, "SECONDS", tmp_path / "cache" / "seconds.json")
    touched.remember({"a": 1.234, "b": 2.0})
    touched.remember({"a": 3.0})
    assert touched.json.loads(touched.SECONDS.read_text()) == {"a": 3.0, "b": 2.0}

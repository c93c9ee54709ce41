"""Class names in pictures: scripts that the usual font lacks, formulas, long names."""

import warnings

import numpy as np
import pytest
from matplotlib import font_manager, ft2font

from delta_jax.analysis import fonts, pictures

GEORGIAN, HIRAGANA, CAT = "კატა", "ねこ", "猫"  # DejaVu Sans has the first only


@pytest.fixture
def installed(monkeypatch):
    """Names of fonts, and letters that they are to have besides their own."""

    def use(**letters):
        known = fonts._others()
        monkeypatch.setattr(fonts, "_others", lambda: {name: known[name] for name in letters or ["DejaVu Serif"]})
        own = fonts._letters
        added = {known[name]: frozenset(map(ord, text)) for name, text in letters.items()}
        monkeypatch.setattr(fonts, "_letters", lambda path: own(path) | added.get(path, frozenset()))

    return use


def test_names_that_no_font_has_are_numbered(installed):
    installed()
    names = ["dog", GEORGIAN, CAT, "a_$b$", "$5", HIRAGANA, "cat\u200b", "Kätzchen", "سلام"]
    assert fonts.labels(names)[:-1] == ["dog", GEORGIAN, "class 2", "a_$b$", "$5", "class 5", "cat\\u200b", "Kätzchen"]
    assert [fonts.legible(name) for name in names[:4]] == [True, True, False, True]
    assert fonts.families(fonts.labels(names)) is None


def test_other_fonts_are_taken_where_they_have_the_letters(installed):
    installed(STIXGeneral=CAT, cmr10=CAT + HIRAGANA)
    assert fonts.labels(["dog", CAT, HIRAGANA]) == ["dog", CAT, HIRAGANA]
    assert fonts.families(["dog", CAT, HIRAGANA]) == ["sans-serif", "cmr10"]
    assert fonts.families(["dog"]) is None


def test_letters_of_a_font_are_those_that_it_has_glyphs_for():
    path = font_manager.findfont("DejaVu Sans")
    assert fonts._letters(path) == frozenset(ft2font.FT2Font(path).get_charmap())
    assert fonts._letters("/no/font.ttf") == frozenset()
    assert not any("Last Resort" in name for name in fonts._others())


def test_long_names_are_cut_and_stay_apart():
    assert fonts.labels(["a" * 30, "b" * 31, "c" * 29 + "xx", "c" * 29 + "yy"]) == [
        "a" * 30,
        "b" * 29 + "…",
        "c" * 22 + "… 2",
        "c" * 22 + "… 3",
    ]


def test_pictures_have_no_letter_without_a_glyph(installed, tmp_path, monkeypatch):
    installed()
    monkeypatch.setattr(warnings, "filterwarnings", lambda *_, **__: None)  # a missing glyph is then an error
    names = [CAT, "\U0001f680\ufe0f", HIRAGANA, "$\\alpha$", "a\u200db"]
    pictures.confusion(np.eye(5, dtype=int), names, tmp_path / "a.png")
    photos = np.zeros((5, 8, 8, 3), np.uint8)
    pictures.activations(photos, {"map": np.zeros((5, 2, 2))}, tmp_path / "b.png", fonts.labels(names))
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "b.png").exists()

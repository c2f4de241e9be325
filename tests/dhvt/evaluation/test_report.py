import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.evaluation.fonts import DEFAULT_FONT, choose_fonts
from dhvt.evaluation.metrics import Outputs, evaluate
from dhvt.evaluation.report import write_report
from tests.conftest import draw

CHINESE = ["猫", "狗", "dog"]


def without_other_fonts(monkeypatch):
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name == DEFAULT_FONT])
    fontManager._findfont_cached.cache_clear()


@pytest.fixture
def cat_font(tmp_path, monkeypatch):
    """A font with one Chinese character, installed beside matplotlib's default."""
    without_other_fonts(monkeypatch)
    pen = TTGlyphPen(None)
    for place, move in enumerate([(0, 0), (0, 500), (500, 500), (500, 0)]):
        (pen.lineTo if place else pen.moveTo)(move)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (500, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    fontManager.addfont(tmp_path / "cats.ttf")
    return "Only Cats"


def write(tmp_path, names):
    """A report on drawn images whose classes have these names; one image is a mistake."""
    for label, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        draw(label, 0).save(tmp_path / "data" / name / "0.png")
    source = open_dataset(tmp_path / "data", classes=names)
    logits = np.roll(np.eye(len(names), dtype=np.float32), 1, axis=1)
    outputs = Outputs(logits=logits, labels=source.labels, indices=np.arange(len(names)), skipped=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of glyphs that are missing
        path = write_report(
            tmp_path / "report",
            title="x",
            source=source,
            preprocess=Preprocess(size=(32, 32)),
            outputs=outputs,
            evaluation=evaluate(outputs),
            temperature=1.0,
            facts={},
        )
    return path.read_text()


def test_latin_and_greek_need_no_other_font():
    assert choose_fonts(["dog", "größer", "γάτα", "two\nlines"]) == ([DEFAULT_FONT], set())


def test_characters_without_a_font_are_found(monkeypatch):
    without_other_fonts(monkeypatch)
    assert choose_fonts(CHINESE) == ([DEFAULT_FONT], {"猫", "狗"})


def test_a_font_is_chosen_by_its_glyphs(cat_font):
    assert choose_fonts(CHINESE) == ([DEFAULT_FONT, cat_font], {"狗"})
    assert choose_fonts(["dog"]) == ([DEFAULT_FONT], set())


def test_names_that_no_font_has_are_numbers_with_a_legend(tmp_path, monkeypatch):
    """They were boxes."""
    without_other_fonts(monkeypatch)
    text = write(tmp_path, CHINESE)
    assert "no installed font has the characters of their names: 0 is 猫, 1 is 狗. Fonts such as" in text
    assert "| 猫 | 1 |" in text


def test_a_font_that_has_the_names_is_used(tmp_path, cat_font):
    text = write(tmp_path, ["猫", "dog"])
    assert "numbers" not in text

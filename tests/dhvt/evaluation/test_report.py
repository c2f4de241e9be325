import base64
import csv
import io
import os
import re
import sys
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.evaluation.fonts import DEFAULT_FONT, choose_fonts
from dhvt.evaluation.metrics import Outputs, evaluate
from dhvt.evaluation.report import write_report
from dhvt.evaluation.suspects import find_mistakes, find_suspicious_labels
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of glyphs that are missing
        return report(tmp_path / "report", source, np.roll(np.eye(len(names), dtype=np.float32), 1, axis=1)).read_text()


def report(folder, source, logits, **preprocess):
    """The path of the report on all images of a source."""
    outputs = Outputs(logits=logits, labels=source.labels, indices=np.arange(len(source)), skipped=0)
    return write_report(
        folder,
        title="x",
        source=source,
        preprocess=Preprocess(size=(32, 32), **preprocess),
        outputs=outputs,
        evaluation=evaluate(outputs),
        temperature=1.0,
        facts={},
    )


HOSTILE = ["<img src=x onerror=alert(1)>", "a|b](c) *d*", "'quoted' & \"more\""]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of three images, each a confident mistake, of classes that would break HTML and Markdown."""
    folder = tmp_path_factory.mktemp("hostile")
    write(folder, HOSTILE)
    return folder / "report"


def test_every_mistake_is_named_with_its_true_and_predicted_class(tmp_path):
    text = write(tmp_path, ["cat", "dog"])
    assert "| cat/0.png | cat (27%) | dog (73%) |" in text
    assert "| dog/0.png | dog (27%) | cat (73%) |" in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert "cat/0.png<br>true <b>cat</b> (27%)<br>predicted <b class=bad>dog</b> (73%)" in page
    assert page.count("data:image/jpeg;base64,") == 4  # two mistakes, whose labels are suspicious too


def test_names_are_text_whatever_they_hold(hostile):
    page, text = (hostile / "report.html").read_text(), (hostile / "report.md").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "&#x27;quoted&#x27; &amp; &quot;more&quot;" in page
    assert "\\<img src=x" in text
    assert "<img src=x" not in text.replace("\\<", "")
    assert "a\\|b\\](c) \\*d\\*" in text


def test_the_page_loads_nothing_from_elsewhere(hostile):
    sources = re.findall(r"(?:src|href)=['\"]?([^'\" >]*)", (hostile / "report.html").read_text().replace("src=x", ""))
    assert sources
    assert all(source.startswith("data:image/") for source in sources)


def test_predictions_of_all_images_are_a_table(hostile):
    table = pq.read_table(hostile / "predictions.parquet").to_pydict()
    assert table["file"] == [f"{name}/0.png" for name in HOSTILE]
    assert table["true"] == HOSTILE
    assert table["predicted"] == [*HOSTILE[1:], HOSTILE[0]]
    assert table["confidence"] == table[f"p:{HOSTILE[1]}"][:1] * 3 == pytest.approx([0.576] * 3, abs=1e-3)
    assert table["true_probability"] == pytest.approx([0.212] * 3, abs=1e-3)


def test_classes_whose_names_are_no_utf8_have_a_column_each(tmp_path):
    write(tmp_path, [os.fsdecode(b"cat \xff"), os.fsdecode(b"cat \xfe")])
    table = pq.read_table(tmp_path / "report" / "predictions.parquet")
    assert table.column_names[-2:] == ["p:cat \\udcff", "p:cat \\udcfe"]


def test_thumbnails_have_the_white_of_the_model(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((32, 32), 4000, dtype=np.uint16)).save(tmp_path / "a" / "0.png")
    logits = np.array([[0, 9]], np.float32)
    report(tmp_path / "report", open_dataset(tmp_path, classes=["a", "b"]), logits, integer_white=4095, float_white=1.0)
    thumbnail = re.search(r"data:image/jpeg;base64,([^']+)", (tmp_path / "report" / "report.html").read_text())[1]
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail)))).mean() > 200


def test_predictions_are_csv_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "predictions.parquet").write_bytes(b"of an older report")
    write(tmp_path, HOSTILE)
    assert not (tmp_path / "report" / "predictions.parquet").exists()
    with (tmp_path / "report" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{name}/0.png" for name in HOSTILE]
    assert float(rows[0][f"p:{HOSTILE[1]}"]) == pytest.approx(0.576, abs=1e-3)


def test_a_wrong_label_is_suspicious_and_a_hard_image_is_not():
    """Image 0 is a 1 labelled 0; image 1 is uncertain, and no class is as sure of it as of its own images."""
    probabilities = np.array([[0.02, 0.97, 0.01], [0.4, 0.45, 0.15], [0.9, 0.05, 0.05], [0.1, 0.85, 0.05], [0.1, 0.1, 0.8]])
    outputs = Outputs(
        logits=np.log(probabilities).astype(np.float32), labels=np.array([0, 0, 0, 1, 2]), indices=np.arange(10, 15), skipped=0
    )
    (found,) = find_suspicious_labels(outputs, 1.0)
    assert (found.place, found.true, found.predicted) == (10, 0, 1)
    assert (found.confidence, found.true_probability) == pytest.approx((0.97, 0.02))
    assert [mistake.place for mistake in find_mistakes(outputs, 1.0)] == [10, 11]


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
    assert "characters of their names: 0 is 猫, 1 is 狗. Fonts" in (tmp_path / "report" / "report.html").read_text()


def test_more_classes_than_the_confusion_matrix_names_are_numbers_with_a_legend(tmp_path):
    (tmp_path / "c00").mkdir()
    draw(0, 0).save(tmp_path / "c00" / "0.png")
    names = [f"c{number:02}" for number in range(41)]
    report(tmp_path / "report", open_dataset(tmp_path, classes=names), np.eye(41, dtype=np.float32)[:1])
    for name in ("report.md", "report.html"):
        assert "more than 40: 0 is c00, 1 is c01, " in (tmp_path / "report" / name).read_text()


def test_an_image_that_was_removed_meanwhile_is_named_all_the_same(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw(0, 0).save(tmp_path / name / "0.png")
    source = open_dataset(tmp_path, classes=["a", "b"])
    (tmp_path / "a" / "0.png").unlink()
    text = report(tmp_path / "report", source, np.eye(2, dtype=np.float32)[::-1]).read_text()
    assert "| a/0.png | a (27%) | b (73%) |" in text
    assert (tmp_path / "report" / "mistakes.png").stat().st_size


def test_a_font_that_has_the_names_is_used(tmp_path, cat_font):
    text = write(tmp_path, ["猫", "dog"])
    assert "numbers" not in text

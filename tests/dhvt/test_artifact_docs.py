"""docs/artifact.md describes every field, and no other."""

import re
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path

import pytest

from dhvt.artifact import FORMAT, ModelCard, Variant
from dhvt.data.preprocess import Preprocess

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "artifact.md").read_text()


def names(cls):
    return [entry.name for entry in fields(cls)]


@pytest.mark.parametrize("cls", [ModelCard, Variant, Preprocess])
def test_the_docstring_describes_each_field(cls):
    """The page's tables are made of it."""
    arguments = cleandoc(cls.__doc__).partition("Args:\n")[2].partition("\n\n")[0]
    documented = re.findall(r"^    (\w[\w, ]*):", arguments, re.MULTILINE)
    assert [name for entry in documented for name in entry.split(", ")] == names(cls)


def test_the_page_names_the_format_and_the_tables():
    assert f"`{FORMAT}`" in TEXT
    assert re.findall(r"^<!-- generated: (\w+) -->$", TEXT, re.MULTILINE) == ["card", "preprocess", "variant"]

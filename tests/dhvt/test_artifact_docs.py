"""docs/artifact.md names every field, and no other."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from dhvt.artifact import FORMAT, ModelCard, Variant
from dhvt.data.preprocess import Preprocess

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "artifact.md").read_text()


def names(cls):
    return [entry.name for entry in fields(cls)]


@pytest.mark.parametrize(("heading", "cls"), [("The card", ModelCard), ("Variants", Variant)])
def test_each_field_has_a_row(heading, cls):
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == names(cls)


def test_what_else_it_names():
    assert f"`{FORMAT}`" in TEXT
    row = next(line for line in TEXT.splitlines() if line.startswith("| `preprocess`"))
    assert re.findall(r"`(\w+)`", row)[1:] == names(Preprocess)

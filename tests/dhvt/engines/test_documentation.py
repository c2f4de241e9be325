"""docs/engines.md against the code."""

import re
from pathlib import Path

from dhvt.engines import ENGINES
from dhvt.engines.selftest import ATOL

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "engines.md").read_text()


def test_every_engine_is_in_the_table_in_the_order_of_choice():
    first_table = TEXT.partition("\n\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", first_table, re.MULTILINE) == list(ENGINES)


def test_every_precision_is_in_the_table_with_its_tolerance():
    section = TEXT.partition("## Precision")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \|.*\| ([\d.]+)[^|]*\|$", section, re.MULTILINE)
    assert {name: float(atol) for name, atol in rows} == ATOL

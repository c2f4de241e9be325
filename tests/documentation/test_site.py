"""The documentation site builds without a warning, has all of the code's names, and loads nothing from elsewhere."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

import dhvt
from dhvt.card import ModelCard, Variant
from dhvt.cli.main import COMMANDS, main
from serving.http.openapi import openapi_document
from serving.settings import PREFIX, Settings
from tests.documentation.pages import ROOT

pytest.importorskip("mkdocs", reason="needs the extra docs")
pytest.importorskip("mkdocstrings", reason="needs the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def read_text(site: Path, page: str) -> str:
    """The text of a page, without its markup."""
    content = (site / page / "index.html").read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return html.unescape(re.sub(r"<[^>]+>", "", content))


def test_every_command_and_option_is_in_the_reference(site):
    text = read_text(site, "cli")
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        flags = [flag for param in command.params if isinstance(param, click.Option) for flag in param.opts]
        assert f"dhvt {name}" in text
        assert [flag for flag in flags if not re.search(rf"{flag}\b", text)] == []
    assert "Default: 120.0. Range: x>=0." in text


def test_every_setting_is_in_the_reference(site):
    text = read_text(site, "settings")
    for field in fields(Settings):
        assert PREFIX + field.name.upper() in text
        assert field.metadata["help"].partition("`")[0].partition("(docs/")[0] in text


def test_every_route_status_and_schema_is_in_the_reference(site):
    text, document = read_text(site, "routes"), openapi_document()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            section = text.partition(f"{method.upper()} {path}\N{PILCROW SIGN}")[2]
            assert operation["summary"] in section
            assert all(status in section for status in operation["responses"])
    assert all(f"\n{name}\N{PILCROW SIGN}" in text for name in document["components"]["schemas"])


def test_every_field_of_the_card_and_every_public_name_is_in_the_reference(site):
    artifact, api = read_text(site, "artifact"), read_text(site, "api")
    assert [field.name for cls in (ModelCard, Variant) for field in fields(cls) if f"\n{field.name}\n" not in artifact] == []
    assert [name for name in dhvt.__all__ if name not in api] == []


def test_no_role_or_marker_is_left(site):
    for page in site.glob("**/index.html"):
        text = page.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
        assert not re.search(r":(class|func|meth|data|mod):|<!-- generated|\x08", text), page


def test_nothing_is_loaded_from_another_host(site):
    loads = re.compile(r"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=\"?([^\s\">]+)|<link\b[^>]*?\bhref=\"?([^\s\">]+)")
    for page in site.glob("**/*.html"):
        for match in loads.finditer(page.read_text(encoding="utf-8")):
            assert not re.match(r"(https?:)?//", match[1] or match[2]), (page, match[0])
    for sheet in site.glob("**/*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_drawings_are_part_of_the_page(site):
    page = (site / "model" / "index.html").read_text(encoding="utf-8")
    assert page.count('class="drawing-svg"') == 4

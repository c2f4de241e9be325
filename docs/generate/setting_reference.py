"""The reference of the server's settings, from their fields."""

from __future__ import annotations

from dataclasses import fields

from reference_markup import link_pages, table
from serving.settings import BUNDLED_MODEL, PREFIX, Settings


def describe_settings() -> str:
    """A row for each variable: its name, its default, what it sets."""
    rows = [
        [f"`{PREFIX}{entry.name.upper()}`", _default(entry.default), link_pages(entry.metadata["help"])]
        for entry in fields(Settings)
    ]
    return table(["setting", "default", "what it sets"], rows)


def _default(value: object) -> str:
    if value == str(BUNDLED_MODEL):
        return "the bundled model"
    return "" if value == "" else f"`{value}`"

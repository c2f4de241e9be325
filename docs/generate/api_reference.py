"""The reference of the Python interface: mkdocstrings' marker for each public name."""

from __future__ import annotations

import dhvt


def list_public_names() -> str:
    return "\n\n".join(f"::: dhvt.{name}" for name in dhvt.__all__)

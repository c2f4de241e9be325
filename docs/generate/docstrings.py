"""An extension of griffe: docstrings as Markdown."""

from __future__ import annotations

from typing import Any

import griffe

from reference_markup import from_docstring


class Markdown(griffe.Extension):
    """Rewrites the reStructuredText in docstrings before mkdocstrings shows them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = from_docstring(obj.docstring.value)

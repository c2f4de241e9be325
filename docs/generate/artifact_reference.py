"""The reference of the model folder, from the docstrings of its dataclasses."""

from __future__ import annotations

import griffe

from dhvt.card import ModelCard, Variant
from dhvt.data.preprocess import Preprocess
from reference_markup import from_docstring, table


def describe_card() -> str:
    return describe_fields(ModelCard)


def describe_variant() -> str:
    return describe_fields(Variant)


def describe_preprocess() -> str:
    return describe_fields(Preprocess)


def describe_fields(cls: type) -> str:
    """A row for each argument that the docstring of a dataclass describes."""
    sections = griffe.Docstring(cls.__doc__ or "").parse("google", warnings=False)
    arguments = next(section.value for section in sections if section.kind is griffe.DocstringSectionKind.parameters)
    return table(["field", "content"], [[f"`{each.name}`", from_docstring(each.description)] for each in arguments])

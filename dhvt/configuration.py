"""Checks that configuration dataclasses share, and how they are built from plain values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar, get_args

from dhvt.errors import ConfigError

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_choice(name: str, value: object, kind: Any) -> None:
    choices = get_args(kind)
    require(value in choices, f"{name} is {value!r}; choose one of {', '.join(choices)}")


def as_size(value: Any) -> tuple[int, int]:
    """``32`` or ``(height, width)`` as ``(height, width)`` in pixels."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    require(
        len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair),
        f"size is {value!r}; give a positive integer or two of them (height, width)",
    )
    return pair


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Builds a configuration dataclass; an unknown key raises :class:`ConfigError` naming the known ones."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # T is a dataclass
    unknown = sorted(set(values) - set(known))
    require(not unknown, f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error

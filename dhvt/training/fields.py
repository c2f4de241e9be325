"""Options as dataclass fields: each field holds its default, help text and range, which the command line, TOML files and
checks read. Help texts are values, not docstrings, so that they survive ``python -OO``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dhvt.errors import ConfigError

REQUIRED: Any = MISSING
"""The default of an option that must be given."""

AUTO = "auto"
"""What stands, on the command line and in TOML files, for what a run chooses."""

UNCHOSEN = -1
"""What stands for :data:`AUTO` in a field that is a number."""


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    exclusive: bool = False,
    metavar: str | None = None,
    saved: bool = True,
    auto: bool = False,
) -> Any:
    """A dataclass field that is an option of a command and a key of a TOML file.

    Args:
        default: its value unless given; :data:`REQUIRED`, or a type such as ``dict`` to make a new one.
        help: one sentence, shown by ``--help``.
        minimum, maximum: the range of a number; None for no limit.
        exclusive: whether the limits themselves are outside of the range.
        metavar: what stands for the value in ``--help``.
        saved: whether a run's ``config.toml`` has it.
        auto: whether a whole number may be ``auto``, which is :data:`UNCHOSEN` until a run replaces it by what it chooses.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "exclusive": exclusive}
    metadata |= {"metavar": metavar, "saved": saved, "auto": auto}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One field of an options dataclass, as the command line and TOML files see it.

    Args:
        kind: the type of its values; ``tuple`` for pairs of numbers, ``dict`` for a table.
        choices: the only values, where it has a few.
        optional: whether it may be None, which means that it is not given.
    """

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...]
    optional: bool
    minimum: float | None
    maximum: float | None
    exclusive: bool
    metavar: str | None
    saved: bool
    auto: bool

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    def convert(self, value: Any) -> Any:
        """The value in the field's own type.

        Raises:
            ConfigError: it is of another type, out of range or not among the choices.
        """
        if value is None and self.optional:
            return None
        if self.auto and value in (AUTO, UNCHOSEN):
            return UNCHOSEN
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name} is {value!r}; choose one of {', '.join(self.choices)}")
        if self.kind is Path and isinstance(value, str):
            value = Path(value)
        if self.kind is float and type(value) is int:
            value = float(value)
        if self.kind in (tuple, dict):
            return self._convert_container(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            expected = _KINDS.get(self.kind, self.kind.__name__) + " or auto" * self.auto
            raise ConfigError(f"{self.name} is {value!r}; expected {expected}")
        if not self._is_in_range(value):
            raise ConfigError(f"{self.name} is {value!r}; it must be {self._range()}")
        return value

    def _convert_container(self, value: Any) -> Any:
        try:
            return dict(value) if self.kind is dict else tuple((float(first), float(second)) for first, second in value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.name} is {value!r}; expected {_KINDS[self.kind]}") from error

    def _is_in_range(self, value: Any) -> bool:
        low, high = self.minimum, self.maximum
        if self.exclusive:
            return (low is None or value > low) and (high is None or value < high)
        return (low is None or value >= low) and (high is None or value <= high)

    def _range(self) -> str:
        if self.maximum is None:
            return f"{'more than' if self.exclusive else 'at least'} {self.minimum}"
        return f"between {self.minimum} and {self.maximum}" + " (both excluded)" * self.exclusive


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    tuple: "pairs of numbers",
    dict: "a table of names and values",
}


def options_of(configuration: type) -> tuple[Option, ...]:
    """The options of a dataclass whose fields are made by :func:`option`, in order."""
    return _options_of(configuration)


@cache
def _options_of(configuration: Hashable) -> tuple[Option, ...]:
    assert isinstance(configuration, type)
    hints = get_type_hints(configuration)
    return tuple(_describe(entry.name, hints[entry.name], entry) for entry in fields(configuration))


def _describe(name: str, hint: Any, entry: Any) -> Option:
    optional = get_origin(hint) in (Union, UnionType)
    if optional:
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    is_choice = get_origin(hint) is Literal
    kind = str if is_choice else get_origin(hint) or hint
    return Option(
        name=name,
        kind=dict if kind is Mapping or kind is dict else kind,
        default=entry.default if entry.default_factory is MISSING else entry.default_factory(),
        choices=get_args(hint) if is_choice else (),
        optional=optional,
        **entry.metadata,
    )


def convert_fields(instance: Any) -> None:
    """Gives the fields of a frozen dataclass their own types; for its ``__post_init__``.

    Raises:
        ConfigError: see :meth:`Option.convert`.
    """
    for entry in options_of(type(instance)):
        object.__setattr__(instance, entry.name, entry.convert(getattr(instance, entry.name)))

"""Command-line options from the fields of a dataclass, so that each option is written once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from dhvt.training.fields import AUTO, REQUIRED, UNCHOSEN, Option, options_of

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def field_options(configuration: type, *, prefix: str = "", show_defaults: bool = False) -> Decorator:
    """One option per field of ``configuration``, None (or nothing, of a table) where it is not given.

    Args:
        prefix: put before each help text.
        show_defaults: show each field's default.
    """

    def decorate(command: Command) -> Command:
        for entry in reversed(options_of(configuration)):
            default = entry.default
            default = AUTO if entry.auto and default == UNCHOSEN else default
            shown = show_defaults and default is not REQUIRED and default not in (None, False, "", {}, [])
            ending = f"  [default: {default}]" if shown else "  [required]" if default is REQUIRED else ""
            command = _option(entry, help=prefix + entry.help + ending)(command)
        return command

    return decorate


def field_option(configuration: type, name: str) -> Decorator:
    """The option of one field, for another command, with its default."""
    entry = next(entry for entry in options_of(configuration) if entry.name == name)
    return _option(entry, help=entry.help, default=entry.default, show_default=True)


def _option(entry: Option, **settings: Any) -> Decorator:
    flag = entry.flag
    if entry.kind is bool:
        flag += f"/--no-{flag[2:]}" if entry.saved else ""  # a file may say true
    metavar = entry.metavar if not entry.auto else f"NUMBER|{AUTO}"
    settings = {"default": None, "metavar": metavar} | settings
    if entry.kind is list:
        settings |= {"multiple": True, "type": str}
    elif entry.kind is dict:
        settings |= {"multiple": True, "type": str}
        flag = flag.removesuffix("s")  # --model-option, once for each
    elif entry.kind is bool:
        settings["is_flag"] = True
    else:
        settings["type"] = _type(entry)
    return click.option(flag, entry.name, **settings)


def _type(entry: Option) -> Any:
    if entry.auto:
        return _number_or_auto(entry)
    if entry.choices:
        return click.Choice(list(entry.choices))
    limits: dict[str, Any] = {"min": entry.minimum, "max": entry.maximum}
    limits |= {"min_open": entry.exclusive, "max_open": entry.exclusive and entry.maximum is not None}
    if entry.kind is tuple:
        return _parse_pairs
    if entry.kind is int:
        return click.IntRange(**limits) if entry.minimum is not None else int
    if entry.kind is float:
        return click.FloatRange(**limits) if entry.minimum is not None else float
    return str  # of paths too: the dataclass converts


def _number_or_auto(entry: Option) -> Callable[[str], int]:
    """A parser of a whole number within an option's limits, or of the word that stands for one that is chosen."""
    low, high = entry.minimum, entry.maximum
    numbers = click.IntRange(None if low is None else int(low), None if high is None else int(high))

    def parse(text: str) -> int:
        return UNCHOSEN if text == AUTO else int(numbers(text))

    return parse


def _parse_pairs(text: str) -> tuple[tuple[float, float], ...]:
    """``0.5:0.5,1:1`` as pairs of numbers."""
    try:
        pairs = [tuple(map(float, pair.split(":"))) for pair in text.split(",")]
        return tuple((first, second) for first, second in pairs)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not of the form 0.5:0.5,1:1") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """``depth=6`` as a name and a JSON value; what is not JSON is a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not of the form FIELD=VALUE", param_hint="--model-option")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value

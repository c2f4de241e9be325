"""TOML files of a run: ``dhvt train --config run.toml`` reads them, and each run writes its own ``config.toml``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dhvt.configuration import from_dict
from dhvt.errors import ConfigError, TrainError
from dhvt.files import replacing
from dhvt.training.config import Recipe, RunOptions, preset_values
from dhvt.training.fields import AUTO, UNCHOSEN, Option, options_of

CONFIG_NAME = "config.toml"


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a TOML file, each a field of :class:`RunOptions` or :class:`Recipe`.

    Raises:
        ConfigError: the file cannot be read, or has an unknown key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    known = {entry.name: entry for entry in (*options_of(RunOptions), *options_of(Recipe))}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else "its keys are the options of dhvt train, with underscores"
            raise ConfigError(f"{path} has the unknown key {name!r}; {hint}")
        try:
            known[name].convert(value)
            if known[name].auto and value == UNCHOSEN:  # which stands for auto in Python alone
                raise ConfigError(f'{name} is {value}; it must be at least {known[name].minimum}, or "{AUTO}"')
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return values


def merge_values(from_file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, changed by those of the command line; a preset that is named there replaces the file's recipe."""
    recipe = {entry.name for entry in options_of(Recipe)} if "recipe" in given else set()
    return {name: value for name, value in from_file.items() if name not in recipe} | dict(given)


def build_config(values: Mapping[str, Any]) -> tuple[RunOptions, Recipe]:
    """The options of a run and its recipe: the preset that ``recipe`` names, changed by the other fields.

    Raises:
        ConfigError: a value cannot be used, or a required one is missing.
    """
    run_fields = options_of(RunOptions)
    names = {entry.name for entry in run_fields}
    missing = [entry.flag for entry in run_fields if entry.default is MISSING and entry.name not in values]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, on the command line or in the file of --config")
    options = from_dict(RunOptions, {name: value for name, value in values.items() if name in names})
    changes = {name: value for name, value in values.items() if name not in names}
    return options, from_dict(Recipe, preset_values(options.recipe) | changes)


def write_config(path: Path, options: RunOptions, recipe: Recipe) -> None:
    """Writes every option of a run, so that ``dhvt train --config`` repeats it even if the defaults change.

    Raises:
        TrainError: the file cannot be written; an older one is unchanged then.
    """
    given = {entry.name: _written(entry, options) for entry in options_of(RunOptions) if entry.saved}
    lines = ["# Repeats this run, into another folder: dhvt train --config THIS --out FOLDER"]
    tables = {name: value for name, value in given.items() if isinstance(value, dict)}
    lines += [f"{name} = {_to_toml(value)}" for name, value in given.items() if value is not None and name not in tables]
    lines += ["", "# The recipe"]
    lines += [f"{entry.name} = {_to_toml(_written(entry, recipe))}" for entry in options_of(Recipe)]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]  # TOML has no null: None is omitted
        lines += [f"{_quote(key)} = {_to_toml(value)}" for key, value in table.items() if value is not None]
    try:
        with replacing(path) as temporary:
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8", errors="replace")
    except OSError as error:
        raise TrainError(f"cannot write {path}: {error.strerror}") from error


def _written(entry: Option, configuration: RunOptions | Recipe) -> Any:
    value = getattr(configuration, entry.name)
    return AUTO if entry.auto and value == UNCHOSEN else value


def _to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_to_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quote(key)} = {_to_toml(entry)}" for key, entry in value.items()) + "}"
    return _quote(str(value))


def _quote(text: str) -> str:
    """A TOML string: as JSON's, but for the DEL character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
from inspect import cleandoc

import click

from dhvt.cli.main import COMMANDS, main
from reference_markup import from_help

RECIPE = "Recipe: "
"""What the help of a recipe's options begins with."""


def describe_commands() -> str:
    """A section for each command: what it does, examples, options."""
    return "\n\n".join(describe_command(name) for name in COMMANDS)


def describe_command(name: str) -> str:
    with click.Context(main, info_name="dhvt") as parent:
        command = main.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        options = [param.get_help_record(context) for param in command.params if isinstance(param, click.Option)]
        usage = f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    records = [record for record in options if record is not None]
    sections = [f"## dhvt {name}", f"```text\n{usage}\n```", describe_text(command.help or "")]
    own = [record for record in records if not record[1].startswith(RECIPE)]
    sections += ["**Options**", *map(describe_option, own)]
    recipe = [(flag, text.removeprefix(RECIPE)) for flag, text in records if text.startswith(RECIPE)]
    if recipe:
        sections += ["**Options of the recipe**", *map(describe_option, recipe)]
    return "\n\n".join(sections)


def describe_option(record: tuple[str, str]) -> str:
    """An entry of a definition list."""
    flag, text = record
    text, _, notes = text.partition("  [") if text.endswith("]") else (text, "", "")
    endings = [_describe_note(note) for note in re.split(r"; |\]\s+\[", notes.removesuffix("]")) if note]
    return f"`{flag}`\n:   {from_help(text)}{''.join(endings)}"


def _describe_note(note: str) -> str:
    """What click adds in brackets: a default, a range, or that the option is required."""
    kind, _, value = note.partition(": ")
    if kind == "default":
        return f" Default: `{value}`."
    return f" Range: `{note}`." if set("<>") & set(note) else f" ({note})"


def describe_text(text: str) -> str:
    r"""Paragraphs of help; those that begin with \b are examples."""
    blocks = re.split(r"\n{2,}|\n(?=\x08)", cleandoc(text.replace("\f", "")))
    return "\n\n".join(_examples(block[1:]) if block[0] == "\b" else from_help(" ".join(block.split())) for block in blocks)


def _examples(block: str) -> str:
    lines = [line.strip() for line in block.strip("\n").splitlines()]
    lines = [f"# {line.removesuffix(':')}" if line.endswith(":") else re.sub(r"  +(?=\S)", "   # ", line) for line in lines]
    return "\n".join(["```sh", *lines, "```"])

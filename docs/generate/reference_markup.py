"""Markdown from the plain text of help messages and docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(
    r"(?<![\w`/-])("
    r"--?[a-zA-Z][\w-]*(?:=\S+)?(?<![.,;:)])"  # an option
    r"|DHVT_\w+|[\w.]+\.(?:toml|html|json|pt|md|txt|parquet|safetensors|npz)\b"  # a variable, a file
    r"|'[^']*[*\\(/][^']*'"  # a pattern in quotes
    r"|[\w<>]+/[\w<>/*.]*"  # a path
    r"|<\w+>)"
)
_PAGE = re.compile(r"`?\bdocs/([\w-]+)\.md`?")
_ROLE = re.compile(r":\w+:`[~!]?([\w.]+)`")
_REFUSED = re.compile(r"and/or|images/s\b|points/")


def from_help(text: str) -> str:
    """Help text of the command line: options, variables and paths as code, and nothing else as markup."""
    pieces = _CODE.split(text)
    pieces = [f"`{piece}`" if i % 2 and not _REFUSED.search(piece) else escape(piece) for i, piece in enumerate(pieces)]
    return link_pages("".join(pieces))


def from_docstring(text: str) -> str:
    """A docstring, whose reStructuredText is ``code``, roles, and :: before an example."""
    text = _ROLE.sub(lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text)
    text = text.replace("``", "`")
    return link_pages(re.sub(r"::$", ":", text, flags=re.MULTILINE))


def link_pages(text: str) -> str:
    """The names of pages as links to them."""
    return _PAGE.sub(r"[\1](\1.md)", text)


def escape(text: str) -> str:
    """Plain text, in which no character is markup. What is between backticks stays code."""
    pieces = text.split("`")
    return "`".join(piece if i % 2 else re.sub(r"([*_<\[\]|])", r"\\\1", piece) for i, piece in enumerate(pieces))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a cell's own lines become one."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.split()) for cell in line) + " |" for line in lines)

"""The pages of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def read_blocks(page: Path, language: str = "sh") -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def read_lines(page: Path) -> list[str]:
    """The command lines of a page, those that end in a backslash joined with the next."""
    lines = "\n".join(read_blocks(page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def split_line(line: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The commands of a line: the variables before each, and its words. Where output goes is left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for token in [*lexer, ";"]:
        if redirected:
            redirected = False
        elif token in (">", ">>", "<"):
            redirected = True
        elif set(token) <= set("();|&"):
            if words:
                yield _take_variables(words)
            words = []
        else:
            words.append(token)


def _take_variables(words: list[str]) -> tuple[dict[str, str], list[str]]:
    variables = {}
    for index, word in enumerate(words):
        match = re.fullmatch(r"([A-Z_][A-Z0-9_]*)=(.*)", word)
        if match is None:
            return variables, words[index:]
        variables[match[1]] = match[2]
    return variables, []

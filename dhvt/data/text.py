"""Names and numbers for a terminal and a page; a file's name may hold anything."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with escapes for line breaks, a terminal's control characters and bytes that are no UTF-8."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)


def encodable(name: str) -> str:
    """A name as UTF-8, with escapes for bytes of another encoding, which a file's name may hold; different names stay so."""
    return name.encode(errors="backslashreplace").decode()


def count(number: int, noun: str) -> str:
    """``1 image``, ``1,204 images``, ``3 classes``."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun}es" if noun.endswith("s") else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {plural}"

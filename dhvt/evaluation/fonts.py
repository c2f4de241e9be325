"""Fonts for class names in any script, among those that matplotlib finds on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

DEFAULT_FONT = "DejaVu Sans"
"""Comes with matplotlib; has Latin, Greek, Cyrillic, Arabic and more, but no Chinese, Japanese or Korean."""

PREFERRED_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
    "Noto Sans",
)
"""Tried first for what the default font lacks; then every other installed font, in alphabetical order."""

_NOT_FOR_TEXT = ("Last Resort", "cm")  # boxes, and mathematics in an encoding of its own; both come with matplotlib


def choose_fonts(texts: Sequence[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the characters of some texts, for matplotlib's ``font.family``.

    Returns:
        The families, the default font first; and the characters that no installed font has.
    """
    missing = {character for text in texts for character in text if character.isprintable()} - _characters(DEFAULT_FONT)
    families = [DEFAULT_FONT]
    for name in _fallbacks() if missing else ():
        found = missing & _characters(name)
        if found:
            families.append(name)
            missing -= found
        if not missing:
            break
    return families, missing


def _fallbacks() -> Iterator[str]:
    installed = {font.name for font in fontManager.ttflist}
    yield from (name for name in PREFERRED_FONTS if name in installed)
    yield from sorted(name for name in installed - {*PREFERRED_FONTS, DEFAULT_FONT} if not name.startswith(_NOT_FOR_TEXT))


def _characters(family: str) -> set[str]:
    """The characters of an installed font family; none where it cannot be read."""
    try:
        return _read_characters(str(fontManager.findfont(family, fallback_to_default=False)))
    except ValueError:
        return set()


@cache
def _read_characters(path: str) -> set[str]:
    try:
        return {chr(code) for code in FT2Font(path).get_charmap()}
    except (OSError, RuntimeError):
        return set()

"""White levels: how the values of images of more than 8 bits become 0 to 255, by a rule of the model and not of each image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.data.text import count
from dhvt.errors import DataError, ImageError

Kind = Literal["integer", "float", "colour"]
"""16-bit or 32-bit grey in whole numbers; grey in floats; colour of 16 bits, of which Pillow reads the upper 8."""

INTEGER_LEVELS = (255, 1023, 4095, 16383, 65535)
"""Those of 8, 10, 12, 14 and 16 bits, which cameras store in files of 16 bits."""

FULL_INTEGER, FULL_FLOAT = 65535, 255.0
"""What is white where the training images have no values of the kind."""

OVERSHOOT = 0.1
"""Floats beyond black and white, as resampling makes them, that are clipped: this much of the white level."""

_COLOUR_DARK = 64  # of 255: what 14 bits in 16 do not reach


class ValueRange(NamedTuple):
    """The smallest and largest value of an image of more than 8 bits."""

    kind: Kind
    lowest: float
    highest: float


@dataclass(frozen=True)
class WhiteLevels:
    """The values that are white; 0 is black.

    Args:
        integers: in grey images of 16 or 32 bits. None, as in models that did not record it, is 65535, and more is clipped.
        floats: in grey images of floats. None is 255, and more is clipped.
    """

    integers: int | None = None
    floats: float | None = None

    def refusal(self, values: ValueRange) -> str | None:
        """Why an image cannot be scaled to 8 bits: it is beyond the white level, or all of it would be black."""
        low, high, hint = values.lowest, values.highest, "scale it as the training images were"
        if values.kind == "colour":
            is_misread = self.integers not in (None, FULL_INTEGER)
            return f"colour of 16 bits is read with white at 65535, here it is {self.integers}; {hint}" if is_misread else None
        is_float = values.kind == "float"
        white = self.floats if is_float else self.integers
        if white is None:
            return None
        what = f"{'floats' if is_float else 'whole numbers'} from {low:g} to {high:g}, where 0 is black and {white:g} is white"
        margin = OVERSHOOT * white if is_float else 0
        if not (-margin <= low and high <= white + margin):  # also of NaN
            return f"the image has {what}; {hint}"
        if 0 < high < white / 256:
            return f"the image has {what}, so that it would be black throughout; {hint}"
        return None

    def scale(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values ``(H, W)`` as 0 to 255: of whole bits the lower ones are dropped, others are rounded.

        Raises:
            ImageError: see :meth:`refusal`.
        """
        if values.dtype.kind == "f":
            return self._scale_floats(values)
        if self.integers is None:
            return np.asarray(values.clip(0, FULL_INTEGER) >> 8, dtype=np.uint8)
        self._require(measure(values))
        bits = (self.integers + 1).bit_length() - 1
        if self.integers + 1 == 1 << bits and bits >= 8:
            return np.asarray(values >> (bits - 8), dtype=np.uint8)
        return np.asarray((values.astype(np.uint64) * 255 + self.integers // 2) // self.integers, dtype=np.uint8)

    def _scale_floats(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if self.floats is None:
            return np.asarray(np.nan_to_num(values).clip(0, 255), dtype=np.uint8)
        self._require(measure(values))
        scaled = values * (255 / self.floats)
        return np.asarray(np.rint(scaled).clip(0, 255), dtype=np.uint8)

    def _require(self, values: ValueRange) -> None:
        reason = self.refusal(values)
        if reason is not None:
            raise ImageError(reason)


def measure(values: NDArray[Any]) -> ValueRange:
    """The range of grey values ``(H, W)``; a value that is not finite makes both ends so."""
    return ValueRange("float" if values.dtype.kind == "f" else "integer", float(values.min()), float(values.max()))


def find_white_levels(ranges: Iterable[ValueRange], given: float | None = None) -> WhiteLevels:
    """The white levels of a data set, by its largest values.

    Whole numbers: that of the fewest of 8, 10, 12, 14 and 16 bits that hold them. Floats: 1 or 255, each with
    :data:`OVERSHOOT`; larger ones as whole numbers.

    Args:
        ranges: of the training images that have more than 8 bits.
        given: what the user says is white, for whole numbers and floats alike.

    Raises:
        DataError: no level fits, or colours have 14 bits or fewer in 16, which Pillow does not read.
    """
    by_kind: dict[str, list[ValueRange]] = {"integer": [], "float": [], "colour": []}
    for values in ranges:
        if isfinite(values.lowest) and isfinite(values.highest):  # others are refused, whatever is white
            by_kind[values.kind].append(values)
    colour = max((values.highest for values in by_kind["colour"]), default=FULL_INTEGER)
    if given is None and colour < _COLOUR_DARK * 256:
        raise DataError(
            f"colours of 16 bits have values up to {colour:g} of 65535, as of a camera with 14 bits or fewer; of colours only "
            "the upper 8 bits can be read: save them with 8 bits, or give --white 65535 if they are that dark"
        )
    integers, floats = FULL_INTEGER, FULL_FLOAT
    if given is not None:
        integers, floats = int(given) if given >= 1 else FULL_INTEGER, given
    else:
        if by_kind["integer"]:
            integers = int(_choose("whole numbers", by_kind["integer"], INTEGER_LEVELS, 0))
        if by_kind["float"]:
            floats = float(_choose("floats", by_kind["float"], (1, *INTEGER_LEVELS), OVERSHOOT))
    return WhiteLevels(integers, floats)


def fit_white_levels(ranges: Sequence[ValueRange], given: float | None = None) -> tuple[WhiteLevels, list[str | None]]:
    """The white levels of a data set, and for each image why it cannot be scaled by them; None for one that can.

    Images that fit no level by themselves do not decide it.

    Args:
        ranges, given: as for :func:`find_white_levels`.
    """
    problems = [_problem(values, given) for values in ranges]
    fitting = [values for values, problem in zip(ranges, problems, strict=True) if problem is None]
    white = find_white_levels(fitting, given)
    kinds = {values.kind for values in fitting}
    reasons = [
        white.refusal(values) if problem is None or values.kind in kinds else problem
        for values, problem in zip(ranges, problems, strict=True)
    ]
    return white, reasons


def _problem(values: ValueRange, given: float | None) -> str | None:
    """Why no level fits a single image."""
    if not (isfinite(values.lowest) and isfinite(values.highest)):
        return "the image has values that are not finite"
    try:
        find_white_levels([values], given)
    except DataError as error:
        return str(error)
    return None


def _choose(what: str, ranges: Sequence[ValueRange], levels: Sequence[int], overshoot: float) -> int:
    """The smallest level that holds all values."""
    low, high = min(values.lowest for values in ranges), max(values.highest for values in ranges)
    level = next((level for level in levels if high <= level * (1 + overshoot)), None)
    # Floats a little above 1 are of neither range.
    if level is None or low < -overshoot * level or (level == FULL_FLOAT and what == "floats" and high < _COLOUR_DARK):
        raise DataError(
            f"there are {what} from {low:g} to {high:g}; expected 0 for black, and for white one of "
            f"{', '.join(map(str, levels))}: give the value that is white with --white, or scale them"
        )
    return level


def describe_levels(ranges: Sequence[ValueRange], white: WhiteLevels) -> str | None:
    """A line for a training's log; None where all images have 8 bits."""
    lines = []
    for kind, what, level in (("integer", "whole numbers of 16 or 32 bits", white.integers), ("float", "floats", white.floats)):
        found = [values for values in ranges if values.kind == kind]
        if found:
            highest = max(values.highest for values in found)
            has = f"{count(len(found), 'image')} {'has' if len(found) == 1 else 'have'}"
            lines.append(f"{has} {what} up to {highest:g}: white is {level:g} (--white gives another)")
    return "\n".join(lines) or None

"""What a request asks of each image's answer."""

from __future__ import annotations

from dataclasses import dataclass

from dhvt.assessment import Asked

DEFAULT_TOP_K = 5
_NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How many classes an answer has, and what it has beside them."""

    top_k: int = DEFAULT_TOP_K
    asked: Asked = _NOTHING

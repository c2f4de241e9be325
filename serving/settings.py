"""Every environment variable, read once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from dhvt.data.decode import DEFAULT_MAX_PIXELS
from dhvt.engines.settings import BUNDLED_MODEL, PREFIX, EngineSettings, setting
from dhvt.errors import ConfigError
from dhvt.explanation.masking import LEAST_MASKS
from serving.bento import find_bento

__all__ = ["ACCESS_LOG_LEVELS", "BUNDLED_MODEL", "MODEL_VARIABLE", "PREFIX", "Settings", "count_workers"]

MODEL_VARIABLE = f"{PREFIX}MODEL"
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")
ACCESS_LOG_LEVELS = ("off", "errors", "all")


@dataclass(frozen=True, kw_only=True)
class Settings(EngineSettings):
    """What an operator can set; each field, and each of :class:`EngineSettings`, is the variable ``DHVT_<FIELD>``.

    What a field sets is in its help, which the documentation shows.
    """

    max_upload_bytes: int = setting(20_000_000, "Bytes of an image, and of a request with one.")
    max_batch_upload_bytes: int = setting(
        1_000_000_000,
        "Bytes of a request to `/classify/batch`; archives beyond 8 MB wait in a temporary file.",
    )
    max_batch_images: int = setting(10_000, "Images in a request to `/classify/batch`.")
    max_pixels: int = setting(
        DEFAULT_MAX_PIXELS,
        "Width × height of an image, from the header, before anything is decoded; Pillow takes at most 178,956,970.",
    )
    max_in_flight: int = setting(
        256,
        "Requests that each worker reads, decodes or lets wait at once; more are refused with 503 before their body is read.",
    )
    max_queue_ms: int = setting(
        5000, "While an image has waited longer than this, new requests are refused with 503; 0 for no limit.", at_least=0
    )
    request_timeout_s: int = setting(30, "Seconds from a request's headers to its answer, the upload included.")
    batch_timeout_s: int = setting(600, "The same for `/classify/batch` and `/reload`.")
    explain_masks: int = setting(
        1000,
        "Masked images that one request to `/explain` may have classified; 0 turns `/explain` off.",
        at_least=0,
    )
    explain_timeout_s: int = setting(60, "Seconds from the headers to the answer of `/explain`, the wait for others included.")
    token: str = setting(
        "",
        "What clients must send as `Authorization: Bearer …` (blanks and new lines around it do not count), to all routes but "
        "`/livez`, `/readyz`, `/healthz`, `/v2/health/live` and `/ready`, and the pages `/`, `/ui` and `/docs`; the page asks "
        "for it.",
        secret=True,
    )
    token_file: str = setting(
        "",
        "A file with one token per line, each of which counts, and `DHVT_TOKEN` too; it is read again at each reload "
        "(docs/operations.md).",
    )
    cors_origins: str = setting(
        "",
        "Origins whose pages may call the server, as https://shop.example:8443, separated by commas, or `*`; they may read "
        "`X-Request-ID`, `Retry-After`, `X-Model-Digest` and `X-Engine`.",
    )
    sample_folder: str = setting(
        "",
        "Keeps some of the images that clients send in this folder, for labelling and training. They may be personal data "
        "(docs/samples.md). Nothing is kept without it.",
    )
    sample_rate: float = setting(1.0, "Share of the images that are kept, 0 to 1.")
    sample_below_score: float = setting(1.0, "Keep only those whose most likely class has a lower score; 1 for all.")
    sample_max_bytes: int = setting(
        1_000_000_000, "All samples together, those of earlier starts included; nothing is kept beyond."
    )
    drift_every: int = setting(
        1,
        "Of this many images one counts in the test for drift; 0 for no test. Only models with reference images "
        "(`dhvt calibrate`) are tested.",
        at_least=0,
    )
    drift_false_alarm: float = setting(
        0.01, "Probability, between 0 and 1, that there is ever an alarm while nothing has changed."
    )
    drift_state: str = setting(
        "", "Folder in which the test for drift goes on after a restart; without it each start begins a new test."
    )
    access_log: str = setting(
        "errors",
        "Which requests get a line of JSON in the log: `off`, `errors` (status 400 and above) or `all`. Of errors with the "
        "same code the first ten of each second have a line, since a line costs more than a refusal; `requests_without_a_line` "
        "counts the others. Paths are cut to 200 characters.",
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Reads ``DHVT_*``.

        Raises:
            ConfigError: an unknown variable, or an invalid value.
        """
        settings = super().from_environ(environ)
        bento = find_bento()
        if bento is not None and MODEL_VARIABLE not in environ:
            settings = replace(settings, model=str(bento.model_path()))
        if settings.access_log not in ACCESS_LOG_LEVELS:
            raise ConfigError(f"{PREFIX}ACCESS_LOG is {settings.access_log!r}; it must be {', '.join(ACCESS_LOG_LEVELS)}")
        if not 0 < settings.drift_false_alarm < 1:
            raise ConfigError(
                f"{PREFIX}DRIFT_FALSE_ALARM is {settings.drift_false_alarm}; it must be between 0 and 1, such as 0.01"
            )
        if 0 < settings.explain_masks < LEAST_MASKS:
            raise ConfigError(
                f"{PREFIX}EXPLAIN_MASKS is {settings.explain_masks}; an explanation takes at least {LEAST_MASKS}, "
                "and 0 turns them off"
            )
        for origin in settings.origins():
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"{PREFIX}CORS_ORIGINS has {origin!r}; browsers send origins as https://shop.example:8443, and no more"
                )
        token = settings.token.strip()  # files of secrets often end in a new line
        if not token.isprintable():
            raise ConfigError(f"{PREFIX}TOKEN has a character in it that no header can carry, such as a new line")
        return replace(settings, token=token)

    def origins(self) -> list[str]:
        """The origins of ``cors_origins``."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    def asks_for_token(self) -> bool:
        """Whether clients must send a token."""
        return bool(self.token or self.token_file)


def count_workers() -> int:
    """Processes to start. An invalid setting is reported when the server starts, and not here."""
    try:
        return Settings.from_environ().workers
    except ConfigError:
        return 1

"""Every environment variable, read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from dhvt.data.decode import DEFAULT_MAX_PIXELS
from dhvt.engines.settings import BUNDLED_MODEL, PREFIX, ZERO_ALLOWED, EngineSettings
from dhvt.errors import ConfigError
from serving.bento import find_bento

__all__ = ["ACCESS_LOG_LEVELS", "BUNDLED_MODEL", "MODEL_VARIABLE", "PREFIX", "Settings", "count_workers"]

MODEL_VARIABLE = f"{PREFIX}MODEL"
ACCESS_LOG_LEVELS = ("off", "errors", "all")


@dataclass(frozen=True, kw_only=True)
class Settings(EngineSettings):
    """What an operator can set; each field, and each of :class:`EngineSettings`, is the variable ``DHVT_<FIELD>``.

    Args:
        max_upload_bytes: largest image, and largest body of a request with one.
        max_batch_upload_bytes: largest body of a request to ``/classify/batch``.
        max_batch_images: images in one request to ``/classify/batch``.
        max_pixels: largest width times height of an image.
        max_in_flight: requests that each worker reads, decodes or lets wait at once; more are refused with 503 before
            their body is read.
        max_queue_ms: while an image has waited for longer than this, new requests are refused with 503; 0 for no limit.
        request_timeout_s: seconds until a request that is not answered gets 504.
        batch_timeout_s: the same for ``/classify/batch``.
        token: what a client must send as ``Authorization: Bearer …`` to all but the pages and the health
            routes; empty for nothing.
        token_file: file with more of such tokens, one per line; read again on each reload.
        cors_origins: origins, separated by commas, whose pages may call the server, or ``*``; empty for none.
        sample_folder: where some of the images that clients send are kept for labelling; empty for none.
        sample_rate: share of the images that are kept, 0 to 1.
        sample_below_score: only those are kept whose most likely class has a lower score than this; 1 for all.
        sample_max_bytes: all samples together.
        drift_every: of this many images one counts in the test for drift; 0 for none.
        drift_false_alarm: probability of an alarm, in all the time that a model serves, without drift.
        drift_state: folder in which the test goes on after a restart; empty for a new test at each start.
        access_log: requests that get a line in the log: ``off``, ``errors`` or ``all``.
    """

    max_upload_bytes: int = 20_000_000
    max_batch_upload_bytes: int = 1_000_000_000
    max_batch_images: int = 10_000
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_in_flight: int = 256
    max_queue_ms: int = field(default=5000, metadata=ZERO_ALLOWED)
    request_timeout_s: int = 30
    batch_timeout_s: int = 600
    token: str = field(default="", repr=False)
    token_file: str = ""
    cors_origins: str = ""
    sample_folder: str = ""
    sample_rate: float = 1.0
    sample_below_score: float = 1.0
    sample_max_bytes: int = 1_000_000_000
    drift_every: int = field(default=1, metadata=ZERO_ALLOWED)
    drift_false_alarm: float = 0.01
    drift_state: str = ""
    access_log: str = "errors"

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
        token = settings.token.strip()  # files of secrets often end in a new line
        if not token.isprintable():
            raise ConfigError(f"{PREFIX}TOKEN has a character in it that no header can carry, such as a new line")
        return replace(settings, token=token)

    def asks_for_token(self) -> bool:
        """Whether clients must send a token."""
        return bool(self.token or self.token_file)


def count_workers() -> int:
    """Processes to start. An invalid setting is reported when the server starts, and not here."""
    try:
        return Settings.from_environ().workers
    except ConfigError:
        return 1

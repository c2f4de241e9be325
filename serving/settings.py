"""Every environment variable, read once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from dhvt.data.decode import DEFAULT_MAX_PIXELS
from dhvt.errors import ConfigError
from dhvt.hardware.cpus import available_cpus

PREFIX = "DHVT_"
_OF_KUBERNETES = re.compile(r".*_SERVICE_(HOST|PORT(_\w+)?)|(DHVT(_\w+)?)_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""Variables that Kubernetes sets in every pod where there is a Service named ``dhvt`` or ``dhvt-…``."""

BUNDLED_MODEL = Path(__file__).parent / "models" / "dhvt_tiny_cifar10"
ACCESS_LOG_LEVELS = ("off", "errors", "all")
_MAX_DIGITS = 15
_MAY_BE_ZERO = {"threads", "max_queue_ms"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can set; each field is the variable ``DHVT_<FIELD>``.

    Args:
        model: model folder to serve, or the tag of one in BentoML's model store, such as ``dhvt:latest``.
        engine: ``auto``, or one of :data:`dhvt.engines.ENGINES`, as ``openvino``, also in a precision, as
            ``openvino:fp32``.
        workers: processes that serve; each loads the model, and they share the processors.
        threads: processor threads of each worker's engine; 0 takes its share of what affinity and cgroup grant.
        max_upload_bytes: largest image, and largest body of a request with one.
        max_batch_upload_bytes: largest body of a request to ``/classify/batch``.
        max_batch_images: images in one request to ``/classify/batch``.
        max_pixels: largest width times height of an image.
        max_batch_size: images in one engine call.
        max_in_flight: requests that each worker reads, decodes or lets wait at once; more are refused with 503 before
            their body is read.
        max_queue_ms: while an image has waited for longer than this, new requests are refused with 503; 0 for no limit.
        request_timeout_s: seconds until a request that is not answered gets 504.
        batch_timeout_s: the same for ``/classify/batch``.
        token: what a client must send as ``Authorization: Bearer …`` to all but the health routes; empty for nothing.
        cors_origins: origins, separated by commas, whose pages may call the server, or ``*``; empty for none.
        access_log: requests that get a line in the log: ``off``, ``errors`` or ``all``.
    """

    model: str = str(BUNDLED_MODEL)
    engine: str = "auto"
    workers: int = 1
    threads: int = 0
    max_upload_bytes: int = 20_000_000
    max_batch_upload_bytes: int = 1_000_000_000
    max_batch_images: int = 10_000
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_batch_size: int = 32
    max_in_flight: int = 256
    max_queue_ms: int = 5000
    request_timeout_s: int = 30
    batch_timeout_s: int = 600
    token: str = field(default="", repr=False)
    cors_origins: str = ""
    access_log: str = "errors"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads ``DHVT_*``.

        Raises:
            ConfigError: an unknown variable, or a value that cannot be.
        """
        known = {PREFIX + field.name.upper(): field for field in fields(cls)}
        ours = {name for name in environ if name.startswith(PREFIX) and not _OF_KUBERNETES.fullmatch(name)}
        unknown = sorted(ours - known.keys())
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; there are {', '.join(known)}")
        values: dict[str, object] = {}
        for name, field_ in known.items():
            if name in environ:
                is_number = isinstance(field_.default, int)
                values[field_.name] = _number(name, environ[name], field_.name in _MAY_BE_ZERO) if is_number else environ[name]
        settings = cls(**values)  # type: ignore[arg-type]  # each value has its default's type
        if settings.access_log not in ACCESS_LOG_LEVELS:
            raise ConfigError(f"{PREFIX}ACCESS_LOG is {settings.access_log!r}; it must be {', '.join(ACCESS_LOG_LEVELS)}")
        token = settings.token.strip()  # files of secrets often end in a new line
        if not token.isprintable():
            raise ConfigError(f"{PREFIX}TOKEN has a character in it that no header can carry, such as a new line")
        return replace(settings, token=token)

    def model_path(self) -> Path:
        """The folder to serve: ``model`` itself, or where BentoML's model store keeps the model of this tag.

        Raises:
            ConfigError: the store has no such model.
        """
        if ":" not in self.model or os.sep in self.model:
            return Path(self.model)
        import bentoml

        try:
            return Path(bentoml.models.get(self.model).path)
        except bentoml.exceptions.BentoMLException as error:
            raise ConfigError(f"{PREFIX}MODEL is {self.model!r}, and BentoML's model store says: {error}") from error

    def engine_threads(self) -> int:
        """``threads``, or this worker's share of all that may be used."""
        return self.threads or max(available_cpus() // self.workers, 1)


def _number(name: str, text: str, may_be_zero: bool) -> int:
    least = 0 if may_be_zero else 1
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS or int(text) < least:
        raise ConfigError(
            f"{name} is {text[:40]!r}; it must be a whole number of at least {least}, with up to {_MAX_DIGITS} digits"
        )
    return int(text)


def count_workers() -> int:
    """Processes to start. A setting that cannot be is reported when the server starts, and not here."""
    try:
        return Settings.from_environ().workers
    except ConfigError:
        return 1

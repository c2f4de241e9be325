"""Every environment variable, read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from dhvt.errors import ConfigError
from dhvt.preprocess import DEFAULT_MAX_PIXELS
from serving.cpus import available_cpus

PREFIX = "DHVT_"
BUNDLED_MODEL = Path(__file__).parent / "models" / "dhvt_tiny_cifar10"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can set; each field is the variable ``DHVT_<FIELD>``.

    Args:
        model: model folder to serve.
        engine: ``auto``, or one of :data:`serving.engines.ENGINES`, as ``openvino``, also in a precision, as
            ``openvino:fp32``.
        threads: processor threads of the engine; 0 takes all that affinity and cgroup grant.
        max_upload_bytes: largest request body.
        max_pixels: largest width times height of a picture.
        max_batch_size: pictures in one engine call.
        max_in_flight: requests that are read, decoded or waiting at once; more are refused with 503 before their
            body is read.
        request_timeout_s: seconds until a request that is not answered gets 504.
    """

    model: Path = BUNDLED_MODEL
    engine: str = "auto"
    threads: int = 0
    max_upload_bytes: int = 20_000_000
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_batch_size: int = 32
    max_in_flight: int = 256
    request_timeout_s: int = 30

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads ``DHVT_*``.

        Raises:
            ConfigError: an unknown variable, or a value that cannot be.
        """
        known = {PREFIX + field.name.upper(): field for field in fields(cls)}
        unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; there are {', '.join(known)}")
        values: dict[str, object] = {}
        for name, field in known.items():
            if name in environ:
                kind = type(field.default)
                values[field.name] = _number(name, environ[name]) if kind is int else environ[name]
        if "model" in values:
            values["model"] = Path(str(values["model"]))
        return cls(**values)  # type: ignore[arg-type]  # each value has its default's type

    def engine_threads(self) -> int:
        """``threads``, or all that may be used."""
        return self.threads or available_cpus()


def _number(name: str, text: str) -> int:
    least = 0 if name == "DHVT_THREADS" else 1
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ConfigError(f"{name} is {text!r}; it must be a whole number of at least {least}")
    return int(text)

"""The settings of model and engine: environment variables that the command line and the server share."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from dhvt.artifact import Artifact, load_artifact
from dhvt.errors import ConfigError
from dhvt.hardware.cpus import available_cpus
from dhvt.hardware.gpus import count_visible_gpus, read_driver

PREFIX = "DHVT_"
BUNDLED_MODEL = Path(__file__).resolve().parents[2] / "serving" / "models" / "dhvt_tiny_cifar10"
PREFERENCES = ("throughput", "latency")
"""What ``auto`` may choose the fastest engine by."""

SERVER_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        "MAX_UPLOAD_BYTES", "MAX_BATCH_UPLOAD_BYTES", "MAX_BATCH_IMAGES", "MAX_PIXELS", "MAX_IN_FLIGHT", "MAX_QUEUE_MS",
        "REQUEST_TIMEOUT_S", "BATCH_TIMEOUT_S", "EXPLAIN_MASKS", "EXPLAIN_TIMEOUT_S",
        "TOKEN", "TOKEN_FILE", "CORS_ORIGINS", "ACCESS_LOG",
        "SAMPLE_FOLDER", "SAMPLE_RATE", "SAMPLE_BELOW_SCORE", "SAMPLE_MAX_BYTES",
        "DRIFT_EVERY", "DRIFT_FALSE_ALARM", "DRIFT_STATE",
    )
)  # fmt: skip
"""Variables that the server reads and the command line ignores. A test compares them with the server's settings."""

PROTECTING = frozenset({"token", "token_file", "require_signature"})
"""Settings that keep somebody out. One that is blank, as an empty secret makes it, is an error and not the default."""

_KUBERNETES = re.compile(r".*_SERVICE_(HOST|PORT(_\w+)?)|(DHVT(_\w+)?)_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""Variables that Kubernetes sets in every pod where there is a Service named ``dhvt`` or ``dhvt-…``."""

_MAX_DIGITS = 15
_SHARE = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def setting(default: Any, help: str, *, at_least: int = 1, secret: bool = False) -> Any:
    """A dataclass field that is an environment variable.

    Args:
        default: its value unless the variable is set; its type is the variable's.
        help: one or two sentences, which the documentation shows.
        at_least: the least value of a whole number.
        secret: keep the value out of the dataclass's text.
    """
    return field(default=default, metadata={"help": help, "at_least": at_least}, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Which model runs, and how; each field is the environment variable ``DHVT_<FIELD>``, with its help in the field."""

    model: str = setting(
        str(BUNDLED_MODEL),
        "Folder that export wrote, or a tag of BentoML's model store, such as `hands:latest`. In a bento the default is the "
        "model that was built into it; a setting wins over that, and the log says so.",
    )
    engine: str = setting(
        "auto",
        "`tensorrt`, `onnxruntime-tensorrt`, `onnxruntime-cuda`, `openvino` or `onnxruntime`, or one of them in a precision, "
        "as `openvino:fp32`; `auto` takes the fastest that works and keeps the model's accuracy (docs/engines.md). A named "
        "engine that does not work ends the start.",
    )
    workers: int = setting(
        1,
        "Processes. One uses all processors; more help where the HTTP side is the limit (many small images on many "
        "processors, a GPU). Each loads the model.",
    )
    threads: int = setting(
        0, "Processor threads of each worker's engine; 0 takes its share of affinity mask and cgroup quota.", at_least=0
    )
    max_batch_size: int = setting(
        32,
        "Images in one engine call; OpenVINO takes at most eight for each thread, and 64, because more gain nothing.",
    )
    prefer: str = setting(
        PREFERENCES[0],
        "What `auto` means by fastest: `throughput`, images per second in large batches, or `latency`, the time of a single "
        "image.",
    )
    require_signature: str = setting(
        "",
        "Public key (PEM) that must have signed the model (`dhvt sign`, docs/artifact.md); another model is not served, at "
        "start or on reload.",
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Reads ``DHVT_*``.

        Raises:
            ConfigError: an unknown variable, or an invalid value.
        """
        known = {PREFIX + entry.name.upper(): entry for entry in fields(cls)}
        ours = {name for name in environ if name.startswith(PREFIX) and not _KUBERNETES.fullmatch(name)}
        unknown = sorted(ours - known.keys() - SERVER_VARIABLES)
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; there are {', '.join(known)}")
        values: dict[str, Any] = {}
        for name, entry in known.items():
            if name in environ:
                if entry.name in PROTECTING and not environ[name].strip():
                    raise ConfigError(f"{name} is blank, which would protect nothing; give it a value, or unset it")
                values[entry.name] = _parse(name, environ[name], entry)
        if "prefer" in values and values["prefer"] not in PREFERENCES:
            raise ConfigError(f"{PREFIX}PREFER is {values['prefer']!r}; it must be {' or '.join(PREFERENCES)}")
        return cls(**values)

    def load_artifact(self, model: str | None = None) -> Artifact:
        """The model folder, checked.

        Args:
            model: a path or tag from the command line, instead of :attr:`model`.

        Raises:
            ArtifactError: it is none, was changed, or is not signed as ``require_signature`` demands.
            ConfigError: there is no such tag or key.
        """
        path = find_model(model, said_by="--model") if model else self.model_path()
        return load_artifact(path, Path(self.require_signature) if self.require_signature else None)

    def model_path(self) -> Path:
        """The folder of ``model``.

        Raises:
            ConfigError: BentoML's model store has no model of this tag.
        """
        return find_model(self.model, said_by=f"{PREFIX}MODEL")

    def device_of(self, worker: int | None) -> int:
        """The GPU of a worker: the workers are spread over the visible GPUs in turn.

        Args:
            worker: number of the worker, from 1 as BentoML counts; None in a process that is no worker.

        Returns:
            The GPU's index among those that ``CUDA_VISIBLE_DEVICES`` leaves; 0 where there is none.
        """
        return max((worker or 1) - 1, 0) % max(count_visible_gpus(read_driver()), 1)

    def engine_threads(self) -> int:
        """``threads``, or this worker's share of all that may be used."""
        return self.threads or max(available_cpus() // self.workers, 1)


def is_tag(model: str | Path) -> bool:
    """Whether this is a tag of BentoML's model store; a :class:`Path`, and what has a path separator in it, is a path."""
    return isinstance(model, str) and ":" in model and os.sep not in model


def find_model(model: str | Path, *, said_by: str = "model") -> Path:
    """A model's folder: ``model`` itself, or where BentoML's model store keeps the model of this tag.

    Args:
        model: a path, or a tag such as ``hands:latest``; see :func:`is_tag`.
        said_by: the setting or argument that error messages name.

    Raises:
        ConfigError: the store has no such model, or BentoML is not installed.
    """
    text = os.fspath(model)
    if not is_tag(model):
        return Path(text)
    try:
        import bentoml  # for tags alone
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{said_by} is {text!r}, a tag of BentoML's model store, and bentoml is not installed; pip install bentoml, or "
            "give the model's folder"
        ) from error
    try:
        return Path(bentoml.models.get(text).path)
    except bentoml.exceptions.BentoMLException as error:
        raise ConfigError(f"{said_by} is {text!r}, and BentoML's model store says: {error}") from error


def _parse(name: str, text: str, entry: Field[Any]) -> str | int | float:
    if isinstance(entry.default, float):
        return _parse_share(name, text)
    return _parse_number(name, text, entry.metadata["at_least"]) if isinstance(entry.default, int) else text


def _parse_share(name: str, text: str) -> float:
    if not _SHARE.fullmatch(text) or float(text) > 1:
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a number from 0 to 1, such as 0.05")
    return float(text)


def _parse_number(name: str, text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS or int(text) < least:
        raise ConfigError(
            f"{name} is {text[:40]!r}; it must be a whole number of at least {least}, with up to {_MAX_DIGITS} digits"
        )
    return int(text)

"""The bento that this code was packed into, and the model in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from dhvt.engines.settings import find_model
from dhvt.errors import ConfigError

_SOURCES = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bento:
    """A bento, as its ``bento.yaml`` describes it.

    Args:
        root: its folder.
        service: name of the service, which BentoML looks for when it loads the bento.
        model: tag of the model in it.
    """

    root: Path
    service: str
    model: str

    def model_path(self) -> Path:
        """The model's folder: in the bento itself, as in a container, or in BentoML's model store.

        Raises:
            ConfigError: the store has it no more.
        """
        name, _, version = self.model.partition(":")
        inside = self.root / "models" / name / version
        return inside if inside.is_dir() else find_model(self.model, said_by="this bento's model")


@cache
def find_bento(sources: Path = _SOURCES) -> Bento | None:
    """The bento in whose folder ``src`` this package lies; None outside of one.

    Raises:
        ConfigError: the bento has no model.
    """
    description = sources.parent / "bento.yaml"
    if sources.name != "src" or not description.is_file():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # written in C, where that is there
    values = yaml.load(description.read_text(encoding="utf-8"), Loader=loader)
    try:
        (service,) = values["services"]
        (model,) = service["models"]
        return Bento(root=sources.parent, service=service["name"], model=str(model["tag"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{description} names no model; build the bento again: DHVT_MODEL=… bentoml build") from error

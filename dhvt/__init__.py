"""DHVT, a vision transformer for small data sets: from a folder of images to a classifier.

The public names are those of ``__all__``; ``docs/python.md`` has an example of each. They are imported when they are first
used, so that ``import dhvt`` is quick, and PyTorch on a server or a runtime on a machine that trains need not be installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dhvt.artifact import load_artifact as load_artifact
    from dhvt.classifier import Classifier as Classifier
    from dhvt.classifier import evaluate as evaluate
    from dhvt.data.sources import open_dataset as open_dataset
    from dhvt.errors import DHVTError as DHVTError
    from dhvt.errors import ImageError as ImageError
    from dhvt.model.checkpoint import load_checkpoint as load_checkpoint
    from dhvt.model.dhvt import create_model as create_model
    from dhvt.ranking import Prediction as Prediction
    from dhvt.training.config import Recipe as Recipe
    from dhvt.training.config import RunOptions as RunOptions
    from dhvt.training.trainer import train as train

_MODULES = {
    "Classifier": "dhvt.classifier",
    "DHVTError": "dhvt.errors",
    "ImageError": "dhvt.errors",
    "Prediction": "dhvt.ranking",
    "Recipe": "dhvt.training.config",
    "RunOptions": "dhvt.training.config",
    "create_model": "dhvt.model.dhvt",
    "evaluate": "dhvt.classifier",
    "load_artifact": "dhvt.artifact",
    "load_checkpoint": "dhvt.model.checkpoint",
    "open_dataset": "dhvt.data.sources",
    "train": "dhvt.training.trainer",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

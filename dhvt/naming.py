"""A model's name and version: what they may be, and what they are where nobody gave any.

Both fit a tag of BentoML's model store, ``name:version``, a label of Prometheus and a folder's name.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from dhvt.errors import ConfigError

_LONGEST = 63
_VALID = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_GENERIC = "train"
"""The name of a file or folder that says nothing of what is in it; its folder's name does."""


def check_name(name: str) -> str:
    """Returns the name of a model.

    Raises:
        ConfigError: it is longer than 63 characters, or is not made of lower-case letters, digits, ``.``, ``_`` and ``-``.
    """
    return _check("name", name)


def check_version(version: str) -> str:
    """Returns the version of a model; the same characters as in a name.

    Raises:
        ConfigError: as for a name, or it is ``latest``, which is every model's newest version.
    """
    if version == "latest":
        raise ConfigError("version is 'latest', which means the newest of all versions; give another")
    return _check("version", version)


def _check(what: str, text: str) -> str:
    if not isinstance(text, str) or len(text) > _LONGEST or not _VALID.fullmatch(text):
        raise ConfigError(
            f"{what} is {text!r}; give up to {_LONGEST} of a-z, 0-9, '.', '_' and '-', the first and last a letter or digit"
        )
    return text


def fit_name(text: str) -> str:
    """The valid name that is nearest to a text: ``My Hands!`` becomes ``my-hands``; ``model`` where nothing is left."""
    fitted = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:_LONGEST].strip("._-")
    return fitted or "model"


def name_of_data(data: str | Path) -> str:
    """The name of a model that is trained on these images: the folder's or file's.

    Of a file or folder called ``train`` it is the name of the folder around it.
    """
    path = Path(data).resolve()
    text = path.name if path.is_dir() else path.stem
    return fit_name(path.parent.name if text.lower() == _GENERIC else text)


def make_version(digest: str) -> str:
    """The version of a model that nobody gave one: today's date (UTC) and the start of its digest."""
    return f"{datetime.now(UTC):%Y%m%d}-{digest[:8]}"


def is_made_version(version: str, digest: str) -> bool:
    """Whether :func:`make_version` gave this version to a model of this digest, on whatever day."""
    return re.fullmatch(rf"\d{{8}}-{digest[:8]}", version) is not None

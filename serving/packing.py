"""How ``bentoml build`` puts the model that ``DHVT_MODEL`` names into the bento, and how the bento gets its name."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import click
from bentoml.exceptions import BentoMLException
from bentoml.models import BentoModel

from dhvt.engines.settings import is_tag
from dhvt.errors import DHVTError
from dhvt.store import store_artifact
from serving.bento import find_bento
from serving.settings import MODEL_VARIABLE, Settings

DEFAULT_NAME = "dhvt"


class PackedModel(BentoModel):
    """Takes the place of the model in the service, for ``bentoml build``, which calls :meth:`to_info`.

    Outside of a bento ``bentoml serve`` calls :meth:`resolve` before it starts; the service finds its model without it.
    """

    def __init__(self) -> None:
        super().__init__(tag=DEFAULT_NAME)

    def to_info(self, alias: str | None = None) -> Any:
        """Returns what ``bento.yaml`` records of the model, which is in the store then.

        Raises:
            BentoMLException: there is no such model; no bento is built.
        """
        try:
            return BentoModel(pack_model()).to_info(alias)
        except DHVTError as error:
            raise BentoMLException(str(error)) from error

    def resolve(self, *arguments: Any, **options: Any) -> None:
        """Does nothing: serving from this project's folder needs no model store."""


def pack_model() -> str:
    """Puts the model of ``DHVT_MODEL``, else the bundled one, into the store, and returns its tag.

    Raises:
        DHVTError: there is no such model, or the store has another one of this name and version.
    """
    settings = Settings.from_environ()
    artifact = settings.load_artifact()
    if is_tag(settings.model):
        return str(bentoml.models.get(settings.model).tag)
    return store_artifact(artifact)


def service_name() -> str:
    """Returns ``dhvt``; in a bento that one's name; and while one is built, the name of the model that goes into it.

    Raises:
        DHVTError: a bento is built, and the model that ``DHVT_MODEL`` names cannot be opened.
    """
    bento = find_bento()
    if bento is not None:
        return bento.service
    if not is_building() or MODEL_VARIABLE not in os.environ:
        return DEFAULT_NAME
    settings = Settings.from_environ()
    card = settings.load_artifact().card
    return settings.model.partition(":")[0] if is_tag(settings.model) else card.name


def is_building() -> bool:
    """Whether this process is ``bentoml build``."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name == "build"

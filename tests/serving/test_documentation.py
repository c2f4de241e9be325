"""docs/operations.md and docs/routes.md against the code: every error, every metric, every route; and each setting's help."""

import re
from dataclasses import fields

import pytest

from dhvt.engines import ENGINES
from dhvt.engines.settings import SERVER_VARIABLES, EngineSettings
from serving import errors
from serving.http.auth import HEALTH_ROUTES
from serving.http.openapi import openapi_document
from serving.http.routes import ROUTES
from serving.metrics import metrics
from serving.settings import PREFIX, Settings
from tests.serving.conftest import ROOT

OPERATIONS, ROUTES_PAGE = ((ROOT / "docs" / name).read_text() for name in ("operations.md", "routes.md"))


def rows(pattern, text):
    """What the tables' first columns name."""
    return re.findall(pattern, text, re.MULTILINE)


def test_each_setting_has_help():
    assert all(field.metadata["help"].endswith(".") for field in fields(Settings))
    help_text = next(field for field in fields(Settings) if field.name == "engine").metadata["help"]
    assert set(ENGINES) <= set(re.findall(r"`([\w-]+)`", help_text))


def test_the_command_line_knows_which_variables_are_the_servers():
    own = {field.name for field in fields(Settings)} - {field.name for field in fields(EngineSettings)}
    assert {PREFIX + name.upper() for name in own} == SERVER_VARIABLES


def test_errors():
    documented = {
        (int(status), code)
        for statuses, codes in rows(r"^\| ([\d, ]+) \| (`.*?`) \|", ROUTES_PAGE)
        for status, code in zip(statuses.split(", "), re.findall(r"`(\w+)`", codes), strict=True)
    }
    kinds = [kind for base in errors.RequestError.__subclasses__() for kind in (base, *base.__subclasses__())]
    assert documented == {(kind.status, kind.code) for kind in kinds}


def test_metrics():
    documented = {name.split("{")[0] for name in rows(r"^\| `(dhvt_[\w{},]+)` \|", OPERATIONS)}
    described = {
        family.name for name, collector in vars(metrics()).items() if name[0] != "_" for family in collector.describe()
    }
    assert {name.removesuffix("_total") for name in documented} == described


@pytest.mark.parametrize(
    "path", sorted({path for path in ROUTES if "{" not in path} | HEALTH_ROUTES - {"/healthz"} | {"/metrics"})
)
def test_routes(path):
    assert path in openapi_document()["paths"] or f"{path}`" in ROUTES_PAGE

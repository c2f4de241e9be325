"""docs/operations.md against the code: every setting with its default, every error, every metric, every route."""

import re
from dataclasses import fields

import pytest

from dhvt.engines.settings import SERVER_VARIABLES, EngineSettings
from serving import errors
from serving.http.auth import HEALTH_ROUTES
from serving.http.page import PAGE_ROUTES
from serving.http.routes import ROUTES
from serving.metrics import metrics
from serving.settings import BUNDLED_MODEL, PREFIX, Settings
from tests.serving.conftest import ROOT

TEXT = (ROOT / "docs" / "operations.md").read_text()


def rows(pattern):
    """What the tables' first columns name."""
    return re.findall(pattern, TEXT, re.MULTILINE)


def test_settings_and_their_defaults():
    documented = dict(rows(r"^\| `(DHVT_\w+)` \|(.*?)\|"))
    defaults = {PREFIX + field.name.upper(): str(field.default) for field in fields(Settings)}
    assert {name: text.strip(" `") for name, text in documented.items()} == {
        name: "the bundled model" if value == str(BUNDLED_MODEL) else value for name, value in defaults.items()
    }


def test_the_command_line_knows_which_variables_are_the_servers():
    own = {field.name for field in fields(Settings)} - {field.name for field in fields(EngineSettings)}
    assert {PREFIX + name.upper() for name in own} == SERVER_VARIABLES


def test_errors():
    documented = {
        (int(status), code)
        for statuses, codes in rows(r"^\| ([\d, ]+) \| (`.*?`) \|")
        for status, code in zip(statuses.split(", "), re.findall(r"`(\w+)`", codes), strict=True)
    }
    kinds = [kind for base in errors.RequestError.__subclasses__() for kind in (base, *base.__subclasses__())]
    assert documented == {(kind.status, kind.code) for kind in kinds}


def test_metrics():
    documented = {name.split("{")[0] for name in rows(r"^\| `(dhvt_[\w{},]+)` \|")}
    described = {
        family.name for name, collector in vars(metrics()).items() if name[0] != "_" for family in collector.describe()
    }
    assert {name.removesuffix("_total") for name in documented} == described


@pytest.mark.parametrize(
    "path", [*ROUTES, *(path for path in PAGE_ROUTES if "{" not in path), *sorted(HEALTH_ROUTES - {"/healthz"}), "/metrics"]
)
def test_routes(path):
    assert f" {path}`" in TEXT

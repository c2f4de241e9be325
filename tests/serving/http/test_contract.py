"""The OpenAPI document, held against the server that publishes it."""

import subprocess
import sys

import httpx
import pytest

from serving.errors import RequestError
from serving.http.page import PAGE_ROUTES
from serving.http.routes import ROUTES
from tests.serving.conftest import serving


@pytest.mark.timeout(600)
def test_schemathesis_finds_no_broken_promise(artifact_path, tmp_path):
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_TOKEN="secret") as url:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/docs.json", "--header=Authorization: Bearer secret"]
        options = ["--max-examples=30", "--generation-deterministic", "--max-response-time=20", "--no-color"]
        # Not every byte string is an image, which a schema cannot say.
        result = subprocess.run(
            [*command, *options, "--exclude-checks=positive_data_acceptance"],
            cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout
        assert httpx.get(f"{url}/readyz").status_code == 200
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_every_route_and_error_is_in_the_document(server):
    document = httpx.get(f"{server}/docs.json").json()
    documented = {path: method.upper() for path, operations in document["paths"].items() for method in operations}
    routes = {path: route.method for path, route in ROUTES.items() if path not in PAGE_ROUTES | {"/docs.json"}}
    assert documented == {path: method for path, method in routes.items() if not path.startswith("/v2")}
    text = str(document)
    kinds = [RequestError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        assert kind.code in text or kind.code in ("not_found", "method_not_allowed", "not_ready")

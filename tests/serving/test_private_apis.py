"""What is used of BentoML and uvicorn is there, and its absence ends the start with one line."""

import subprocess
import sys

import pytest

from serving.private_apis import check_private_apis
from tests.serving.conftest import ROOT

BREAKS = {
    "RunnerTrafficMetricsMiddleware": "import bentoml._internal.server.http.instruments as i; "
    "del i.RunnerTrafficMetricsMiddleware",
    "_should_upgrade": "import uvicorn.protocols.http.httptools_impl as i; del i.HttpToolsProtocol._should_upgrade",
    "AutoHTTPProtocol": "import uvicorn.protocols.http.auto as i; del i.AutoHTTPProtocol",
    "HttpToolsProtocol.timeout_keep_alive_task": "import uvicorn.protocols.http.httptools_impl as i; "
    "i.HttpToolsProtocol.__init__ = lambda self: None",
}


def test_all_of_them_are_there():
    check_private_apis()


@pytest.mark.parametrize("name", BREAKS)
def test_a_version_without_one_of_them_ends_the_start_with_one_line(name):
    code = f"{BREAKS[name]}; import serving.service"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 1
    assert line.startswith("dhvt: bentoml ")
    assert name in line
    assert "pip install" in line


def test_the_patches_have_their_effect():
    """In a process of its own, since they change modules."""
    code = (
        "import asyncio, os, uvicorn\n"
        "from serving.service import DHVTService\n"
        "from bentoml._internal.configuration.containers import BentoMLContainer\n"
        "from bentoml._internal.utils.analytics.usage_stats import do_not_track\n"
        "lifecycle = DHVTService.to_asgi()\n"
        "config = uvicorn.Config(lifecycle); config.load()\n"
        "print(config.http_protocol_class.__module__, config.http_protocol_class.__name__)\n"
        "print(sorted(layer.cls.__name__ for layer in lifecycle.bentoml.user_middleware))\n"
        "print('dhvt-metrics-' in BentoMLContainer.prometheus_multiproc_dir.get(), do_not_track())\n"
        "print(sorted(route.path for route in lifecycle.bentoml.routes))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    protocol, middlewares, flags, routes = result.stdout.splitlines()
    assert protocol == "serving.http.protocol HTTPProtocol"
    assert middlewares == "['ContextMiddleware', 'OpenTelemetryMiddleware']"
    assert flags == "True True"
    assert "'/'" not in routes
    assert "static_content" not in routes

"""Everything that this package uses of BentoML and uvicorn without their promise to keep it.

==============================================  =========================================  ================================
what                                            for                                        public alternative
==============================================  =========================================  ================================
``BentoMLContainer.prometheus_multiproc_dir``   a metrics folder for each server, which    none: ``BENTOML_HOME`` moves the
                                                another one's start does not empty         model store too
``BentoMLContainer.http``                       the address where ``bentoml serve`` is     none
                                                not told one
``BentoMLContainer.tracing.sample_rate``        whether tracing is configured              none
``RunnerTrafficMetricsMiddleware``              removed: it keeps counters for every path  ``metrics.enabled`` turns off
                                                that anybody ever asked for                ``/metrics`` too
``TimeoutMiddleware``                           removed: it keeps each request for as      none: ``traffic.timeout`` has to
                                                long as one may take                       be a number
``do_not_track``                                asked again, after the environment has     ``BENTOML_DO_NOT_TRACK`` before
                                                been set: ``bentoml`` asks before it       the command starts
                                                imports the service
``uvicorn.protocols.http.auto``                 our HTTP protocol                          ``uvicorn.Config(http=…)``, which
                                                                                           BentoML builds itself
``HttpToolsProtocol``                           its base, see serving/http/protocol.py     none
the folder ``static_content``                   Swagger UI at ``/docs``, which is 404      none
                                                without it
==============================================  =========================================  ================================

:func:`check_private_apis` is the first thing that the service does, so that a version in which one of them is missing ends
the start with one line.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dhvt.errors import ConfigError

TESTED = "'bentoml>=1.4.39,<1.5' 'uvicorn>=0.34,<0.55' 'httptools>=0.6.3'"

_CONTAINERS = "bentoml._internal.configuration.containers"
_INSTRUMENTS = "bentoml._internal.server.http.instruments"
_TRAFFIC = "bentoml._internal.server.http.traffic"
_USAGE = "bentoml._internal.utils.analytics.usage_stats"
_HTTPTOOLS = "uvicorn.protocols.http.httptools_impl"

_NEEDED = (
    f"{_CONTAINERS}:BentoMLContainer.prometheus_multiproc_dir.set",
    f"{_CONTAINERS}:BentoMLContainer.prometheus_multiproc_dir.get",
    f"{_CONTAINERS}:BentoMLContainer.http.host.get",
    f"{_CONTAINERS}:BentoMLContainer.http.port.get",
    f"{_CONTAINERS}:BentoMLContainer.tracing.sample_rate.get",
    f"{_INSTRUMENTS}:RunnerTrafficMetricsMiddleware",
    f"{_TRAFFIC}:TimeoutMiddleware",
    f"{_USAGE}:do_not_track.cache_clear",
    "uvicorn.protocols.http.auto:AutoHTTPProtocol",
    "httptools:HttpRequestParser.set_dangerous_leniencies",
    f"{_HTTPTOOLS}:HttpToolsProtocol.data_received",
    f"{_HTTPTOOLS}:HttpToolsProtocol.handle_websocket_upgrade",
    f"{_HTTPTOOLS}:HttpToolsProtocol.on_headers_complete",
    f"{_HTTPTOOLS}:HttpToolsProtocol.on_message_complete",
    f"{_HTTPTOOLS}:HttpToolsProtocol.send_400_response",
    f"{_HTTPTOOLS}:HttpToolsProtocol.timeout_keep_alive_handler",
    f"{_HTTPTOOLS}:HttpToolsProtocol._should_upgrade",
    f"{_HTTPTOOLS}:HttpToolsProtocol._unset_keepalive_if_required",
    f"{_HTTPTOOLS}:HttpToolsProtocol._unsupported_upgrade_warning",
)
_NEEDED_ATTRIBUTES = {"cycle", "headers", "loop", "parser", "timeout_keep_alive", "timeout_keep_alive_task", "transport"}
"""Of an ``HttpToolsProtocol``; its ``__init__`` sets them. ``url`` is set when a request begins."""


def check_private_apis() -> None:
    """Checks that everything in the table is there.

    Raises:
        ConfigError: something is not; says what, and which versions have it.
    """
    missing = [name for name in _NEEDED if not _exists(name)]
    if not missing:
        names = _find(f"{_HTTPTOOLS}:HttpToolsProtocol.__init__").__code__.co_names
        missing = [f"HttpToolsProtocol.{name}" for name in sorted(_NEEDED_ATTRIBUTES.difference(names))]
    if missing:
        installed = ", ".join(f"{package} {version(package)}" for package in ("bentoml", "uvicorn", "httptools"))
        raise ConfigError(
            f"{installed} lack {', '.join(missing)}, which this server needs; install versions that it was tested with: "
            f"pip install {TESTED}"
        )


def _find(name: str) -> Any:
    """What ``module:attribute.attribute`` names."""
    module, _, attributes = name.partition(":")
    found: Any = import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def _exists(name: str) -> bool:
    try:
        return callable(_find(name))
    except (ImportError, AttributeError):
        return False


def forget_that_tracking_was_asked() -> None:
    """Has BentoML look again whether it may report its use; see :mod:`dhvt.telemetry`."""
    _find(f"{_USAGE}:do_not_track").cache_clear()


def swagger_folder() -> Path:
    """Returns the folder with Swagger UI's files, which may not be there."""
    found = find_spec("bentoml")
    assert found is not None, "the server needs BentoML"
    assert found.origin is not None, "BentoML is a package with files"
    return Path(found.origin).parent / "_internal" / "server" / "static_content"


def set_metrics_folder(folder: str) -> None:
    """Sets the folder in which all processes of this server keep their metrics; not later than the first import of
    prometheus_client."""
    _find(f"{_CONTAINERS}:BentoMLContainer").prometheus_multiproc_dir.set(folder)


def metrics_folder() -> str:
    """Returns the folder that :func:`set_metrics_folder` set."""
    return str(_find(f"{_CONTAINERS}:BentoMLContainer").prometheus_multiproc_dir.get())


def default_address() -> tuple[str, int]:
    """Returns the host and the port of ``bentoml serve`` without ``--host`` and ``--port``."""
    http = _find(f"{_CONTAINERS}:BentoMLContainer").http
    return str(http.host.get()), int(http.port.get())


def is_traced() -> bool:
    """Whether BentoML's configuration asks for OpenTelemetry spans."""
    return bool(_find(f"{_CONTAINERS}:BentoMLContainer").tracing.sample_rate.get())


def remove_middlewares(app: Any) -> None:
    """Takes what the table says out of BentoML's Starlette application."""
    unwanted = (_find(f"{_INSTRUMENTS}:RunnerTrafficMetricsMiddleware"), _find(f"{_TRAFFIC}:TimeoutMiddleware"))
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls not in unwanted]


def use_http_protocol(protocol: type) -> None:
    """Makes uvicorn speak HTTP/1.1 with this class in the servers that this process starts."""
    import_module("uvicorn.protocols.http.auto").AutoHTTPProtocol = protocol  # type: ignore[attr-defined]  # the module's own name

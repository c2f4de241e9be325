"""uvicorn's HTTP/1.1, with the usual requests past ASGI, and for clients that would rather speak HTTP/2, too."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import httptools
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.direct import Direct, Exchange
from serving.http.request import read_header

_OFFER = (b"upgrade", b"http2-settings")


class NoUpgradeProtocol(HttpToolsProtocol):
    """Answers a request that offers to go over to HTTP/2 as the HTTP/1.1 that it is (RFC 9110 section 7.8).

    Java's and others' clients offer it with every request. uvicorn loses the bodies of these (Kludex/uvicorn#2722), because
    its parser stops behind their headers; so their head is parsed anew without the offer.
    """

    _head: list[bytes]

    def on_headers_complete(self) -> None:
        if not self._is_foreign_offer():
            super().on_headers_complete()
            return
        version = self.parser.get_http_version().encode()
        self._head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            tokens = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
            kept = b",".join(tokens) if name == b"connection" else value
            if name not in _OFFER and (kept or name != b"connection"):
                self._head += [name, b": ", kept, b"\r\n"]

    def on_message_complete(self) -> None:
        if not self._is_foreign_offer():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while True:  # a turn for each offer that has come; without an end to their number
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                elif self._is_foreign_offer():
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                    data = b"".join([*self._head, b"\r\n", data[offer.args[0] :]])
                    continue
                else:
                    self._unsupported_upgrade_warning()
            except httptools.HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
            return

    def _is_foreign_offer(self) -> bool:
        """CONNECT asks for something else, which no request's head without it would be: it is answered as uvicorn does."""
        is_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return bool(is_offer) and not self._should_upgrade()


class DirectProtocol(NoUpgradeProtocol):
    """Takes the requests that :class:`serving.direct.Direct` accepts past ASGI.

    Args:
        direct: that decides.
        options: uvicorn's.
    """

    cycle: Any  # an Exchange, or uvicorn's own
    scope: Any

    def __init__(self, direct: Direct, **options: Any) -> None:
        super().__init__(**options)
        self._direct = direct
        self._exchange: Exchange | None = None  # the last; those before it have been answered
        self._reading: Exchange | None = None  # the same, while this message is its request

    def on_message_begin(self) -> None:
        self._reading = None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reading = self._begin_exchange()
        if self._reading is None:
            super().on_headers_complete()
        else:
            self.cycle = self._exchange = self._reading

    def on_body(self, body: bytes) -> None:
        if self._reading is None:
            super().on_body(body)
        else:
            self._reading.feed(body)

    def on_message_complete(self) -> None:
        if self._reading is None:
            super().on_message_complete()
        else:
            self._reading.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.abandon()
            self._exchange = self._reading = None

    def _begin_exchange(self) -> Exchange | None:
        path, _, query = self.url.partition(b"?")
        is_first = self.cycle is None or self.cycle.response_complete  # and not pipelined behind another
        is_plain = not (self.root_path or self.expect_100_continue or self.parser.should_upgrade() or b"#" in query)
        if not is_first or not is_plain or self.flow.write_paused or self.limit_concurrency is not None:
            return None
        version = self.parser.get_http_version()
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
        }
        self._find_client()
        return self._direct.begin(
            self.scope,
            transport=self.transport,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            default_headers=self.server_state.default_headers,
            on_response=self.on_response_complete,
        )

    def _find_client(self) -> None:
        """The client's address behind proxies that are trusted, as uvicorn's middleware, which ASGI passes, finds it."""
        if isinstance(self.app, ProxyHeadersMiddleware) and read_header(self.scope, b"x-forwarded-for"):
            middleware: Any = ProxyHeadersMiddleware(_end_of_middleware)
            middleware.trusted_hosts = self.app.trusted_hosts
            with suppress(StopIteration):  # it waits for nothing
                middleware(self.scope, None, None).send(None)


async def _end_of_middleware(scope: Any, receive: Any, send: Any) -> None:
    """The application that is none."""


def use_protocol(direct: Direct | None) -> None:
    """For the servers that this process starts; BentoML has no setting for uvicorn's protocol.

    Args:
        direct: who takes the usual requests; None leaves all to ASGI.
    """
    protocol: Any = NoUpgradeProtocol if direct is None else partial(DirectProtocol, direct)
    auto.AutoHTTPProtocol = protocol

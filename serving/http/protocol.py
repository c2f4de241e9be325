"""uvicorn's HTTP/1.1, without two faults that cost requests or connections, and with one write for each response."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFER = (b"upgrade", b"http2-settings")


class CoalescingTransport:
    """Writes the head of a response together with what follows at once: one system call and one packet instead of two.

    uvicorn writes a head as soon as it is sent, and each write costs more processor time than all of our own code for a
    small response.

    Args:
        transport: of the connection.
        loop: that it belongs to.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Writes, or keeps a head until the next write or the loop's next turn."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Writes what is kept, and closes."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)


class HTTPProtocol(HttpToolsProtocol):
    """Answers a request that offers to go over to HTTP/2 as the HTTP/1.1 that it is (RFC 9110 section 7.8), and closes a
    connection that goes silent after an early response.

    Java's and other clients offer HTTP/2 with every request. uvicorn loses the bodies of these (Kludex/uvicorn#2722), because
    its parser stops behind their headers; so their head is parsed again without the offer.

    A response may be sent before the request's body has come. uvicorn stops the connection's keep-alive timer with the next
    bytes of that body, and does not start it again.
    """

    _head: list[bytes]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.transport = CoalescingTransport(transport, self.loop)  # type: ignore[assignment]  # it has what is used of one

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
        while True:  # once for each offer that has come, whose number has no limit
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
            break
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        """Starts the keep-alive timer where every request has been answered, though bytes of the last still come."""
        has_answered = self.cycle is not None and self.cycle.response_complete
        if has_answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _is_foreign_offer(self) -> bool:
        """Whether the request offers another protocol that is not spoken here. CONNECT does not: without its offer it is no
        request, so it is answered as uvicorn does."""
        is_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return bool(is_offer) and not self._should_upgrade()

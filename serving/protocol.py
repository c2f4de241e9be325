"""HTTP/1.1 from the socket, for clients that would rather speak HTTP/2."""

from __future__ import annotations

import httptools
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


def use_no_upgrade_protocol() -> None:
    """For the servers that this process starts; BentoML has no setting for uvicorn's protocol."""
    auto.AutoHTTPProtocol = NoUpgradeProtocol

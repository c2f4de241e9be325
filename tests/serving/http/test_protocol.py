"""HTTP/1.1 over a socket, since HTTP clients send none of these at will."""

import contextlib
import json
import os
import signal
import socket
import threading
import time

import httpx
import pytest

from tests.conftest import draw, encode
from tests.serving.conftest import PNG, in_flight, read_log_line, serving, worker_pids

TOKEN = "a-token"
FORM = {"content_type": "multipart/form-data; boundary=x"}
UNUSUAL_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % PNG
)

WHOLE, CHUNKED = "whole", "chunked"  # how the length of the body is told


def request(body, *headers, path="/classify", content_type="image/png", kind=WHOLE, version="1.1"):
    length = f"Content-Length: {len(body)}" if kind == WHOLE else "Transfer-Encoding: chunked"
    head = [f"POST {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {TOKEN}", f"Content-Type: {content_type}"]
    head += [length, *headers]
    chunks = body if kind == WHOLE else (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return "\r\n".join(head).encode() + b"\r\n\r\n" + chunks


@contextlib.contextmanager
def connected(server, timeout=20):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection, connection.makefile("rb") as responses:
        yield connection, responses


def read_response(responses):
    """Status, headers and JSON of the next response."""
    status = int(responses.readline().split()[1])
    headers = {}
    while line := responses.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    return status, headers, json.loads(responses.read(int(headers["content-length"])))


def ask(server, sent):
    with connected(server) as (connection, responses):
        connection.sendall(sent)
        return read_response(responses)


@pytest.mark.parametrize(
    ("body", "content_type", "path"),
    [
        (PNG, "image/png", "/classify"),
        (PNG, "application/octet-stream", "/classify?top_k=2"),
        (PNG, "image/png", "/classify?top_k=none"),
        (PNG, "image/png", "/classify?top_k=100000"),
        (PNG[:90], "image/png", "/classify"),
        (b"no image", "image/png", "/classify"),
        (b"", "image/png", "/classify"),
        (PNG, "text/plain", "/classify"),
        (PNG, "multipart/form-data", "/classify"),
        (PNG, "multipart/form-data; boundary=x", "/classify"),
        (b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % PNG,
         "multipart/form-data; boundary=x", "/classify"),
        (b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n\r\n--x--\r\n',
         "multipart/form-data; boundary=x", "/classify"),
        (UNUSUAL_FORM, "multipart/form-data; boundary=x", "/classify"),
        (UNUSUAL_FORM, "multipart/form-data; boundary=x", "/classify?top_k=two"),
        (UNUSUAL_FORM[:-20], "multipart/form-data; boundary=x", "/classify"),
    ],
)  # fmt: skip
def test_a_declared_length_and_chunks_give_the_same_response(server, body, content_type, path):
    ways = {}
    for kind in (WHOLE, CHUNKED):
        sent = request(body, "X-Request-ID: same", content_type=content_type, path=path, kind=kind)
        ways[kind] = ask(server, sent)
        for header in ("date", "server-timing"):  # differ from one request to the next
            ways[kind][1].pop(header, None)
    (status, headers, response), other = ways[WHOLE], ways[CHUNKED]
    assert (status, headers) == other[:2]
    for entry in response.get("predictions", []) + other[2].get("predictions", []):
        entry["score"] = pytest.approx(entry["score"], abs=1e-3)
    assert response == other[2]


def test_a_body_may_come_in_any_pieces(server):
    sent = request(PNG)
    with connected(server) as (connection, responses):
        for start in range(0, len(sent), 17):
            connection.sendall(sent[start : start + 17])
            time.sleep(0.001)
        assert read_response(responses)[0] == 200


def test_requests_that_do_not_wait_for_responses_are_responseed_in_order(server):
    kinds = [WHOLE, WHOLE, CHUNKED, WHOLE, CHUNKED, WHOLE]
    sent = [request(PNG, f"X-Request-ID: {number}", kind=kind) for number, kind in enumerate(kinds)]
    sent.insert(3, b"GET /info HTTP/1.1\r\nHost: x\r\nX-Request-ID: info\r\n\r\n")
    with connected(server) as (connection, responses):
        connection.sendall(b"".join(sent))
        got = [read_response(responses) for _ in sent]
    assert [headers["x-request-id"] for _, headers, _ in got] == ["0", "1", "2", "info", "3", "4", "5"]
    assert {status for status, _, _ in got} == {200}


@pytest.mark.parametrize("method", ["GET /info", "POST /classify"])
def test_an_offer_of_http_2_waits_for_the_responses_before_it(server, method):
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
    sent = request(PNG, "X-Request-ID: first") + request(PNG, "X-Request-ID: second", offer).replace(
        b"POST /classify", method.encode(), 1
    )
    with connected(server) as (connection, responses):
        connection.sendall(sent)
        assert [read_response(responses)[1]["x-request-id"] for _ in range(2)] == ["first", "second"]


@pytest.mark.parametrize(("headers", "version"), [(["Connection: close"], "1.1"), ([], "1.0")])
def test_a_connection_is_closed_where_the_client_wants_that(server, headers, version):
    with connected(server) as (connection, responses):
        connection.sendall(request(PNG, *headers, version=version))
        status, got, _ = read_response(responses)
        default = "close" if version == "1.0" else "keep-alive"
        assert (status, got.get("connection", default)) == (200, "close")
        assert responses.read() == b""


def test_a_client_that_waits_for_100_continue(server):
    with connected(server) as (connection, responses):
        head, _, body = request(PNG, "Expect: 100-continue").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert responses.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert responses.readline() == b"\r\n"
        connection.sendall(body)
        assert read_response(responses)[0] == 200


def test_a_client_that_leaves_is_not_waited_for(server):
    for sent in (request(PNG)[:-10], request(PNG), request(PNG) * 3):
        with connected(server) as (connection, _):
            connection.sendall(sent)
    deadline = time.monotonic() + 20
    while in_flight(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def guarded(artifact_path, tmp_path_factory):
    """A server with a token that logs all: its address, and its log."""
    log = tmp_path_factory.mktemp("guarded") / "log"
    with serving(log, DHVT_MODEL=str(artifact_path), DHVT_TOKEN=TOKEN, DHVT_ACCESS_LOG="all") as url:
        yield url, log


def test_the_token_is_required(guarded):
    assert ask(guarded[0], request(PNG))[0] == 200
    for other in (b"", b"Bearer a-toke", b"Bearer a-tokens", b"a-token", b"Basic a-token"):
        sent = request(PNG).replace(b"Authorization: Bearer a-token", b"Authorization: " + other)
        assert ask(guarded[0], sent)[0] == 401


def test_a_reload_in_the_middle_of_an_upload(guarded):
    url, log = guarded
    loaded = log.read_text().count(" classes, with ")
    with connected(url) as (connection, responses):
        connection.sendall(request(PNG)[:-10])
        for pid in worker_pids(url):
            os.kill(pid, signal.SIGHUP)
        while log.read_text().count(" classes, with ") == loaded:
            time.sleep(0.05)
        time.sleep(0.5)  # the old model ends
        connection.sendall(PNG[-10:])
        assert read_response(responses)[0] == 200


@pytest.mark.parametrize("kind", [WHOLE, CHUNKED])
def test_the_log_has_the_address_that_a_trusted_proxy_forwards_and_the_time_from_the_headers_on(guarded, kind):
    url, log = guarded
    ask(url, request(PNG, f"X-Request-ID: proxied-{kind}", "X-Forwarded-For: 203.0.113.7", kind=kind))
    sent = request(UNUSUAL_FORM, f"X-Request-ID: slow-{kind}", kind=kind, **FORM)
    with connected(url) as (connection, responses):
        connection.sendall(sent[:-10])
        time.sleep(1)
        connection.sendall(sent[-10:])
        assert len(read_response(responses)[2]["predictions"]) == 1
    proxied, slow = (read_log_line(log, f"{name}-{kind}") for name in ("proxied", "slow"))
    assert (proxied["client"], slow["client"]) == ("203.0.113.7", "127.0.0.1")
    assert slow["duration_ms"] > 450


@pytest.fixture(scope="module")
def impatient(artifact_path, tmp_path_factory):
    """A server that waits for a second, and takes small images."""
    settings = {"DHVT_REQUEST_TIMEOUT_S": "1", "DHVT_MAX_UPLOAD_BYTES": "100000"}
    with serving(tmp_path_factory.mktemp("impatient") / "log", DHVT_MODEL=str(artifact_path), **settings) as url:
        yield url


@pytest.fixture(scope="module")
def crowded_log(tmp_path_factory):
    return tmp_path_factory.mktemp("crowded") / "log"


@pytest.fixture(scope="module")
def crowded(artifact_path, crowded_log):
    """A server that takes two requests at a time."""
    with serving(crowded_log, DHVT_MODEL=str(artifact_path), DHVT_MAX_IN_FLIGHT="2") as url:
        yield url


def stall_two(url, stack):
    """Two uploads that are not finished take all that the server takes."""
    for _ in range(2):
        stack.enter_context(connected(url))[0].sendall(request(PNG)[:-10])
    while in_flight(url) < 2:
        time.sleep(0.01)


def test_an_upload_that_stalls_is_timed_out_and_its_connection_can_go_on(impatient):
    sent = request(PNG)
    with connected(impatient) as (connection, responses):
        connection.sendall(sent[:-10])
        status, _, response = read_response(responses)
        assert (status, response["error"]["code"]) == (504, "timed_out")
        connection.sendall(sent[-10:] + request(PNG))
        assert read_response(responses)[0] == 200
    assert in_flight(impatient) == 0


def test_too_many_are_refused_before_their_bodies(crowded):
    with contextlib.ExitStack() as stack:
        stall_two(crowded, stack)
        connection, responses = stack.enter_context(connected(crowded))
        connection.sendall(request(PNG)[:-10])
        status, headers, response = read_response(responses)
        assert httpx.get(f"{crowded}/readyz").status_code == 200
    assert (status, response["error"]["code"], headers["retry-after"]) == (503, "overloaded", "1")


def test_refusals_without_number_do_not_fill_the_log(crowded, crowded_log):
    before = crowded_log.read_text().count('"status": 503')
    began, refused = time.monotonic(), 0
    with contextlib.ExitStack() as stack:
        stall_two(crowded, stack)
        connection, responses = stack.enter_context(connected(crowded))
        connection.sendall(request(PNG) * 200)
        for _ in range(200):
            refused += read_response(responses)[0] == 503
    while not (lines := crowded_log.read_text().count('"status": 503') - before):  # a thread writes them
        assert time.monotonic() < began + 60
        time.sleep(0.05)
    assert refused > 30
    assert lines <= 10 * (time.monotonic() - began + 2)
    assert lines < refused


def test_large_images_are_refused_before_they_come(impatient):
    large = encode(draw(1, 1, (300, 300)), "BMP")
    with connected(impatient) as (connection, responses):
        connection.sendall(request(large)[:1000])
        assert read_response(responses)[0] == 413
    form = {"image": large[:105_000]}  # which the form's frame might have been, by its declared length
    assert httpx.post(f"{impatient}/classify", files=form).status_code == 413


def test_a_declared_length_with_leading_zeros_is_refused_before_its_body(impatient):
    head = request(b"").replace(b"Content-Length: 0", b"Content-Length: 000000000000000001000000000000")
    with connected(impatient) as (connection, responses):
        connection.sendall(head + b"x" * 1000)
        assert read_response(responses)[0] == 413


@pytest.mark.parametrize("refusal", ["413", "503", "504"])
def test_a_connection_that_was_answered_early_is_closed_when_it_goes_silent(impatient, crowded, refusal):
    """Some of the body comes after the response; the rest does not."""
    with contextlib.ExitStack() as stack:
        if refusal == "503":
            stall_two(crowded, stack)
        url = crowded if refusal == "503" else impatient
        connection, responses = stack.enter_context(connected(url, timeout=30))
        sent = request(bytes(200_000) if refusal == "413" else PNG)
        connection.sendall(sent[:-20])
        assert read_response(responses)[0] == int(refusal)
        connection.sendall(sent[-20:-10])
        assert responses.read() == b""


def test_2000_refused_requests_of_one_connection_get_few_lines_that_count_the_others(guarded):
    url, log = guarded
    before = log.read_text().count('"code": "unauthorized"')
    sent = request(PNG, content_type="image/png").replace(b"Bearer a-token", b"Bearer wrong!")
    began = time.monotonic()
    with connected(url, timeout=60) as (connection, responses):
        sender = threading.Thread(target=connection.sendall, args=(sent * 2000,))
        sender.start()
        assert {read_response(responses)[0] for _ in range(2000)} == {401}
        sender.join()
    counted = 0
    while counted < 2000:
        assert time.monotonic() < began + 60
        time.sleep(0.1)
        lines = [json.loads(line[line.index("{") :]) for line in log.read_text().splitlines() if '"unauthorized"' in line][
            before:
        ]
        counted = sum(entry.get("requests_without_a_line", 1) for entry in lines)
    assert counted == 2000
    assert len(lines) <= 11 * (time.monotonic() - began + 2)


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/classify"])
def test_a_refusal_has_its_code_in_the_log_and_a_path_of_sane_length(guarded, path):
    url, log = guarded
    request_id = f"coded-{len(path)}"
    sent = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nX-Request-ID: {request_id}\r\n\r\n"
    status = ask(url, sent.encode())[0]
    entry = read_log_line(log, request_id)
    assert (entry["status"], entry["code"]) == (status, {404: "not_found", 405: "method_not_allowed"}[status])
    assert len(entry["path"]) <= 201


def test_a_line_break_after_a_path_is_no_path_of_ours(guarded):
    url, _ = guarded
    head = f"POST /classify%0A HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
    assert ask(url, head.encode())[0] == 404

"""A real server as its operators see it: doors, reloads, signals, logs, numbers."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.conftest import draw, encode
from tests.serving.conftest import serving

PNG = encode(draw(0, 1))
TOKEN = "correct horse"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def classify(url, **options):
    return httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30, **options)


def worker_pids(url):
    """The processes that listen, less the one that started them."""
    port = int(url.rsplit(":", 1)[1])
    listening = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port and c.pid}
    parents = {psutil.Process(pid).ppid() for pid in listening}
    return sorted(listening - parents) or sorted(
        child.pid
        for pid in listening
        for child in psutil.Process(pid).children()
        if "worker.service" in " ".join(child.cmdline())
    )


def test_info_is_the_model_card(server, artifact_path):
    info = httpx.get(f"{server}/info").json()
    card = json.loads((artifact_path / "model.json").read_text())
    assert (info["model"], info["classes"], info["files"]) == (card["name"], card["classes"], card["files"])
    assert info["engine"]["precision"] in ("fp32", "bf16", "int8")
    assert info["limits"]["max_batch_size"] == 32


def test_metrics(server):
    classify(server)
    httpx.post(f"{server}/classify", content=b"x", headers={"Content-Type": "image/png"})
    text = httpx.get(f"{server}/metrics").text
    for sample in (
        'dhvt_requests_total{route="/classify",status="200"}',
        'dhvt_requests_total{route="/classify",status="415"}',
        'dhvt_images_total{outcome="ok"}',
        'dhvt_images_total{outcome="unsupported_media_type"}',
        "dhvt_batch_size_count",
        "dhvt_decode_duration_seconds_sum",
        "dhvt_queue_duration_seconds_count",
        "dhvt_engine_duration_seconds_count",
        "dhvt_prediction_score_bucket",
        "dhvt_predictions_total{label=",
        'dhvt_engine_info{engine="',
        "dhvt_requests_in_flight 0.0",
    ):
        assert sample in text


def test_paths_that_nobody_serves_are_not_counted(server):
    for number in range(3):
        httpx.get(f"{server}/nope{number}")
    assert "/nope" not in httpx.get(f"{server}/metrics").text


def test_servers_on_one_machine_count_apart(server, artifact_path, tmp_path):
    classify(server)
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path)) as other:
        assert "dhvt_images_total{" not in httpx.get(f"{other}/metrics").text
    assert 'dhvt_images_total{outcome="ok"}' in httpx.get(f"{server}/metrics").text


def test_a_request_id_is_handed_through_or_made(server):
    assert classify(server, headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    made = {classify(server, headers={"X-Request-ID": bad}).headers["X-Request-ID"] for bad in ("", "a b", "x" * 200)}
    assert len(made) == 3
    assert all(len(identity) == 32 for identity in made)


def test_unknown_routes_and_methods_have_the_same_envelope(server):
    for method, path, status, code in (
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/classify", 405, "method_not_allowed"),
        ("PUT", "/classify/batch", 405, "method_not_allowed"),
        ("POST", "/livez", 405, "method_not_allowed"),
    ):
        response = httpx.request(method, f"{server}{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_refused_method_has_an_id_and_is_counted(server):
    response = httpx.get(f"{server}/classify", headers={"X-Request-ID": "abc-2"})
    assert (response.status_code, response.headers["X-Request-ID"]) == (405, "abc-2")
    assert 'dhvt_requests_total{route="/classify",status="405"}' in httpx.get(f"{server}/metrics").text


def test_a_server_without_token_cannot_be_reloaded_over_http(server):
    response = httpx.post(f"{server}/reload")
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


@pytest.fixture(scope="module")
def guarded(artifact_path, tmp_path_factory):
    """A server with a token, CORS and a whole access log, on a copy of the model: its address, the model's folder, its log."""
    folder = tmp_path_factory.mktemp("guarded")
    model = shutil.copytree(artifact_path, folder / "artifact")
    settings = {"DHVT_TOKEN": TOKEN, "DHVT_CORS_ORIGINS": "https://a.example, https://b.example", "DHVT_ACCESS_LOG": "all"}
    with serving(folder / "log", DHVT_MODEL=str(model), **settings) as url:
        yield url, model, folder / "log"


def test_only_health_is_open(guarded):
    url, _, _ = guarded
    for path in ("/livez", "/readyz", "/healthz"):
        assert httpx.get(f"{url}{path}").status_code == 200
    for path in ("/", "/info", "/metrics", "/docs.json", "/schema.json", "/nope"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer \xff"}):
            raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            response = httpx.get(f"{url}{path}", headers=raw)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthorized"
    assert classify(url).status_code == 401
    assert classify(url, headers=AUTHORIZED).status_code == 200
    assert httpx.get(f"{url}/info", headers=AUTHORIZED).status_code == 200


def test_cors_is_for_the_origins_that_were_named(guarded, server):
    url, _, _ = guarded
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = httpx.options(f"{url}/classify", headers={"Origin": "https://b.example", **preflight})
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    refused = httpx.options(f"{url}/classify", headers={"Origin": "https://evil.example", **preflight})
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in classify(server, headers={"Origin": "https://b.example"}).headers


def test_the_access_log_has_a_line_of_json_for_each_request(guarded):
    url, _, log = guarded
    classify(url, headers=AUTHORIZED | {"X-Request-ID": "find-me"})
    line = next(line for line in log.read_text().splitlines() if "find-me" in line)
    entry = json.loads(line[line.index("{") :])
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/classify", 200)
    assert entry["duration_ms"] > 0
    assert httpx.get(f"{url}/guess-me", headers={"X-Request-ID": "stranger"}).headers["X-Request-ID"] == "stranger"
    line = next(line for line in log.read_text().splitlines() if '"stranger"' in line)
    assert '"path": "/guess-me", "status": 401' in line
    assert 'dhvt_requests_total{route="other",status="401"}' in httpx.get(f"{url}/metrics", headers=AUTHORIZED).text
    assert TOKEN not in log.read_text()


def test_with_tracing_requests_take_bentomls_way(artifact_path, tmp_path):
    settings = {"DHVT_MODEL": str(artifact_path), "BENTOML_CONFIG_OPTIONS": "services.dhvt.tracing.sample_rate=1.0"}
    with serving(tmp_path / "log", **settings) as url:
        traced = classify(url, headers={"X-Request-ID": "mine"})
        assert traced.status_code == 200
        assert traced.headers["X-Request-ID"] == "mine"
        assert traced.headers["Server"] == "BentoML Service/dhvt"
        files = [("image", PNG), ("image", b"x")]
        batch = httpx.post(f"{url}/classify/batch", files=files, headers={"Accept": "application/x-ndjson"})
        assert [json.loads(line).keys() for line in batch.iter_lines()] == [{"name", "predictions"}, {"name", "error"}]
        refused = httpx.post(f"{url}/classify", content=b"x", headers={"Content-Type": "image/png"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")


@contextlib.contextmanager
def load(url, headers=None):
    """Clients that ask without a pause; gives their status codes and failures."""
    outcomes, stop = [], threading.Event()

    def ask():
        with httpx.Client(timeout=60, headers=headers) as client:
            while not stop.is_set():
                try:
                    outcomes.append(client.post(f"{url}/classify", files={"image": PNG}).status_code)
                except httpx.TransportError as error:
                    outcomes.append(error)
                    time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def rename_class(model, old, new):
    """The same model with a class of another name, its hashes put right as an export would."""
    from dataclasses import replace

    from dhvt.artifact import load_artifact, write_card

    card = load_artifact(model).card
    write_card(model, replace(card, classes=[new if name == old else name for name in card.classes]))


def test_a_reload_changes_the_model_and_loses_no_request(guarded):
    url, model, _ = guarded
    with load(url, AUTHORIZED) as outcomes:
        rename_class(model, "circle", "disc")
        reloaded = httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120)
        assert "disc" in reloaded.json()["classes"]
        assert "disc" in httpx.get(f"{url}/info", headers=AUTHORIZED).json()["classes"]
        rename_class(model, "disc", "circle")
        for pid in worker_pids(url):
            os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + 120
        while "disc" in httpx.get(f"{url}/info", headers=AUTHORIZED).json()["classes"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert len(outcomes) > 10
    assert set(outcomes) == {200}
    while not re.search(
        r"^dhvt_engine_info{.*} 1.0$", httpx.get(f"{url}/metrics", headers=AUTHORIZED).text, re.M
    ):  # the old one is closing
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_batch_that_pauses_is_finished_by_the_model_it_began_with(guarded):
    url, _, _ = guarded
    host, port = url.removeprefix("http://").split(":")
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + PNG + b"\r\n"
    head = (
        f"POST /classify/batch HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZED['Authorization']}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {2 * len(part) + 7}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + part + b"--x")
        assert httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120).status_code == 200
        assert classify(url, headers=AUTHORIZED).status_code == 200
        client.sendall(part[3:] + b"--x--\r\n")
        client.settimeout(60)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"predictions") == 2


def test_a_model_that_vanished_is_not_taken(guarded):
    url, model, _ = guarded
    away = model.rename(model.with_name("away"))
    try:
        response = httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120)
    finally:
        away.rename(model)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "not_reloaded")
    assert classify(url, headers=AUTHORIZED).status_code == 200


def test_a_model_that_cannot_be_served_is_not_taken(guarded):
    url, model, _ = guarded
    graph = model / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])
    try:
        response = httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "not_reloaded")
        assert "model.onnx" in response.json()["error"]["message"]
        assert classify(url, headers=AUTHORIZED).status_code == 200
    finally:
        graph.write_bytes(whole)


@pytest.mark.parametrize("environment", [{}, {"BENTOML_CONTAINERIZED": "true"}])
def test_a_killed_worker_is_replaced(artifact_path, tmp_path, environment):
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), **environment) as url:
        with load(url) as outcomes:
            (pid,) = worker_pids(url)
            while len(outcomes) < 20:
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            before = outcomes.count(200)
            deadline = time.monotonic() + 90
            while outcomes.count(200) < before + 20:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert worker_pids(url) != [pid]
        assert in_flight(url) == 0  # those inside the dead one are not counted on
    failures = [outcome for outcome in outcomes if outcome != 200]
    assert len(failures) <= 4  # at most what was inside
    assert all(isinstance(failure, httpx.TransportError) for failure in failures)


def in_flight(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith("dhvt_requests_in_flight ")), 0)


def test_sigterm_answers_what_was_accepted(artifact_path, tmp_path):
    """Half of each body has come when the signal does; the other half is still taken, and answered."""
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path)) as url, contextlib.ExitStack() as stack:
        host, port = url.removeprefix("http://").split(":")
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
        clients = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(8)]
        for client in clients:
            client.sendall(head + PNG[:50])
        while in_flight(url) < len(clients):
            time.sleep(0.05)
        server = psutil.Process(worker_pids(url)[0]).parent()
        server.send_signal(signal.SIGTERM)
        time.sleep(1)
        for client in clients:
            client.sendall(PNG[50:])
            client.settimeout(30)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        server.wait(30)


def test_sigterm_does_not_wait_for_ever_for_clients_that_read_nothing(artifact_path, tmp_path):
    """One has asked for more than the sockets hold, and takes nothing of it."""
    settings = {"DHVT_MODEL": str(artifact_path), "DHVT_REQUEST_TIMEOUT_S": "1", "DHVT_BATCH_TIMEOUT_S": "3"}
    with serving(tmp_path / "log", **settings) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        files = [("image", ("n" * 3000 + str(number), b"x")) for number in range(2000)]
        request = httpx.Request("POST", f"{url}/classify/batch", files=files)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        client.sendall(f"POST /classify/batch HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        while 'route="/classify/batch",status="200"' not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.05)
        server = psutil.Process(worker_pids(url)[0]).parent()
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    assert "connections that are still open after 3 s are closed" in (tmp_path / "log").read_text()


def test_a_client_that_has_gone_takes_no_place_in_a_long_queue(artifact_path, tmp_path):
    """Its picture is not computed, once the queue is so long that clients give up."""
    settings = {"DHVT_MODEL": str(artifact_path), "DHVT_MAX_BATCH_SIZE": "1", "DHVT_MAX_QUEUE_MS": "0"}
    large = encode(draw(0, 1).resize((3000, 3000)), "PNG")
    with serving(tmp_path / "log", **settings) as url:
        host, port = url.removeprefix("http://").split(":")
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(large)}\r\n\r\n"
        with contextlib.ExitStack() as stack:
            for number in range(100):
                client = stack.enter_context(socket.create_connection((host, int(port))))
                client.sendall(head.encode() + large)
                if number == 60:  # these will have waited for long enough that the server looks after the next
                    time.sleep(2)
        while in_flight(url):
            time.sleep(0.1)
        text = httpx.get(f"{url}/metrics").text
    assert float(re.search(r'route="/classify",status="400"} (\S+)', text)[1]) > 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_queue_that_is_too_old_takes_no_more(artifact_path, tmp_path):
    settings = {"DHVT_MODEL": str(artifact_path), "DHVT_MAX_QUEUE_MS": "1", "DHVT_MAX_BATCH_SIZE": "1"}
    with serving(tmp_path / "log", **settings) as url:
        with load(url) as outcomes:
            while 503 not in outcomes or 200 not in outcomes:
                time.sleep(0.05)
                assert len(outcomes) < 20_000
        assert set(outcomes) == {200, 503}
        assert classify(url).status_code == 200


@pytest.mark.slow
def test_memory_stays(artifact_path, tmp_path):
    """20,000 requests of every kind leave the worker less than 10 MB larger than the first 2,000 did."""
    junk = [
        ("/classify", {"files": {"image": PNG}}),
        ("/classify", {"files": {"image": PNG[:100]}}),
        ("/classify", {"files": {"image": b"hello" * 1000}}),
        ("/classify?top_k=0", {"files": {"image": PNG}}),
        ("/classify", {"json": {}}),
        ("/classify", {"files": {"img": PNG}}),
        ("/classify/batch", {"files": [("image", PNG), ("image", PNG[:100])]}),
        ("/classify/batch", {"content": b"PK", "headers": {"Content-Type": "application/zip"}}),
        ("/nope", {}),
        ("/livez", {}),
    ]
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_ACCESS_LOG="off") as url:
        worker = psutil.Process(worker_pids(url)[0])

        def send(numbers):
            with httpx.Client(timeout=60) as client:
                for number in numbers:
                    path, body = junk[number % len(junk)]
                    headers = body.get("headers", {}) | ({"Connection": "close"} if number % 5 == 0 else {})
                    path = f"/nope/{number}" if path == "/nope" else path
                    assert client.post(url + path, **body | {"headers": headers}).status_code < 500

        with ThreadPoolExecutor(4) as pool:
            sizes = []
            for start in range(0, 20_000, 2_000):
                list(pool.map(send, [range(start + lane, start + 2_000, 4) for lane in range(4)]))
                sizes.append(worker.memory_info().rss)
        assert in_flight(url) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
    print("worker, MB:", [round(size / 1e6) for size in sizes])
    assert sizes[-1] - sizes[0] < 10e6

"""A real server as its operators see it: doors, reloads, logs, numbers."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import time
from dataclasses import replace

import httpx
import pytest

from dhvt.artifact import load_artifact, write_card
from tests.serving.conftest import PNG, classify, load, read_log_line, serving, worker_pids

TOKEN = "correct horse"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


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
        'dhvt_engine_info{digest="',
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
    tokens = folder / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("old token\n")
    settings = {
        "DHVT_TOKEN": TOKEN,
        "DHVT_TOKEN_FILE": str(tokens),
        "DHVT_CORS_ORIGINS": "https://a.example, https://b.example",
        "DHVT_ACCESS_LOG": "all",
    }
    with serving(folder / "log", DHVT_MODEL=str(model), **settings) as url:
        yield url, model, folder / "log"


def test_only_health_is_open(guarded):
    url, _, _ = guarded
    for path in ("/livez", "/readyz", "/healthz", "/"):
        assert httpx.get(f"{url}{path}").status_code == 200
    for path in ("/info", "/metrics", "/docs.json", "/schema.json", "/nope"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer \xff"}):
            raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            response = httpx.get(f"{url}{path}", headers=raw)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthorized"
    assert classify(url).status_code == 401
    assert classify(url, headers=AUTHORIZED).status_code == 200
    assert classify(url, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
    assert httpx.get(f"{url}/info", headers=AUTHORIZED).status_code == 200


def status_with(url, token):
    return httpx.get(f"{url}/info", headers={"Authorization": f"Bearer {token}"}).status_code


def test_tokens_of_a_file_are_rotated_by_reloads(guarded):
    url, model, _ = guarded
    tokens = model.with_name("tokens")
    assert [status_with(url, token) for token in (TOKEN, "old token", "new token")] == [200, 200, 401]
    tokens.write_text("old token\nnew token\n")
    assert status_with(url, "new token") == 401
    assert httpx.post(f"{url}/reload", headers={"Authorization": "Bearer old token"}, timeout=120).status_code == 200
    assert [status_with(url, token) for token in (TOKEN, "old token", "new token")] == [200, 200, 200]
    tokens.write_text("new token\n")
    for pid in worker_pids(url):
        os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + 120
    while status_with(url, "old token") != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tokens.write_text("")
    refused = httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_reloaded")
    assert "is empty" in refused.json()["error"]["message"]
    assert [status_with(url, token) for token in (TOKEN, "new token")] == [200, 200]


def test_a_token_is_withdrawn_although_the_model_cannot_be_loaded(guarded):
    url, model, _ = guarded
    tokens = model.with_name("tokens")
    tokens.write_text("another token\n")
    away = model.rename(model.with_name("away"))
    try:
        assert httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120).status_code == 409
    finally:
        away.rename(model)
    assert [status_with(url, token) for token in ("new token", "another token")] == [401, 200]


def test_cors_is_for_the_origins_that_were_named(guarded, server):
    url, _, _ = guarded
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = httpx.options(f"{url}/classify", headers={"Origin": "https://b.example", **preflight})
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    refused = httpx.options(f"{url}/classify", headers={"Origin": "https://evil.example", **preflight})
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in classify(server, headers={"Origin": "https://b.example"}).headers


def test_cors_lets_pages_read_the_headers_that_clients_need(guarded):
    url, _, _ = guarded
    for headers, status in ((AUTHORIZED, 200), ({}, 401)):
        response = classify(url, headers=headers | {"Origin": "https://a.example"})
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert response.status_code == status
        assert {"X-Request-ID", "Retry-After", "X-Model-Digest", "X-Engine"} == set(exposed)


def test_the_access_log_has_a_line_of_json_for_each_request(guarded):
    url, _, log = guarded
    classify(url, headers=AUTHORIZED | {"X-Request-ID": "find-me"})
    entry = read_log_line(log, "find-me")
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/classify", 200)
    assert entry["duration_ms"] > 0
    assert httpx.get(f"{url}/guess-me", headers={"X-Request-ID": "stranger"}).headers["X-Request-ID"] == "stranger"
    entry = read_log_line(log, "stranger")
    assert (entry["path"], entry["status"], entry["code"]) == ("/guess-me", 401, "unauthorized")
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
        assert [json.loads(line).keys() for line in batch.iter_lines()] == [
            {"name", "predictions", "model", "version"},
            {"name", "error", "model", "version"},
        ]
        assert traced.headers["X-Model-Digest"] == batch.headers["X-Model-Digest"] == load_artifact(artifact_path).digest
        assert traced.headers["X-Engine"] == batch.headers["X-Engine"] == "openvino:fp32"
        refused = httpx.post(f"{url}/classify", content=b"x", headers={"Content-Type": "image/png"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")


def rename_class(model, old, new):
    """The same model with a class of another name, its hashes put right as an export would."""
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


def test_class_names_in_another_encoding_stay_apart(guarded):
    url, model, _ = guarded
    card = load_artifact(model).card
    names = ["caf\udce8", "caf\udce9", "t\\udce9"]
    try:
        write_card(model, replace(card, classes=names))
        assert httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120).status_code == 200
        labels = {entry["label"] for entry in classify(url, headers=AUTHORIZED).json()["predictions"]}
        assert labels == {"caf\\udce8", "caf\\udce9", "t\\udce9"}
        inputs = [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PNG).decode()]}]
        response = httpx.post(f"{url}/v2/models/{card.name}/infer", json={"inputs": inputs}, headers=AUTHORIZED)
        assert set(response.raise_for_status().json()["outputs"][0]["data"]) == labels
        question = {"label": "caf\\udce9", "method": "masking", "masks": 32}
        response = httpx.post(f"{url}/explain", params=question, files={"image": PNG}, headers=AUTHORIZED, timeout=60)
        assert response.raise_for_status().json()["label"] == "caf\\udce9"
    finally:
        write_card(model, card)
        assert httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120).status_code == 200


def identify(url):
    """What each kind of response tells of the model: its name, version and digest."""
    client = httpx.Client(base_url=url, headers=AUTHORIZED, timeout=30)
    single, info = client.post("/classify", files={"image": PNG}), client.get("/info")
    files = [("image", PNG), ("image", b"x")]
    batch = client.post("/classify/batch", files=files)
    lines = client.post("/classify/batch", files=files, headers={"Accept": "application/x-ndjson"})
    bodies = [single.json(), batch.json(), info.json(), *map(json.loads, lines.iter_lines())]
    digests = {response.headers["X-Model-Digest"] for response in (single, batch, info, lines)} | {info.json()["digest"]}
    (identity,) = {(body["model"], body["version"]) for body in bodies}
    (digest,) = digests
    return *identity, digest


def test_responses_log_and_metrics_tell_which_model_answered(guarded):
    url, model, log = guarded
    before = load_artifact(model)
    assert identify(url) == (before.card.name, before.card.version, before.digest)
    write_card(model, replace(before.card, name="hands", version="2", temperature=3.0))
    try:
        after = load_artifact(model)
        assert after.digest != before.digest
        assert httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120).json()["version"] == "2"
        assert identify(url) == ("hands", "2", after.digest)
        text = log.read_text()
        for artifact in (before, after):
            card = artifact.card
            assert f"serving {card.name} {card.version} from {model}, digest {artifact.digest}, 3 classes, with " in text
        values = f'digest="{after.digest}",engine="[a-z-]*",model="hands",precision="[a-z0-9]*",version="2"'
        assert re.search(
            rf"^dhvt_engine_info{{{values}}} 1.0$", httpx.get(f"{url}/metrics", headers=AUTHORIZED).text, re.MULTILINE
        )
    finally:
        write_card(model, before.card)
        assert httpx.post(f"{url}/reload", headers=AUTHORIZED, timeout=120).status_code == 200


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


@pytest.mark.parametrize("path", ["/", "/info", "/docs.json", "/livez", "/metrics"])
def test_head_is_answered_where_get_is(server, path):
    head, get = httpx.head(f"{server}{path}"), httpx.get(f"{server}{path}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_every_request_has_an_id_and_is_counted(guarded):
    url, _, log = guarded
    for method, path, headers, status in (
        ("GET", "/metrics", AUTHORIZED, 200),
        ("GET", "/readyz", {}, 200),
        ("GET", "/nope", AUTHORIZED, 404),
        ("POST", "/livez", {}, 405),
        ("OPTIONS", "/classify", {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}, 200),
    ):
        request_id = f"id-of-{method}-{path[1:]}"
        response = httpx.request(method, f"{url}{path}", headers=headers | {"X-Request-ID": request_id})
        assert (response.status_code, response.headers["X-Request-ID"]) == (status, request_id)
        assert read_log_line(log, request_id)["status"] == status
        label = path if path != "/nope" else "other"
        sample = f'dhvt_requests_total{{route="{label}",status="{status}"}}'
        assert sample in httpx.get(f"{url}/metrics", headers=AUTHORIZED).text

"""``POST /classify/batch`` of a real server."""

import io
import json
import socket
import tarfile
import time
import zipfile

import httpx
import pytest

from tests.conftest import draw, encode
from tests.serving.conftest import in_flight, serving

PICTURES = {f"{seed}.png": encode(draw(seed % 3, seed)) for seed in range(7)}
BROKEN = PICTURES["0.png"][:100]
JSON_LINES = "application/x-ndjson"
OK = 'dhvt_images_total{outcome="ok"}'


def tar(files, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


BAD_DEFLATE = zipped({"a": b"abc" * 999})[:31] + b"\xff" * 8 + zipped({"a": b"abc" * 999})[39:]


def form(files):
    return {"files": [("image", (name, data)) for name, data in files.items()]}


def archived(data, kind):
    return {"content": data, "headers": {"Content-Type": f"application/{kind}"}}


@pytest.fixture(scope="module")
def single(server):
    """What ``/classify`` says of each image."""
    return {
        name: httpx.post(f"{server}/classify", files={"image": data}).json()["predictions"] for name, data in PICTURES.items()
    }


def assert_results(results, single):
    assert [result["name"] for result in results] == list(single)
    for result in results:
        expected = single[result["name"]]
        assert [entry["label"] for entry in result["predictions"]] == [entry["label"] for entry in expected]
        assert [e["score"] for e in result["predictions"]] == pytest.approx([e["score"] for e in expected], abs=2e-2)


@pytest.mark.parametrize("request_body", [form(PICTURES), archived(tar(PICTURES), "x-tar"), archived(zipped(PICTURES), "zip")])
def test_every_image_is_answered_in_order(server, single, request_body):
    answer = httpx.post(f"{server}/classify/batch", **request_body).json()
    assert answer["model"] == "dhvt_test"
    assert_results(answer["results"], single)


@pytest.mark.parametrize(
    "package",
    [
        form,
        lambda files: archived(tar(files), "x-tar"),
        lambda files: archived(zipped(files), "zip"),
        lambda files: archived(zipped(files, zipfile.ZIP_STORED), "zip"),
    ],
)
def test_a_bad_image_has_an_error_in_its_place(server, single, package):
    files = {
        "a": PICTURES["0.png"],
        "broken": BROKEN,
        "text": b"hello",
        "empty": b"",
        "huge": b"\0" * 20_000_001,
        "b": PICTURES["1.png"],
    }
    results = httpx.post(f"{server}/classify/batch", **package(files), timeout=60).json()["results"]
    assert [result["name"] for result in results] == list(files)
    codes = [result["error"]["code"] if "error" in result else "ok" for result in results]
    assert codes == ["ok", "invalid_image", "unsupported_media_type", "invalid_image", "too_large", "ok"]
    assert_results(
        [results[0] | {"name": "0.png"}, results[-1] | {"name": "1.png"}], {k: single[k] for k in ("0.png", "1.png")}
    )


def test_lines_come_where_they_are_asked_for(server, single):
    with httpx.stream("POST", f"{server}/classify/batch", **form(PICTURES), headers={"Accept": JSON_LINES}) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        assert_results([json.loads(line) for line in response.iter_lines()], single)


def test_images_of_a_tar_are_classified_while_it_comes(server):
    def count():
        return sum(float(line.split()[1]) for line in httpx.get(f"{server}/metrics").text.splitlines() if line.startswith(OK))

    body = tar(PICTURES)
    half = body.index(PICTURES["3.png"])
    head = f"POST /classify/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
    before = count()
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(head.encode() + body[:half])
        while count() < before + 3:
            time.sleep(0.05)
        client.sendall(body[half:])
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_line_comes_before_the_next_image_does(server):
    """Who sends an image now and then need not wait for the next to learn of the last."""
    body = tar(PICTURES)
    first, second = body[: body.index(PICTURES["1.png"])], body[body.index(PICTURES["1.png"]) :]
    host, port = server.removeprefix("http://").split(":")
    head = (
        f"POST /classify/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nAccept: {JSON_LINES}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(head.encode() + first)
        received = b""
        while b'"0.png"' not in received:
            received += client.recv(100_000)
        client.sendall(second)
        while b'"6.png"' not in received:
            received += client.recv(100_000)


def test_top_k(server):
    results = httpx.post(f"{server}/classify/batch?top_k=1", **form(PICTURES)).json()["results"]
    assert [len(result["predictions"]) for result in results] == [1] * len(PICTURES)


@pytest.mark.parametrize(
    ("request_body", "status", "code", "text"),
    [
        ({"content": b"hello", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type", "application/x-tar"),
        ({"json": {}}, 400, "bad_request", "images"),
        ({"files": {"img": b"x"}}, 400, "bad_request", "no file 'image'"),
        (archived(tar(PICTURES)[:700], "x-tar"), 400, "bad_request", "archive"),
        (archived(zipped(PICTURES)[:-30], "zip"), 400, "bad_request", "archive"),
        (archived(b"", "zip"), 400, "bad_request", "archive"),
        (archived(tar({"n" * 5000: b""}), "x-tar"), 400, "bad_request", "name is longer than 4,096"),
        (archived(tar({".hidden": b"1"}), "x-tar"), 400, "bad_request", "no file"),
        (archived(b"hello", "x-tar"), 400, "bad_request", "archive"),
        (archived(zipped(PICTURES), "x-tar"), 400, "bad_request", "archive"),
    ],
)
def test_what_is_no_batch_gets_one_clear_error(server, request_body, status, code, text):
    response = httpx.post(f"{server}/classify/batch", **request_body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert text in error["message"]


def test_a_damaged_file_of_a_zip_has_an_error_in_its_place(server):
    response = httpx.post(f"{server}/classify/batch", **archived(BAD_DEFLATE, "zip"))
    assert response.status_code == 200
    error = response.json()["results"][0]["error"]
    assert error["code"] == "invalid_image"
    assert "damaged in the archive" in error["message"]


def test_an_error_after_the_first_line_is_the_last_line(server):
    body = form(PICTURES)
    request = httpx.Request("POST", f"{server}/classify/batch", files=body["files"])
    content = request.read()
    headers = {"Content-Type": request.headers["content-type"], "Accept": JSON_LINES}
    lines = httpx.post(f"{server}/classify/batch", content=content[:-200], headers=headers).text.splitlines()
    assert [json.loads(line).get("name") for line in lines] == [*list(PICTURES)[: len(lines) - 1], None]
    assert json.loads(lines[-1])["error"]["code"] == "bad_request"


def test_hidden_files_and_folders_of_archives_are_left_out(server):
    files = {"__MACOSX/0.png": b"x", "./.DS_Store": b"x", "./a/0.png": PICTURES["0.png"], "a/": b""}
    for request_body in (archived(tar({k: v for k, v in files.items() if k != "a/"}), "x-tar"), archived(zipped(files), "zip")):
        results = httpx.post(f"{server}/classify/batch", **request_body).json()["results"]
        assert [result["name"] for result in results] == ["./a/0.png"]


def test_a_file_name_that_is_no_utf8(server):
    """As tar keeps one that was made under another locale."""
    body = archived(tar({"kätzchen": PICTURES["0.png"], "b": BROKEN}, format=tarfile.GNU_FORMAT, encoding="latin-1"), "x-tar")
    for accept in ("application/json", "application/x-ndjson"):
        response = httpx.post(f"{server}/classify/batch", **body | {"headers": body["headers"] | {"Accept": accept}})
        assert response.status_code == 200
        assert response.content.decode().count(r"k\\udce4tzchen") == 1  # in JSON a backslash is two
        assert "invalid_image" in response.text


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_python_does_not_unpack_under_a_limit(server, method):
    """600 bytes of bzip2 are a gigabyte."""
    results = httpx.post(f"{server}/classify/batch", **archived(zipped({"a": PICTURES["0.png"]}, method), "zip")).json()[
        "results"
    ]
    assert [(result["name"], result["error"]["code"]) for result in results] == [("a", "unsupported_media_type")]


def test_limits(artifact_path, tmp_path):
    settings = {"DHVT_MAX_BATCH_IMAGES": "3", "DHVT_MAX_BATCH_UPLOAD_BYTES": "5000", "DHVT_MODEL": str(artifact_path)}
    files = dict(list(PICTURES.items())[:4])
    with serving(tmp_path / "log", **settings) as url:
        for request_body, status in (
            (form(files), 413),
            (archived(zipped(files), "zip"), 413),
            (archived(zipped(PICTURES) + b"\0" * 5000, "zip"), 413),
            (archived(iter([b"\0" * 3000] * 2), "zip"), 413),
        ):
            assert httpx.post(f"{url}/classify/batch", **request_body).status_code == status
        assert httpx.post(f"{url}/classify/batch", **form(dict(list(files.items())[:3]))).status_code == 200


def test_a_client_that_sends_all_before_it_reads(server):
    """Its lines are more than the sockets hold."""
    files = {"n" * 4000 + str(number): b"x" for number in range(2000)}
    request = archived(tar(files), "x-tar")
    response = httpx.post(f"{server}/classify/batch", **request | {"headers": request["headers"] | {"Accept": JSON_LINES}})
    assert [json.loads(line)["name"] for line in response.iter_lines()] == list(files)


@pytest.mark.parametrize("environment", [{}, {"BENTOML_CONFIG_OPTIONS": "services.dhvt.tracing.sample_rate=1.0"}])
def test_a_client_that_reads_nothing_is_let_go(artifact_path, tmp_path, environment):
    """Its lines are more than the sockets hold."""
    body = tar({"n" * 4000 + str(number): b"x" for number in range(2000)})
    head = (
        "POST /classify/batch HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        f"Content-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    log = tmp_path / "log"
    settings = {"DHVT_MODEL": str(artifact_path), "DHVT_REQUEST_TIMEOUT_S": "1"} | environment
    with serving(log, **settings) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        client.sendall(head.encode() + body)
        done = 'dhvt_requests_total{route="/classify/batch",status="504"} 1.0'
        while done not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.05)
        assert in_flight(url) == 0
        assert "Traceback" not in log.read_text()


def test_lines_that_end_in_an_error_are_recorded_as_that_error(server):
    def count(status):
        sample = f'dhvt_requests_total{{route="/classify/batch",status="{status}"}} '
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))

    before = count(200), count(400)
    request = httpx.Request("POST", f"{server}/classify/batch", files=form(PICTURES)["files"])
    headers = {"Content-Type": request.headers["content-type"], "Accept": JSON_LINES}
    response = httpx.post(f"{server}/classify/batch", content=request.read()[:-200], headers=headers)
    assert (response.status_code, "bad_request" in response.text) == (200, True)
    assert (count(200), count(400)) == (before[0], before[1] + 1)

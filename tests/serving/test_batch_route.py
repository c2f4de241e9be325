"""``POST /classify/batch`` of a real server."""

import io
import json
import tarfile
import zipfile

import httpx
import pytest

from tests.conftest import draw, encode
from tests.serving.conftest import serving

PICTURES = {f"{seed}.png": encode(draw(seed % 3, seed)) for seed in range(7)}
BROKEN = PICTURES["0.png"][:100]


def tar(files, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def form(files):
    return {"files": [("image", (name, data)) for name, data in files.items()]}


def archived(data, kind):
    return {"content": data, "headers": {"Content-Type": f"application/{kind}"}}


@pytest.fixture(scope="module")
def single(server):
    """What ``/classify`` says of each picture."""
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
def test_every_picture_is_answered_in_order(server, single, request_body):
    answer = httpx.post(f"{server}/classify/batch", **request_body).json()
    assert answer["model"] == "dhvt_test"
    assert_results(answer["results"], single)


@pytest.mark.parametrize(
    "package", [form, lambda files: archived(tar(files), "x-tar"), lambda files: archived(zipped(files), "zip")]
)
def test_a_bad_picture_has_an_error_in_its_place(server, single, package):
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
    with httpx.stream(
        "POST", f"{server}/classify/batch", **form(PICTURES), headers={"Accept": "application/x-ndjson"}
    ) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        assert_results([json.loads(line) for line in response.iter_lines()], single)


def test_top_k(server):
    results = httpx.post(f"{server}/classify/batch?top_k=1", **form(PICTURES)).json()["results"]
    assert [len(result["predictions"]) for result in results] == [1] * len(PICTURES)


@pytest.mark.parametrize(
    ("request_body", "status", "code", "text"),
    [
        ({"json": {}}, 415, "unsupported_media_type", "application/x-tar"),
        ({"files": {"img": b"x"}}, 400, "bad_request", "no file 'image'"),
        (archived(tar(PICTURES)[:700], "x-tar"), 400, "bad_request", "archive"),
        (archived(zipped(PICTURES)[:-30], "zip"), 400, "bad_request", "archive"),
        (archived(b"", "zip"), 400, "bad_request", "archive"),
        (archived(b"hello", "x-tar"), 400, "bad_request", "archive"),
        (archived(zipped(PICTURES), "x-tar"), 400, "bad_request", "archive"),
    ],
)
def test_what_is_no_batch_gets_one_clear_error(server, request_body, status, code, text):
    response = httpx.post(f"{server}/classify/batch", **request_body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert text in error["message"]


def test_an_error_after_the_first_line_is_the_last_line(server):
    body = form(PICTURES)
    request = httpx.Request("POST", f"{server}/classify/batch", files=body["files"])
    content = request.read()
    headers = {"Content-Type": request.headers["content-type"], "Accept": "application/x-ndjson"}
    lines = httpx.post(f"{server}/classify/batch", content=content[:-200], headers=headers).text.splitlines()
    assert [json.loads(line).get("name") for line in lines] == [*list(PICTURES)[: len(lines) - 1], None]
    assert json.loads(lines[-1])["error"]["code"] == "bad_request"


def test_hidden_files_and_folders_of_archives_are_left_out(server):
    files = {"__MACOSX/0.png": b"x", "./.DS_Store": b"x", "./a/0.png": PICTURES["0.png"], "a/": b""}
    for request_body in (archived(tar({k: v for k, v in files.items() if k != "a/"}), "x-tar"), archived(zipped(files), "zip")):
        results = httpx.post(f"{server}/classify/batch", **request_body).json()["results"]
        assert [result["name"] for result in results] == ["./a/0.png"]


def test_limits(artifact_path, tmp_path):
    settings = {"DHVT_MAX_BATCH_IMAGES": "3", "DHVT_MAX_BATCH_UPLOAD_BYTES": "5000", "DHVT_MODEL": str(artifact_path)}
    files = dict(list(PICTURES.items())[:4])
    with serving(tmp_path / "log", **settings) as url:
        for request_body, status in (
            (form(files), 400),
            (archived(zipped(files), "zip"), 413),
            (archived(zipped(PICTURES) + b"\0" * 5000, "zip"), 413),
            (archived(iter([b"\0" * 3000] * 2), "zip"), 413),
        ):
            assert httpx.post(f"{url}/classify/batch", **request_body).status_code == status
        assert httpx.post(f"{url}/classify/batch", **form(dict(list(files.items())[:3]))).status_code == 200

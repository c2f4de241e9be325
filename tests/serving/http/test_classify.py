"""Requests to a real server."""

import io
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import bentoml
import httpx
import numpy as np
import pytest
from PIL import Image

from dhvt.artifact import load_artifact
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import open_engine
from dhvt.ranking import rank
from tests.conftest import CLASSES, draw, encode

PNG = encode(draw(0, 1))


@pytest.fixture(scope="module")
def expected(artifact_path):
    """What the engine says of some bytes without any server."""
    artifact = load_artifact(artifact_path)
    engine = open_engine(artifact, threads=1).engine

    def predict(data, top_k=5):
        logits = engine.predict(preprocess_image(data, artifact.card.preprocess)[None])
        return rank(logits, artifact.card)[0].top(artifact.card, top_k)

    return predict


@pytest.mark.parametrize("connection", ["Upgrade, HTTP2-Settings", "keep-alive, Upgrade, HTTP2-Settings"])
def test_an_offer_of_http_2_costs_no_body(server, connection):
    """As Java's client makes it with every request."""
    offer = {"Connection": connection, "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAAAAAAQBAAAAAAUAAEAA"}
    with httpx.Client(base_url=server, headers=offer) as client:
        raw = client.post("/classify", content=PNG, headers={"Content-Type": "image/png"})
        large = client.post("/classify", files={"image": encode(draw(1, 1, (700, 900)), "BMP")})
        chunked = client.post("/classify", content=iter([PNG[:100], PNG[100:]]), headers={"Content-Type": "image/png"})
        info = client.get("/info")
    assert [response.status_code for response in (raw, large, chunked, info)] == [200] * 4, raw.text
    assert raw.json() == chunked.json()


def test_connect_is_refused_at_once(server):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")


def test_a_content_type_without_end_is_refused_at_once(server):
    headers = {"Content-Type": "multipart/form-data; boundary=x" + ';"' * 50_000}
    response = httpx.post(f"{server}/classify", content=b"--x--", headers=headers, timeout=20)
    assert response.status_code == 400
    assert "more than 1000 characters" in response.json()["error"]["message"]


def test_top_k_may_have_leading_zeros(server):
    response = httpx.post(f"{server}/classify?top_k=0000000001", content=PNG, headers={"Content-Type": "image/png"})
    assert len(response.json()["predictions"]) == 1


def assert_answer(response, predictions):
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == "dhvt_test"
    assert [entry["label"] for entry in answer["predictions"]] == [entry["label"] for entry in predictions]
    got, wanted = ([entry["score"] for entry in rows] for rows in (answer["predictions"], predictions))
    assert got == pytest.approx(wanted, abs=2e-2)


def assert_error(response, status, code, text):
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    assert body["error"]["code"] == code
    assert text in body["error"]["message"]


def test_multipart_and_raw_bodies(server, expected):
    for file_format in ("PNG", "JPEG", "WEBP"):
        data = encode(draw(1, 2), file_format)
        assert_answer(httpx.post(f"{server}/classify", files={"image": ("a", data)}), expected(data))
        headers = {"Content-Type": f"image/{file_format.lower()}"}
        assert_answer(httpx.post(f"{server}/classify", content=data, headers=headers), expected(data))


def test_the_declared_type_and_name_do_not_matter(server, expected):
    files = {"image": ("cat.gif", PNG, "video/mp4")}
    assert_answer(httpx.post(f"{server}/classify", files=files), expected(PNG))
    assert_answer(httpx.post(f"{server}/classify", content=PNG, headers={"Content-Type": "image/jpg"}), expected(PNG))


def test_a_file_name_in_any_script(server, expected):
    head = "--x\r\nContent-Disposition: form-data; name=\"image\"; filename*=utf-8''k%C3%A4tzchen.png\r\n\r\n"
    assert_answer(httpx.post(f"{server}/classify", **multipart(head.encode() + PNG + b"\r\n--x--\r\n")), expected(PNG))
    assert_answer(httpx.post(f"{server}/classify", files={"image": ("ねこ.png", PNG)}), expected(PNG))


def test_top_k(server, expected):
    url = f"{server}/classify"
    assert_answer(httpx.post(f"{url}?top_k=1", files={"image": PNG}), expected(PNG, 1))
    assert_answer(httpx.post(f"{url}?top_k=99", files={"image": PNG}), expected(PNG, 99))
    assert_answer(httpx.post(url, files={"image": PNG}, data={"top_k": "2"}), expected(PNG, 2))
    for bad in ("0", "-1", "two", "", "1.5", "٣"):
        assert_error(httpx.post(url, params={"top_k": bad}, files={"image": PNG}), 400, "bad_request", "top_k")


@pytest.mark.parametrize("route", ["/classify", "/classify/batch", "/explain"])
@pytest.mark.parametrize("name", ["coverage", "topk", "label"])
def test_an_option_in_a_form_is_not_ignored(server, route, name):
    response = httpx.post(f"{server}{route}", files={"image": PNG}, data={name: "1"})
    assert_error(response, 400, "bad_request", f"a field {name!r}")


def multipart(body, boundary="x"):
    return {"content": body, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("request_body", "status", "code", "text"),
    [
        ({"files": {"image": b"hello"}}, 415, "unsupported_media_type", "JPEG, PNG"),
        ({"files": {"image": b""}}, 400, "invalid_image", "empty"),
        ({"files": {"image": PNG[: len(PNG) // 2]}}, 400, "invalid_image", "damaged or truncated"),
        ({"files": {"img": PNG}}, 400, "bad_request", "fields: img"),
        ({"files": [("image", PNG), ("image", PNG)]}, 400, "bad_request", "2 fields 'image'"),
        (
            multipart(b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\ncat.jpg\r\n--x--\r\n'),
            400,
            "bad_request",
            "@",
        ),
        (multipart(b""), 400, "bad_request", "cut off"),
        (multipart(b"no boundary here"), 400, "bad_request", "malformed"),
        (multipart(PART + PNG), 400, "bad_request", "cut off"),
        (multipart(PART + PNG + b"\r\n--x--\r\n", "y"), 400, "bad_request", "multipart"),
        (multipart(b"--x--\r\n"), 400, "bad_request", ""),
        (multipart(b"--x\r\n\r\n\r\n" * 50_000 + b"--x--\r\n"), 400, "bad_request", "more than 16 fields"),
        (
            multipart(b"--x\r\nContent-Disposition: form-data; name*=utf-8''im%00\r\n\r\n1\r\n--x--\r\n"),
            400,
            "bad_request",
            "im",
        ),
        ({"content": PNG, "headers": {"Content-Type": "multipart/form-data"}}, 400, "bad_request", "boundary"),
        (multipart(PNG, "x" * 300), 400, "bad_request", "boundary"),
        (
            {"content": PNG, "headers": {"Content-Type": "multipart/form-data; boundary*=a%00''x"}},
            400,
            "bad_request",
            "malformed",
        ),
        (
            {"content": PNG, "headers": {"Content-Type": "multipart/form-data; boundary*=idna''x"}},
            400,
            "bad_request",
            "malformed",
        ),
        (multipart(PNG, "x; boundary*=x; boundary*0=x"), 400, "bad_request", "malformed"),
        (
            multipart(b"--x\r\nContent-Disposition: form-data; name*=a; name*0=b\r\n\r\n1\r\n--x--\r\n"),
            400,
            "bad_request",
            "malformed",
        ),
        ({"content": b"", "headers": {"Content-Type": "image/png"}}, 400, "invalid_image", "empty"),
        ({"json": {"image": "http://localhost/cat.jpg"}}, 400, "bad_request", "never fetches"),
        ({"data": {"image": "cat.jpg"}}, 415, "unsupported_media_type", "x-www-form-urlencoded"),
        ({"content": PNG}, 415, "unsupported_media_type", "missing"),
        ({"files": {"image": b"\0" * 20_000_001}}, 413, "too_large", "20,000,000"),
        ({"content": iter([b"\0" * 1_000_000] * 21), "headers": {"Content-Type": "image/png"}}, 413, "too_large", "20,000,000"),
        ({"files": {"image": encode(Image.new("1", (9000, 9000)))}}, 413, "too_large", "9000x9000"),
    ],
)
def test_bad_uploads_get_a_clear_error_and_the_server_goes_on(server, expected, request_body, status, code, text):
    assert_error(httpx.post(f"{server}/classify", timeout=30, **request_body), status, code, text)
    assert_answer(httpx.post(f"{server}/classify", files={"image": PNG}), expected(PNG))


def test_text_in_the_file_field_is_never_fetched(server):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(1)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.jpg"
        body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + address.encode() + b"\r\n--x--\r\n"
        assert_error(httpx.post(f"{server}/classify", **multipart(body)), 400, "bad_request", "text")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_one_bad_image_among_thirty_good_ones(server, expected):
    images = [encode(draw(seed % 3, seed)) for seed in range(30)]
    answers = [expected(image) for image in images]
    with httpx.Client(limits=httpx.Limits(max_connections=31)) as client, ThreadPoolExecutor(31) as pool:

        def send(data):
            return client.post(f"{server}/classify", files={"image": data}, timeout=60)

        for _ in range(3):
            responses = list(pool.map(send, [*images[:15], PNG[: len(PNG) // 2], *images[15:]]))
            assert_error(responses.pop(15), 400, "invalid_image", "truncated")
            for response, answer in zip(responses, answers, strict=True):
                assert_answer(response, answer)


def test_a_client_that_hangs_up_harms_nobody(server, expected):
    host, port = server.removeprefix("http://").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\nabc"
            )
    assert_answer(httpx.post(f"{server}/classify", files={"image": PNG}), expected(PNG))


def test_bentomls_own_client(server, expected, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with bentoml.SyncHTTPClient(server) as client:
        answer = client.classify(image=path, top_k=2)
        several = client.classify_batch(image=[path, path])
    assert [entry["label"] for entry in answer["predictions"]] == [entry["label"] for entry in expected(PNG, 2)]
    assert [len(result["predictions"]) for result in several["results"]] == [3, 3]


def test_phone_photographs_are_turned_upright(server, expected):
    upright = draw(2, 9, (60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = encode(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert_answer(httpx.post(f"{server}/classify", files={"image": sideways}), expected(encode(upright)))


def test_the_response_says_where_the_time_went(server):
    start = time.perf_counter()
    response = httpx.post(f"{server}/classify", files={"image": PNG})
    elapsed_ms = (time.perf_counter() - start) * 1000
    found = re.fullmatch(r"decode;dur=([\d.]+), wait;dur=([\d.]+), engine;dur=([\d.]+)", response.headers["Server-Timing"])
    decode, wait, engine = map(float, found.groups())
    assert min(decode, engine) > 0
    assert wait >= 0
    assert decode + wait + engine < elapsed_ms


def test_scores_are_probabilities(server):
    answer = httpx.post(f"{server}/classify", files={"image": PNG}).json()
    scores = [entry["score"] for entry in answer["predictions"]]
    assert sorted(entry["label"] for entry in answer["predictions"]) == CLASSES
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(scores).all()


def test_a_large_but_allowed_photograph(server, expected):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    assert_answer(httpx.post(f"{server}/classify", files={"image": buffer.getvalue()}, timeout=30), expected(buffer.getvalue()))

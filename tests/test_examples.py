"""The worked examples, run."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from dhvt.artifact import load_artifact
from tests.conftest import draw, encode

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ANSWER = b'{"model":"m","predictions":[{"label":"cat","score":0.9}]}'


@pytest.fixture
def busy_server():
    """A server that gives the statuses of a list in turn, 0 for a closed connection, then 200; and what it was asked."""
    statuses, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers.get("Authorization")))
            status = statuses.pop(0) if statuses else 200
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "1")
            body = ANSWER if status == 200 else b'{"error":{"code":"c","message":"m"}}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", statuses, asked
        finally:
            server.shutdown()
            thread.join()


def run(script, *arguments, **environ):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | environ)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encode(draw(0, 1)))
    return path


def test_the_retry_client_comes_back(busy_server, image):
    url, statuses, asked = busy_server
    statuses += [503, 0, 502]
    result = run("retry_client.py", url, image, image, DHVT_TOKEN="secret")
    assert result.stdout.splitlines() == [f"{image}: cat (90.0%)"] * 2, result.stderr
    assert asked == [("/classify?top_k=1", "Bearer secret")] * 5


def test_the_retry_client_does_not_repeat_what_cannot_change(busy_server, image):
    url, statuses, asked = busy_server
    statuses += [400]
    result = run("retry_client.py", url, image)
    assert result.returncode != 0
    assert "400 Bad Request" in result.stderr
    assert len(asked) == 1


def test_the_retry_client_gives_up(busy_server, image):
    url, statuses, asked = busy_server
    statuses += [502] * 20
    assert run("retry_client.py", url, image).returncode != 0
    assert len(asked) == 6


def test_the_retry_client_waits_as_long_as_it_is_asked(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from retry_client import MAX_WAIT_S, seconds_to_wait

    assert all(7 <= seconds_to_wait(1, "7") < 8 for _ in range(100))
    assert len({seconds_to_wait(3) for _ in range(100)}) > 50
    assert max(seconds_to_wait(tried, after) for tried in (1, 30) for after in ("", "999")) <= MAX_WAIT_S


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_without_arguments_says_what_to_type(name):
    result = run(name)
    assert result.returncode == 1
    assert f"python examples/{name} " in result.stderr


def load_example(name, monkeypatch, *arguments):
    """A script as a module, with its command line."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    spec = spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_on_a_folder(image_folder, graphs_once, tmp_path, monkeypatch, capsys):
    """With a small model and one epoch, and what it exported sorts images."""
    example = load_example("train_on_a_folder.py", monkeypatch, image_folder, tmp_path / "run")
    train, small = example.train, {"depth": 1, "embed_dim": 32, "num_heads": 4}
    monkeypatch.setattr(
        example,
        "train",
        lambda options, recipe: train(replace(options, model_options=small, device="cpu"), replace(recipe, epochs=1)),
    )
    example.main()
    assert "classes: circle, square, stripes" in capsys.readouterr().out
    assert load_artifact(tmp_path / "run" / "artifact").card.variants[0].parity["images"] == "real"

    (tmp_path / "photos").mkdir()
    draw(1, 1).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    load_example("sort_images.py", monkeypatch, tmp_path / "run" / "artifact", tmp_path / "photos", tmp_path / "sorted").main()
    printed = capsys.readouterr()
    (copy,) = (tmp_path / "sorted").rglob("*.png")
    assert printed.out == f"{copy.parent.name}: 1\n"
    assert "broken.png" in printed.err

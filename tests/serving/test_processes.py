"""A real server's processes: killed, ended, overrun, left by their clients, and asked for long."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.conftest import draw, encode
from tests.serving.conftest import PNG, ROOT, classify, in_flight, load, serving, worker_pids


@pytest.mark.parametrize("environment", [{}, {"BENTOML_CONTAINERIZED": "true"}])
def test_a_killed_worker_is_replaced(artifact_path, tmp_path, environment):
    others = tmp_path / "others"  # metrics of another server, which a variable of the environment names
    others.mkdir()
    (others / "counter_1.db").touch()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(others), **environment}
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
    assert [path.name for path in others.iterdir()] == ["counter_1.db"]
    failures = [outcome for outcome in outcomes if outcome != 200]
    assert len(failures) <= 4  # at most what was inside
    assert all(isinstance(failure, httpx.TransportError) for failure in failures)


def test_a_reload_ends_no_worker_that_is_starting(artifact_path, tmp_path):
    settings = {"DHVT_MODEL": str(artifact_path), "DHVT_WORKERS": "2", "DHVT_TOKEN": "secret"}
    with serving(tmp_path / "log", **settings) as url, contextlib.ExitStack() as stack:
        address = url.removeprefix("http://").split(":")
        server = psutil.Process(worker_pids(url)[0]).parent()

        def workers():
            found = set()
            for child in server.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "worker.service" in " ".join(child.cmdline()):
                        found.add(child.pid)
            return found

        def reload_until_both_answer():
            """All workers that there were meanwhile."""
            seen, answering, deadline = set(), set(), time.monotonic() + 90
            while len(answering) < 2:
                reloaded = httpx.post(f"{url}/reload", headers={"Authorization": "Bearer secret"}, timeout=60)
                assert reloaded.status_code in {200, 409}  # 409: the other has told this one to
                seen |= workers()
                stack.enter_context(socket.create_connection((address[0], int(address[1]))))
                answering |= {c.pid for c in psutil.net_connections("tcp") if c.status == "ESTABLISHED"} & workers()
                assert time.monotonic() < deadline
            return seen

        killed, other = reload_until_both_answer()
        os.kill(killed, signal.SIGKILL)
        while killed in workers():
            time.sleep(0.01)
        assert len(reload_until_both_answer()) == 2
        assert other in workers()


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
    timeouts = {"DHVT_REQUEST_TIMEOUT_S": "1", "DHVT_EXPLAIN_TIMEOUT_S": "1", "DHVT_BATCH_TIMEOUT_S": "15"}
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), **timeouts) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        files = [("image", ("n" * 3000 + str(number), b"x")) for number in range(2000)]
        request = httpx.Request("POST", f"{url}/classify/batch", files=files)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        client.sendall(f"POST /classify/batch HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        while 'dhvt_images_total{outcome="unsupported_media_type"} 2000.0' not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.05)
        server = psutil.Process(worker_pids(url)[0]).parent()
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert "connections that are still open after 15 s are closed" in (tmp_path / "log").read_text()


@contextlib.contextmanager
def two_processors():
    """For what is started inside, however many there are."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_client_that_has_gone_takes_no_place_in_a_long_queue(artifact_path, tmp_path):
    """Its image is not computed, once the queue is so long that clients give up."""
    settings = {"DHVT_MODEL": str(artifact_path), "DHVT_MAX_BATCH_SIZE": "1", "DHVT_MAX_QUEUE_MS": "0"}
    large = encode(draw(0, 1).resize((3000, 3000)), "PNG")
    with two_processors(), serving(tmp_path / "log", **settings) as url:
        host, port = url.removeprefix("http://").split(":")
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(large)}\r\n\r\n"
        with contextlib.ExitStack() as stack:
            for number in range(100):
                client = stack.enter_context(socket.create_connection((host, int(port))))
                client.sendall(head.encode() + large)
                if number == 60:  # these will have waited for long enough that the server looks after the next
                    time.sleep(2)
        gone = re.compile(r'dhvt_requests_total{route="/classify",status="400"} [1-9]')
        deadline = time.monotonic() + 120
        while in_flight(url) or not gone.search(httpx.get(f"{url}/metrics").text):
            assert time.monotonic() < deadline
            time.sleep(0.1)
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


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_the_event_loop_comes_before_the_threads_that_work():
    """Under overload it would else get the share of one thread among many, and refuse too late."""
    code = """
import os, threading
from serving.processes import prefer_event_loop
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
prefer_event_loop()
print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), os.getpriority(os.PRIO_PROCESS, thread.native_id))
done.set()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    own, other = map(int, result.stdout.split())
    assert other > own

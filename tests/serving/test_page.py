"""The page at ``/`` asks no other host for anything: by its text, by its policy, and in a browser."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager

import aiohttp
import httpx
import pytest

from tests.serving.conftest import serving

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_the_page_names_no_other_host_and_forbids_the_browser_to_ask_one(server):
    response = httpx.get(server)
    assert response.headers["content-type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//[\w-]+\.", response.text)
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert not [rule for rule in policy.values() if "http" in rule or "*" in rule]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
def test_a_browser_shows_the_page_and_asks_this_server_alone(server, tmp_path):
    log = tmp_path / "net.json"
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ]
    command += ["--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--log-net-log={log}", "--net-log-capture-mode=IncludeSensitive", "--virtual-time-budget=5000", "--dump-dom"]
    result = subprocess.run([*command, f"{server}/"], capture_output=True, text=True, timeout=120, check=False)
    info = httpx.get(f"{server}/info").json()
    shown = f"dhvt_test {info['version']}: 3 classes"
    assert shown in result.stdout, result.stderr  # its script has asked /info, so it may run
    asked_by_the_page = {
        event["params"]["url"]
        for event in json.loads(log.read_text())["events"]
        if event.get("params", {}).get("initiator") == server  # Chromium's own updater has another
    }
    assert asked_by_the_page == {f"{server}/info"}


@contextmanager
def browser(url, profile):
    """Chromium on a page; gives a function that runs JavaScript there and returns what it evaluates to."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    process = subprocess.Popen([*command, f"--user-data-dir={profile}", "--remote-debugging-port=0", url])
    try:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port_file.exists() or not port_file.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        targets = httpx.get(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list", timeout=30).json()
        address = next(target["webSocketDebuggerUrl"] for target in targets if target["url"].startswith(url))

        async def evaluate(script):
            request = {"id": 1, "method": "Runtime.evaluate", "params": {"expression": script, "returnByValue": True}}
            async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
                await socket.send_json(request)
                return (await socket.receive_json(timeout=30))["result"]["result"].get("value")

        yield lambda script: asyncio.run(evaluate(script))
    finally:
        process.terminate()
        process.wait(30)


def wait_for(evaluate, script, expected):
    deadline = time.monotonic() + 60
    while expected not in (value := str(evaluate(script))):
        assert time.monotonic() < deadline, value
        time.sleep(0.2)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
def test_a_browser_is_asked_for_the_token_once(artifact_path, tmp_path):
    model = "document.getElementById('model').textContent"
    is_hidden = "document.getElementById('authorize').hidden"
    send = "document.getElementById('token').value = {!r}; document.querySelector('#authorize button').click()"
    with (
        serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_TOKEN="secret") as url,
        browser(f"{url}/", tmp_path / "profile") as evaluate,
    ):
        wait_for(evaluate, model, "asks for a token")
        assert evaluate(is_hidden) is False
        evaluate(send.format("wrong"))
        evaluate(send.format("secret"))
        wait_for(evaluate, model, "dhvt_test")
        assert evaluate(is_hidden) is True
        evaluate("location.reload()")
        wait_for(evaluate, model, "dhvt_test")
        assert evaluate("sessionStorage.getItem('token') + localStorage.length + document.cookie") == "secret0"

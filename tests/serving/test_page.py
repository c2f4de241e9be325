"""The page at ``/`` asks no other host for anything: by its text, by its policy, and in a browser."""

import json
import re
import shutil
import subprocess

import httpx
import pytest

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
    assert "dhvt_test: 3 classes" in result.stdout, result.stderr  # its script has asked /info, so it may run
    asked_by_the_page = {
        event["params"]["url"]
        for event in json.loads(log.read_text())["events"]
        if event.get("params", {}).get("initiator") == server  # Chromium's own updater has another
    }
    assert asked_by_the_page == {f"{server}/info"}

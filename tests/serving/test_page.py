"""The pages' files: what they refer to, their policy, and that they are installed."""

import re
import tomllib
from fnmatch import fnmatch

import httpx
import pytest

from serving.http.page import page_files
from tests.serving.conftest import ROOT

OWN = [path for path, file in page_files().items() if file.is_relative_to(ROOT)]


@pytest.mark.parametrize("path", OWN)
def test_a_file_names_no_other_host_and_its_policy_forbids_the_browser_to_ask_one(server, path):
    response = httpx.get(f"{server}{path}")
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert response.headers["content-type"].split(";")[0] == kinds.get(page_files()[path].suffix, "text/html")
    text = response.text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.findall(r"(?:https?:)?//[\w-]+\.", text)
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not [rule for rule in policy.values() if "http" in rule or "*" in rule or "unsafe" in rule]


@pytest.mark.parametrize("path", ["/ui", "/docs"])
def test_a_page_has_no_script_and_no_style_of_its_own(server, path):
    page = httpx.get(f"{server}{path}").text
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""] * page.count("<script")
    assert not re.search(r"<style|\s(?:style|on\w+)=", page)


def test_the_page_is_at_the_root_too(server):
    assert httpx.get(server).content == httpx.get(f"{server}/ui").content
    head = httpx.head(f"{server}/ui")
    assert (head.status_code, head.content) == (200, b"")
    assert httpx.post(f"{server}/ui").status_code == 405


@pytest.mark.parametrize("path", ["/ui/none.js", "/ui/{file}", "/ui/..%2fservice.py", "/ui/"])
def test_what_is_no_file_of_a_page_is_not_found(server, path):
    response = httpx.get(f"{server}{path}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_the_wheel_has_the_pages():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["serving"]
    for path in OWN:
        file = str(page_files()[path].relative_to(ROOT / "serving"))
        assert any(fnmatch(file, pattern) and file.count("/") == pattern.count("/") for pattern in patterns)

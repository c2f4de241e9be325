"""Files of tokens."""

import os

import pytest

from dhvt.errors import ConfigError
from serving.http.auth import read_tokens
from serving.settings import Settings


@pytest.fixture
def token_file(tmp_path):
    """Writes such a file, and gives the settings that name it."""

    def write(content, mode=0o600, **settings):
        path = tmp_path / "tokens"
        path.write_bytes(content)
        path.chmod(mode)
        return Settings(token_file=str(path), **settings)

    return write


def test_each_line_is_a_token_and_the_variable_one_more(token_file):
    assert read_tokens(Settings()) == ()
    assert read_tokens(token_file(b" old \r\n\nnew\n")) == (b"old", b"new")
    assert read_tokens(token_file(b"one", token="two")) == (b"two", b"one")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"\n \n", 0o600, "is empty"),
        (b"secret", 0o640, "mode 0640.*chmod 600"),
        (b"secret", 0o604, "mode 0604"),
        (b"\xff\xfe", 0o600, "UTF-8"),
        (b"a\x00b", 0o600, "no header can carry"),
        (b"a" * 70_000, 0o600, "more than 65,536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used(token_file, content, mode, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_tokens(token_file(content, mode))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_missing_or_a_folder(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match=r"DHVT_TOKEN_FILE is .*, which cannot be read"):
            read_tokens(Settings(token_file=str(path)))


def test_a_file_of_another_owner_may_be_readable_through_its_group(token_file, monkeypatch):
    """As Kubernetes mounts a Secret: root's, for the pod's group."""
    settings = token_file(b"secret", 0o440)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert read_tokens(settings) == (b"secret",)
    with pytest.raises(ConfigError, match="mode 0460"):
        read_tokens(token_file(b"secret", 0o460))

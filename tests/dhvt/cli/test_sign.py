"""``dhvt sign``, and what DHVT_REQUIRE_SIGNATURE refuses."""

import base64
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dhvt.artifact import load_artifact, write_card
from dhvt.cli.main import main
from dhvt.errors import ArtifactError

PASSWORD = "correct horse"


def run(*arguments, env=None, **options):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=env, **options)


def write_private(path, key, password=None):
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs: key.pem and key.pub, other.pem and other.pub; and the first with a password, locked.pem."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(folder / f"{name}.pem", key)
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        if name == "key":
            write_private(folder / "locked.pem", key, PASSWORD)
    write_private(folder / "rsa.pem", rsa.generate_private_key(65537, 2048))
    return folder


@pytest.fixture
def signed(artifact_copy, keys):
    result = run("sign", "--model", artifact_copy, "--key", keys / "key.pem")
    assert result.exit_code == 0, result.output
    return artifact_copy


def test_its_own_key_is_accepted(signed, keys):
    assert load_artifact(signed, keys / "key.pub").digest == load_artifact(signed).digest


def test_another_key_is_refused(signed, keys):
    with pytest.raises(ArtifactError, match=r"is not signed by .*other\.pub"):
        load_artifact(signed, keys / "other.pub")


def test_no_signature_is_refused(artifact_path, keys):
    with pytest.raises(ArtifactError, match=r"is not signed .*dhvt sign"):
        load_artifact(artifact_path, keys / "key.pub")


@pytest.mark.parametrize("content", [b"", b"garbage!", base64.b64encode(b"garbage"), b"\xff\xfe\x00"])
def test_a_damaged_signature_is_refused(signed, keys, content):
    (signed / "model.json.sig").write_bytes(content)
    with pytest.raises(ArtifactError, match="is not signed by"):
        load_artifact(signed, keys / "key.pub")


def test_a_card_that_was_forged_with_its_hash_is_refused(signed, keys):
    card = load_artifact(signed).card
    signature = (signed / "model.json.sig").read_bytes()
    write_card(signed, card.__class__(**{**vars(card), "classes": card.classes[::-1]}))
    (signed / "model.json.sig").write_bytes(signature)
    load_artifact(signed)
    with pytest.raises(ArtifactError, match="is not signed by"):
        load_artifact(signed, keys / "key.pub")


def test_whatever_rewrites_the_card_removes_the_signature(signed):
    write_card(signed, load_artifact(signed).card)
    assert not (signed / "model.json.sig").exists()


def test_a_key_with_a_password(artifact_copy, keys):
    command = ["sign", "--model", artifact_copy, "--key", keys / "locked.pem"]
    assert "its password is another" in run(*command, input="wrong\n").output
    assert not (artifact_copy / "model.json.sig").exists()
    assert run(*command, input=f"{PASSWORD}\n").exit_code == 0
    load_artifact(artifact_copy, keys / "key.pub")


@pytest.mark.parametrize("name", ["rsa.pem", "key.pub", "missing.pem"])
def test_a_key_that_is_none_is_named(artifact_copy, keys, name):
    result = run("sign", "--model", artifact_copy, "--key", keys / name)
    assert result.exit_code == 1
    assert name in result.output
    assert "dhvt sign --help" in result.output


def test_commands_refuse_a_model_that_is_not_signed(signed, artifact_path, keys, tmp_path):
    env = {"DHVT_REQUIRE_SIGNATURE": str(keys / "key.pub")}
    for model, expected in ((signed, 0), (artifact_path, 1)):
        result = run("verify", "--model", model, env=env)
        assert result.exit_code == expected, result.output
    assert "is not signed" in result.output


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_checks_it(signed, keys):
    (signed / "sig.der").write_bytes(base64.b64decode((signed / "model.json.sig").read_bytes()))
    command = ["openssl", "dgst", "-sha256", "-verify", keys / "key.pub", "-signature", "sig.der", "model.json"]
    assert subprocess.run(command, cwd=signed, capture_output=True, check=True).stdout.strip() == b"Verified OK"

"""A server that takes signed models only."""

import httpx
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dhvt.cli.main import main
from tests.serving.conftest import classify, serving
from tests.serving.test_startup import serve


def test_only_a_signed_model_is_served(artifact_copy, tmp_path):
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = {"DHVT_MODEL": str(artifact_copy), "DHVT_REQUIRE_SIGNATURE": str(public)}

    refused = serve(**settings)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"dhvt: {artifact_copy} is not signed")

    CliRunner().invoke(main, ["sign", "--model", str(artifact_copy), "--key", str(private)], catch_exceptions=False)
    with serving(tmp_path / "log", DHVT_TOKEN="secret", **settings) as url:
        headers = {"Authorization": "Bearer secret"}
        assert classify(url, headers=headers).status_code == 200
        (artifact_copy / "model.json.sig").unlink()
        reloaded = httpx.post(f"{url}/reload", headers=headers, timeout=60)
        assert reloaded.status_code == 409
        assert "is not signed" in reloaded.json()["error"]["message"]
        assert classify(url, headers=headers).status_code == 200

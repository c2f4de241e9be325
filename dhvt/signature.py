"""Who made a model: a signature of its card, which has the hash of every other file.

``model.json.sig`` is an ECDSA signature of ``model.json`` with SHA-256, in DER and base64: what ``cosign sign-blob --key``
makes, and ``cosign verify-blob`` and ``openssl dgst`` check.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dhvt.card import CARD_NAME, SIGNATURE_NAME
from dhvt.errors import ArtifactError, ConfigError
from dhvt.files import replacing

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
except ModuleNotFoundError as error:
    raise ConfigError(f"signatures need {error.name}; pip install 'dhvt-serve[sign]'") from error


def sign_card(folder: Path, key: Path, ask_password: Callable[[], str]) -> Path:
    """Signs a model folder's card.

    Args:
        key: private key of an elliptic curve, in PEM.
        ask_password: called where it is encrypted.

    Returns:
        The signature's file.

    Raises:
        ArtifactError: the folder cannot be written.
        ConfigError: there is no such key, or its password is wrong.
    """
    data = _read_key(key)
    private = _parse(key, "private", lambda: _decrypt(data, ask_password))
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key} is no private key of an elliptic curve; {_MAKE_ONE}")
    try:
        signature = private.sign((folder / CARD_NAME).read_bytes(), ec.ECDSA(hashes.SHA256()))
        with replacing(folder / SIGNATURE_NAME) as temporary:
            temporary.write_bytes(base64.b64encode(signature) + b"\n")
    except OSError as error:
        raise ArtifactError(f"cannot sign {folder}: {error}") from error
    return folder / SIGNATURE_NAME


def check_signature(folder: Path, card: bytes, key: Path) -> None:
    """Checks that a card was signed by the owner of a key.

    Args:
        card: content of the folder's ``model.json``.
        key: public key of an elliptic curve, in PEM.

    Raises:
        ArtifactError: it is not signed, or by another key, or it was changed.
        ConfigError: there is no such key.
    """
    data = _read_key(key)
    public = _parse(key, "public", lambda: load_pem_public_key(data))
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{key} is no public key of an elliptic curve; {_MAKE_ONE}")
    path = folder / SIGNATURE_NAME
    try:
        public.verify(base64.b64decode(path.read_bytes(), validate=False), card, ec.ECDSA(hashes.SHA256()))
    except OSError as error:
        raise ArtifactError(
            f"{folder} is not signed ({path.name}: {error.strerror}); dhvt sign --model {folder} --key …"
        ) from error
    except (InvalidSignature, binascii.Error) as error:
        raise ArtifactError(
            f"{folder} is not signed by {key}: {path.name} is of another key, or the card was changed"
        ) from error


_MAKE_ONE = "dhvt sign --help says how to make a pair of keys"


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read: {error.strerror}; {_MAKE_ONE}") from error


def _decrypt(data: bytes, ask_password: Callable[[], str]) -> Any:
    try:
        return load_pem_private_key(data, None)
    except TypeError:  # it is encrypted
        return load_pem_private_key(data, ask_password().encode())


def _parse(path: Path, kind: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no {kind} key in PEM, or its password is another; {_MAKE_ONE}") from error

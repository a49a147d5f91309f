"""A signature for an evidence file: a DSSE envelope beside it, as in-toto's and Sigstore's tools read it.

The keys are files in PEM, of any kind that the library knows (Ed25519, ECDSA, RSA). None is made here.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from pareto_unlearn.errors import ConfigError

__all__ = ["check_signature", "load_signer", "sign", "signature_of"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def signature_of(evidence: Path) -> Path:
    """Return the file beside an evidence file that holds its signature: model.evidence.dsse.json."""
    return evidence.with_suffix(".dsse.json")


def load_signer(path: Path) -> Any:
    """Return what signs with a private key.

    Raises:
        ConfigError: the library is missing, or the file is no private key in PEM without a passphrase.
    """
    serialization, signers = _library()
    content = _read(path)
    try:
        return signers.CryptoSigner(serialization.load_pem_private_key(content, None))
    except (ValueError, TypeError, _unsupported()) as error:
        raise ConfigError(
            f"{path}: expected a private key in PEM without a passphrase (openssl genpkey -algorithm ed25519 "
            f"-out {path}), found another file: {error}"
        ) from error


def sign(evidence: bytes, signer: Any) -> bytes:
    """Return the envelope of an evidence file as JSON."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(evidence, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return (json.dumps(envelope.to_dict(), indent=1, sort_keys=True) + "\n").encode()


def check_signature(envelope: bytes, evidence: bytes, public_key: Path) -> tuple[bool, str]:
    """Return whether an envelope signs an evidence file with a key, and why or why not.

    Raises:
        ConfigError: the library is missing, or the file is no public key in PEM.
    """
    key = _public_key(public_key)
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError, VerificationError

    try:
        found = Envelope.from_dict(json.loads(envelope))
    except (ValueError, KeyError, TypeError, AttributeError, FormatError, RecursionError) as error:
        return False, f"the envelope is damaged: {error!r}"[:200]
    if (found.payload_type, found.payload) != (PAYLOAD_TYPE, evidence):
        return False, "the envelope signs another file"
    try:
        found.verify([key], 1)
    except VerificationError:
        return False, f"not signed by {public_key}"
    return True, f"by key {key.keyid[:16]}"


def _public_key(path: Path) -> Any:
    serialization, signers = _library()
    content = _read(path)
    try:
        return signers.SSlibKey.from_crypto(serialization.load_pem_public_key(content))
    except (ValueError, TypeError, _unsupported()) as error:
        raise ConfigError(f"{path}: expected a public key in PEM, found another file: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a key in PEM, found none: {error.strerror}") from error


def _library() -> tuple[ModuleType, ModuleType]:
    try:
        from cryptography.hazmat.primitives import serialization
        from securesystemslib import signer
    except ImportError as error:
        raise ConfigError(
            "signatures need the extra `sign`, which is not installed: uv sync --extra sign"
        ) from error
    return serialization, signer


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm

"""Signatures of models in the OpenSSF Model Signing format: whose is wanted, and what it must cover.

The signature is a file among the artifacts (a Sigstore bundle around an in-toto statement that lists the SHA-256 of
every file). ``app/adapters/model_signatures.py`` verifies who made it; whether it speaks of the files that are there is
decided here. https://github.com/ossf/model-signing-spec
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.domain.digests import FileDigest, check_path
from app.domain.errors import InvalidInput, Unresolvable
from app.domain.fields import is_safe_url
from app.domain.verdicts import ALLOW, Deny, Verdict

DEFAULT_FILE = "model.sig"
MOST_BYTES = 16 * 1024 * 1024
"""Of a signature: some 200 for each file that it names."""

_NOT_SIGNED = (".git", ".gitattributes", ".github", ".gitignore")
"""What ``model_signing`` leaves out at the root of a model when it signs, whoever asks it to."""
_SHOWN = 3
_PEM = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]+)-----\s+(?P<body>[A-Za-z0-9+/=\s]+?)\s+-----END (?P=kind)-----", re.ASCII
)
_EC_KEYS = {  # the head of a SubjectPublicKeyInfo with an uncompressed point (RFC 5480 section 2), and its length
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"): 91,  # P-256
    bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"): 120,  # P-384
    bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"): 158,  # P-521
}


class SignerKind(StrEnum):
    """How a signer is known, by the field of the document that says it."""

    PUBLIC_KEY = "publicKey"
    CERTIFICATES = "certificates"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class SignedBy:
    """Whose signature a policy wants.

    ``trusted`` is the PEM of an elliptic curve key, the PEM of the root certificates (or of all that lead to them), or
    the identity (an email address or a workload's URI) that ``issuer`` vouched for when it signed (Sigstore).
    ``file`` is where the signature lies among the artifacts.
    """

    kind: SignerKind
    trusted: str
    issuer: str = ""
    file: str = DEFAULT_FILE

    @property
    def who(self) -> str:
        """For a person to read."""
        return {
            SignerKind.PUBLIC_KEY: "the policy's key",
            SignerKind.CERTIFICATES: "a certificate of the policy's authority",
            SignerKind.IDENTITY: f"{self.trusted} of {self.issuer}",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signature that verified says: how the files were taken, and their digests in hex by path."""

    method: str
    algorithm: str
    files: Mapping[str, tuple[str, str]]
    """Path to algorithm and digest."""


def covers(statement: Statement, files: Iterable[FileDigest], *, signature_file: str) -> Verdict:
    """Whether a statement names exactly the files that are there, the signature itself left out.

    A signer may have told the library to leave other files out. That is not followed: the statement would hold for
    whatever these files become.
    """
    if statement.method != "files":
        return Deny(f"the signature covers {statement.method} of files; sign whole files")
    if statement.algorithm != "sha256":
        return Deny(f"the signature has {statement.algorithm} digests; sign with SHA-256")
    there = {file.path: file.sha256 for file in files if file.path != signature_file}
    if not statement.files:
        return Deny("the signature covers no file")
    if missing := sorted(set(statement.files) - set(there)):
        return Deny(f"signed and not there: {_some(missing)}")
    if extra := sorted(path for path in set(there) - set(statement.files) if not _is_never_signed(path)):
        return Deny(f"there and not signed: {_some(extra)}")
    if other := sorted(path for path, signed in statement.files.items() if signed != ("sha256", there[path])):
        return Deny(f"other than what was signed: {_some(other)}")
    return ALLOW


def _is_never_signed(path: str) -> bool:
    return path.split("/", 1)[0] in _NOT_SIGNED


def _some(paths: list[str]) -> str:
    shown = ", ".join(paths[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} more"


def signed_by_from_document(where: str, value: object) -> SignedBy:
    """Read ``signature:`` of a check: ``publicKey``, ``certificates``, or ``identity`` and ``issuer``; and ``file``.

    Raises:
        InvalidInput: with the path of the wrong field and what was expected.
    """
    kinds = [kind.value for kind in SignerKind]
    if not isinstance(value, Mapping):
        raise InvalidInput(where, f"expected an object with one of {', '.join(kinds)}")
    if unknown := sorted(map(str, set(value) - {*kinds, "issuer", "file"})):
        raise InvalidInput(f"{where}.{unknown[0]}", f"unknown field; expected one of {', '.join(kinds)}, issuer, file")
    named = [kind for kind in SignerKind if kind in value]
    if len(named) != 1:
        raise InvalidInput(where, f"expected exactly one of {', '.join(kinds)}")
    kind = named[0]
    if ("issuer" in value) != (kind is SignerKind.IDENTITY):
        raise InvalidInput(f"{where}.issuer", "expected beside `identity`, and only there: who vouched for it")
    trusted, issuer = value[kind.value], value.get("issuer", "")
    if not isinstance(trusted, str) or not trusted.strip():
        raise InvalidInput(f"{where}.{kind}", "expected a text")
    if kind is SignerKind.PUBLIC_KEY:
        _check_key(f"{where}.{kind}", trusted)
    elif kind is SignerKind.CERTIFICATES:
        _check_certificates(f"{where}.{kind}", trusted)
    elif not is_safe_url(issuer):
        raise InvalidInput(f"{where}.issuer", "expected the issuer's https:// URL")
    return SignedBy(
        kind=kind,
        trusted=trusted.strip(),
        issuer=issuer if isinstance(issuer, str) else "",
        file=_file(f"{where}.file", value.get("file", DEFAULT_FILE)),
    )


def signed_by_document(value: SignedBy) -> dict[str, object]:
    """The document that ``signed_by_from_document`` reads back to the same."""
    issuer = {"issuer": value.issuer} if value.kind is SignerKind.IDENTITY else {}
    return {value.kind.value: value.trusted, **issuer, "file": value.file}


def _file(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput(where, "expected a path among the artifacts")
    try:
        return check_path(value)
    except Unresolvable as error:
        raise InvalidInput(where, f"expected a path among the artifacts: {error.message}") from None


def _check_key(where: str, value: str) -> None:
    blocks = _pem(value)
    if len(blocks) == 1 and blocks[0][0] == "PUBLIC KEY":
        key = blocks[0][1]
        if any(key.startswith(head) and len(key) == length for head, length in _EC_KEYS.items()):
            return
    raise InvalidInput(where, "expected one public key in PEM, of the curve P-256, P-384 or P-521; never a private one")


def _check_certificates(where: str, value: str) -> None:
    blocks = _pem(value)
    if not blocks or any(kind != "CERTIFICATE" or not body.startswith(b"\x30") for kind, body in blocks):
        raise InvalidInput(where, "expected one or more certificates in PEM")


def _pem(value: str) -> list[tuple[str, bytes]]:
    """The blocks (RFC 7468); none if there is anything else, or one does not decode."""
    if _PEM.sub("", value).strip():
        return []
    try:
        return [
            (match["kind"], base64.b64decode("".join(match["body"].split()), validate=True))
            for match in _PEM.finditer(value)
        ]
    except binascii.Error:
        return []

"""Whose signature a policy wants, and which files it must cover."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.domain.digests import FileDigest
from app.domain.errors import InvalidInput
from app.domain.signatures import SignedBy, SignerKind, Statement, covers, signed_by_document, signed_by_from_document
from app.domain.verdicts import ALLOW, Deny

WEIGHTS, MODEL = (hashlib.sha256(data).hexdigest() for data in (b"weights", b"MLmodel"))
THERE = [FileDigest("MLmodel", 7, MODEL), FileDigest("data/weights", 7, WEIGHTS), FileDigest("model.sig", 1, "0" * 64)]
SIGNED = {"MLmodel": ("sha256", MODEL), "data/weights": ("sha256", WEIGHTS)}


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


KEY = ec.generate_private_key(ec.SECP256R1())
PRIVATE = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMAMBAf8=\n-----END CERTIFICATE-----\n"


def test_a_statement_about_exactly_these_files_covers_them() -> None:
    assert covers(Statement("files", "sha256", SIGNED), THERE, signature_file="model.sig") == ALLOW


def test_what_git_adds_is_never_signed_and_not_asked_for() -> None:
    there = [*THERE, FileDigest(".gitattributes", 1, "0" * 64), FileDigest(".git/config", 1, "0" * 64)]
    assert covers(Statement("files", "sha256", SIGNED), there, signature_file="model.sig") == ALLOW


@pytest.mark.parametrize(
    ("statement", "there", "why"),
    [
        (Statement("files", "sha256", SIGNED), THERE[1:], "signed and not there: MLmodel"),
        (
            Statement("files", "sha256", SIGNED),
            [*THERE, FileDigest("code/evil.py", 1, "0" * 64)],
            "there and not signed: code/evil.py",
        ),
        (
            Statement("files", "sha256", SIGNED),
            [*THERE, *(FileDigest(f"{number}", 1, "0" * 64) for number in range(5))],
            "there and not signed: 0, 1, 2 and 2 more",
        ),
        (
            Statement("files", "sha256", SIGNED),
            [*THERE, FileDigest("code/.git", 1, "0" * 64)],
            "there and not signed: code/.git",
        ),
        (
            Statement("files", "sha256", SIGNED | {"MLmodel": ("sha256", WEIGHTS)}),
            THERE,
            "other than what was signed: MLmodel",
        ),
        (
            Statement("files", "sha256", SIGNED | {"MLmodel": ("blake3", MODEL)}),
            THERE,
            "other than what was signed: MLmodel",
        ),
        (Statement("files", "sha256", {}), [THERE[2]], "the signature covers no file"),
        (Statement("shards", "sha256", SIGNED), THERE, "the signature covers shards of files; sign whole files"),
        (Statement("files", "blake3", SIGNED), THERE, "the signature has blake3 digests; sign with SHA-256"),
        (
            Statement("files", "sha256", SIGNED | {"model.sig": ("sha256", "0" * 64)}),
            THERE,
            "signed and not there: model.sig",
        ),
    ],
)
def test_a_statement_about_anything_else_does_not(statement: Statement, there: list[FileDigest], why: str) -> None:
    assert covers(statement, there, signature_file="model.sig") == Deny(why)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_keys_of_each_curve_that_signs_models_are_taken(curve: ec.EllipticCurve) -> None:
    key = pem(ec.generate_private_key(curve))
    assert signed_by_from_document("signature", {"publicKey": key}) == SignedBy(SignerKind.PUBLIC_KEY, key.strip())


@pytest.mark.parametrize(
    "document",
    [
        {"publicKey": pem(KEY), "file": "signatures/model.sig"},
        {"certificates": CERTIFICATE * 2},
        {"identity": "release@example.com", "issuer": "https://accounts.google.com"},
    ],
)
def test_what_is_written_down_is_read_back_the_same(document: dict[str, str]) -> None:
    read = signed_by_from_document("signature", document)
    assert signed_by_from_document("signature", signed_by_document(read)) == read
    assert read.who


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "checks[0].signature: expected an object"),
        ({}, "checks[0].signature: expected exactly one of publicKey, certificates, identity"),
        ({"publicKey": pem(KEY), "certificates": CERTIFICATE}, "signature: expected exactly one of"),
        ({"public_key": pem(KEY)}, "signature.public_key: unknown field"),
        ({"publicKey": 7}, "signature.publicKey: expected a text"),
        ({"publicKey": "  "}, "signature.publicKey: expected a text"),
        ({"publicKey": "/etc/keys/model.pub"}, "signature.publicKey: expected one public key in PEM"),
        ({"publicKey": PRIVATE}, "signature.publicKey: expected one public key in PEM"),
        ({"publicKey": pem(KEY) * 2}, "signature.publicKey: expected one public key in PEM"),
        ({"publicKey": pem(KEY).replace("M", "*", 1)}, "signature.publicKey: expected one public key in PEM"),
        ({"publicKey": pem(KEY) + "more"}, "signature.publicKey: expected one public key in PEM"),
        (
            {"publicKey": pem(rsa.generate_private_key(65537, 2048))},
            "signature.publicKey: expected one public key in PEM, of the curve P-256",
        ),
        ({"publicKey": pem(ec.generate_private_key(ec.SECP256K1()))}, "of the curve P-256, P-384 or P-521"),
        ({"certificates": ""}, "signature.certificates: expected a text"),
        ({"certificates": pem(KEY)}, "signature.certificates: expected one or more certificates in PEM"),
        ({"certificates": CERTIFICATE + pem(KEY)}, "signature.certificates: expected one or more certificates"),
        ({"identity": "release@example.com"}, "signature.issuer: expected beside `identity`"),
        ({"publicKey": pem(KEY), "issuer": "https://accounts.google.com"}, "signature.issuer: expected beside"),
        ({"identity": "a", "issuer": "http://accounts.google.com"}, "signature.issuer: expected the issuer's https"),
        ({"identity": "a", "issuer": 7}, "signature.issuer: expected the issuer's https"),
        ({"publicKey": pem(KEY), "file": "../model.sig"}, "signature.file: expected a path among the artifacts"),
        ({"publicKey": pem(KEY), "file": 7}, "signature.file: expected a path among the artifacts"),
    ],
)
def test_what_no_signature_could_satisfy_is_refused_with_its_field(document: object, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        signed_by_from_document("checks[0].signature", document)
    assert why in refused.value.message

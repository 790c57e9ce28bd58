"""Signatures that the OpenSSF library itself made, checked against digests, with no model at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sigstore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing import hashing, signing

from app.adapters.model_signatures import ModelSignatures
from app.domain.digests import FileDigest
from app.domain.errors import Unavailable
from app.domain.signatures import SignedBy, SignerKind
from app.domain.verdicts import ALLOW, Deny

FILES = {"MLmodel": b"flavors: {}\n", "data/weights.bin": b"x" * 10_000, "code/__init__.py": b""}
Sign = Callable[[signing.Config], bytes]


@dataclass
class Key:
    """A key pair, and where its private half lies."""

    private: ec.EllipticCurvePrivateKey
    file: Path

    @property
    def trusted(self) -> SignedBy:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = self.private.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
        return SignedBy(SignerKind.PUBLIC_KEY, pem)


def new_key(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> Key:
    private = ec.generate_private_key(curve or ec.SECP256R1())
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / f"{name}.pem"
    file.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, secret))
    return Key(private, file)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return new_key(tmp_path, "key")


def signed(model: Path, config: signing.Config) -> bytes:
    config.sign(model, model / "model.sig")
    return (model / "model.sig").read_bytes()


def by_key(key: Key) -> signing.Config:
    return signing.Config().use_elliptic_key_signer(private_key=key.file)


def files_of(model: Path) -> list[FileDigest]:
    return [
        FileDigest(
            file.relative_to(model).as_posix(), file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        )
        for file in sorted(model.rglob("*"))
        if file.is_file()
    ]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
async def test_what_a_trusted_key_signed_is_accepted(tmp_path: Path, model: Path, curve: ec.EllipticCurve) -> None:
    key = new_key(tmp_path, "other", curve)
    signature = signed(model, by_key(key))
    assert await ModelSignatures().check(signature, files_of(model), key.trusted) == ALLOW


async def test_another_key_is_not_trusted(tmp_path: Path, model: Path, key: Key) -> None:
    signature = signed(model, by_key(new_key(tmp_path, "other")))
    verdict = await ModelSignatures().check(signature, files_of(model), key.trusted)
    assert isinstance(verdict, Deny)
    assert verdict.reason.startswith("the signature does not verify: Key mismatch")


async def test_a_signature_that_only_claims_the_key_is_refused(tmp_path: Path, model: Path, key: Key) -> None:
    claimed = json.loads(signed(model, by_key(key)))["verificationMaterial"]
    forged = json.loads(signed(model, by_key(new_key(tmp_path, "other"))))
    forged["verificationMaterial"] = claimed
    verdict = await ModelSignatures().check(json.dumps(forged).encode(), files_of(model), key.trusted)
    assert verdict == Deny("the signature does not verify")


async def test_a_statement_that_was_changed_after_signing_is_refused(model: Path, key: Key) -> None:
    bundle = json.loads(signed(model, by_key(key)))
    (model / "MLmodel").write_bytes(b"evil")
    other = json.loads(signed(model, by_key(key)))
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    verdict = await ModelSignatures().check(json.dumps(bundle).encode(), files_of(model), key.trusted)
    assert verdict == Deny("the signature does not verify")


async def test_files_that_changed_came_or_went_are_named(model: Path, key: Key) -> None:
    signature, checker = signed(model, by_key(key)), ModelSignatures()
    (model / "MLmodel").write_bytes(b"evil")
    assert await checker.check(signature, files_of(model), key.trusted) == Deny("other than what was signed: MLmodel")
    (model / "MLmodel").unlink()
    assert await checker.check(signature, files_of(model), key.trusted) == Deny("signed and not there: MLmodel")
    (model / "MLmodel").write_bytes(FILES["MLmodel"])
    (model / "code/evil.py").write_bytes(b"")
    assert await checker.check(signature, files_of(model), key.trusted) == Deny("there and not signed: code/evil.py")


async def test_what_the_signer_chose_to_leave_out_is_not_covered(model: Path, key: Key) -> None:
    left_out = hashing.Config().set_ignored_paths(paths=["data", "model.sig"])
    signature = signed(model, by_key(key).set_hashing_config(left_out))
    verdict = await ModelSignatures().check(signature, files_of(model), key.trusted)
    assert verdict == Deny("there and not signed: data/weights.bin")


async def test_the_signature_may_lie_elsewhere_and_git_files_are_not_asked_for(model: Path, key: Key) -> None:
    (model / ".gitattributes").write_bytes(b"* -text\n")
    signature = signed(model, by_key(key))
    (model / "model.sig").rename(model / "code/signature.json")
    trusted = replace(key.trusted, file="code/signature.json")
    assert await ModelSignatures().check(signature, files_of(model), trusted) == ALLOW
    verdict = await ModelSignatures().check(signature, files_of(model), key.trusted)
    assert verdict == Deny("there and not signed: code/signature.json")


@pytest.mark.parametrize(
    ("taken", "why"),
    [
        (hashing.Config().use_shard_serialization(), "the signature covers shards of files; sign whole files"),
        (
            hashing.Config().use_file_serialization(hashing_algorithm="blake3"),
            "the signature has blake3 digests; sign with SHA-256",
        ),
    ],
)
async def test_other_ways_to_take_digests_are_named(model: Path, key: Key, taken: hashing.Config, why: str) -> None:
    signature = signed(model, by_key(key).set_hashing_config(taken))
    assert await ModelSignatures().check(signature, files_of(model), key.trusted) == Deny(why)


@pytest.mark.parametrize("rubbish", [b"", b"{}", b"null", b"[]", b"\xff\xfe", b"{" * 100_000, b'{"mediaType": 7}'])
async def test_what_is_no_signature_is_refused(model: Path, key: Key, rubbish: bytes) -> None:
    verdict = await ModelSignatures().check(rubbish, files_of(model), key.trusted)
    assert isinstance(verdict, Deny)
    assert verdict.reason.startswith("the signature does not verify")


async def test_a_key_that_cannot_be_read_accepts_nothing(model: Path, key: Key) -> None:
    signature = signed(model, by_key(key))
    for pem in ("", "no key", key.file.read_text()):
        verdict = await ModelSignatures().check(signature, files_of(model), replace(key.trusted, trusted=pem))
        assert isinstance(verdict, Deny)
        assert "PRIVATE" not in verdict.reason


class Authority:
    """Roots, and the certificates that they give."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key = new_key(folder, name)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = self._issue(self._name, self._key, is_authority=True)

    def certificate(self, key: Key, *, signs: bool = True) -> x509.Certificate:
        return self._issue(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "release")]), key, is_authority=False, signs=signs
        )

    def _issue(self, name: x509.Name, key: Key, *, is_authority: bool, signs: bool = True) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = dict.fromkeys(
            ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1 if is_authority else 0))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=signs and not is_authority,
                    key_cert_sign=is_authority,
                    crl_sign=is_authority,
                    key_encipherment=not signs,
                    **usage,
                ),
                critical=True,
            )
            .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")]), critical=False)
            .sign(self._key.private, hashes.SHA256())
        )


def pem_of(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


async def test_a_certificate_of_a_trusted_authority_is_accepted_and_no_other(
    tmp_path: Path, model: Path, key: Key
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    (tmp_path / "root.pem").write_text(pem_of(ours.root))
    trusted = SignedBy(SignerKind.CERTIFICATES, pem_of(ours.root))
    checker = ModelSignatures()

    def by(certificate: x509.Certificate) -> bytes:
        (tmp_path / "signing.pem").write_text(pem_of(certificate))
        return signed(
            model,
            signing.Config().use_certificate_signer(
                private_key=key.file,
                signing_certificate=tmp_path / "signing.pem",
                certificate_chain=[tmp_path / "root.pem"],
            ),
        )

    signature = by(ours.certificate(key))
    assert await checker.check(signature, files_of(model), trusted) == ALLOW
    for foreign in (by(theirs.certificate(key)), by(ours.certificate(key, signs=False)), signed(model, by_key(key))):
        verdict = await checker.check(foreign, files_of(model), trusted)
        assert isinstance(verdict, Deny)
        assert verdict.reason.startswith("the signature does not verify")
    for roots in (pem_of(theirs.root), ""):
        verdict = await checker.check(signature, files_of(model), replace(trusted, trusted=roots))
        assert isinstance(verdict, Deny)


async def test_no_identity_is_believed_without_the_roots_of_sigstore(tmp_path: Path, model: Path, key: Key) -> None:
    signature = signed(model, by_key(key))
    trusted = SignedBy(SignerKind.IDENTITY, "release@example.com", "https://accounts.example.com")
    (tmp_path / "trust.json").write_text("{}")
    for trust in (tmp_path / "trust.json", tmp_path / "missing.json"):
        with pytest.raises(Unavailable, match="The roots of Sigstore cannot be had"):
            await ModelSignatures(trust).check(signature, files_of(model), trusted)


def public_trust() -> str:
    """The roots of the public Sigstore, as the library brings them along."""
    public = next(Path(sigstore.__path__[0]).rglob("*sigstore.dev/trusted_root.json")).parent
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": json.loads((public / "trusted_root.json").read_text()),
            "signingConfig": json.loads((public / "signing_config.v0.2.json").read_text()),
        }
    )


async def test_a_key_does_not_stand_for_an_identity(tmp_path: Path, model: Path, key: Key) -> None:
    signature = signed(model, by_key(key))
    trusted = SignedBy(SignerKind.IDENTITY, "release@example.com", "https://accounts.example.com")
    (tmp_path / "trust.json").write_text(public_trust())
    verdict = await ModelSignatures(tmp_path / "trust.json").check(signature, files_of(model), trusted)
    assert isinstance(verdict, Deny)
    assert verdict.reason.startswith("the signature does not verify")

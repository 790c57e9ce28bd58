"""Verifies OpenSSF model signatures with the ``model-signing`` library, without reading the model again.

The library's public interface verifies a signature and then has a hashing configuration take the digests of the model.
Ours has them already: it answers with something that, when the library compares it with the signed manifest, asks
``app/domain/signatures.py``. Nothing passes unless that was asked and said yes.

The library is imported when the first signature is checked: it costs 0.3 s and 60 MB, and most never need it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.domain.digests import FileDigest
from app.domain.errors import Unavailable
from app.domain.signatures import SignedBy, SignerKind, Statement, covers
from app.domain.verdicts import Allow, Deny, Verdict

if TYPE_CHECKING:
    from model_signing.manifest import Manifest
    from model_signing.verifying import Config

_LONGEST_REASON = 200


class ModelSignatures:
    """See ``app.ports.SignatureChecker``."""

    def __init__(self, sigstore_trust: Path | None = None) -> None:
        """Choose the roots of Sigstore; keys and certificates need none.

        Args:
            sigstore_trust: a client trust configuration (JSON), for a Sigstore of one's own or where the internet
                cannot be reached. Without it, the public Sigstore's is fetched over the network (TUF).
        """
        self._sigstore_trust = sigstore_trust

    async def check(self, signature: bytes, files: Sequence[FileDigest], trusted: SignedBy) -> Verdict:
        return await asyncio.to_thread(self._check, signature, files, trusted)

    def _check(self, signature: bytes, files: Sequence[FileDigest], trusted: SignedBy) -> Verdict:
        measured = _Measured(files, trusted.file)
        with tempfile.TemporaryDirectory(prefix="countersign-signature-") as folder:
            place = Path(folder)
            (place / "signature").write_bytes(signature)
            try:
                verifying = self._verifying(trusted, place / "trusted.pem")
                verifying.set_hashing_config(measured)  # type: ignore[arg-type]  # it does what is asked of one
                verifying.verify(place, place / "signature")
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001  # the library and its parsers raise anything: all of it means no
                if isinstance(measured.verdict, Deny):
                    return measured.verdict
                return Deny(f"the signature does not verify{_why(error)}")
        return measured.verdict if isinstance(measured.verdict, Allow) else Deny("the signature was not compared")

    def _verifying(self, trusted: SignedBy, pem: Path) -> Config:
        from model_signing.verifying import Config  # noqa: PLC0415  # see the module

        config: Config = Config()  # type: ignore[no-untyped-call]  # the library leaves this one out
        if trusted.kind is SignerKind.IDENTITY:
            try:
                return config.use_sigstore_verifier(
                    identity=trusted.trusted, oidc_issuer=trusted.issuer, trust_config=self._sigstore_trust
                )
            except Exception as error:  # noqa: BLE001  # of files, the network, TUF
                raise Unavailable(
                    f"The roots of Sigstore cannot be had ({type(error).__name__}), so no identity can be verified.",
                    retry_after_s=60,
                ) from None
        pem.write_text(trusted.trusted)
        if trusted.kind is SignerKind.PUBLIC_KEY:
            return config.use_elliptic_key_verifier(public_key=pem)
        # Never without certificates: the library would trust every authority of the web.
        return config.use_certificate_verifier(certificate_chain=[pem])


class _Measured:
    """Stands where the library has its hashing configuration, and where it has the manifest that this would make."""

    def __init__(self, files: Sequence[FileDigest], signature_file: str) -> None:
        self._files, self._signature_file = files, signature_file
        self.verdict: Verdict | None = None

    def hash(self, model_path: Path, *, files_to_hash: Iterable[Path] | None = None) -> Self:  # noqa: ARG002
        return self

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[Path]) -> None:
        """What the signer left out is not left out here."""

    def __eq__(self, signed: Manifest) -> bool:  # type: ignore[override]  # with nothing else
        """The library compares with the manifest of a signature that it has verified."""
        self.verdict = covers(_statement(signed), self._files, signature_file=self._signature_file)
        if isinstance(self.verdict, Deny):
            raise ValueError(self.verdict.reason)  # noqa: TRY004  # else the library looks for differences itself
        return True

    __hash__ = None  # type: ignore[assignment]  # compared once, never kept


def _statement(manifest: Manifest) -> Statement:
    taken = manifest.serialization_type
    return Statement(
        method=str(taken["method"]),
        algorithm=str(taken["hash_type"]),
        files={
            item.identifier: (item.digest.algorithm, item.digest.digest_hex) for item in manifest.resource_descriptors()
        },
    )


def _why(error: Exception) -> str:
    """The library's own words, if it has any that can be shown."""
    said = "".join(character for character in str(error).split("\n", 1)[0] if character.isprintable()).strip()
    return f": {said[:_LONGEST_REASON]}" if said else ""

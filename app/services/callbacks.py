"""Signed calls from deployers: verified before anything in them is read, or they are told anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from app.domain.errors import InvalidConfiguration, NotAuthenticated, NotFound, Unavailable
from app.ports import SecretStore, Signatures
from app.services.deployments import Deployments

_log = structlog.stdlib.get_logger(__name__)


class Callbacks:
    def __init__(self, deployments: Deployments, secrets: SecretStore, signatures: Signatures) -> None:
        self._deployments = deployments
        self._secrets = secrets
        self._signatures = signatures

    async def verify(self, deployment_id: str, headers: Mapping[str, str], body: bytes) -> None:
        """Whether the deployment's own target signed this.

        Raises:
            NotAuthenticated: it did not, or there is no such deployment: who cannot sign is not told which there are.
        """
        try:
            references = await self._deployments.callback_secrets_of(deployment_id)
        except NotFound:
            raise _refusal() from None
        self._verify(references, headers, body)

    async def verify_question(self, target: str, headers: Mapping[str, str], path: str) -> None:
        """Whether a target itself asks at ``path``: Standard Webhooks signs a body, which here is ``GET <path>``.

        Raises:
            NotAuthenticated: as ``verify``.
        """
        try:
            references = await self._deployments.callback_secrets_of_target(target)
        except NotFound:
            raise _refusal() from None
        self._verify(references, headers, f"GET {path}".encode())

    async def sign_answer(self, target: str, question: str, body: str) -> Mapping[str, str]:
        """The headers by which a target knows that an answer is ours, and to its question.

        Args:
            target: whose secrets sign, as they do what it is called with.
            question: the ``webhook-id`` of what it asked.
            body: what it is answered.

        Raises:
            Unavailable: none of the target's secrets can be read, or signs.
        """
        secrets: list[str] = []
        for reference in await self._deployments.secrets_of_target(target):
            try:
                secrets.append(self._secrets.read(reference))
            except InvalidConfiguration as error:
                _log.warning("signing_secret_missing", receiver=target, reason=error.message)
        try:
            return self._signatures.sign(secrets, question, body)
        except ValueError:
            raise Unavailable(f"The answer to target {target} cannot be signed: its secret is missing.") from None

    def _verify(self, references: Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
        if not any(self._is_signed_with(each, headers, body) for each in references):
            raise _refusal()

    def _is_signed_with(self, reference: str, headers: Mapping[str, str], body: bytes) -> bool:
        """During a rotation there are two: one that is gone, or not there yet, keeps the other not from counting."""
        try:
            secret = self._secrets.read(reference)
        except InvalidConfiguration as error:
            # The operator is told which, and the caller, who has proved nothing, is not.
            _log.warning("callback_secret_missing", reason=error.message)
            return False
        return self._signatures.verify(secret, headers, body)


def _refusal() -> NotAuthenticated:
    return NotAuthenticated("The signature does not verify.", error="invalid_token")

"""Signed calls from deployers: verified before anything in them is read."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from app.domain.errors import InvalidConfiguration, NotAuthenticated, NotFound
from app.ports import SecretStore, SignatureVerifier
from app.services.deployments import Deployments

_log = structlog.stdlib.get_logger(__name__)


class Callbacks:
    def __init__(self, deployments: Deployments, secrets: SecretStore, signatures: SignatureVerifier) -> None:
        self._deployments = deployments
        self._secrets = secrets
        self._signatures = signatures

    async def verify(self, deployment_id: str, headers: Mapping[str, str], body: bytes) -> None:
        """Whether the deployment's own target signed this.

        Raises:
            NotAuthenticated: it did not, or there is no such deployment: who cannot sign is not told which there are.
        """
        refusal = NotAuthenticated("The signature does not verify.", error="invalid_token")
        try:
            references = await self._deployments.callback_secrets_of(deployment_id)
        except NotFound:
            raise refusal from None
        if not any(self._is_signed_with(each, headers, body) for each in references):
            raise refusal

    def _is_signed_with(self, reference: str, headers: Mapping[str, str], body: bytes) -> bool:
        """During a rotation there are two: one that is gone, or not there yet, keeps the other not from counting."""
        try:
            secret = self._secrets.read(reference)
        except InvalidConfiguration as error:
            # The operator is told which, and the caller, who has proved nothing, is not.
            _log.warning("callback_secret_missing", reason=error.message)
            return False
        return self._signatures.verify(secret, headers, body)

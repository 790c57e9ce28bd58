"""Signed calls from deployers: verified before anything in them is read."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.errors import NotAuthenticated, NotFound
from app.ports import SecretStore, SignatureVerifier
from app.services.deployments import Deployments


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
            reference = await self._deployments.callback_secret_of(deployment_id)
        except NotFound:
            raise refusal from None
        if not self._signatures.verify(self._secrets.read(reference), headers, body):
            raise refusal

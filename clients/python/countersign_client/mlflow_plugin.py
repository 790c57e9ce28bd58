"""What MLflow's client finds under ``MLFLOW_TRACKING_AUTH=countersign``.

A request *auth* provider, not a header provider: that one is asked for headers without being told where they go, for
every server MLflow talks to, and its failures are swallowed.
"""

from __future__ import annotations

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

from countersign_client.auth import GatewayAuth

_AUTH = GatewayAuth()


class CountersignAuthProvider(RequestAuthProvider):
    """Signs MLflow's requests with the login of ``countersign login``, or for a pipeline's identity."""

    def get_name(self) -> str:
        return "countersign"

    def get_auth(self) -> GatewayAuth:
        return _AUTH

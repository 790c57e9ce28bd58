"""One request and its answer, and what is known of it so far."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.access import Principal
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.routes import Match, Route
from app.proxy.asgi import Headers, Inbound, Outbound, Scope
from app.proxy.headers import has_body


@dataclass(slots=True)
class Exchange:
    """``path`` is canonical once it was found to be, and only fit to be shown before."""

    scope: Scope
    inbound: Inbound
    answer: Outbound
    path: str
    match: Match | None = None
    principal: Principal | None = None
    workspace: str = DEFAULT_WORKSPACE
    workspace_header: str | None = None
    """What MLflow is told of it, where it has workspaces."""
    _has_body: bool | None = None

    @property
    def has_body(self) -> bool:
        """Whether a body follows the headers."""
        if self._has_body is None:
            self._has_body = has_body(self.headers)
        return self._has_body

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def headers(self) -> Headers:
        sent: Headers = self.scope["headers"]
        return sent

    @property
    def route(self) -> Route | None:
        return self.match.route if self.match else None

    @property
    def caller(self) -> tuple[str, ...]:
        """Whose turn it is: the principal, or all who did not log in together."""
        return (self.principal.issuer, self.principal.subject) if self.principal else ()

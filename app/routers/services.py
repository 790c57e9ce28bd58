"""What routers are given: the services, built once by ``app.bootstrap``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.domain.discovery import Discovery
from app.ports import BrowserPages
from app.services.aliases import Aliases
from app.services.authentication import Authentication
from app.services.callbacks import Callbacks
from app.services.checks import Checks
from app.services.comments import Comments
from app.services.delegations import Delegations
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.downloads import Downloads
from app.services.drifts import Drifts
from app.services.endpoints import Endpoints
from app.services.events import Events
from app.services.explaining import Explaining
from app.services.following import Following
from app.services.grants import Grants
from app.services.health import Health
from app.services.inventory import Inventory
from app.services.logins import Logins
from app.services.policies import Policies
from app.services.principals import Principals
from app.services.promotions import Promotions
from app.services.recording import AuditTrail
from app.services.resolution import Resolver
from app.services.resolution_memory import ResolutionMemory
from app.services.reviews import Reviews
from app.services.rollouts import Rollouts
from app.services.sessions import Sessions
from app.services.sign_in import SignIn
from app.services.storage_events import StorageEvents
from app.services.throttling import Throttle
from app.services.token_exchange import TokenExchange
from app.services.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Services:
    authentication: Authentication
    promotions: Promotions
    checks: Checks
    comments: Comments
    reviews: Reviews
    storage_events: StorageEvents
    delegations: Delegations
    aliases: Aliases
    drifts: Drifts
    events: Events
    resolver: Resolver
    resolutions: ResolutionMemory
    following: Following
    downloads: Downloads
    policies: Policies
    deployments: Deployments
    rollouts: Rollouts
    inventory: Inventory
    callbacks: Callbacks
    deliveries: Deliveries
    endpoints: Endpoints
    audit: AuditTrail
    health: Health
    pages: BrowserPages
    sign_in: SignIn
    sessions: Sessions
    grants: Grants
    principals: Principals
    explaining: Explaining
    token_days: int
    """That a personal access token may be good for, at most."""
    public_url: str
    tokens: Tokens
    logins: Logins
    exchange: TokenExchange
    discovery: Discovery
    refusals: Throttle


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]

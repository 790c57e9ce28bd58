"""What routers are given: the services, built once by ``app.bootstrap``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.services.aliases import Aliases
from app.services.authentication import Authentication
from app.services.callbacks import Callbacks
from app.services.configuration import Configuration
from app.services.deliveries import Deliveries
from app.services.deployments import Deployments
from app.services.health import Health
from app.services.promotions import Promotions
from app.services.recording import AuditTrail
from app.services.resolution import Resolver


@dataclass(frozen=True, slots=True)
class Services:
    authentication: Authentication
    promotions: Promotions
    aliases: Aliases
    resolver: Resolver
    configuration: Configuration
    deployments: Deployments
    callbacks: Callbacks
    deliveries: Deliveries
    audit: AuditTrail
    health: Health
    public_url: str
    oauth_metadata: Mapping[str, object]


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]

"""Composition root: builds adapters and services once, from settings. The only importer of adapters beside services."""

from app.bootstrap.gateway import Gateway, open_gateway
from app.bootstrap.operator import Operator, open_operator
from app.bootstrap.worker import WorkerServices, open_worker

__all__ = ["Gateway", "Operator", "WorkerServices", "open_gateway", "open_operator", "open_worker"]

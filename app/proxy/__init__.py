"""The door in front of MLflow, as raw ASGI: canonicalise, classify, authenticate, authorise, guard, forward."""

from app.proxy.forwarding import Upstream
from app.proxy.gateway import Authenticate, DeniedHook, Observe, Proxy, RegistryGuard

__all__ = ["Authenticate", "DeniedHook", "Observe", "Proxy", "RegistryGuard", "Upstream"]

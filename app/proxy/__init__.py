"""The door in front of MLflow, as raw ASGI: canonicalise, classify, authenticate, authorise, guard, admit, forward."""

from app.proxy.admission import Admission, Sizes
from app.proxy.forwarding import Upstream
from app.proxy.gateway import Authenticate, DeniedHook, Observe, Proxy, RegistryGuard
from app.proxy.plans import ExchangeLimits
from app.proxy.watching import Watch

__all__ = [
    "Admission",
    "Authenticate",
    "DeniedHook",
    "ExchangeLimits",
    "Observe",
    "Proxy",
    "RegistryGuard",
    "Sizes",
    "Upstream",
    "Watch",
]

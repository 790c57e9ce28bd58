"""The command ``countersign-kserve``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from countersign_deployer import command
from countersign_deployer.server import Signals, create_app
from countersign_deployer.state import StateStore, StateUnusable
from fastapi import FastAPI

from countersign_kserve import __version__
from countersign_kserve.cluster import ApiServer, CannotConnect
from countersign_kserve.reconciler import Reconciler, open_reconciler
from countersign_kserve.settings import Settings
from countersign_kserve.state import State


def application(settings: Settings) -> FastAPI:
    """The deployer, as an ASGI application.

    Raises:
        StateUnusable: the state, or the way to the cluster, cannot be used.
    """
    try:
        cluster = ApiServer(settings)
    except CannotConnect as error:
        raise StateUnusable(str(error)) from None

    @asynccontextmanager
    async def opened(store: StateStore[State], signals: Signals) -> AsyncIterator[Reconciler]:
        async with cluster, open_reconciler(settings, cluster, store, signals) as reconciler:
            yield reconciler

    def open_backend(store: StateStore[State], signals: Signals) -> AbstractAsyncContextManager[Reconciler]:
        return opened(store, signals)

    store = StateStore(settings.state_dir, State)
    return create_app(settings, store, open_backend, title="Countersign deployer for KServe")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; see ``countersign_deployer.command``."""
    description = "Deploys approved model versions to KServe when Countersign calls."
    return command.run("countersign-kserve", __version__, description, Settings, application, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""The command ``countersign-ray-serve``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from countersign_deployer.command import run
from countersign_deployer.state import StateStore
from fastapi import FastAPI

from countersign_ray_serve import __doc__ as description
from countersign_ray_serve import __version__
from countersign_ray_serve.main import create_app
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; see ``countersign_deployer.command.run``."""
    return run("countersign-ray-serve", __version__, description or "", Settings, _create, arguments)


def _create(settings: Settings) -> FastAPI:
    return create_app(settings, StateStore(settings.state_dir, State))


if __name__ == "__main__":
    sys.exit(main())

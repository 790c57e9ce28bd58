"""The command ``countersign-ray-serve``: reads its environment, listens, and says in one line why it cannot."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence

import uvicorn

from countersign_ray_serve import __version__
from countersign_ray_serve.logs import configure_logs
from countersign_ray_serve.main import create_app
from countersign_ray_serve.settings import PREFIX, SECRETS, InvalidConfiguration, Settings, load_settings
from countersign_ray_serve.state import StateStore, StateUnusable

CANNOT_START = 1
BAD_CONFIGURATION = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal. Exit codes: 0 ended, 1 cannot start, 2 the configuration is wrong."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
    except InvalidConfiguration as error:
        print(f"countersign-ray-serve: the configuration is wrong\n{error}", file=sys.stderr)
        return BAD_CONFIGURATION
    if options.check:
        print("The configuration is right.")
        return 0
    configure_logs(settings)
    try:
        listener = _listen(settings)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        print(f"countersign-ray-serve: cannot listen on {where}: {error.strerror}", file=sys.stderr)
        return CANNOT_START
    with listener:
        try:
            store = StateStore(settings.state_dir)
        except StateUnusable as error:
            print(f"countersign-ray-serve: {error}", file=sys.stderr)
            return CANNOT_START
        server = uvicorn.Server(
            uvicorn.Config(create_app(settings, store), log_config=None, access_log=False, ws="none")
        )
        server.run(sockets=[listener])
    return 0


def _listen(settings: Settings) -> socket.socket:
    """Bind before anything else starts, so that a port in use is one clear line."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="countersign-ray-serve",
        description="Deploys approved model versions to Ray Serve when Countersign calls.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _settings_help() -> str:
    lines = ["environment:"]
    for name, field in Settings.model_fields.items():
        variable = PREFIX + name.upper() + ("[_FILE]" if name in SECRETS else "")
        default = "required" if field.is_required() else f"default: {field.default!s}"
        lines.append(f"  {variable}\n      {field.description} ({default})")
    return "\n".join(lines).replace("%", "%%")


if __name__ == "__main__":
    sys.exit(main())

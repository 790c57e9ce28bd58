"""The command of a deployer: reads its environment, listens, and says in one line why it cannot."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI

from countersign_deployer.logs import configure_logs
from countersign_deployer.settings import DeployerSettings, InvalidConfiguration, SettingsT, load_settings
from countersign_deployer.state import StateUnusable

CANNOT_START = 1
BAD_CONFIGURATION = 2


def run(
    program: str,
    version: str,
    description: str,
    settings_kind: type[SettingsT],
    create_app: Callable[[SettingsT], FastAPI],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run until a signal. Exit codes: 0 ended, 1 cannot start, 2 the configuration is wrong.

    Args:
        program: the command's name.
        version: what ``--version`` says.
        description: one sentence for ``--help``.
        settings_kind: the deployer's settings.
        create_app: may raise ``StateUnusable``; called when the port is ours.
        arguments: those of the process, if not given.
    """
    options = _parser(program, version, description, settings_kind).parse_args(arguments)
    try:
        settings = load_settings(settings_kind)
    except InvalidConfiguration as error:
        print(f"{program}: the configuration is wrong\n{error}", file=sys.stderr)
        return BAD_CONFIGURATION
    if options.check:
        print("The configuration is right.")
        return 0
    configure_logs(settings)
    try:
        listener = _listen(settings)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        print(f"{program}: cannot listen on {where}: {error.strerror}", file=sys.stderr)
        return CANNOT_START
    with listener:
        try:
            app = create_app(settings)
        except StateUnusable as error:
            print(f"{program}: {error}", file=sys.stderr)
            return CANNOT_START
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
        server.run(sockets=[listener])
    return 0


def _listen(settings: DeployerSettings) -> socket.socket:
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


def _parser(
    program: str, version: str, description: str, settings_kind: type[DeployerSettings]
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=_settings_help(settings_kind),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=version)
    return parser


def _settings_help(settings_kind: type[DeployerSettings]) -> str:
    lines = ["environment:"]
    secrets = settings_kind.secret_fields()
    for name, field in settings_kind.model_fields.items():
        variable = settings_kind.variable(name) + ("[_FILE]" if name in secrets else "")
        default = "required" if field.is_required() else f"default: {field.default!s}"
        lines.append(f"  {variable}\n      {field.description} ({default})")
    return "\n".join(lines)

"""The secret that this server shares with the gateway and its worker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SECRET = "COUNTERSIGN_ASSERTION_SECRET"  # noqa: S105 - the name of a variable
SHORTEST_SECRET = 32
"""Bytes, as many as the digest has (RFC 7518 section 3.2)."""


class Misconfigured(Exception):
    """The server cannot be started so. The message names the variable, never its content."""


def secret_from(environment: Mapping[str, str]) -> str:
    """The secret shared with the gateway, from its variable or from the file that ``…_FILE`` names.

    Raises:
        Misconfigured: it is missing, given twice, not readable or too short.
    """
    secret, file = environment.get(SECRET), environment.get(f"{SECRET}_FILE")
    if secret and file:
        raise Misconfigured(f"{SECRET} and {SECRET}_FILE: set one, not both")
    if file:
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{SECRET}_FILE: {file} cannot be read ({type(error).__name__})") from None
    if not secret:
        raise Misconfigured(f"{SECRET} or {SECRET}_FILE: set it to the secret that the gateway has")
    if len(secret.encode()) < SHORTEST_SECRET:
        raise Misconfigured(f"{SECRET}: expected at least {SHORTEST_SECRET} bytes, as from `openssl rand -hex 32`")
    return secret

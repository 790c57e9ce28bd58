"""``python -m countersign_client https://gateway``: sign in, where the ``countersign`` command is not installed."""

from __future__ import annotations

import argparse
import sys

from countersign_client import DEFAULT_SCOPES, ClientError, login, logout


def main() -> int:
    """Sign in or out; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m countersign_client", description="Sign in to a Countersign gateway."
    )
    parser.add_argument("gateway", help="its address, https://…")
    parser.add_argument("--scope", action="append", help=f"what the login may do; else {' '.join(DEFAULT_SCOPES)}")
    parser.add_argument("--logout", action="store_true", help="end the login instead")
    wanted = parser.parse_args()
    try:
        if wanted.logout:
            logout(wanted.gateway)
        else:
            login(wanted.gateway, scopes=wanted.scope or DEFAULT_SCOPES)
    except ClientError as error:
        print(error, file=sys.stderr)  # noqa: T201 - to a person
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

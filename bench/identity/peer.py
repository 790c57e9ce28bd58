"""Runs in a peer's environment: reads a JSON list of tokens a line, writes the microseconds that each took.

Called as ``python peer.py pyjwt|mlflow-oidc-auth``, with what it must know as one JSON line first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def pyjwt(known: Mapping[str, Any]) -> Callable[[str], object]:
    """PyJWT's ``decode`` with the key at hand: no issuer is looked up, and no key."""
    import jwt  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415  # the environment of this peer has it

    keys = {key["alg"]: jwt.PyJWK(key) for key in known["keys"]}
    algorithms = list(keys)

    def verify(token: str) -> object:
        key = keys[jwt.get_unverified_header(token)["alg"]]
        return jwt.decode(token, key, algorithms=algorithms, audience=known["audience"], issuer=known["issuer"])

    return verify


def mlflow_oidc_auth(known: Mapping[str, Any]) -> Callable[[str], object]:
    """What the plugin does with each bearer token before it looks for the user in its database."""
    os.environ |= {
        "OIDC_DISCOVERY_URL": f"{known['issuer']}/.well-known/openid-configuration",
        "OIDC_ISSUER": known["issuer"],
        "OIDC_AUDIENCE": known["audience"],
        "OIDC_CLIENT_ID": known["audience"],
        "OIDC_CLIENT_SECRET": "of-nobody",
        "SECRET_KEY": "of-nobody",
    }
    from mlflow_oidc_auth.auth import (  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415  # the same
        validate_token,
    )

    return validate_token  # type: ignore[no-any-return, unused-ignore]


PEERS = {"pyjwt": pyjwt, "mlflow-oidc-auth": mlflow_oidc_auth}


def main() -> None:
    """Answer until there is nothing more to read."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    verify = PEERS[sys.argv[1]](json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        tokens = json.loads(line)
        began = time.process_time()
        for token in tokens:
            verify(token)
        print((time.process_time() - began) * 1e6 / len(tokens), file=answers, flush=True)


if __name__ == "__main__":
    main()

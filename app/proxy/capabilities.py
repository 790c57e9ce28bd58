"""What MLflow's ``server-info`` may promise through the door.

MLflow's client believes it: where presigned downloads are advertised and then refused it does not fall back (measured
on MLflow 3.17), so what the door refuses must not be advertised.
"""

from __future__ import annotations

import json

_REFUSED = ("multipart_", "presigned_")


def without_presigned(body: bytes) -> bytes:
    """The answer of ``server-info`` without the capabilities that lead past the door; anything else unchanged."""
    try:
        info = json.loads(body)
    except ValueError:
        return body
    if not isinstance(info, dict):
        return body
    return json.dumps({key: False if key.startswith(_REFUSED) else value for key, value in info.items()}).encode()

"""What MLflow's ``server-info`` may promise through the door.

MLflow's client believes it: where presigned downloads are advertised and then refused it does not fall back (measured
on MLflow 3.17), so what the door refuses must not be advertised.
"""

from __future__ import annotations

import json

_REFUSED = ("multipart_", "presigned_")
_DOWNLOADS = "multipart_downloads_enabled"
"""What MLflow's client asks before it wants presigned addresses to read at."""


def without_presigned(body: bytes, *, downloads: bool = False) -> bytes:
    """The answer of ``server-info`` without the capabilities that lead past the door; anything else unchanged.

    Args:
        body: what MLflow answered.
        downloads: whether ``presigned-downloads`` is opened (``app/domain/routes/openings.py``).
    """
    try:
        info = json.loads(body)
    except ValueError:
        return body
    if not isinstance(info, dict):
        return body
    kept = {_DOWNLOADS} if downloads else set()
    refused = {key: False for key in info if key.startswith(_REFUSED) and key not in kept}
    return json.dumps(info | refused).encode()

"""Where the bytes are: from what the registry answers to a physical URI that anything can load.

``get-download-uri`` answers ``mlflow-artifacts:/…``, which means something only to who knows the server's
``--artifacts-destination``. These rules know it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from app.domain.errors import Unresolvable

_SEGMENT = re.compile(r"[A-Za-z0-9 ._+=@,()~-]+")
_PROXIED = "mlflow-artifacts:/"


def artifact_root(source_uri: str) -> str:
    """The path below the artifacts destination that a proxied source names, as ``1/models/m-…/artifacts``.

    Raises:
        Unresolvable: the source is of another kind, names a foreign host, or is not in the one spelling that is
        accepted
            (MLflow itself percent-decodes such paths up to ten times).
    """
    if source_uri.startswith("runs:/"):
        raise Unresolvable(
            f"{source_uri} is looked up again at every load and can come to mean other bytes; register the model "
            "again from the run (mlflow.register_model), which pins it."
        )
    if not source_uri.startswith(_PROXIED) or source_uri.startswith("mlflow-artifacts://"):
        raise Unresolvable(f"{source_uri} is not below the artifacts destination of this MLflow server.")
    path = source_uri.removeprefix(_PROXIED).strip("/")
    segments = path.split("/")
    if not all(_SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in segments):
        raise Unresolvable(f"{source_uri} is not a plain artifact path.")
    return path


def physical_uri(source_uri: str, *, destination: str) -> str:
    """The physical URI of a version's artifacts, with a trailing slash.

    The slash matters: KServe's storage initializer matches by prefix, and without it a sibling ``artifacts-old`` is
    downloaded too (measured with kserve-storage 0.21).

    Args:
        source_uri: what ``model-versions/get-download-uri`` answered.
        destination: the server's ``--artifacts-destination``: an absolute path, ``file:///…`` or
        ``s3://bucket/prefix``.

    Raises:
        Unresolvable: see ``artifact_root``.
    """
    root = artifact_root(source_uri)
    if destination.startswith("s3://"):
        return f"{destination.rstrip('/')}/{root}/"
    if destination.startswith("file:///"):
        return f"{destination.rstrip('/')}/{quote(root)}/"
    return f"file://{quote(destination.rstrip('/'))}/{quote(root)}/"


def ancestors(path: str) -> list[str]:
    """A path and all folders above it: ``a/b/c`` → ``a``, ``a/b``, ``a/b/c``."""
    segments = [segment for segment in path.split("/") if segment]
    return ["/".join(segments[: length + 1]) for length in range(len(segments))]

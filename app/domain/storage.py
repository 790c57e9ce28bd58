"""Where the bytes are: from what the registry answers to a physical URI that anything can load.

``get-download-uri`` answers ``mlflow-artifacts:/…``, which means something only to who knows the server's
``--artifacts-destination``. These rules know it.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote, urlsplit

from app.domain.errors import Unresolvable
from app.domain.grants import DEFAULT_WORKSPACE

_SEGMENT = re.compile(r"[A-Za-z0-9 ._+=@,()~-]+")
_PROXIED = "mlflow-artifacts:/"
_SERVED = "/mlflow-artifacts/artifacts/"
_WORKSPACES = "workspaces"
"""The folder below the artifacts destination in which each workspace but the default one has its own."""


def in_workspace(path: str, workspace: str) -> str:
    """Where MLflow puts a path that is meant in a workspace: below ``workspaces/<workspace>``, if it is not yet.

    As ``_get_workspace_scoped_repo_path_if_enabled`` of ``mlflow/server/handlers.py`` does, case by case; a path of
    another workspace it refuses.
    """
    if workspace == DEFAULT_WORKSPACE or path.partition("/")[0] == _WORKSPACES:
        return path
    return f"{_WORKSPACES}/{workspace}/{path}"


def artifact_root(source_uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> str:
    """The path below the artifacts destination that a proxied source names, as ``1/models/m-…/artifacts``.

    Args:
        source_uri: what ``model-versions/get-download-uri`` answered.
        workspace: of the version.

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
    root = in_workspace(path, workspace)
    if workspace != DEFAULT_WORKSPACE and not root.startswith(f"{_WORKSPACES}/{workspace}/"):
        raise Unresolvable(f"{source_uri} is not of workspace {workspace}.")
    return root


def physical_uri(source_uri: str, *, destination: str, workspace: str = DEFAULT_WORKSPACE) -> str:
    """The physical URI of a version's artifacts, with a trailing slash.

    The slash matters: KServe's storage initializer matches by prefix, and without it a sibling ``artifacts-old`` is
    downloaded too (measured with kserve-storage 0.21).

    Args:
        source_uri: what ``model-versions/get-download-uri`` answered.
        destination: the server's ``--artifacts-destination``: an absolute path, ``file:///…`` or
        ``s3://bucket/prefix``.
        workspace: of the version.

    Raises:
        Unresolvable: see ``artifact_root``.
    """
    root = artifact_root(source_uri, workspace=workspace)
    if destination.startswith("s3://"):
        return f"{destination.rstrip('/')}/{root}/"
    if destination.startswith("file:///"):
        return f"{destination.rstrip('/')}/{quote(root)}/"
    return f"file://{quote(destination.rstrip('/'))}/{quote(root)}/"


def ancestors(path: str) -> list[str]:
    """A path and all folders above it: ``a/b/c`` → ``a``, ``a/b``, ``a/b/c``."""
    segments = [segment for segment in path.split("/") if segment]
    return ["/".join(segments[: length + 1]) for length in range(len(segments))]


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it. Some file systems take ``M-ABC`` and ``m-abc`` for one folder."""
    inner, outer = _segments(path), _segments(folder)
    return inner[: len(outer)] == outer


def paths_below(uri: str, *, destination: str, workspace: str = DEFAULT_WORKSPACE) -> tuple[str, ...]:
    """Every path below the artifacts destination that ``uri`` could mean in a workspace; none when it lies elsewhere.

    To protect what is there, so it is generous where ``artifact_root`` is strict: it reads every spelling, a percent
    sign both as it stands and decoded, a host whatever its name, and the destination's own scheme.
    """
    found = _below(uri, destination)
    if found is None:
        return ()
    meant = (found, _unquoted(found))
    return tuple(dict.fromkeys((*meant, *(in_workspace(path, workspace) for path in meant))))


def _segments(path: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", path).lower()
    return [segment for segment in plain.split("/") if segment not in {"", "."}]


def _below(uri: str, destination: str) -> str | None:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme.lower() == "mlflow-artifacts":
        return uri.partition(":")[2].removeprefix(f"//{parts.netloc}").strip("/")
    if parts.scheme in {"http", "https"}:
        _, anchor, path = uri.partition(_SERVED)
        return path.strip("/") if anchor else None
    root, place = _without_file_scheme(destination).rstrip("/"), _without_file_scheme(uri)
    return place.removeprefix(root).strip("/") if place == root or place.startswith(f"{root}/") else None


def _without_file_scheme(uri: str) -> str:
    return unquote(urlsplit(uri).path) if uri.startswith("file:") else uri


def _unquoted(path: str) -> str:
    """As MLflow decodes a path: again and again, up to ten times."""
    for _ in range(10):
        path = unquote(path)
    return path

"""Where the bytes are: from what the registry answers to a physical URI that anything can load.

``get-download-uri`` answers as the version was made. ``mlflow-artifacts:/…`` means something only to who knows the
server's ``--artifacts-destination``; an address in a bucket is one already, and whoever may write to MLflow can have
written any there. These rules know the destination, and of which other places addresses may be given out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from app.domain.errors import Unresolvable
from app.domain.grants import DEFAULT_WORKSPACE

_SEGMENT = re.compile(r"[A-Za-z0-9 ._+=@,()~-]+")
_LITERAL_SEGMENT = re.compile(r"[A-Za-z0-9 ._+=@,()~%-]+")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_DOTS = frozenset({".", ".."})
_PROXIED = "mlflow-artifacts:/"
_SERVED = "/mlflow-artifacts/artifacts/"
_API = "/api/2.0"
_WORKSPACES = "workspaces"
"""The folder below the artifacts destination in which each workspace but the default one has its own."""
_MOST_DECODED = 10
"""How often MLflow percent-decodes a path, at most."""
_DEFAULT_PORTS = {"http": 80, "https": 443}

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")
_CONTAINER = re.compile(r"[a-z0-9$][a-z0-9-]{1,61}[a-z0-9]@[a-z0-9][a-z0-9.-]*[a-z0-9]")
DIRECT: Mapping[str, re.Pattern[str]] = {
    "s3": _BUCKET,
    "gs": _BUCKET,
    "wasbs": _CONTAINER,
    "abfss": _CONTAINER,
}
"""The schemes of stores that anything can load from without MLflow, and how a bucket or container is written."""


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
    if not source_uri.startswith(_PROXIED) or source_uri.startswith("mlflow-artifacts://"):
        raise Unresolvable(f"{source_uri} is not below the artifacts destination of this MLflow server.")
    return _served(source_uri.removeprefix(_PROXIED), source_uri, workspace)


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the artifacts of an MLflow server lie.

    ``destination`` is its ``--artifacts-destination``: an absolute path, ``file:///…`` or ``s3://bucket/prefix``.
    ``roots`` are the other places of which addresses are given out (``checked_root``). ``servers`` are the addresses
    of MLflow itself and of the gateway, as ``https://mlflow.example``.
    """

    destination: str
    roots: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()

    def physical_uri(self, source_uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> str:
        """The physical URI of a version's artifacts, with a trailing slash.

        The slash matters: KServe's storage initializer matches by prefix, and without it a sibling ``artifacts-old``
        is downloaded too (measured with kserve-storage 0.21).

        Args:
            source_uri: what ``model-versions/get-download-uri`` answered.
            workspace: of the version.

        Raises:
            Unresolvable: there is none that may be given out; the message says why.
        """
        return self._placed(source_uri, workspace)[0]

    def artifact_root(self, source_uri: str, *, workspace: str = DEFAULT_WORKSPACE) -> str:
        """What a version's artifacts are guarded by: the path below the destination, or the physical URI elsewhere.

        Raises:
            Unresolvable: see ``physical_uri``.
        """
        uri, below = self._placed(source_uri, workspace)
        return uri.rstrip("/") if below is None else below

    def _placed(self, source_uri: str, workspace: str) -> tuple[str, str | None]:
        """The physical URI, and the path below the destination if it is there."""
        _check_characters(source_uri)
        scheme, _, rest = source_uri.partition(":")
        if scheme in DIRECT and rest.startswith("//"):
            return self._direct(source_uri, workspace)
        if scheme == "file" or source_uri.startswith("/"):
            path = _plain(self._path_of_folder(source_uri), source_uri)
            _check_workspace(path, source_uri, workspace, has_own_folder=True)
        elif scheme == "mlflow-artifacts" and rest.startswith("/"):
            path = _served(self._path_of_served(rest, source_uri), source_uri, workspace)
        elif scheme in _DEFAULT_PORTS and rest.startswith("//"):
            path = _served(self._path_of_url(source_uri), source_uri, workspace)
        else:
            known = _OTHER_KINDS.get(scheme, "{} is of a kind of which no address is given out.")
            raise Unresolvable(known.format(source_uri))
        return self._in_destination(path), path

    def _path_of_served(self, rest: str, source_uri: str) -> str:
        if not rest.startswith("//"):
            return rest.removeprefix("/")
        authority, _, path = rest.removeprefix("//").partition("/")
        self._check_authority(authority, source_uri)
        return path

    def _path_of_url(self, source_uri: str) -> str:
        """Of an address of MLflow's own artifact service, which a server with an http root answers."""
        scheme, _, rest = source_uri.partition("://")
        authority, slash, path = rest.partition("/")
        self._check_authority(authority, source_uri)
        for server in self.servers:
            parts = urlsplit(server)
            prefix = f"{parts.path}{_API}{_SERVED}"
            is_there = scheme == parts.scheme and authority.lower() in _authorities(server)
            if is_there and f"{slash}{path}".startswith(prefix):
                return f"{slash}{path}".removeprefix(prefix)
        raise Unresolvable(f"{source_uri} is not an address of MLflow's artifact service.")

    def _check_authority(self, authority: str, source_uri: str) -> None:
        if not any(authority.lower() in _authorities(server) for server in self.servers):
            raise Unresolvable(f"{source_uri} names a host that is not this MLflow server.")

    def _path_of_folder(self, source_uri: str) -> str:
        place = source_uri
        if source_uri.startswith("file:"):
            if not source_uri.startswith("file:///"):
                raise Unresolvable(f"{source_uri} is not written as file:///… is.")
            place = unquote(source_uri.removeprefix("file://"))
        root = _without_file_scheme(self._root)
        if root.startswith("s3://") or not place.startswith(f"{root}/"):
            raise Unresolvable(f"{source_uri} is a folder that is not below the artifacts destination.")
        return place.removeprefix(f"{root}/")

    def _direct(self, source_uri: str, workspace: str) -> tuple[str, str | None]:
        uri = _checked_direct(source_uri)
        below = {root: uri.removeprefix(f"{root}/") for root in self._buckets if uri.startswith(f"{root}/")}
        if not below:
            raise Unresolvable(
                f"{source_uri} is in none of the places of which addresses are given out (COUNTERSIGN_ARTIFACT_ROOTS)."
            )
        for root, path in below.items():
            _check_workspace(path, source_uri, workspace, has_own_folder=root == self._root)
        return f"{uri}/", below.get(self._root)

    @property
    def _root(self) -> str:
        return self.destination.rstrip("/")

    @property
    def _buckets(self) -> Iterable[str]:
        return (*self.roots, self._root) if self._root.startswith("s3://") else self.roots

    def _in_destination(self, path: str) -> str:
        if self._root.startswith("s3://"):
            return f"{self._root}/{path}/"
        is_uri = self._root.startswith("file:///")
        return f"{self._root}/{quote(path)}/" if is_uri else f"file://{quote(self._root)}/{quote(path)}/"


_OTHER_KINDS = {
    "runs": "{} is looked up again at every load and can come to mean other bytes; register the model again from the "
    "run (mlflow.register_model), which pins it.",
    "models": "{} names another version, and not where the bytes are.",
}


def checked_root(uri: str) -> str:
    """A place of which addresses may be given out, as ``s3://bucket/prefix``, without a slash at its end.

    Raises:
        Unresolvable: nothing could be below it.
    """
    _check_characters(uri)
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in DIRECT:
        raise Unresolvable(f"{uri}: expected one of {', '.join(f'{each}://' for each in DIRECT)}")
    return _checked_direct(uri, is_root=True)


def _check_characters(uri: str) -> None:
    """What no address has, whatever its kind: each of these is read in two ways by somebody, or is a secret."""
    if not uri.isascii() or not uri.isprintable():
        raise Unresolvable("A source with characters beyond ASCII, or that cannot be seen, is not given out.")
    scheme, _, rest = uri.partition(":")
    user, at, _ = rest.removeprefix("//").partition("/")[0].rpartition("@")
    if rest.startswith("//") and at and (":" in user or DIRECT.get(scheme) is not _CONTAINER):
        raise Unresolvable("A source that holds a user or a password is not given out.")
    for character, name in (("\\", "a backslash"), ("?", "a query"), ("#", "a fragment")):
        if character in uri:
            raise Unresolvable(f"A source with {name} is not given out.")


def _checked_direct(uri: str, *, is_root: bool = False) -> str:
    """An address in a store, without a slash at its end, in the one spelling that is accepted."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if ":" in bucket:
        raise Unresolvable(f"{uri} names a port, and a bucket has none.")
    if not DIRECT[scheme].fullmatch(bucket) or ".." in bucket:
        raise Unresolvable(f"{uri} names no bucket or container.")
    key = key.removesuffix("/")
    if is_root and not key:
        return f"{scheme}://{bucket}"
    # A percent sign is a character of a key as any other to S3, and who decodes it still finds no way out.
    pattern = _LITERAL_SEGMENT if scheme == "s3" else _SEGMENT
    if not all(_is_plain(each, pattern) and _is_plain(_unquoted(each), pattern) for each in key.split("/")):
        raise Unresolvable(f"{uri} is not a plain address: a part of it is empty, dotted or in doubtful characters.")
    return f"{scheme}://{bucket}/{key}"


def _is_plain(segment: str, pattern: re.Pattern[str] = _SEGMENT) -> bool:
    return pattern.fullmatch(segment) is not None and segment not in _DOTS


def _plain(path: str, source_uri: str) -> str:
    path = path.removesuffix("/")
    if not all(_is_plain(segment) for segment in path.split("/")):
        raise Unresolvable(f"{source_uri} is not a plain artifact path.")
    return path


def _served(path: str, source_uri: str, workspace: str) -> str:
    """What MLflow's artifact service has under a path, as it lies below the destination."""
    root = in_workspace(_plain(path, source_uri), workspace)
    _check_workspace(root, source_uri, workspace, has_own_folder=True)
    return root


def _check_workspace(path: str, source_uri: str, workspace: str, *, has_own_folder: bool) -> None:
    """Return unless a path below a root is in the folder of another workspace: MLflow alone keeps those apart.

    The default one has none where the server was without workspaces once. Elsewhere than in the destination
    (``has_own_folder``) another may have a root to itself, and no folder in it.
    """
    first, _, rest = path.partition("/")
    may_have_none = workspace == DEFAULT_WORKSPACE or not has_own_folder
    is_its_own = rest.startswith(f"{workspace}/") if first == _WORKSPACES else may_have_none
    if not is_its_own:
        raise Unresolvable(f"{source_uri} is not of workspace {workspace}.")


def _authorities(server: str) -> frozenset[str]:
    """How a URL may write the host and the port of a server."""
    parts = urlsplit(server)
    host, port = parts.netloc.rpartition("@")[2].lower(), _DEFAULT_PORTS.get(parts.scheme)
    name = host.removesuffix(f":{port}")
    return frozenset({host, name, f"{name}:{port}"}) if parts.port in {None, port} else frozenset({host})


def parse_runs_uri(source_uri: str) -> tuple[str, str] | None:
    """The run of a source ``runs:/<run>/<path>``, and the path; none if it is another source.

    Raises:
        Unresolvable: it is one that is written otherwise.
    """
    scheme, _, rest = source_uri.partition(":")
    if scheme != "runs":
        return None
    _check_characters(source_uri)
    run_id, _, path = rest.removeprefix("/").partition("/")
    if not rest.startswith("/") or not _RUN.fullmatch(run_id):
        raise Unresolvable(f"{source_uri} names no run and path.")
    return run_id, _plain(path, source_uri)


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
    """As MLflow decodes a path: again and again."""
    for _ in range(_MOST_DECODED):
        path = unquote(path)
    return path

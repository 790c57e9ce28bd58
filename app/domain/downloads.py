"""Downloads: who is given the bytes of a version, for how long, and what the ways to them may open."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote, urlsplit

from app.domain.errors import InsufficientScope, InvalidInput, Unresolvable
from app.domain.identity import Credential, Scope

SHORTEST_S = 60
SHORTEST_CREDENTIALS_S = 900
"""What STS allows at least, and every server that speaks its protocol."""
LONGEST_S = 12 * 3600
"""Whatever the operator allows."""
DEFAULT_S = 900
MOST_URLS = 1000
"""In one answer."""
MOST_A_MINUTE = 120
"""Times that one principal is given URLs or credentials: enough for the most files that a version can have."""

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.ASCII)
_WILD = frozenset("*?$")
_ARN = re.compile(r"arn:([a-z-]+):iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_NOT_IN_SESSION_NAMES = re.compile(r"[^A-Za-z0-9=,.@-]+")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a version. ``sha256`` is lower-case hex; none where neither a promotion nor the store knows it."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class SignedUrls:
    """By path. Whoever has such a URL can read that file until then."""

    urls: Mapping[str, str] = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LentCredentials:
    """They read what is below one prefix, until then. ``endpoint_url`` is none for AWS itself."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: datetime
    endpoint_url: str | None
    region: str | None


def check_scope(credential: Credential) -> None:
    """Return if a credential may be given bytes: a token that names the scope ``resolve``, and nothing else.

    What is given opens the store to whoever has it, past this gateway, and cannot be taken back. A browser's session
    and a provider's token that names no scope of ours may do whatever their owner may: that was not meant by it. Such
    a token is exchanged for one that does name it (RFC 8693).

    Raises:
        InsufficientScope: it does not.
    """
    if credential.scopes is None or Scope.RESOLVE not in credential.scopes:
        raise InsufficientScope(
            "The bytes are given to a token that names the scope `resolve`, and to nothing else. Services exchange "
            "theirs: `countersign exchange --scope resolve`, or POST /auth/token. People make one: `countersign token "
            "create --scope resolve`, or POST /control/v1/tokens.",
            scope=Scope.RESOLVE.value,
        )


def check_within(uri: str, roots: Iterable[str]) -> str:
    """A physical URI that lies below one of ``roots``, each an absolute path, a ``file:///`` or an ``s3://`` URI.

    The gateway reads more than its callers may. Anybody who can register a version chooses where it says that its bytes
    are; what lies elsewhere is not handed out on their word.

    Raises:
        Unresolvable: it lies elsewhere, or has more than one spelling.
    """
    place = _place(uri)
    if place is not None and any(_is_below(place, root) for each in roots if (root := _place(each)) is not None):
        return uri
    raise Unresolvable(
        "These artifacts are not below a root that this gateway gives bytes of; read them where they lie."
    )


def _place(uri: str) -> tuple[str, ...] | None:
    """Scheme, bucket or host, and folders; none if it is not plain."""
    if uri.startswith("/"):
        scheme, netloc, path = "file", "", uri
    else:
        try:
            parts = urlsplit(uri)
        except ValueError:
            return None
        if parts.query or parts.fragment or parts.scheme not in {"file", "s3"}:
            return None
        # Keys of S3 are not encoded, paths of files are.
        scheme, netloc = parts.scheme, parts.netloc
        path = unquote(parts.path) if scheme == "file" else parts.path
    if (scheme == "file") != (netloc == "") or "@" in netloc or "\\" in path or "\0" in path:
        return None
    folders = path.strip("/").split("/") if path.strip("/") else []
    return None if {"", ".", ".."} & set(folders) else (scheme, netloc, *folders)


def _is_below(place: tuple[str, ...], root: tuple[str, ...]) -> bool:
    return place[: len(root)] == root


def check_lasts(seconds: int, *, least: int, longest: int) -> int:
    """Raises ``InvalidInput``: it is not from ``least`` to ``longest`` seconds."""
    if not least <= seconds <= longest:
        raise InvalidInput("expires_in", f"expected {least} to {longest} seconds")
    return seconds


def session_policy(bucket: str, prefix: str, *, partition: str = "aws") -> str:
    """The most that lent credentials may do: read the objects below a prefix, and list them.

    Args:
        bucket: its name.
        prefix: ends in a slash, so that a sibling whose name begins alike is not below it.
        partition: ``aws``, ``aws-cn`` or ``aws-us-gov``.

    Raises:
        Unresolvable: the prefix has a character that a policy takes for a pattern, or is none.
    """
    if not prefix.endswith("/") or _WILD & set(prefix) or not prefix.isprintable():
        raise Unresolvable(
            "No credentials can be limited to this prefix: it is the whole bucket, or has * ? or $ in it."
        )
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                    "Resource": [f"arn:{partition}:s3:::{bucket}/{prefix}*"],
                },
                {
                    "Effect": "Allow",
                    "Action": ["s3:ListBucket"],
                    "Resource": [f"arn:{partition}:s3:::{bucket}"],
                    "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*"]}},
                },
            ],
        },
        separators=(",", ":"),
    )


def partition_of(role_arn: str) -> str | None:
    """The partition of a role's ARN, ``arn:aws:iam::123456789012:role/reads``; none if it is no such."""
    found = _ARN.fullmatch(role_arn)
    return found.group(1) if found else None


def session_name(principal_id: str, *, longest: int) -> str:
    """What a store's own log calls who was lent credentials, as far as it allows letters."""
    subject = principal_id.rpartition("|")[2]
    return ("countersign-" + (_NOT_IN_SESSION_NAMES.sub("-", subject).strip("-") or "caller"))[:longest]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: its first byte, and how many."""

    first: int
    length: int

    def content_range(self, size: int) -> str:
        """RFC 9110 section 14.4."""
        return f"bytes {self.first}-{self.first + self.length - 1}/{size}"


class NoSuchPart(Exception):
    """The range lies behind the end (RFC 9110 section 15.5.17)."""


def part_of(header: str | None, size: int) -> Part | None:
    """What a ``Range`` header asks for; none for the whole, also where it asks for several, or is not understood.

    RFC 9110 section 14.2: a server may ignore it.

    Raises:
        NoSuchPart: nothing of the file is in it.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        begin = size - length
    else:
        begin = int(first)
        if last is not None and int(last) < begin:
            return None
        length = min(int(last) + 1 if last is not None else size, size) - begin
    if length <= 0:
        raise NoSuchPart
    return Part(begin, length)

"""Who had a hand in what, as the door saw it: who registered a version, made its run, wrote its files.

Whoever had a hand in a version does not approve it, an administrator no more than anybody else. What MLflow itself
knows of its users is what their clients claim; so the door writes down whom it let through (``Hand``), and a claimed
name bars people as well, but clears nobody.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.identity import Identity
from app.domain.legible import listed
from app.domain.promotions import Promotion
from app.domain.routes import Guard, Route
from app.domain.storage import ancestors


class Hand(StrEnum):
    """What somebody did. Beside each: the key of what it was done to."""

    VERSION = "version"
    """Registered a version. ``version_key``"""
    VERSION_ASKED = "version-asked"
    """Asked MLflow to register a version, and what came of it is not known. ``asked_key``"""
    RUN = "run"
    """Created a run. Its id"""
    LOGGED_MODEL = "logged-model"
    """Created a logged model. Its id"""
    SOURCE_RUN = "source-run"
    """Created the run that a logged model says it comes from. The id of the logged model"""
    ARTIFACT = "artifact"
    """Wrote or deleted artifacts. ``folder_of`` or ``run_folder``"""


CREATES: Mapping[str, Hand] = {
    "/mlflow/model-versions/create": Hand.VERSION,
    "/mlflow/runs/create": Hand.RUN,
    "/mlflow/logged-models": Hand.LOGGED_MODEL,
}
"""Ends of the templates of POSTs after which something has an author."""

CHANGES_ARTIFACTS = frozenset({Guard.ARTIFACT_WRITE, Guard.ARTIFACT_DELETE, Guard.RUN_ARTIFACT_WRITE})
"""The guards of every route that is open and changes files."""

ASKED_BEFORE, ASKED_AFTER = timedelta(minutes=15), timedelta(minutes=5)
"""How long before and after a version's time, which is of MLflow's clock, it can have been asked for: a request may
wait, and clocks differ."""

NAMED = "is named as the run's user"

LONGEST_KEY = 1024
"""Bytes, as of a key in S3."""

NOBODY = frozenset(
    {"", "admin", "administrator", "airflow", "anonymous", "app", "build", "buildkite", "ci", "circleci", "codespace"}
    | {"databricks", "default", "dev", "docker", "ec2-user", "gitlab-runner", "github", "github-actions", "jenkins"}
    | {"jovyan", "jupyter", "kubeflow", "mlflow", "mluser", "nobody", "none", "null", "ray", "root", "runner"}
    | {"runneradmin", "sagemaker-user", "service", "spark", "system", "test", "travis", "ubuntu", "unknown", "user"}
    | {"vagrant", "vscode", "worker", "www-data"}
)
"""Names that programs run under in images, notebooks and CI: they name no person."""

_NAMES = frozenset(
    {"email", "preferred_username", "upn", "unique_name", "username", "user_name", "nickname", "login", "user_login"}
)
"""Claims in which issuers say what somebody is called."""

_LONGEST_NAME = 256
_EPOCH = datetime.fromtimestamp(0, UTC)
_RUN = re.compile(r"[0-9a-f]{32}")
_LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")
_TRACE = re.compile(r"tr-[0-9a-z-]+")


@dataclass(frozen=True, slots=True)
class Contribution:
    """Somebody had a hand in something; ``at`` is when it was noticed last, to within minutes."""

    hand: Hand
    key: str
    principal_id: str
    principal_name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Involved:
    """Who had a hand in what a promotion is of.

    ``barred`` maps a principal's id to what they did, as in ``asked for this promotion``: "Ann asked for this
    promotion". ``unrecorded`` says whose hand the door has not seen, as in ``who registered version 7``.
    """

    barred: Mapping[str, str]
    unrecorded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestsOn:
    """What a promotion's version rests on: the keys under which hands in it were written down."""

    version: str
    asked: tuple[str, str]
    """The keys between which it may have been asked for."""
    runs: frozenset[str]
    logged_models: frozenset[str]
    root: str
    """The folder of its artifacts, folded; elsewhere than below the artifacts destination, their address."""

    @property
    def folders(self) -> frozenset[str]:
        """Where a hand in its artifacts may be written down: its folder, those above it, its runs."""
        return frozenset({*ancestors(self.root), *map(run_folder, self.runs)})


def creation(route: Route) -> Hand | None:
    """What somebody has a hand in when MLflow has answered this route well; none for nearly all routes."""
    if route.method != "POST":
        return None
    return next((hand for end, hand in CREATES.items() if route.template.endswith(end)), None)


def version_key(version: str, created_at: int) -> str:
    """Number and time of creation (milliseconds since the epoch), and no name: models are renamed, also past the door.

    Two models' versions of one number and one millisecond share their authors; that bars too many, never too few.
    """
    return f"{version}/{created_at}"


def asked_key(model: str, at: datetime, request: str = "") -> str:
    """Of one request about a model at that time, so that a model's sort by time.

    Args:
        model: as it was called: some databases find ``fraud`` by ``Fraüd``, so this is the same for both.
        at: when.
        request: tells those of one moment apart.
    """
    return f"{asked_prefix(model)}{round(at.timestamp() * 1000):015d}/{request}"


def asked_prefix(model: str) -> str:
    """How the ``asked_key`` of every request about a model begins. No name of a model has a slash."""
    letters = unicodedata.normalize("NFKD", _fold(model[:LONGEST_KEY]))
    plain = [letter for letter in letters if letter.isprintable() and not unicodedata.combining(letter)]
    return "".join(plain[:_LONGEST_NAME]) + "/"


def folder_of(path: str, *, workspace: str = DEFAULT_WORKSPACE, is_deleted: bool = False) -> str:
    """The folder, folded, that stands for a path below the artifacts destination when somebody changes it.

    Of a run or logged model all its artifacts, of an experiment all its traces, else the folder the path is in; what is
    deleted may be a folder itself, and nothing beside it is touched. It is always above the path, or the path itself:
    so whatever folder above the path a version is registered from, one of the two lies in the other.
    """
    segments = _folded(path, workspace)
    for above, (outer, inner) in enumerate(pairwise(segments), start=1):
        if inner == "artifacts" and (_RUN.fullmatch(outer) or _LOGGED_MODEL.fullmatch(outer)):
            return _key_of(segments[: above + 1])
        if outer == "traces" and _TRACE.fullmatch(inner):
            return _key_of(segments[:above])
    return _key_of(segments if is_deleted else segments[:-1] or segments)


def _key_of(segments: list[str]) -> str:
    """The path, or a folder above it that is short enough to be looked up by."""
    while len(segments) > 1 and len("/".join(segments).encode()) > LONGEST_KEY:
        segments = segments[:-1]
    return "/".join(segments)


def run_folder(run_id: str) -> str:
    """What stands for the artifacts of a run when somebody names the run and not the path. No path has a colon."""
    return f"runs:/{_fold(run_id)}"


def rests_on(promotion: Promotion) -> RestsOn:
    """What the version of a promotion rests on, as far as its own record says it."""
    root = "/".join(_folded(promotion.artifact_root, DEFAULT_WORKSPACE))
    segments = root.split("/")
    runs = {segment for segment in segments if _RUN.fullmatch(segment)} | {_fold(promotion.run_id or "")}
    created = datetime.fromtimestamp(promotion.version_created_at / 1000, UTC)
    return RestsOn(
        version_key(promotion.to_version, promotion.version_created_at),
        (
            asked_key(promotion.model, created - min(ASKED_BEFORE, created - _EPOCH)),
            asked_key(promotion.model, created + ASKED_AFTER),
        ),
        frozenset(runs - {""}),
        frozenset(segment for segment in segments if _LOGGED_MODEL.fullmatch(segment)),
        root,
    )


def involved(promotion: Promotion, contributions: Iterable[Contribution]) -> Involved:
    """Who had a hand in what a promotion is of.

    Args:
        promotion: whoever asked for it had a hand in it.
        contributions: those to what it ``rests_on``.
    """
    version, resting = f"version {promotion.to_version}", rests_on(promotion)
    did = {hand: [each for each in contributions if each.hand is hand] for hand in Hand}
    said: dict[str, list[str]] = {promotion.requested_by: ["asked for this promotion"]}

    def add(hand: Hand, what: str) -> None:
        for each in did[hand]:
            if what not in said.setdefault(each.principal_id, []):
                said[each.principal_id].append(what)

    add(Hand.VERSION, f"registered {version}")
    if not did[Hand.VERSION]:
        add(Hand.VERSION_ASKED, f"may have registered {version}, whose author was not recorded")
    add(Hand.RUN, f"created the run that {version} comes from")
    add(Hand.LOGGED_MODEL, f"created the logged model that is {version}")
    add(Hand.SOURCE_RUN, f"created the run that {version} comes from")
    add(Hand.ARTIFACT, f"changed the artifacts of {version}")
    missing = {
        f"who registered {version}": not did[Hand.VERSION],
        f"who created the run that {version} comes from": bool(resting.runs - {each.key for each in did[Hand.RUN]}),
        f"who created the logged model that is {version}": bool(
            resting.logged_models - {each.key for each in did[Hand.LOGGED_MODEL]}
        ),
        f"who wrote the artifacts of {version}": not did[Hand.ARTIFACT],
    }
    return Involved(
        {principal_id: listed(parts) for principal_id, parts in said.items()},
        tuple(what for what, is_missing in missing.items() if is_missing),
    )


def claimed_by_name(identities: Iterable[Identity], claimed: Iterable[str]) -> Mapping[str, str]:
    """Those whom MLflow names as the user of a run or version, by id, in the words of ``Involved.barred``.

    MLflow has the names from its clients, so that they bar people and clear nobody.

    Args:
        identities: those who might be meant.
        claimed: ``run.info.user_id``, the tag ``mlflow.user``, ``version.user_id``.
    """
    names = frozenset(claimed)
    return {identity.id: NAMED for identity in identities if is_named(identity, names)}


def names_of(identity: Identity) -> frozenset[str]:
    """What a client that runs as this person may call them, folded: names, addresses, what is before an ``@``."""
    said = [identity.name, identity.subject]
    for claim in _NAMES & identity.claims.keys():
        value = identity.claims[claim]
        said += [value] if isinstance(value, str) else value
    names = {_fold(_without_domain(name)) for name in said}
    return frozenset(names | {_local(name) for name in names}) - NOBODY


def is_named(identity: Identity, claimed: Iterable[str]) -> bool:
    """Whether one of the ``claimed`` names is this person's.

    A name that programs share names nobody. An address names whoever has that address, or has none and is called what
    is before its ``@``: ``ann@one.example`` is not ``ann@two.example``.
    """
    names = names_of(identity)
    has_address = any("@" in name for name in names)
    said = {_fold(_without_domain(name)) for name in claimed}
    return not names.isdisjoint(said if has_address else said | {_local(name) for name in said})


def _without_domain(name: str) -> str:
    r"""``CORP\ann``, as Windows writes it, is ``ann``."""
    return name.rpartition("\\")[2]


def _local(name: str) -> str:
    return name.partition("@")[0].strip()


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _folded(path: str, workspace: str) -> list[str]:
    """The segments of a path: some file systems take ``M-ABC`` and ``m-abc`` for one folder."""
    segments = [segment for segment in _fold(path).split("/") if segment not in {"", "."}]
    if workspace != DEFAULT_WORKSPACE and segments[:1] != ["workspaces"]:
        return ["workspaces", _fold(workspace), *segments]
    return segments

"""What a principal who may see some models and experiments only is let ask.

What such a principal may not read is asked for in other words: MLflow is sent an id or name that it never gave out, and
that word is replaced in its answer. So what may not be read is answered exactly as what does not exist, on every route,
whatever MLflow says there.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.access import Permission, Principal, require
from app.domain.canonical import JsonObject, canonical_artifact_path
from app.domain.errors import Forbidden, InvalidInput, Unresolvable
from app.domain.grants import DEFAULT_WORKSPACE, Resource, ResourceKind
from app.domain.routes import Route, RouteClass
from app.domain.routes.resources import Name, Named, Newness, Place, Rule
from app.domain.storage import artifact_root
from app.domain.traces import check_trace_location
from app.services.reach import Reach, Standing, Want

_LAST_EXPERIMENT = 2_147_483_646
_FIRST_STORED, _LAST_STORED = 1_000_000_000, 2_147_000_000
"""The largest ids of a 32-bit column: databases count up from one."""
_PROMPT_SOURCE = "prompt-template"
"""The source of every version of a prompt (``mlflow/prompt/constants.py``)."""
_DEEPEST = 64
_READS = frozenset({Permission.TRACKING_READ, Permission.REGISTRY_READ})
_UNREADABLE_WRITES = frozenset({RouteClass.ARTIFACT_WRITE, RouteClass.ARTIFACT_DELETE})
"""Where MLflow makes what does not exist: a phantom would come to be."""


@dataclass(slots=True)
class Asked:
    """A request as it was understood, to be changed before MLflow is sent it."""

    params: dict[str, str]
    query: list[list[str]]
    fields: JsonObject | None = None


@dataclass(slots=True)
class Phantoms:
    """Words that stand for what may not be read, and what the caller called it.

    ``is_stored`` says that MLflow may write them down, as it does where it does not ask whether something exists.
    """

    is_stored: bool = False
    hides: bool = False
    """Whether one of them stands for something that exists."""
    originals: dict[str, str] = field(default_factory=dict)
    _given: dict[tuple[Named, str], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.originals)

    def of(self, kind: Named, value: str) -> str:
        """The phantom of something, one and the same within a request."""
        if (kind, value) not in self._given:
            phantom, original = self._make(kind, value)
            self._given[kind, value] = phantom
            self.originals[phantom.partition("/")[0] if kind is Named.ARTIFACT else phantom] = original
        return self._given[kind, value]

    def _make(self, kind: Named, value: str) -> tuple[str, str]:
        if kind is Named.ARTIFACT:
            first, slash, rest = value.partition("/")
            phantom = uuid.uuid4().hex
            return f"{phantom}{slash}{rest}", first
        if kind is Named.EXPERIMENT and self.is_stored:
            return str(_FIRST_STORED + secrets.randbelow(_LAST_STORED - _FIRST_STORED)), value
        if kind is Named.EXPERIMENT:
            # Always the same: MLflow writes the ids that were asked for into the tokens of its pages. Nothing is ever
            # written under one of them.
            return str(_LAST_EXPERIMENT - len(self._given)), value
        return _SHAPES.get(kind, "{}").format(uuid.uuid4().hex), value

    def restore(self, body: bytes) -> bytes:
        """An answer of MLflow in the caller's words."""
        if not self.originals:
            return body
        words = b"|".join(re.escape(phantom.encode()) for phantom in self.originals)
        return re.sub(rb"(?<![0-9A-Za-z])(?:" + words + rb")(?![0-9A-Za-z])", self._original, body)

    def _original(self, found: re.Match[bytes]) -> bytes:
        return json.dumps(self.originals[found[0].decode()])[1:-1].encode("ascii")


_SHAPES: Mapping[Named, str] = {
    Named.TRACE: "tr-{}",
    Named.LOGGED_MODEL: "m-{}",
    Named.DATASET: "d-{}",
    Named.ISSUE: "iss-{}",
    Named.LABEL_SCHEMA: "ls-{}",
    Named.REVIEW_QUEUE: "rq-{}",
    Named.MODEL: "nothing-{}",
    Named.EXPERIMENT_NAME: "nothing-{}",
    Named.WORKSPACE: "nothing-{}",
}
"""What MLflow's ids look like, and names that nobody gives."""


@dataclass(slots=True)
class _Spot:
    """A place in a request where a word stands: a key of an object, or an index of a list."""

    container: Any
    key: str | int

    @property
    def value(self) -> object:
        return self.container[self.key]

    @value.setter
    def value(self, word: str) -> None:
        self.container[self.key] = word


@dataclass(slots=True)
class _Mention:
    """Something that is named at one or more spots."""

    name: Name
    want: Want
    spots: Sequence[_Spot]
    render: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Limits:
    """How the requests of a limited principal on one route are judged."""

    reach: Reach
    route: Route
    rule: Rule
    principal: Principal
    workspace: str = DEFAULT_WORKSPACE

    async def apply(self, asked: Asked) -> Phantoms:
        """Put what MLflow shall be asked in the place of what was asked.

        Raises:
            Forbidden: the principal may read it, and not do this with it. InvalidInput: it can be read in two ways.
        """
        _check_twofold(asked)
        self._check_location(asked)
        mentions = [mention for name in self.rule.names for mention in self._mentions(name, asked)]
        wants = [mention.want for mention in mentions if mention.name.newness is not Newness.NEW]
        standings = iter(await self.reach.standings(self.principal, wants, self.workspace))
        phantoms = Phantoms(is_stored=self.route.permission not in _READS)
        for mention in mentions:
            if mention.name.newness is Newness.NEW:
                await self._check_new(mention)
                continue
            word = self._word(mention, next(standings), phantoms)
            for spot in mention.spots:
                spot.value = mention.render(word)
        return phantoms

    def _word(self, mention: _Mention, standing: Standing, phantoms: Phantoms) -> str:
        """What MLflow is sent for something that was named."""
        want = mention.want
        if mention.name.newness is Newness.EITHER and not standing.exists:
            return want.value
        if standing.may:
            return standing.value
        if mention.name.newness is Newness.EITHER or (
            want.kind is Named.ARTIFACT and self.route.route_class in _UNREADABLE_WRITES
        ):
            raise Forbidden(
                f"{self.principal.name} has no grant to write there; "
                "/control/v1/permissions/check says who could give it.",
                permission=want.permission.value,
            )
        if not standing.reads or standing.resource is None:
            phantoms.hides |= standing.exists
            return phantoms.of(want.kind, want.value)
        require_of_grants(self.principal, want.permission, standing.resource)
        raise AssertionError("the standing and the grants agree")

    async def _check_new(self, mention: _Mention) -> None:
        kind = ResourceKind.MODEL if mention.want.kind is Named.MODEL else ResourceKind.EXPERIMENT
        name = mention.want.value
        owner = await self.reach.owner_of_model(name, self.workspace) if kind is ResourceKind.MODEL else None
        resource = Resource(kind, name, workspace=self.workspace, owner=owner)
        require_of_grants(self.principal, mention.want.permission, resource)

    def _check_location(self, asked: Asked) -> None:
        """Whoever could say where artifacts lie could say that they lie where somebody else's do."""
        fields = asked.fields or {}
        if fields.get("artifact_location"):
            raise Forbidden(
                "Where the artifacts of an experiment lie is chosen with a grant on everything; leave it out."
            )
        check_trace_location(fields)

    def _mentions(self, name: Name, asked: Asked) -> Iterator[_Mention]:
        found = [spot for each in name.fields for spot in _spots(name, each, asked)]
        spots = [spot for spot in found if spot.value not in ("", None)]
        first = name.fields[0]
        if not all(isinstance(spot.value, str) for spot in spots):
            raise InvalidInput(first, "expected text")
        if not spots and name.kind is Named.ARTIFACT:
            yield self._root(name, asked)
        elif not spots and not name.is_optional:
            raise InvalidInput(first, f"Missing value for required parameter '{first}'.")
        elif len(name.fields) > 1 and spots:
            if len({spot.value for spot in spots}) > 1:
                raise InvalidInput(name.fields[1], f"expected the same as in {first}")
            yield _mention(name, spots)
        else:
            for spot in spots:
                if name.kind is not Named.VERSION_SOURCE or spot.value != _PROMPT_SOURCE:
                    yield _mention(name, [spot])

    def _root(self, name: Name, asked: Asked) -> _Mention:
        """Whoever names no folder asks for the root, in which there is a folder for each experiment."""
        asked.query = [pair for pair in asked.query if pair[0] != name.fields[0]]
        pair = [name.fields[0], ""]
        asked.query.append(pair)
        return _Mention(name, Want(Named.ARTIFACT, "-", name.permission), [_Spot(pair, 1)])


def _mention(name: Name, spots: Sequence[_Spot]) -> _Mention:
    value = str(spots[0].value)
    if name.kind is Named.VERSION_SOURCE:
        return _source(name, value, spots)
    if name.kind is Named.ARTIFACT:
        canonical_artifact_path(value, field=name.fields[0])
    return _Mention(name, Want(name.kind, value, name.permission), spots)


def _source(name: Name, source: str, spots: Sequence[_Spot]) -> _Mention:
    """The bytes of a version are read by whoever reads its model: registering them is reading them."""
    if found := _FROM_A_VERSION.fullmatch(source):
        model, version = found["name"], found["version"]
        want = Want(Named.MODEL, model, Permission.REGISTRY_READ)
        return _Mention(name, want, spots, lambda word: f"models:/{word}{version}")
    if found := _FROM_A_LOGGED_MODEL.fullmatch(source):
        want = Want(Named.LOGGED_MODEL, found["id"], name.permission)
        return _Mention(name, want, spots, lambda word: f"models:/{word}")
    if found := _FROM_A_RUN.fullmatch(source):
        run_id, folder = found["run"], found["path"]
        want = Want(Named.RUN, run_id, name.permission)
        return _Mention(name, want, spots, lambda word: f"runs:/{word}{folder}")
    if source.startswith("mlflow-artifacts:/"):
        try:
            path = artifact_root(source)
        except Unresolvable as error:
            raise InvalidInput("source", error.message) from None
        want = Want(Named.ARTIFACT, path, name.permission)
        return _Mention(name, want, spots, lambda word: f"mlflow-artifacts:/{word}")
    raise Forbidden(
        "Where the bytes of a version come from must be a run, a logged model, a version or an artifact that you may "
        "read; another place is named with a grant on everything."
    )


_FROM_A_VERSION = re.compile(r"models:/(?P<name>[^/@%#?]+)(?P<version>/[1-9][0-9]*|@[A-Za-z0-9_-]+)")
_FROM_A_LOGGED_MODEL = re.compile(r"models:/(?P<id>[A-Za-z0-9_-]+)")
_FROM_A_RUN = re.compile(r"runs:/(?P<run>[0-9A-Za-z_-]+)(?P<path>(?:/[^%#?]*)?)")
"""The spellings of a source that have one meaning."""


def require_of_grants(principal: Principal, permission: Permission, resource: Resource) -> None:
    """Return if the principal's grants let it; what its credential may do at most was asked for the whole route.

    Raises:
        Forbidden: they do not.
    """
    require(replace(principal, credential=replace(principal.credential, scopes=None)), permission, resource)


def _spots(name: Name, path: str, asked: Asked) -> Iterator[_Spot]:
    if name.place is Place.PATH:
        yield _Spot(asked.params, path)
        if asked.fields is not None and path in asked.fields:
            yield _Spot(asked.fields, path)
    elif name.place is Place.QUERY:
        parameter = path.removesuffix("[]")
        pairs = [pair for pair in asked.query if pair[0] == parameter]
        if len(pairs) > 1 and parameter == path:
            raise InvalidInput(parameter, "expected once")
        yield from (_Spot(pair, 1) for pair in pairs)
    elif asked.fields is not None:
        yield from _walk(asked.fields, path.split("."), is_needed=False, name=name)


def _walk(container: object, path: Sequence[str], *, is_needed: bool, name: Name) -> Iterator[_Spot]:
    """The places in a document to which a path leads; they are put first in their objects.

    MLflow reads an object in its order, and leaves out what follows the first thing that it cannot read.
    """
    step, *rest = path
    key = step.removesuffix("[]")
    if not isinstance(container, dict):
        raise InvalidInput(key, "expected within an object")
    head, *tail = key.split("_")
    twin = head + "".join(part.title() for part in tail)
    if twin != key and twin in container:
        raise InvalidInput(twin, f"expected as {key}")
    if container.get(key) is None:
        container.pop(key, None)
        if is_needed and not name.is_optional:
            raise InvalidInput(key, f"Missing value for required parameter '{key}'.")
        return
    value = container.pop(key)
    others = dict(container)
    container.clear()
    container[key] = value
    container.update(others)
    if key == step:
        yield from _walk(value, rest, is_needed=is_needed, name=name) if rest else (_Spot(container, key),)
        return
    if not isinstance(value, list):
        raise InvalidInput(key, "expected a list")
    for index, item in enumerate(value):
        yield from _walk(item, rest, is_needed=True, name=name) if rest else (_Spot(value, index),)


def _check_twofold(asked: Asked) -> None:
    """Refuse a document that MLflow reads otherwise than it stands there."""
    fields = asked.fields
    if fields is None:
        return
    for name, parameter in asked.params.items():
        if fields.get(name, parameter) != parameter:
            raise InvalidInput(name, "expected the same in path and body")
    level: list[object] = [fields]
    for _ in range(_DEEPEST):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                if any(key.startswith("[") for key in value):
                    raise InvalidInput("body", "expected no key that begins with `[`")
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = below
    if level:
        raise InvalidInput("body", f"expected at most {_DEEPEST} levels")

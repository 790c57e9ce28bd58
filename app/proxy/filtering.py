"""Lists for principals who may see some of their items only: nothing lost, nothing twice, in MLflow's order.

MLflow is asked page by page until the caller's page is full; how many items were passed over is not to be told from
the answer. The token of the next page says where in MLflow's list it begins, and is sealed: a caller can neither read
it nor use that of somebody else or of another list.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import takewhile
from math import ceil
from typing import Any

from app.domain.access import Permission
from app.domain.canonical import JsonObject, serialise
from app.domain.errors import InvalidInput, UpstreamUnavailable
from app.domain.grants import Access, Effect, is_pattern
from app.domain.roles import ROLE_PERMISSIONS
from app.domain.routes.resources import ListOf, Named
from app.ports import Sealer
from app.proxy.capturing import Captured
from app.proxy.limiting import Asked, Limits
from app.services.reach import Shown

MOST_PAGES = 20
"""Pages of MLflow's for one of ours. When they are used up, a page is given that is not full, with a token."""
LEAST_YIELD = 0.02
UNREADABLE = "Invalid page token, could not base64-decode"
"""MLflow's words."""
MOST_NAMED = 10_000
"""Names that are looked for by name; with more, MLflow's list is walked."""

MOST_PATTERNS = 20
"""Patterns that are looked for one after the other."""

_PLAIN = re.compile(r"[A-Za-z0-9 ._+=@,;~()|*?-]+")
"""A name or pattern that stands in a filter as it is."""

Ask = Callable[[Asked], Awaitable[Captured]]
"""Asks MLflow once."""


@dataclass(slots=True)
class _Page:
    """What was found for the caller's page, and where the next one begins."""

    items: list[Any]
    rest: JsonObject
    """MLflow's answer beside the items."""
    next: JsonObject | None = None


class Lists:
    """Args: sealer: seals the tokens of our pages."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def answer(self, limits: Limits, asked: Asked, ask: Ask) -> Captured:
        """The answer for the caller.

        Raises:
            InvalidInput: the page token is not one of this list. UpstreamUnavailable: MLflow answers something else.
        """
        list_of = limits.rule.list_of
        assert list_of is not None  # else this is no list
        filtering = _Filtering(limits, list_of, _Parameters(asked), ask)
        if not list_of.is_paged:
            return await filtering.whole()
        return await self._page(filtering)

    async def _page(self, filtering: _Filtering) -> Captured:
        parameters, limits = filtering.parameters, filtering.limits
        sent = parameters.get("page_token")
        words = (parameters.get("filter"), parameters.all("order_by"), parameters.get("view_type"))
        context = json.dumps([limits.principal.id, limits.workspace, filtering.list_of.items, *words], default=str)
        at: JsonObject = {}
        if sent not in (None, ""):
            opened = self._sealer.open(sent, context=context) if isinstance(sent, str) else None
            if opened is None:
                raise InvalidInput("page_token", UNREADABLE)
            at = json.loads(opened)
        try:
            page = await filtering.page(at)
        except _Answered as answered:
            return answered.captured
        document = page.rest
        if page.items:
            document[filtering.list_of.items] = page.items
        if page.next is not None:
            document["next_page_token"] = self._sealer.seal(json.dumps(page.next), context=context)
        return _answer(filtering.last, document)


class _Answered(Exception):
    """MLflow refused; its answer is the caller's."""

    def __init__(self, captured: Captured) -> None:
        super().__init__()
        self.captured = captured


class _Filtering:
    """One request for a list."""

    def __init__(self, limits: Limits, list_of: ListOf, parameters: _Parameters, ask: Ask) -> None:
        self.limits = limits
        self.list_of = list_of
        self.parameters = parameters
        self.last: Captured | None = None
        self._ask_mlflow = ask
        self._shown = Shown(list_of.kind, list_of.permission, frozenset())

    async def whole(self) -> Captured:
        """A list without pages."""
        try:
            document = await self._ask()
        except _Answered as answered:
            return answered.captured
        items = document.pop(self.list_of.items, [])
        limits, reach = self.limits, self.limits.reach
        if self.list_of.kind is Named.WORKSPACE:
            kept = [
                each
                for each in items
                if reach.enters(limits.principal, self.list_of.permission, str(each[self.list_of.key]))
            ]
        else:
            names = await reach.experiment_names([str(each) for each in items], limits.workspace)
            await self._know_owned()
            named = [each for each in items if each in names]
            are_shown = self._visible([(each, names[each]) for each in named])
            kept = [each for each, is_shown in zip(named, are_shown, strict=True) if is_shown]
        return _answer(self.last, {**document, **({self.list_of.items: kept} if kept else {})})

    async def page(self, at: JsonObject) -> _Page:
        wanted = self._wanted()
        if wanted is None:  # MLflow says what is wrong with the number; if nothing is, there is one page
            document = await self._ask()
            await self._know_owned()
            items = document.pop(self.list_of.items, [])
            document.pop("next_page_token", None)
            return _Page([each for each, is_shown in self._looked_at(items) if is_shown], document)
        await self._know_owned()
        sections = self._sections() if wanted <= self.list_of.most else None
        if at and ("section" in at) != (sections is not None):  # the caller's grants are others than a page ago
            raise InvalidInput("page_token", UNREADABLE)
        if sections is not None:
            return await self._by_sections(sections, at, wanted)
        return await self._by_walking(int(at.get("offset", 0)), wanted)

    async def _by_walking(self, offset: int, wanted: int) -> _Page:
        """Walk MLflow's list from ``offset`` on."""
        found: list[Any] = []
        passed, size, most = 0, self._one_more(wanted), self.list_of.most
        for _ in range(MOST_PAGES):
            self.parameters.set("max_results", size)
            self.parameters.set("page_token", token_at(offset) if offset else None)
            document = await self._ask()
            items = document.pop(self.list_of.items, [])
            goes_on = bool(document.pop("next_page_token", None))
            for index, (item, is_shown) in enumerate(self._looked_at(items)):
                if not is_shown:
                    continue
                if len(found) == wanted:
                    return _Page(found, document, {"offset": offset + index})
                found.append(item)
            offset += len(items)
            passed += len(items)
            if not goes_on or not items:
                return _Page(found, document)
            if len(found) == wanted:
                break
            yielded = max(len(found) / passed, LEAST_YIELD)
            size = max(1, min(ceil((wanted - len(found) + 1) / yielded), most))
        return _Page(found, document, {"offset": offset})

    async def _by_sections(self, sections: Sequence[Section], at: JsonObject, wanted: int) -> _Page:
        """Ask for what there can be, a part at a time; MLflow's list is sorted by name too."""
        found: list[Any] = []
        start, offset = str(at.get("section", "")), int(at.get("offset", 0))
        index = bisect_left(sections, start, key=lambda section: section.start)
        if index >= len(sections) or sections[index].start != start:
            offset = 0  # what the page began in is gone
        document: JsonObject = {}
        asked = there = 0
        for _ in range(MOST_PAGES):
            yielded = max(there / asked, LEAST_YIELD) if asked else 1
            part = _part_of(sections, index, ceil((wanted - len(found)) / yielded), self.list_of.most)
            offset = 0 if part.names else offset
            items, goes_on, document = await self._part(part, offset, wanted - len(found) + 1)
            asked, there = asked + len(part.names), there + (len(items) if part.names else 0)
            for place, (item, is_shown) in enumerate(self._looked_at(items)):
                if is_shown and len(found) == wanted:
                    begins = {"section": item["name"]} if part.names else {"section": part.start}
                    return _Page(found, document, {**begins, "offset": 0 if part.names else offset + place})
                if is_shown:
                    found.append(item)
            offset, index = (offset + len(items), index) if goes_on else (0, index + part.length)
            if index >= len(sections):
                return _Page(found, document)
            if len(found) == wanted:
                break
        return _Page(found, document, {"section": sections[index].start, "offset": offset})

    async def _part(self, part: _Part, offset: int, wanted: int) -> tuple[Sequence[Any], bool, JsonObject]:
        """A page of a part: its items, whether there are more, and what MLflow says besides."""
        self.parameters.set("filter", part.clause)
        self.parameters.set("max_results", len(part.names) or max(1, min(wanted, self.list_of.most)))
        self.parameters.set("page_token", token_at(offset) if offset else None)
        document = await self._ask()
        items = document.pop(self.list_of.items, [])
        return items, bool(document.pop("next_page_token", None)), document

    def _sections(self) -> Sequence[Section] | None:
        """What there can be in the list; none if that cannot be said, or does not help."""
        parameters = self.parameters
        if not self.list_of.can_be_named or parameters.get("filter") or parameters.all("order_by"):
            return None
        return sections_of(self.limits.principal.access, self.list_of.permission, self._shown.owned)

    def _wanted(self) -> int | None:
        sent = self.parameters.get("max_results")
        if sent is None:
            return self.list_of.usual or None
        text = str(sent)
        if isinstance(sent, bool) or not re.fullmatch(r"[1-9][0-9]{0,8}", text):
            return None
        return int(text)

    def _one_more(self, wanted: int) -> int:
        """Whether there is a next page is seen by the item after the last."""
        return wanted + 1 if wanted < self.list_of.most else wanted

    def _looked_at(self, items: Sequence[Any]) -> list[tuple[Any, bool]]:
        key = self.list_of.key
        keyed = [(str(item[key]), str(item["name"])) for item in items]
        return list(zip(items, self._visible(keyed), strict=True))

    def _visible(self, items: Sequence[tuple[str, str]]) -> list[bool]:
        return self.limits.reach.visible(self.limits.principal, self._shown, items, self.limits.workspace)

    async def _know_owned(self) -> None:
        owned = await self.limits.reach.owned_by(self.limits.principal, self.list_of.kind, self.limits.workspace)
        self._shown = Shown(self.list_of.kind, self.list_of.permission, owned)

    async def _ask(self) -> JsonObject:
        captured = await self._ask_mlflow(self.parameters.asked)
        self.last = captured
        if captured.status != 200:
            raise _Answered(captured)
        try:
            document = json.loads(captured.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise UpstreamUnavailable("MLflow answered something else than a list.")
        return document


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a list that is sorted by name: one name, or what ``like`` finds, which all begins with ``start``."""

    start: str
    like: str | None = None


@lru_cache(maxsize=256)
def sections_of(access: Access, permission: Permission, owned: frozenset[str]) -> Sequence[Section] | None:
    """What somebody can be shown of a list of models, in its order; none if it is not plain names and few patterns."""
    names, patterns = set(owned), set[str]()
    for grant in access.grants:
        on = grant.on
        if grant.effect is Effect.DENY or on.experiment is not None or permission not in ROLE_PERMISSIONS[grant.role]:
            continue
        if on.model is None or not _PLAIN.fullmatch(on.model):
            return None
        (patterns if is_pattern(on.model) else names).add(on.model)
    if len(patterns) > MOST_PATTERNS or len(names) > MOST_NAMED or not all(map(_PLAIN.fullmatch, names)):
        return None
    sections = [Section(pattern.partition("*")[0].partition("?")[0], _like(pattern)) for pattern in patterns]
    sections += [Section(name) for name in names]
    found: list[Section] = []
    for section in sorted(sections, key=lambda section: (section.start, section.like is None)):
        last = found[-1] if found else None
        if last is None or last.like is None or not section.start.startswith(last.start):
            found.append(section)
        elif section.like is not None or not fnmatchcase(section.start, last.like.replace("%", "*").replace("_", "?")):
            found[-1] = Section(last.start, f"{last.start}%")
    return found


def _like(pattern: str) -> str:
    """What SQL writes for a shell pattern; it may find more."""
    return pattern.replace("*", "%").replace("?", "_")


@dataclass(frozen=True, slots=True)
class _Part:
    """What MLflow is asked for at once: some names in a row, or what one section finds."""

    start: str
    clause: str
    length: int
    """How many sections it is."""
    names: Sequence[str] = ()


def _part_of(sections: Sequence[Section], index: int, wanted: int, most: int) -> _Part:
    if index < len(sections) and (like := sections[index].like) is not None:
        return _Part(sections[index].start, f"name LIKE '{like}'", 1)
    some = sections[index : index + max(1, min(wanted, most))]
    names = [section.start for section in takewhile(lambda section: section.like is None, some)] or [""]
    quoted = ",".join(f"'{name}'" for name in names)
    return _Part(names[0], f"name IN ({quoted})", len(names), names)


_REGISTERED_AS = "mlflow.modelVersions"
"""The tag of a logged model in which MLflow notes as which versions it was registered, as JSON."""


async def without_hidden_versions(limits: Limits, body: bytes) -> bytes:
    """An answer about logged models, without the names of models that may not be seen."""
    if _REGISTERED_AS.encode() not in body:
        return body
    try:
        document = json.loads(body)
    except ValueError:
        return body
    owned = await limits.reach.owned_by(limits.principal, Named.MODEL, limits.workspace)
    shown = Shown(Named.MODEL, Permission.REGISTRY_READ, owned)

    def kept(value: object) -> str:
        """What stays of the tag; nothing, if it is not what MLflow writes."""
        try:
            versions = [each for each in json.loads(str(value)) if isinstance(each["name"], str)]
        except (ValueError, TypeError, KeyError):
            return "[]"
        named = [(each["name"], each["name"]) for each in versions]
        are_shown = limits.reach.visible(limits.principal, shown, named, limits.workspace)
        return json.dumps([each for each, is_shown in zip(versions, are_shown, strict=True) if is_shown])

    ahead: list[Any] = [document]
    while ahead:
        each = ahead.pop()
        if isinstance(each, dict):
            if each.get("key") == _REGISTERED_AS and "value" in each:
                each["value"] = kept(each["value"])
            ahead += each.values()
        elif isinstance(each, list):
            ahead += each
    return serialise(document)


class _Parameters:
    """The parameters of a list, in the query of a GET or the body of a POST."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def get(self, name: str) -> object:
        """The value of a parameter that may be given once.

        Raises:
            InvalidInput: it is given more than once.
        """
        if self.asked.fields is not None:
            return self.asked.fields.get(name)
        values = [value for each, value in self.asked.query if each == name]
        if len(values) > 1:
            raise InvalidInput(name, "expected once")
        return values[0] if values else None

    def all(self, name: str) -> list[object]:
        if self.asked.fields is not None:
            sent = self.asked.fields.get(name)
            return list(sent) if isinstance(sent, list) else [sent] if sent is not None else []
        return [value for each, value in self.asked.query if each == name]

    def set(self, name: str, value: str | int | None) -> None:
        """Set a parameter, or leave it out."""
        if self.asked.fields is not None:
            self.asked.fields.pop(name, None)
            if value is not None:
                self.asked.fields[name] = value
            return
        self.asked.query = [pair for pair in self.asked.query if pair[0] != name]
        if value is not None:
            self.asked.query.append([name, str(value)])


def token_at(offset: int) -> str:
    """MLflow's token of the page that begins at ``offset`` (``SearchUtils.create_page_token``, which a test asks)."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def _answer(last: Captured | None, document: JsonObject) -> Captured:
    assert last is not None  # MLflow was asked at least once
    answer = Captured()
    answer.status, answer.headers = last.status, last.headers
    answer.hold(serialise(document))
    return answer

"""``/resolve`` and ``/resolve/stream`` as raw ASGI, in front of the application that describes them.

What is remembered is answered without the application; whoever waits costs a few KiB. Whatever is refused here is
refused again by the application (``app.routers.access.REFUSED``), so that it reads, counts and is recorded as every
other refusal.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from app.domain.access import Permission, Principal, holds_somewhere, may, require
from app.domain.errors import CountersignError
from app.domain.grants import DEFAULT_WORKSPACE, Resource
from app.domain.grants import model as model_called
from app.domain.names import check_workspace, parse_models_uri
from app.domain.problems import problem_of
from app.routers.access import REFUSED, Refused
from app.routers.problems import problem_document
from app.routers.protecting import UNLESS_SAID
from app.routers.server_sent_events import HEADERS as STREAM_HEADERS
from app.routers.server_sent_events import HEARTBEAT, MEDIA_TYPE, message, reconnect_after
from app.routers.services import Services
from app.services.authentication import fingerprint_of
from app.services.following import Refusal, State, Watcher
from app.services.resolution_memory import Address, Answer
from app.telemetry import RESOLUTIONS

RESOLVE, STREAM = "/control/v1/resolve", "/control/v1/resolve/stream"
PATHS = frozenset({RESOLVE, STREAM})
METHODS = frozenset({"GET", "HEAD"})
MOST_URIS = 20
LONGEST_URI = 1000
LONGEST_WAIT_S = 60.0
RECONNECT_MS = 2000

_PARSED, _PARSED_BYTES, _HEADS = 10_000, 1024, 1_000
_TAG = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_TAGS = re.compile(rb'[ \t,]*(?:(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"[ \t]*(?:,[ \t,]*|$))*')
_ID = re.compile(rb"[0-9a-f]{1,64}")
"""Of what may come back in ``Last-Event-ID`` (``Resolution.etag``); anything else was not said by us."""
_ELSEWHERE = frozenset({b"cookie", b"origin", b"sec-fetch-mode", b"transfer-encoding", b"content-length"})
"""Headers of requests that are not for ``Resolving.at_once``: of browsers and of who sends a body."""
_VARY = (b"vary", b"Origin")
"""As ``CrossOriginAccess`` says of every answer."""
_CACHE = (b"cache-control", b"private, no-cache")
_OUTCOMES = {each: RESOLUTIONS.labels(outcome=each) for each in ("memory", "loaded", "not_modified", "refused")}

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    uris: tuple[str, ...]
    addresses: tuple[Address, ...]
    resources: tuple[Resource | None, ...]
    """As grants see them, if the address says of which model it is."""
    wait_s: float = 0


def asked_for(uris: Sequence[str], workspace: str, wait_s: float = 0) -> Asked:
    """Raises ``InvalidInput``, ``Unresolvable``: see ``parse_models_uri``."""
    check_workspace(workspace)
    references = [parse_models_uri(uri) for uri in uris]
    return Asked(
        tuple(uris),
        tuple((workspace, reference) for reference in references),
        tuple(
            model_called(reference.model, reference.alias, workspace=workspace) if reference.model else None
            for reference in references
        ),
        wait_s,
    )


async def check_may(services: Services, principal: Principal, asked: Asked) -> None:
    """Return if the principal may know where all of these bytes are.

    Raises:
        InsufficientScope, Forbidden, NotFound: see ``Resolver.check_may_resolve``.
    """
    if not holds_somewhere(principal, Permission.MODELS_RESOLVE):
        require(principal, Permission.MODELS_RESOLVE)
    for uri, (workspace, _), resource in zip(asked.uris, asked.addresses, asked.resources, strict=True):
        if resource is None or not may(principal, Permission.MODELS_RESOLVE, resource):
            await services.resolver.check_may_resolve(principal, uri, workspace=workspace)


def may_at_once(principal: Principal, asked: Asked) -> bool:
    """Whether the principal may, if that is known without asking who owns what."""
    for resource in asked.resources:
        if resource is None or not may(principal, Permission.MODELS_RESOLVE, resource):
            return False
    return True


async def answer_to(
    services: Services, scope: Mapping[str, Any], principal: Principal, asked: Asked, seen: bytes | None
) -> Answer:
    """The answer; with a wait, as soon as it is none of those that were ``seen``, or after the time.

    Raises:
        CountersignError: it does not resolve, or not for this principal, at the end of the wait too.
    """
    await check_may(services, principal, asked)
    if not asked.wait_s or seen is None:
        return await services.resolutions.get(asked.addresses[0])
    deadline = time.monotonic() + asked.wait_s
    with services.following.watch(asked.addresses) as watcher:
        (state,) = await watcher.look()
        while isinstance(state, Answer) and is_seen(seen, state.etag):
            if not await watcher.wait_for(deadline - time.monotonic()):
                break
            (state,) = _known(watcher)
    # What was taken away meanwhile is not answered any more.
    await check_may(services, await services.authentication.authenticate(scope), asked)
    if isinstance(state, Refusal):
        raise state.error
    return state


def is_seen(seen: bytes | None, etag: bytes) -> bool:
    """Whether ``If-None-Match`` names the ETag, in the weak comparison (RFC 9110 section 13.1.2)."""
    if seen is None:
        return False
    if seen == etag or seen.strip() == b"*":
        return True
    return _TAGS.fullmatch(seen) is not None and etag in _TAG.findall(seen)


class Resolving:
    """See the module.

    Args:
        application: describes the routes and refuses.
        services: found when the first request comes.
    """

    def __init__(self, application: ASGIApp, services: Services) -> None:
        self._application = application
        self._services = services
        self._parsed: dict[bytes, Asked] = {}
        self._heads: dict[Answer, tuple[Headers, Headers]] = {}

    def at_once(self, scope: Scope) -> tuple[int, Headers, bytes] | None:
        """The whole answer to a program that asks for what is remembered; none if it takes more than that."""
        if scope["path"] != RESOLVE or scope["method"] not in METHODS:
            return None
        headers, seen = scope["headers"], None
        for name, value in headers:
            if name in _ELSEWHERE or (name == b"accept" and b"html" in value.lower()):  # _is_of_program, in one go
                return None
            if name == b"if-none-match":
                if seen is not None:
                    return None
                seen = value
        asked = self._asked(scope)
        if asked is None or (asked.wait_s and seen is not None):
            return None
        fingerprint = fingerprint_of(headers)
        principal = self._services.authentication.recall(fingerprint) if fingerprint else None
        if principal is None or not may_at_once(principal, asked):
            return None
        answer = self._services.resolutions.recall(asked.addresses[0])
        if answer is None:
            return None
        found, unchanged = self._headers_of(answer)
        if is_seen(seen, answer.etag):
            _OUTCOMES["not_modified"].inc()
            return 304, unchanged, b""
        _OUTCOMES["memory"].inc()
        return 200, found, answer.body

    async def directly(self, scope: Scope, receive: Receive, send: Send, otherwise: ASGIApp) -> None:
        """Answer a program without what stands before the application for browsers, which is a few KiB for who waits.

        ``otherwise`` answers everything else, and refuses.
        """
        asked = self._asked(scope) if _is_of_program(scope["headers"]) else None
        if asked is None:
            await otherwise(scope, receive, send)
        else:
            await self._serve(asked, scope, receive, send, otherwise, (*_PROTECTIVE, _VARY))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and scope["path"] in PATHS and scope["method"] in METHODS
        asked = self._asked(scope) if is_ours and REFUSED not in scope else None
        if asked is None:
            await self._application(_of_get(scope) if is_ours else scope, receive, send)
        else:
            await self._serve(asked, scope, receive, send, self._application, ())

    async def _serve(
        self,
        asked: Asked,
        scope: Scope,
        receive: Receive,
        send: Send,
        refuse: ASGIApp,
        more: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        principal = None
        try:
            principal = await self._services.authentication.authenticate(scope)
            if scope["path"] == STREAM:
                await check_may(self._services, principal, asked)
                head = _DIRECT_STREAM_HEAD if more else _STREAM_HEAD
                await ResolutionStream(self._services, asked, head)(scope, receive, send)
                return
            answer = await _unless_gone(
                answer_to(self._services, scope, principal, asked, _sent(scope, b"if-none-match")),
                receive if asked.wait_s else None,
            )
        except Exception as error:
            if scope["path"] == STREAM and not isinstance(error, CountersignError):
                raise  # it may have begun
            _OUTCOMES["refused"].inc()
            await refuse({**_of_get(scope), REFUSED: Refused(error, principal)}, receive, send)
            return
        if answer is None:
            return
        is_unchanged = is_seen(_sent(scope, b"if-none-match"), answer.etag)
        _OUTCOMES["not_modified" if is_unchanged else "loaded"].inc()
        found, unchanged = headers_of(answer)
        status, headers = (304, unchanged) if is_unchanged else (200, found)
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *more]})
        await send({"type": "http.response.body", "body": b"" if is_unchanged else answer.body})

    def _asked(self, scope: Scope) -> Asked | None:
        """None if it is not as it should be: the application says in which way."""
        key = scope["query_string"]
        if scope["path"] == STREAM:
            key = b"?" + key
        asked = self._parsed.get(key)
        if asked is None:
            try:
                asked = _parsed(scope["query_string"], most=MOST_URIS if scope["path"] == STREAM else 1)
            except (CountersignError, LookupError, ValueError):
                return None
            if len(self._parsed) >= _PARSED:
                self._parsed.clear()
            if len(key) <= _PARSED_BYTES:  # anybody can send them
                self._parsed[key] = asked
        return asked

    def _headers_of(self, answer: Answer) -> tuple[Headers, Headers]:
        heads = self._heads.get(answer)
        if heads is None:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            found, unchanged = headers_of(answer)
            heads = self._heads[answer] = ([*found, *_PROTECTIVE, _VARY], [*unchanged, *_PROTECTIVE, _VARY])
        return heads


_PROTECTIVE = tuple(pair for pair in UNLESS_SAID if pair[0] != b"cache-control")


class ResolutionStream:
    """The server-sent events of one who may watch: what each address means now, and whenever it means something else.

    The id of an event is the ETags of all addresses, with dots between them; whoever comes back with it is told only of
    what changed.

    Args:
        head: the headers of the answer, if they are more than the application adds to.
    """

    __slots__ = ("_asked", "_fingerprint", "_head", "_sent", "_services")

    def __init__(self, services: Services, asked: Asked, head: Headers | None = None) -> None:
        self._services = services
        self._asked = asked
        self._head = head or _STREAM_HEAD
        self._fingerprint: bytes | None = None
        self._sent: list[bytes] = [b""] * len(asked.addresses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._fingerprint = fingerprint_of(scope["headers"])
        seen = (_sent(scope, b"last-event-id") or b"").split(b".")
        if len(seen) == len(self._sent):
            self._sent = [b'"%s"' % each if _ID.fullmatch(each) else b"" for each in seen]
        with self._services.following.watch(self._asked.addresses, beats=True) as watcher:
            states: Sequence[State] = await watcher.look()
            await send({"type": "http.response.start", "status": 200, "headers": self._head})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            gone = asyncio.create_task(_until_gone(receive, watcher.wake))
            try:
                await self._follow(scope, watcher, states, gone, send)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not watcher.is_stuck or task is None:
                    raise
                task.uncancel()  # the server cuts a connection whose answer has no end
            finally:
                gone.cancel()

    async def _follow(
        self, scope: Scope, watcher: Watcher, states: Sequence[State], gone: asyncio.Task[None], send: Send
    ) -> None:
        text = reconnect_after(RECONNECT_MS) + self._news(states)
        while not gone.done():
            if text:
                await send({"type": "http.response.body", "body": text, "more_body": True})
            await watcher.wait()
            if gone.done():
                return
            if watcher.is_over:
                break
            try:
                await self._check_again(scope)
            except CountersignError as error:
                farewell = _problem_event(error, "")
                await send({"type": "http.response.body", "body": farewell, "more_body": True})
                break
            text = self._news(_known(watcher))
            if watcher.is_beat:
                watcher.is_beat = False
                text = text or HEARTBEAT
        await send({"type": "http.response.body", "body": b""})

    async def _check_again(self, scope: Scope) -> None:
        """Raises ``CountersignError``: what was given is not given any more."""
        authentication = self._services.authentication
        principal = authentication.recall(self._fingerprint) if self._fingerprint else None
        if principal is None:
            principal = await authentication.authenticate(scope)
        if not may_at_once(principal, self._asked):
            await check_may(self._services, principal, self._asked)

    def _news(self, states: Sequence[State]) -> bytes:
        """What was not said yet."""
        text = []
        for number, (uri, state) in enumerate(zip(self._asked.uris, states, strict=True)):
            if state.etag == self._sent[number]:  # the same object, mostly
                continue
            self._sent[number] = state.etag
            if isinstance(state, Refusal):
                text.append(_problem_event(state.error, uri))
            else:
                text.append(self._event(state))
        return b"".join(text)

    def _event(self, answer: Answer) -> bytes:
        if len(self._sent) == 1:
            return _event_of(answer)
        tags = b".".join(each.strip(b'"') if each.startswith(b'"') else b"" for each in self._sent)
        return message(answer.body.decode(), event="resolution", last_id=tags.decode())


def headers_of(answer: Answer) -> tuple[Headers, Headers]:
    """Of the answer, and of the word that it has not changed."""
    always = [(b"etag", answer.etag), _CACHE]
    length = (b"content-length", str(len(answer.body)).encode())
    return [(b"content-type", b"application/json"), length, *always], always


_STREAM_HEAD: Headers = [
    (b"content-type", f"{MEDIA_TYPE}; charset=utf-8".encode()),
    *((name.lower().encode(), value.encode()) for name, value in STREAM_HEADERS.items()),
]
_DIRECT_STREAM_HEAD: Headers = [*_STREAM_HEAD, *_PROTECTIVE, _VARY]


class _LastEvent:
    """The event that was made last: those who wait for one address are told the same, one after the other."""

    def __init__(self) -> None:
        self._of: Answer | None = None
        self._text = b""

    def __call__(self, answer: Answer) -> bytes:
        if answer is not self._of:
            self._text = message(answer.body.decode(), event="resolution", last_id=answer.etag.strip(b'"').decode())
            self._of = answer
        return self._text


_event_of = _LastEvent()


def _problem_event(error: CountersignError, uri: str) -> bytes:
    row = problem_of(error)
    members = {**error.details, **({"uri": uri} if uri else {})}
    document = problem_document(row.status, row.title, error.message, slug=row.slug, members=members)
    return message(document, event="problem")


def _known(watcher: Watcher) -> Sequence[State]:
    return [state for state in watcher.states if state is not None]


def _parsed(query: bytes, *, most: int) -> Asked:
    """Raises ``CountersignError``, ``LookupError``, ``ValueError``: something is wrong with it, or unknown to us."""
    told: dict[str, list[str]] = {"uri": [], "workspace": [], "wait": []}
    for name, value in parse_qsl(
        query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=most + 2
    ):
        told[name].append(value)
    uris, workspaces, waits = told.values()
    wait_s = float(waits[0]) if waits else 0.0
    if not 1 <= len(uris) <= most or max(map(len, uris)) > LONGEST_URI or len(workspaces) > 1 or len(waits) > 1:
        raise ValueError
    if not math.isfinite(wait_s) or not 0 <= wait_s <= LONGEST_WAIT_S:
        raise ValueError
    return asked_for(uris, workspaces[0] if workspaces else DEFAULT_WORKSPACE, wait_s)


def _sent(scope: Mapping[str, Any], wanted: bytes) -> bytes | None:
    """The value of a header, of several with commas between them (RFC 9110 section 5.3)."""
    values = [value for name, value in scope["headers"] if name == wanted]
    return b", ".join(values) if values else None


def _is_of_program(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether no browser has a part in a request, and it has no body."""
    return not any(name in _ELSEWHERE or (name == b"accept" and b"html" in value.lower()) for name, value in headers)


def _of_get(scope: Scope) -> Scope:
    """The application knows no HEAD, and the server sends no body to it."""
    return {**scope, "method": "GET"}


async def _until_gone(receive: Receive, wake: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    wake()


async def _unless_gone(answering: Any, receive: Receive | None) -> Answer | None:  # noqa: ANN401  # a coroutine
    """What it comes to; none if the caller went away meanwhile."""
    if receive is None:
        answer: Answer = await answering
        return answer
    task = asyncio.current_task()
    assert task is not None
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        task.cancel()

    gone = asyncio.create_task(_until_gone(receive, leave))
    try:
        answer = await answering
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        return None
    else:
        return answer
    finally:
        gone.cancel()

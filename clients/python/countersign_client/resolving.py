"""Where the bytes of a model are now, and from then on: asked once, or followed through whatever happens."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from countersign_client.addresses import gateway_address
from countersign_client.calls import ask
from countersign_client.errors import InvalidAddress, Refused, Unreachable
from countersign_client.wire import plain

RESOLVE_SCOPES = ("resolve",)
"""What an exchanged token of a workload is asked for here: nothing else."""
_WAIT_S = 20
"""For a change, at the gateway. Shorter than we wait for an answer, so that silence means trouble."""
_PAUSES_S = (1.0, 15.0)
"""Between two tries while there is no answer: the first, and the longest."""
_AT_ONCE_S = 0.5
"""An answer that says nothing new and comes so soon is no answer to a long poll."""
_MAY_PASS = frozenset({404, 409, 410, 422})
"""An alias that was removed, bytes that are not what was approved: there may be an address again later."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which version it is, and where it lies. ``document`` is the gateway's whole answer.

    Of a logged model (``models:/m-…``), ``model`` is its id and ``version`` is empty.
    """

    model: str
    version: str
    alias: str | None
    uri: str
    digest: str | None
    etag: str | None = None
    document: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False, compare=False)


def resolve(gateway: str, uri: str, *, workspace: str | None = None) -> Resolved:
    """What ``models:/name@alias`` or ``models:/name/7`` means now.

    Raises:
        Refused: there is no such thing, or nothing that may be resolved; with the gateway's own reason.
        NotSignedIn, Unreachable, UnsafeStore: see ``calls.ask``.
    """
    found = _asked(gateway, uri, workspace)
    assert found is not None  # only who names an ETag is told that nothing changed
    return found


def follow(
    uri: str,
    *,
    gateway: str | None = None,
    workspace: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Resolved]:
    """What ``uri`` means now, and again whenever that changes. Blocks in between, and never ends by itself.

    It goes on while the gateway restarts or the network is away, and while there is no address at all because the alias
    was removed or the bytes are not what was approved: what was yielded last is then still what to serve. Who is slow
    is not told of every version, but always of the newest one.

    Args:
        uri: ``models:/name@alias``.
        gateway: its address; else that of ``COUNTERSIGN_URL`` or ``MLFLOW_TRACKING_URI``.
        workspace: MLflow's.
        say: told in a line why it waits.

    Raises:
        Refused: at first there is no such thing; or, at any time, you may not.
        NotSignedIn: the token has ended, and no other can be had.
    """
    address = gateway_address(gateway or gateway_of_environment())
    last: Resolved | None = None
    pause, why = 0.0, ""
    while True:
        if pause:
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # so that not all come back at once
        began = time.monotonic()
        seen, wait_s = (last.etag, 0 if why else _WAIT_S) if last else (None, 0)
        try:
            found = _asked(address, uri, workspace, seen=seen, wait_s=wait_s)
        except Unreachable as error:
            reason = str(error)
        except Refused as error:
            if last is None or error.status not in _MAY_PASS:
                raise
            reason = str(error)
        else:
            if why:
                say("There is an answer again.")
            why, pause = "", 0.0
            if found is None or (last and _is_same(found, last)):
                # A gateway that stops answers at once; and a caller who asks again at once would keep it busy.
                pause = _PAUSES_S[0] if time.monotonic() - began < _AT_ONCE_S else 0.0
                continue
            last = found
            yield found
            continue
        if reason != why:
            say(f"{reason} Trying on …")
        why, pause = reason, min(2 * pause or _PAUSES_S[0], _PAUSES_S[1])


def _is_same(found: Resolved, last: Resolved) -> bool:
    """Whether an answer says nothing new, also where something on the way takes its ETag off."""
    return found.etag == last.etag if found.etag and last.etag else found.document == last.document


def _asked(
    gateway: str, uri: str, workspace: str | None, *, seen: str | None = None, wait_s: float = 0
) -> Resolved | None:
    """The answer; none if its ETag is ``seen``."""
    query = {"uri": uri}
    if workspace:
        query["workspace"] = workspace
    if wait_s:
        query["wait"] = f"{wait_s:g}"
    headers = {"If-None-Match": seen} if seen else None
    reply = ask(gateway, "GET", "/resolve", query=query, headers=headers, scopes=RESOLVE_SCOPES)
    if reply.status == 304 and seen:
        return None
    document = reply.document
    version, place = plain(document.get("version")), document.get("uri")
    model = plain(document.get("model")) or plain(document.get("model_id"))
    if not model or not isinstance(place, str) or not place.isprintable():
        raise Refused(f"{gateway} answered without an address; is it a Countersign gateway?")
    return Resolved(
        model=model,
        version=version,
        alias=plain(document.get("alias")) or None,
        uri=place,
        digest=plain(document.get("digest")) or None,
        etag=reply.etag,
        document=document,
    )


def gateway_of_environment() -> str:
    for variable in ("COUNTERSIGN_URL", "MLFLOW_TRACKING_URI"):
        value = os.environ.get(variable, "").strip()
        if value.startswith(("https://", "http://")):
            return value
    raise InvalidAddress("Which gateway? Name its address, or set COUNTERSIGN_URL.")

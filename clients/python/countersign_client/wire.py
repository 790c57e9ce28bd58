"""HTTP as this package speaks it: small JSON answers, no redirect followed, nothing sent that was not meant to be."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import requests
import urllib3.exceptions

from countersign_client.addresses import origin_of
from countersign_client.errors import Refused, Unreachable

Json = str | int | list[str]
Query = Mapping[str, str | Sequence[str]]
TIMEOUT_S = (5, 30)
"""To connect, and between parts of an answer."""
LARGEST_ANSWER = 1024 * 1024
TOO_MANY = 429
NO_PROXY = {"no_proxy": "*"}
"""What is said to this machine in the clear is said to no proxy."""
_REDIRECTS = range(300, 400)
_FAILURES = range(500, 600)
_FRACTION = re.compile(r"\.\d+(?=Z$)")
_LONGEST_TEXT = 600
_JOINERS = "\u200c\u200d"
"""Persian and emoji need them."""
_FILLERS = "\u115f\u1160\u3164\uffa0"
"""Letters, says Unicode, that nobody sees."""


class OAuthRefused(Refused):
    """An OAuth endpoint said no (RFC 6749 section 5.2). ``code`` is the machine's word, as ``invalid_grant``."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description or code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: ``document`` is its JSON object, empty if it has no body, as of 304 to an ``If-None-Match``."""

    status: int
    document: Mapping[str, object]
    etag: str | None = None


def get(url: str) -> Mapping[str, object]:
    """The JSON object at ``url``.

    Raises:
        Unreachable: no answer, or one that says to try again later.
        Refused: any other answer.
    """
    reply = send("GET", url)
    if reply.status != requests.codes.ok:
        raise Refused(f"{origin_of(url)} is not a Countersign gateway that people can sign in to ({reply.status}).")
    return reply.document


def post_form(url: str, form: Mapping[str, str]) -> Mapping[str, object]:
    """What an OAuth endpoint answers.

    Raises:
        OAuthRefused: with its error code.
        Unreachable: no answer, or one that says to try again later.
    """
    reply = send("POST", url, form=form)
    if reply.status != requests.codes.ok:
        said = reply.document
        raise OAuthRefused(plain(said.get("error")) or str(reply.status), plain(said.get("error_description")))
    return reply.document


def send(
    method: str,
    url: str,
    *,
    token: str | None = None,
    form: Mapping[str, str] | None = None,
    document: Mapping[str, Json] | None = None,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    largest: int = LARGEST_ANSWER,
) -> Reply:
    """One answer of ``largest`` bytes at most.

    Raises:
        Unreachable: no answer, or one that says to try again later.
        Refused: a redirect, or an answer that is no JSON object.
    """
    where = origin_of(url)

    def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Without this, `requests` would send what ~/.netrc has for the host.
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    try:
        with requests.request(
            method,
            url,
            data=form,
            json=dict(document) if document is not None else None,
            params=query,
            auth=authorise,
            proxies=NO_PROXY if where and where.startswith("http:") else None,
            headers={**(headers or {}), "Accept": "application/json", "User-Agent": USER_AGENT},
            timeout=TIMEOUT_S,
            allow_redirects=False,
            stream=True,
        ) as response:
            status, retry_after = response.status_code, response.headers.get("Retry-After", "")
            etag = response.headers.get("ETag")
            body = response.raw.read(largest + 1, decode_content=True)
    except requests.exceptions.SSLError:
        raise Unreachable(
            f"{where} shows a certificate that is not trusted here. If your company signs its own, name its "
            "certificates in REQUESTS_CA_BUNDLE."
        ) from None
    # The causes are left out: they quote addresses and, of some proxies, passwords.
    except (requests.exceptions.RequestException, OSError):
        raise Unreachable(f"{where} does not answer. Is the address right, and are you on its network?") from None
    except urllib3.exceptions.HTTPError:  # from `raw.read`
        raise Unreachable(f"{where} broke off in the middle of its answer. Try again.") from None
    if status == TOO_MANY or status in _FAILURES:
        wait = f" Try again in {retry_after} s." if retry_after.isascii() and retry_after.isdigit() else " Try again."
        raise Unreachable(f"{where} cannot answer now ({status}).{wait}")
    is_unchanged = status == requests.codes.not_modified and "If-None-Match" in (headers or {})
    if status in _REDIRECTS and not is_unchanged:
        raise Refused(f"{where} sends callers elsewhere. Use the gateway's own address.")
    return Reply(status, _object(where, status, body, largest), etag)


def _object(where: str | None, status: int, body: bytes, largest: int) -> Mapping[str, object]:
    if not body:
        return {}
    try:
        answer = json.loads(body) if len(body) <= largest else None
    except (ValueError, RecursionError):  # the second of what is nested without end
        answer = None
    if isinstance(answer, list):
        answer = {"items": answer}  # what is few is not paged, and reads as a page of all
    if not isinstance(answer, dict):
        raise Refused(f"{where} does not answer as a Countersign gateway does ({status}).")
    return answer


def plain(value: object) -> str:
    """A text of somebody else's as it may be shown on a terminal: one line, and not long.

    What a terminal would obey, or nobody would see, is shown by its code point, as the console does: ``[U+202E]``.
    """
    text = " ".join(value.split()) if isinstance(value, str) else ""
    shown = "".join(_seen(character) for character in text[:_LONGEST_TEXT])
    return f"{shown} …" if len(text) > _LONGEST_TEXT else shown


def printable(text: str) -> str:
    """A text of somebody else's, as long as it is, without what a terminal would obey."""
    return "".join(_seen(character) for character in text)


def name_of(person: object) -> str:
    """What somebody is called, as ``plain``."""
    return plain(person.get("name")) if isinstance(person, Mapping) else ""


def moment_of(value: object) -> str:
    """A time of the gateway's, to the second."""
    return _FRACTION.sub("", plain(value))


def written(document: object) -> str:
    """A document as JSON on one line, in which nothing is left that a terminal would obey."""
    text = json.dumps(document, ensure_ascii=False)
    # What is not printable is inside of strings: JSON itself has nothing of the kind.
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _seen(character: str) -> str:
    is_seen = character in _JOINERS or (character.isprintable() and character not in _FILLERS)
    return character if is_seen else f"[U+{ord(character):04X}]"


_MACHINE = re.sub(r"[^A-Za-z0-9.-]", "", platform.node())
USER_AGENT = f"countersign-client/{importlib.metadata.version('countersign-client')} ({_MACHINE or 'unknown'})"
"""With the machine's name, by which people tell their logins apart."""

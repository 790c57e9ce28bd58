"""The one accepted spelling of a request: of its path, query, artifact path and JSON message.

MLflow takes many spellings for one thing: it decodes an artifact path up to ten times, sniffs the encoding of JSON,
lets the last of two keys win and drops what follows a key ``[a.b]`` (measured on MLflow 3.17). A door that judges one
reading while MLflow acts on another is open. So a request is read once, by rules that leave one meaning, and written
afresh; what has two meanings is refused with ``InvalidInput``. What MLflow would refuse too is refused in its words
(``mlflow/server/handlers.py``), for which programs and its own tests look.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from app.domain.errors import InvalidInput
from app.domain.names import check_alias, check_version
from app.domain.routes.messages import ListOf, Message, Scalar

JsonObject = dict[str, Any]

MAX_PATH_BYTES = 8192
MAX_PARAMETERS = 2000
"""Of a query: MLflow itself limits how many of 1000 runs it answers for."""
MAX_SHOWN = 80
"""Characters of what a caller sent that are repeated in a message."""

_PATH = re.compile(rb"/(?:[!-$&-\[\]-~]|%[0-9A-Fa-f]{2})*")
"""Printable ASCII (RFC 3986 section 3.3, and what clients leave unencoded) but the backslash; ``%`` before two
digits."""
_ENCODED_SEPARATOR = re.compile(rb"%2f|%5c", re.IGNORECASE)
_ARTIFACT_PUNCTUATION = frozenset(" ._+=@,()~-!$&'*[]{}")


def canonical_path(raw_path: bytes) -> str:
    r"""The path of a request target, percent-decoded exactly once.

    Raises:
        InvalidInput: it is not absolute, not UTF-8, longer than 8 KiB, or holds after decoding what can be read in two
            ways: ``//``, ``\``, ``%``, a dot segment, a control or invisible character, an encoded slash.
    """
    if len(raw_path) > MAX_PATH_BYTES or not _PATH.fullmatch(raw_path):
        raise InvalidInput("path", f"expected an absolute, percent-encoded path of at most {MAX_PATH_BYTES} bytes")
    if _ENCODED_SEPARATOR.search(raw_path):
        raise InvalidInput("path", "expected no encoded slash or backslash")
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise InvalidInput("path", "expected UTF-8") from None
    if "%" in path or "\\" in path or "//" in path or not path.isprintable():
        raise InvalidInput("path", "expected no `%`, `\\`, `//` or control character after decoding once")
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise InvalidInput("path", "expected no dot segments")
    return path


def canonical_artifact_path(path: str, *, field: str = "path") -> str:
    """A decoded artifact path that MLflow reads as it stands: its own normalisation leaves it alone.

    Letters and digits of any script in their NFKC form (so that no letter folds into another one on the way to a
    disk), and punctuation that no URL parser gives a meaning. No segment ends in a dot or a space: Windows and SMB
    drop them, and so find another file.

    Raises:
        InvalidInput: for any other character, an empty segment, or a space or dot where none may be.
    """
    if path != path.strip() or not unicodedata.is_normalized("NFKC", path):
        raise InvalidInput(
            field, "Invalid path: expected no space at either end, and characters in Unicode normal form NFKC"
        )
    for segment in path.split("/"):
        if not segment or not all(_names_artifacts(character) for character in segment):
            raise InvalidInput(
                field,
                "Invalid path: expected segments of letters, digits and "
                f"`{''.join(sorted(_ARTIFACT_PUNCTUATION)).strip()}`",
            )
        if segment.endswith((".", " ")):
            raise InvalidInput(field, "Invalid path: expected no segment that ends in a dot or a space")
    return path


def _names_artifacts(character: str) -> bool:
    return character.isalnum() or character in _ARTIFACT_PUNCTUATION or unicodedata.category(character) in {"Mn", "Mc"}


def canonical_query(raw_query: bytes) -> list[tuple[str, str]]:
    """The parameters of a query, in order.

    A parameter may be repeated: MLflow's lists are sent so. Where a parameter is judged, use ``judged_parameters``.

    Raises:
        InvalidInput: it is not ASCII, or what it encodes is not UTF-8 or holds a NUL.
    """
    try:
        parameters = parse_qsl(
            raw_query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise InvalidInput("query", f"expected at most {MAX_PARAMETERS} percent-encoded UTF-8 parameters") from None
    if any("\0" in name or "\0" in value for name, value in parameters):
        raise InvalidInput("query", "expected no NUL character")
    return parameters


def judged_parameters(parameters: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, str]:
    """The parameters ``names``, each sent exactly once; MLflow's two frameworks differ in which of two values counts.

    Raises:
        InvalidInput: a parameter is missing, empty, repeated or unknown.
    """
    judged: dict[str, str] = {}
    for name, value in parameters:
        if name not in names or name in judged:
            raise InvalidInput(name, f"expected only {' and '.join(names)}, each once" if names else "is not expected")
        judged[name] = value
    for name in names:
        if not judged.get(name):
            raise InvalidInput(name, f"Request must specify {name}.")
    return judged


def serialise_query(parameters: Sequence[tuple[str, str]]) -> str:
    """The query that means ``parameters``, without ``?``."""
    return urlencode(parameters)


def parse_message(raw: bytes, message: Message) -> JsonObject:
    """The fields that a JSON body sets. An empty body sets none.

    Raises:
        InvalidInput: unless it is UTF-8 JSON, an object without repeated keys, with no other fields than those of
            ``message`` in their snake_case names, each of its declared type. The message so bounds the depth, too.
    """
    return _check_object(_load(raw), message, "body") if raw else {}


def parse_object(raw: bytes, *, max_depth: int) -> JsonObject:
    """A JSON object of any fields.

    Raises:
        InvalidInput: unless it is UTF-8 JSON, an object without repeated keys, whose text is Unicode without lone
            surrogates and NUL, whose numbers are finite, and which nests at most ``max_depth`` levels.
    """
    value = _load(raw)
    if not isinstance(value, dict):
        raise InvalidInput("body", "expected a JSON object")
    _check_plain(value, max_depth)
    return value


def parse_document(raw: bytes) -> JsonObject:
    """A JSON object of any fields and any text. An empty body is an empty object.

    Raises:
        InvalidInput: unless it is UTF-8 JSON, an object without repeated keys.
    """
    value = _load(raw) if raw else {}
    if not isinstance(value, dict):
        raise InvalidInput("body", "expected a JSON object")
    return value


def serialise(fields: Mapping[str, Any]) -> bytes:
    """A fresh JSON body, ASCII only, in which each field stands once."""
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def require(fields: Mapping[str, Any], message: Message) -> None:
    """Refuse a message without the fields that it is judged by.

    Raises:
        InvalidInput: a required field is missing or empty.
    """
    for name in sorted(message.required):
        if not fields.get(name):
            raise _missing(name)


def _load(raw: bytes) -> object:
    try:
        return json.loads(raw.decode(), object_pairs_hook=_without_repeated_keys, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidInput("body", "expected UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidInput("body", "expected valid JSON") from None


def _check_plain(value: object, levels: int) -> None:
    """Nothing that reads differently elsewhere: text, numbers and nesting."""
    if isinstance(value, str):
        _check_text(value, "body")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("body", "expected finite numbers")
    elif isinstance(value, dict | list):
        if not levels:
            raise InvalidInput("body", "expected fewer levels")
        if isinstance(value, dict):
            for key in value:
                _check_text(key, "body")
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, levels - 1)


def _check_text(value: str, name: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in value) or "\0" in value:
        raise InvalidInput(name, "expected Unicode text without lone surrogates and NUL")


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> JsonObject:
    found: JsonObject = {}
    for key, value in pairs:
        if key in found:
            raise InvalidInput(_shown(key), "expected once")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_object(value: object, message: Message, at: str) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInput(at, f"expected a JSON object ({message.name})")
    for name, sent in value.items():
        expected = message.fields.get(name)
        if expected is None:
            raise InvalidInput(_shown(name), f"is not a field of {message.name}")
        if isinstance(expected, ListOf):
            _check_list(sent, expected, name)
        else:
            _check_scalar(sent, expected, name)
    return value


def _check_list(value: object, expected: ListOf, name: str) -> None:
    if not isinstance(value, list):
        raise _mistyped(name, value, "a list")
    for item in value:
        _check_object(item, expected.message, name)


def _check_scalar(value: object, expected: Scalar, name: str) -> None:
    if expected is Scalar.BOOLEAN:
        if not isinstance(value, bool):
            raise _mistyped(name, value, "true or false")
        return
    if not isinstance(value, str):
        raise _mistyped(name, value, "a string")
    _check_text(value, name)
    if expected is Scalar.ALIAS:
        check_alias(value, field=name)
    elif expected is Scalar.VERSION:
        check_version(value, field=name)


def _missing(name: str) -> InvalidInput:
    return InvalidInput(name, f"Missing value for required parameter '{name}'.")


def _mistyped(name: str, value: object, expected: str) -> InvalidInput:
    """``null`` is protobuf's word for a field that is not set."""
    if value is None:
        return _missing(name)
    shown = json.dumps(value)[:MAX_SHOWN]
    return InvalidInput(name, f"Invalid value {shown} for parameter '{name}' supplied: expected {expected}")


def _shown(key: str) -> str:
    """A caller's own key, fit for a message: short and printable."""
    return key[:MAX_SHOWN].encode("unicode_escape").decode("ascii")

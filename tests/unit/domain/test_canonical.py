"""The canonical rules: one meaning is accepted, two are refused, and no re-encoding is judged more leniently."""

from __future__ import annotations

import json
import unicodedata
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.canonical import (
    MAX_PATH_BYTES,
    canonical_artifact_path,
    canonical_path,
    canonical_query,
    judged_parameters,
    parse_message,
    require,
    serialise,
    serialise_query,
)
from app.domain.errors import InvalidInput
from app.domain.routes import MESSAGES, ROUTES, match
from app.domain.routes.kinds import STRICTNESS

ALIAS = MESSAGES["SetRegisteredModelAlias"]
VERSION = MESSAGES["CreateModelVersion"]
STAGE = MESSAGES["TransitionModelVersionStage"]
GOOD = {"name": "m", "alias": "production", "version": "2"}

PLAIN_PATHS = sorted({route.template for route in ROUTES if "<" not in route.template})


def test_a_plain_path_is_itself() -> None:
    assert canonical_path(b"/api/2.0/mlflow/runs/get") == "/api/2.0/mlflow/runs/get"


def test_a_path_is_decoded_once() -> None:
    assert canonical_path(b"/%61pi/a%20b/%C3%BC") == "/api/a b/ü"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"*",
        b"api/2.0",
        b"//api/2.0",
        b"/api//2.0",
        b"/api/2.0/./x",
        b"/api/../x",
        b"/api/%2e%2e/x",
        b"/api/.%2E",
        b"/a%2Fb",
        b"/a%2fb",
        b"/a%5Cb",
        b"/a%5cb",
        b"/a\\b",
        b"/a%252Fb",
        b"/a%2525",
        b"/a%25",
        b"/a%",
        b"/a%zz",
        b"/a%4",
        b"/a%00b",
        b"/a%0ab",
        b"/a%7f",
        b"/a%ff",
        b"/a%c0%af",
        b"/a%ed%a0%80",
        b"/a%e2%80%ae",
        b"/a b",
        b"/a\tb",
        b"/\xc3\xbc",
        b"/" + b"a" * MAX_PATH_BYTES,
    ],
)
def test_a_path_with_two_meanings_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        canonical_path(raw)


def re_encoded(draw: st.DrawFn, text: str) -> bytes:
    """``text`` with any of its characters percent-encoded, in either case, some of them twice."""
    out = ""
    for character in text:
        how = draw(st.sampled_from(["plain", "plain", "upper", "lower", "twice"]))
        encoded = "".join(f"%{byte:02X}" for byte in character.encode())
        out += {
            "plain": character,
            "upper": encoded,
            "lower": encoded.lower(),
            "twice": encoded.replace("%", "%25"),
        }[how]
    return out.encode()


@given(st.data(), st.sampled_from(PLAIN_PATHS))
def test_no_re_encoding_of_a_path_is_judged_more_leniently(data: st.DataObject, plain: str) -> None:
    raw = data.draw(st.composite(lambda draw: re_encoded(draw, plain))())
    try:
        path = canonical_path(raw)
    except InvalidInput:
        return
    assert path == plain
    for method in ("GET", "POST", "DELETE", "PATCH", "PUT"):
        judged, meant = match(method, path), match(method, plain)
        assert judged == meant
        if judged and meant:
            assert STRICTNESS[judged.route.decision] >= STRICTNESS[meant.route.decision]
            assert judged.path() == plain


@given(st.binary(max_size=40).map(lambda raw: b"/" + raw))
def test_what_is_accepted_comes_back_as_the_same_path(raw: bytes) -> None:
    try:
        path = canonical_path(raw)
    except InvalidInput:
        return
    assert canonical_path(quote(path).encode()) == path


@pytest.mark.parametrize(
    "path",
    [
        "1/models/m-0f/artifacts/MLmodel",
        "a",
        "a b/c+d=e,(1)~@.txt",
        "größe.csv",
        "図/表.png",
        "x[1]{2}!$&'*",
        ".hidden",
    ],
)
def test_an_ordinary_artifact_path_is_itself(path: str) -> None:
    assert canonical_artifact_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "a/./b",
        "a/../b",
        "..",
        "a./b",
        "a...",
        "a /b",
        " a",
        "a ",
        "\x01\x1fa",
        "a\tb",
        "a\nb",
        "a?b",
        "a#b",
        "a;b",
        "a%62",
        "a\\b",
        "FOO:a",
        "file:/etc/passwd",
        "a\x00",
        "\u212aelvin",
        "\uff50roduction",
        "u\u0308",
        "a\u200bb",
        "a\u202eb",
        "a\ud800b",
        "a|b",
        "a<b",
        'a"b',
        "a`b",
        "a^b",
    ],
)
def test_an_artifact_path_that_mlflow_could_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        canonical_artifact_path(path)


@given(st.text(max_size=30))
def test_an_accepted_artifact_path_is_normal_and_has_no_meaning_to_a_url_parser(path: str) -> None:
    try:
        canonical_artifact_path(path)
    except InvalidInput:
        return
    assert not set(path) & set("%#?;\\:")
    assert unicodedata.normalize("NFKC", path) == path
    assert all(segment not in {"", ".", ".."} for segment in path.split("/"))


def test_a_query_is_decoded_and_written_afresh() -> None:
    parameters = canonical_query(b"name=a+b&filter=x%3D1&empty=&name=%C3%BC")

    assert parameters == [("name", "a b"), ("filter", "x=1"), ("empty", ""), ("name", "ü")]
    assert parse_qsl(serialise_query(parameters), keep_blank_values=True) == parameters


@pytest.mark.parametrize("raw", [b"a=%ff", b"\xff=1", b"a=%00", b"&".join([b"a=1"] * 2001)])
def test_a_query_that_is_not_text_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        canonical_query(raw)


@pytest.mark.parametrize(
    "parameters",
    [[], [("a", "")], [("a", "1")], [("a", "1"), ("a", "2"), ("b", "1")], [("a", "1"), ("b", "1"), ("c", "1")]],
)
def test_a_judged_parameter_is_sent_exactly_once_and_with_no_other(parameters: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput):
        judged_parameters(parameters, ("a", "b"))


def test_judged_parameters_are_found_in_any_order() -> None:
    assert judged_parameters([("b", "2"), ("a", "1")], ("a", "b")) == {"a": "1", "b": "2"}


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_plain_message_is_read() -> None:
    assert parse_message(encode(GOOD), ALIAS) == GOOD


def test_escapes_are_read_as_what_they_mean() -> None:
    raw = b'{"\\u006eame": "m", "alias": "\\u0070roduction", "version": "2"}'

    assert parse_message(raw, ALIAS) == GOOD


def test_a_list_of_tags_is_read() -> None:
    sent = {"name": "m", "source": "s3://b/k", "tags": [{"key": "a", "value": "ü"}]}

    assert parse_message(encode(sent), VERSION) == sent


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"m","alias":"staging","version":"2","alias":"production"}',
        b'{"name":"m","alias":"production","version":"2","\\u0061lias":"staging"}',
        b"\xef\xbb\xbf" + encode(GOOD),
        json.dumps(GOOD).encode("utf-16"),
        json.dumps(GOOD).encode("utf-16-le"),
        json.dumps(GOOD).encode("utf-32"),
        json.dumps(json.dumps(GOOD)).encode(),
        b"[]",
        b"null",
        b"1",
        b"not json",
        b'{"name":"m"',
        b'{"name":"m"} {"name":"m"}',
        b'{"name":"\xff"}',
        b'{"name":NaN}',
        b'{"name":Infinity}',
        b"[" * 100_000,
        b'{"name":' * 100_000,
        b'{"name":' + b"1" * 5000 + b"}",
        encode({**GOOD, "[a.b]": 1}),
        encode({**GOOD, "unknown": "x"}),
        encode({**GOOD, "Name": "m"}),
        encode({**GOOD, "name": None}),
        encode({**GOOD, "name": ["m"]}),
        encode({**GOOD, "name": {"a": "b"}}),
        encode({**GOOD, "name": True}),
        encode({**GOOD, "version": 2}),
        encode({**GOOD, "name": "m\ud800"}),
        encode({**GOOD, "name": "m\0"}),
        *(
            encode({**GOOD, "version": version})
            for version in (" 2 ", "02", "+2", "0_2", "٢", "2.0", "0", "-1", "2\n", "")
        ),
        *(
            encode({**GOOD, "alias": alias})
            for alias in (
                "production\n",
                " production",
                "\uff50roduction",
                "\u0440roduction",
                "a b",
                "a" * 256,
                "",
                "latest",
            )
        ),
    ],
)
def test_a_message_that_mlflow_could_read_otherwise_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_message(raw, ALIAS)


@pytest.mark.parametrize(
    "extra",
    [
        {"runId": "r"},
        {"modelId": "x"},
        {"[a.b]": 1},
        {"tags": {"key": "a"}},
        {"tags": ["a"]},
        {"tags": [{"key": "a", "value": "b", "more": "c"}]},
        {"tags": [{"key": "a", "value": 1}]},
        {"tags": [{"[a.b]": "a"}]},
    ],
)
def test_nested_and_camel_case_fields_are_judged_as_strictly(extra: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        parse_message(encode({"name": "m", "source": "s", **extra}), VERSION)


def test_a_repeated_key_is_refused_at_any_depth() -> None:
    with pytest.raises(InvalidInput, match="key"):
        parse_message(b'{"name":"m","source":"s","tags":[{"key":"a","key":"b"}]}', VERSION)


def test_a_boolean_is_not_a_string() -> None:
    sent = {"name": "m", "version": "1", "stage": "Production"}

    assert (
        parse_message(encode({**sent, "archive_existing_versions": True}), STAGE)["archive_existing_versions"] is True
    )
    for wrong in ("true", 1, 0, None):
        with pytest.raises(InvalidInput):
            parse_message(encode({**sent, "archive_existing_versions": wrong}), STAGE)


def test_the_error_names_the_field_and_shows_it_printably() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_message(encode({"\ud800\n" + "x" * 500: 1}), ALIAS)

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": 123}, "Invalid value 123 for parameter 'name' supplied"),
        ({"name": ["x" * 500]}, 'Invalid value ["' + "x" * 78 + " for parameter 'name' supplied"),
        ({"name": None}, "Missing value for required parameter 'name'."),
    ],
)
def test_what_mlflow_would_refuse_too_is_refused_in_its_words(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_message(encode(fields), ALIAS)

    assert words in caught.value.message


def test_an_empty_body_sets_no_field_and_then_the_required_ones_are_missed() -> None:
    assert parse_message(b"", ALIAS) == {}
    with pytest.raises(InvalidInput, match="alias: Missing value for required parameter 'alias'"):
        require({}, ALIAS)
    with pytest.raises(InvalidInput, match="name: Missing value for required parameter 'name'"):
        require({**GOOD, "name": ""}, ALIAS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
keys = st.sampled_from(["name", "alias", "version", "Name", "[a.b]", "newName"]) | st.text(max_size=5)


@given(st.dictionaries(keys, st.sampled_from(["m", "production", "2"]) | json_values, max_size=4))
def test_what_is_accepted_means_the_same_after_it_was_written_afresh(sent: dict[str, object]) -> None:
    try:
        fields = parse_message(encode(sent), ALIAS)
    except InvalidInput:
        return
    assert fields == sent
    assert set(fields) <= set(ALIAS.fields)
    assert json.loads(serialise(fields)) == fields
    assert serialise(fields).isascii()


@given(st.binary(max_size=60))
def test_no_bytes_make_the_parser_fail_otherwise_than_by_refusing(raw: bytes) -> None:
    try:
        parse_message(raw, ALIAS)
        canonical_query(raw)
        canonical_path(raw)
    except InvalidInput:
        pass

"""The documents of endpoints and targets: what is read is what was written, and what is wrong is said with its path."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.domain.advice import advice
from app.domain.deliveries import Attempt
from app.domain.deployments import MetricsSource, Target
from app.domain.documents import MOST
from app.domain.endpoint_documents import cautions, endpoint_document, endpoint_from_document, is_within
from app.domain.endpoints import Channel, Endpoint, Signing, rotated, with_keys
from app.domain.errors import InvalidInput
from app.domain.targets import MOST_OPTIONS, target_document, target_from_document

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DOCUMENT = {"kind": "Endpoint", "name": "ci", "url": "https://ci.example/hook", "signing": "ed25519"}
CHAT = {"kind": "Endpoint", "name": "chat", "channel": "slack", "urlFile": "/run/secrets/slack"}
TARGET = {"kind": "Target", "name": "ray", "url": "https://ray.example", "secretEnv": "A", "callbackSecretEnv": "B"}

_names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
_patterns = st.lists(st.sampled_from(["*", "fraud-*", "a", "[ab]*"]), min_size=1, max_size=3).map(tuple)
_events = st.lists(st.sampled_from(["*", "promotion.*", "alias.drifted"]), min_size=1, max_size=3).map(tuple)
_networks = st.lists(st.sampled_from(["private", "10.0.0.0/8", "fd00:1::/32"]), max_size=2).map(tuple)
_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6).filter(str.strip)


@st.composite
def _references(draw: st.DrawFn, most: int = 2) -> tuple[str, ...]:
    kind = draw(st.sampled_from(["file", "env"]))
    return tuple(f"{kind}:{each}" for each in draw(st.lists(_texts, min_size=1, max_size=most, unique=True)))


@st.composite
def _endpoints(draw: st.DrawFn) -> Endpoint:
    channel = draw(st.sampled_from(Channel))
    is_webhook = channel is Channel.WEBHOOK
    derived = st.sampled_from(Signing).map(lambda signing: (f"derived:{signing}",))
    return Endpoint(
        name=draw(_names),
        url=draw(st.sampled_from(["https://a.example/x?y=z", "http://b.example:8080"])) if is_webhook else None,
        secrets=draw(st.one_of(_references(), derived) if is_webhook else _references(most=1)),
        channel=channel,
        events=draw(_events),
        models=draw(_patterns),
        aliases=draw(_patterns),
        workspaces=draw(_patterns),
        allowed_networks=draw(_networks) if is_webhook else (),
        timeout_s=draw(st.integers(1, 30)),
        description=draw(st.text(max_size=10)),
        disabled=draw(st.booleans()),
    )


_targets = st.builds(
    Target,
    name=_names,
    url=st.just("https://ray.example/v1"),
    secrets=_references(),
    callback_secrets=_references(),
    allowed_networks=_networks,
    deadline_s=st.integers(1, 86_400),
    options=st.dictionaries(
        st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.lists(st.text(max_size=3), max_size=2)
    ),
    metrics=st.none()
    | st.builds(
        MetricsSource,
        st.just("https://prometheus.example/below"),
        st.none() | _references().map(lambda references: references[0]),
        _networks,
    ),
)
_anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@given(_endpoints())
def test_an_endpoint_that_is_written_is_read_back(endpoint: Endpoint) -> None:
    assert endpoint_from_document(endpoint_document(endpoint)) == endpoint


@given(_targets)
def test_a_target_that_is_written_is_read_back(target: Target) -> None:
    assert target_from_document(target_document(target)) == target


@given(
    st.dictionaries(st.sampled_from([*endpoint_document(Endpoint("a", "b", ("env:A",))), "channel", "x"]), _anything),
    st.sampled_from([DOCUMENT, CHAT, TARGET]),
)
def test_whatever_is_written_is_read_or_refused(changes: dict[str, object], document: dict[str, object]) -> None:
    read = target_from_document if document is TARGET else endpoint_from_document
    with suppress(InvalidInput):
        read({**document, **changes})


def test_the_guide_shows_documents_that_are_taken() -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/webhooks.md").read_text()
    blocks = "---\n".join(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL))
    names = [endpoint_from_document(each).name for each in yaml.safe_load_all(blocks)]
    assert names == ["ci", "risk-desk"]


def test_what_is_left_out_is_everything_and_quiet_for_people() -> None:
    endpoint = endpoint_from_document(DOCUMENT)
    assert (endpoint.events, endpoint.models, endpoint.allowed_networks, endpoint.timeout_s) == (("*",), ("*",), (), 10)
    chat = endpoint_from_document(CHAT)
    assert "*" not in chat.events
    assert chat.secrets == ("file:/run/secrets/slack",)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = {
        "name": "CI/1",
        "url": "https://user:pw@ci.example/#x",
        "events": ["promotion.*", "promotion.aplied", "nothing.*"],
        "models": [],
        "aliases": ["a" * 300],
        "allowNetworks": ["10.0.0.1/8", "169.254.169.254/32"],
        "timeoutSeconds": 31,
        "signing": "rsa",
        "evnets": ["*"],
    }
    with pytest.raises(InvalidInput) as refused:
        endpoint_from_document(wrong)
    said = dict(refused.value.problems)
    assert set(said) == {
        *("name", "url", "events[1]", "events[2]", "models", "aliases[0]"),
        *("allowNetworks[0]", "allowNetworks[1]", "timeoutSeconds", "signing", "evnets"),
    }
    assert "did you mean promotion.applied" in said["events[1]"]
    assert "did you mean events?" in said["evnets"]
    assert "never connected to" in said["allowNetworks[1]"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"url": "ftp://ci.example"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://ci.example/a b"}, "url"),
        ({"url": "https://ci.example:99999/"}, "url"),
        ({"url": "https://ci.example\\@evil.example/"}, "url"),
        ({"url": "https://" + "a" * 3000}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://10.0.0.5/"}, "url"),
        ({"url": "http://localhost:9000/"}, "url"),
        ({"url": "http://0x7f.1/"}, "url"),
        ({"secretFile": "/a"}, "signing"),
        ({"urlFile": "/a"}, "urlFile"),
        ({"description": "x" * 1001}, "description"),
        ({"disabled": "yes"}, "disabled"),
        ({"channel": "pager"}, "channel"),
        ({"models": ["*" * 9]}, "models[0]"),
        ({"models": ["x"] * (MOST + 1)}, "models"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        endpoint_from_document({**DOCUMENT, **change})
    assert path in dict(refused.value.problems)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"secretFile": ["/a", "/b", "/c"]}, "secretFile"),
        ({"secretFile": ["/a", "/a"]}, "secretFile"),
        ({"secretFile": []}, "secretFile"),
        ({"secretFile": "/a", "secretEnv": "A"}, "secretFile"),
        ({}, "signing"),
    ],
)
def test_secrets_are_one_or_two_and_never_written_down(change: dict[str, object], path: str) -> None:
    unsigned = {name: value for name, value in DOCUMENT.items() if name != "signing"}
    with pytest.raises(InvalidInput) as refused:
        endpoint_from_document({**unsigned, **change})
    assert path in dict(refused.value.problems)
    with pytest.raises(InvalidInput):
        endpoint_from_document({**CHAT, "urlFile": ["/a", "/b"]})


def test_a_private_address_is_taken_where_its_network_is_named() -> None:
    document = {**DOCUMENT, "url": "http://10.0.0.5/hook", "allowNetworks": "10.0.0.0/8"}
    assert cautions(endpoint_from_document(document)) == ()
    [caution] = cautions(endpoint_from_document({**DOCUMENT, "url": "http://ci.example/hook"}))
    assert "https" in caution


def test_a_network_is_within_others_only_as_a_whole() -> None:
    assert is_within("10.1.0.0/16", ("10.0.0.0/8",))
    assert is_within("private", ("private",))
    assert is_within("192.168.1.0/24", ("private",))
    assert not is_within("private", ("10.0.0.0/8",))
    assert not is_within("10.0.0.0/7", ("10.0.0.0/8",))
    assert not is_within("10.0.0.0/8", ())


def test_a_target_takes_the_older_word_for_private_networks() -> None:
    assert target_from_document({**TARGET, "allowPrivateNetwork": True}).allowed_networks == ("private",)
    assert target_from_document({**TARGET, "allowPrivateNetwork": False}).allowed_networks == ()
    with pytest.raises(InvalidInput, match="allowPrivateNetwork"):
        target_from_document({**TARGET, "allowPrivateNetwork": True, "allowNetworks": ["private"]})
    with pytest.raises(InvalidInput) as refused:
        target_from_document({"url": "x", "name": "a/b", "secret": "whsec_abc", "deadlineSeconds": 0})
    assert {path for path, _ in refused.value.problems} == {
        *("url", "name", "secret", "secretFile", "callbackSecretFile", "deadlineSeconds")
    }
    assert "whsec_abc" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("options", ["gpu"], "options"),
        ("options", {"gpu": {1: "x"}}, "options.gpu"),
        ("options", {"since": date(2026, 1, 1)}, "options.since"),
        ("options", {"ratio": [1.0, float("nan")]}, "options.ratio[1]"),
        ("options", {"size": 2**53 + 1}, "options.size"),
        ("options", {"text": "x" * MOST_OPTIONS}, "options"),
        ("options", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}, "options.a.b.c.d.e.f.g.h.i"),
        ("metrics", "https://prometheus.example", "metrics"),
        ("metrics", {}, "metrics.prometheusUrl"),
        ("metrics", {"prometheusUrl": "prometheus:9090"}, "metrics.prometheusUrl"),
        ("metrics", {"prometheusUrl": "https://u:p@prometheus.example"}, "metrics.prometheusUrl"),
        ("metrics", {"prometheusUrl": "https://prometheus.example/?tenant=1"}, "metrics.prometheusUrl"),
        ("metrics", {"prometheusUrl": "http://10.1.2.3:9090"}, "metrics.prometheusUrl"),
        ("metrics", {"prometheusUrl": "http://169.254.169.254"}, "metrics.prometheusUrl"),
        ("metrics", {"prometheusUrl": "https://p.example", "token": "s3cret"}, "metrics.token"),
        ("metrics", {"prometheusUrl": "https://p.example", "tokenFile": "a", "tokenEnv": "b"}, "metrics.tokenFile"),
        ("metrics", {"prometheusUrl": "https://p.example", "tokenFile": ["a", "b"]}, "metrics.tokenFile"),
        ("metrics", {"prometheusUrl": "https://p.example", "allowNetworks": ["all"]}, "metrics.allowNetworks[0]"),
    ],
)
def test_what_a_target_cannot_say_of_itself_is_refused(field: str, value: object, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        target_from_document({**TARGET, field: value})
    assert [where for where, _ in refused.value.problems] == [path]
    assert "s3cret" not in str(refused.value)


def test_the_metrics_of_a_target_may_be_inside_the_cluster() -> None:
    metrics = {"prometheusUrl": "http://10.1.2.3:9090", "tokenEnv": "T", "allowNetworks": ["10.0.0.0/8"]}
    target = target_from_document({**TARGET, "metrics": metrics})
    assert target.metrics == MetricsSource("http://10.1.2.3:9090", "env:T", ("10.0.0.0/8",))
    assert target_document(target)["metrics"] == metrics


def test_keys_are_named_once_and_stay() -> None:
    wanted = endpoint_from_document(DOCUMENT)
    made = with_keys(wanted, None, key_id="key_1")
    assert made.secrets == ("derived:ed25519/key_1/1",)
    assert with_keys(wanted, made, key_id="key_2") == made
    other = with_keys(replace(wanted, secrets=("derived:hmac",)), made, key_id="key_3")
    assert other.secrets == ("derived:hmac/key_3/1",)
    own = replace(wanted, secrets=("env:A",))
    assert with_keys(own, made, key_id="key_4") == own
    assert endpoint_document(made) == endpoint_document(wanted)


def test_a_key_that_was_replaced_signs_until_its_time_is_over() -> None:
    made = with_keys(endpoint_from_document(DOCUMENT), None, key_id="key_1")
    after = rotated(made, key_id="key_2", previous_until=NOON)
    newest = "derived:ed25519/key_2/2"
    assert after.secrets_at(NOON - timedelta(seconds=1)) == (newest, *made.secrets)
    assert after.secrets_at(NOON) == (newest,)
    third = rotated(after, key_id="key_3", previous_until=NOON)
    assert third.secrets == ("derived:ed25519/key_3/3", newest)
    two_files = replace(made, secrets=("file:/new", "file:/old"))
    assert two_files.secrets_at(NOON) == two_files.secrets


@pytest.mark.parametrize("status", [100, 301, 401, 403, 404, 408, 410, 413, 422, 425, 429, 500, 503])
def test_every_refusal_has_advice(status: int) -> None:
    assert advice(_attempt(status))


def test_what_went_well_or_says_all_itself_has_none() -> None:
    assert advice(_attempt(204)) == advice(_attempt(None)) == ""


def _attempt(status: int | None) -> Attempt:
    return Attempt(number=1, started_at=NOON, duration_ms=1, status=status, error=None, response="")

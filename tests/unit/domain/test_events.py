"""The catalogue of events, and the messages that carry them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft202012Validator
from sqlalchemy.ext.asyncio import create_async_engine

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import Actor
from app.domain.events import CATALOGUE, EventType, StoredEvent, cloud_event, schema_address, schema_of
from app.domain.policies import DEFAULT_POLICY
from app.domain.promotions import AliasKey, Decision, Kind, Outcome, Promotion, State
from app.domain.registrations import Registration, is_prompt, registration_of
from app.services.recording import LONGEST_TEXT, tell
from docs.generate import EXAMPLE
from tests.telling import SOURCE, check_event

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ANN = Actor("https://idp.example|ann", "Ann")
PROMOTION = Promotion(
    id="prm_1",
    kind=Kind.PROMOTION,
    model="iris",
    alias="production",
    to_version="7",
    from_version=None,
    model_created_at=1,
    run_id=None,
    source_uri="mlflow-artifacts:/1/models/m-1/artifacts",
    uri="file:///artifacts/1/models/m-1/artifacts/",
    digest=None,
    policy=DEFAULT_POLICY,
    requested_by=ANN.id,
    requested_by_name=ANN.name,
    reason="",
    created_at=NOON,
    updated_at=NOON,
)


def told(action: str, promotion: Promotion, **details: str | int | bool | None) -> StoredEvent:
    work = UnitOfWork(create_async_engine("postgresql+asyncpg://"))  # never entered: nothing is written
    tell(work, action, promotion, actor=ANN, **details)
    (event,) = work._events
    return StoredEvent(1, event)


def test_the_catalogue_is_total() -> None:
    assert set(CATALOGUE) == set(EventType)
    assert len(CATALOGUE) > 35
    for row in CATALOGUE.values():
        assert row.meaning.endswith(".")


@pytest.mark.parametrize("kind", EventType)
def test_every_schema_is_one_and_lets_later_members_pass(kind: EventType) -> None:
    address = schema_address(SOURCE, kind)
    schema = schema_of(kind, address=address)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == address == f"https://gateway.example/control/v1/events/schemas/{kind.value}"
    assert schema["required"] == sorted(CATALOGUE[kind].data)
    assert "additionalProperties" not in schema
    assert schema_of(kind, is_open=False)["additionalProperties"] is False


def test_an_event_is_a_cloud_event() -> None:
    check_event(EXAMPLE)
    body = cloud_event(EXAMPLE, source=SOURCE)
    read = JSONFormat().read(CloudEvent, json.dumps(body))
    assert (read.get_id(), read.get_type()) == (EXAMPLE.event.id, "countersign.alias.moved.v1")
    assert (read.get_source(), read.get_subject()) == (SOURCE, "iris@production")
    assert (read.get_time(), read.get_dataschema()) == (EXAMPLE.event.at, schema_address(SOURCE, EventType.ALIAS_MOVED))
    assert read.get_extension("sequence") == "0000000000000001042"
    assert read.get_data() == {**EXAMPLE.event.data, "console": f"{SOURCE}/console/promotions/prm_01k9z4v3m8x1"}


def test_sequences_sort_as_texts_as_they_do_as_numbers() -> None:
    numbers = [1, 9, 10, 2**31, 2**63 - 1]
    texts = [str(cloud_event(replace(EXAMPLE, sequence=each), source=SOURCE)["sequence"]) for each in numbers]
    assert sorted(texts) == texts
    assert len({len(each) for each in texts}) == 1


def test_the_longest_texts_of_people_fit_into_a_message() -> None:
    long = "\N{GRINNING FACE}" * 10_000
    stored = told("alias.glass_broken", replace(PROMOTION, state_reason=long), comment=long, ticket=long)
    check_event(stored)
    comment = str(stored.event.data["comment"])
    assert len(comment) == LONGEST_TEXT
    assert comment.endswith("\N{HORIZONTAL ELLIPSIS}")


def test_what_an_event_has_no_member_for_is_in_the_audit_log_alone() -> None:
    check_event(told("promotion.applied", PROMOTION, secret="of ours", by="prm_2"))
    stored = told("promotion.superseded", replace(PROMOTION, state=State.SUPERSEDED), by="prm_2")
    check_event(stored)
    assert (stored.event.data["replaced_by"], stored.event.data["by"]) == ("prm_2", "Ann")


def test_an_approval_that_is_void_or_regretted_is_none() -> None:
    def said(who: str, outcome: Outcome, of_round: int) -> Decision:
        return Decision(who, who.title(), outcome, "", NOON, round=of_round)

    approve, reject = Outcome.APPROVE, Outcome.REJECT
    decisions = (said("bob", approve, 1), said("cem", approve, 2), said("dan", approve, 2), said("dan", reject, 2))
    stored = told("promotion.rejected", replace(PROMOTION, round=2, decisions=decisions))
    assert stored.event.data["approved_by"] == ["Cem"]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("models:/m-0123", "models:/m-0123"),
        ("https://ann:secret@host/a?sig=secret#secret", "https://host/a"),
        ("http://[broken", ""),
    ],
)
def test_credentials_in_a_source_are_not_told(source: str, shown: str) -> None:
    registration = Registration("default", "iris", "1", 0, None, source)
    assert registration.shown_source == shown


def test_a_prompt_is_told_from_a_model() -> None:
    found = {"name": "iris", "version": 1, "creation_timestamp": "12", "run_id": ""}
    assert registration_of(found, "team-a") == Registration("team-a", "iris", "1", 12, None, "")
    assert registration_of(found, "team-a").key == AliasKey("team-a", "iris", "")
    assert not is_prompt(found)
    assert not is_prompt({**found, "tags": [{"key": "mlflow.prompt.is_prompt", "value": "false"}]})
    assert is_prompt({**found, "tags": [{"key": "mlflow.prompt.is_prompt", "value": "True"}]})

"""The gateway and MLflow's side mean the same: the same messages, one header, one digest of the same fields."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import countersign_mlflow.assertions as theirs
import pytest
from countersign_mlflow.guard import GUARDED, UnknownMlflow, guarded_endpoints
from countersign_mlflow.secret import SECRET, SHORTEST_SECRET
from flask import Flask
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st

import app.adapters.assertions as ours
import app.settings
from app.domain.routes.messages import MESSAGES, ListOf, Message, Scalar


def fields_of(message: Message) -> st.SearchStrategy[dict[str, Any]]:
    """What a judged body of this message can hold."""
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
    kinds = {
        name: st.lists(fields_of(kind.message), max_size=3)
        if isinstance(kind, ListOf)
        else (st.booleans() if kind is Scalar.BOOLEAN else text)
        for name, kind in message.fields.items()
    }
    return st.fixed_dictionaries({}, optional=kinds)


def test_every_message_that_the_gateway_judges_is_guarded_and_no_other() -> None:
    assert set(MESSAGES) == GUARDED


def test_both_sides_write_and_read_the_same_token() -> None:
    for name in ("ISSUER", "AUDIENCE", "TYPE", "ALGORITHM"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.HEADER.lower() == theirs.HEADER
    assert SHORTEST_SECRET == app.settings.SHORTEST_SECRET
    assert SECRET.removeprefix("COUNTERSIGN_").lower() in app.settings.SECRETS


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_both_sides_have_one_digest_of_what_went_through_mlflows_protobuf(name: str, handlers: ModuleType) -> None:
    (kind,) = [kind for kind in handlers.HANDLERS if kind.DESCRIPTOR.name == name]

    @given(fields_of(MESSAGES[name]))
    def agree(fields: dict[str, Any]) -> None:
        understood = MessageToDict(ParseDict(fields, kind()), preserving_proto_field_name=True)
        assert theirs.digest_of(understood) == ours.digest_of(fields)

    agree()


def test_other_fields_have_another_digest() -> None:
    fields = {"name": "m", "alias": "staging", "version": "1"}
    others = [fields | {"alias": "production"}, fields | {"version": "01"}, fields | {"more": ""}, {"name": "m"}, {}]
    assert len({ours.digest_of(each) for each in [fields, *others]}) == 1 + len(others)


def test_an_mlflow_that_does_not_serve_what_is_guarded_does_not_run(handlers: ModuleType) -> None:
    with pytest.raises(UnknownMlflow, match="SetRegisteredModelAlias"):
        guarded_endpoints(Flask("empty"), handlers.HANDLERS)
    renamed = {kind: handler for kind, handler in handlers.HANDLERS.items() if kind.DESCRIPTOR.name != "DeleteRun"}
    with pytest.raises(UnknownMlflow, match=r"not serve .*DeleteRun"):
        guarded_endpoints(Flask("empty"), renamed)

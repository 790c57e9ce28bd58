"""What of other systems' messages is shown: their end, no secrets, and in bounded time whatever they are."""

from __future__ import annotations

import json

import pytest
from countersign_deployer.masking import LONGEST_TAIL, tail


@pytest.mark.parametrize(
    "message",
    [
        "could not connect to https://user:hunter2@store.test/x",
        "GET https://store.test/x?X-Amz-Signature=hunter2&x=1",
        "GET https://store.test/x?sv=2024&sig=hunter2&x=1",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "{'Authorization': 'Bearer hunter2'}",
        "Authorization: Basic hunter2",
        '{"password": "hunter2 hunter2"}',
        "whsec_hunter2",
        "could not read s3://AKIAABCDEFGHIJKLMNOP:wJalr/hunter2/bPx@minio:9000/models/iris",
        "https://user:hun/hunter2@store.test/x",
        "postgresql://mlflow:p@ss-hunter2@db:5432/mlflow failed",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Eby8vdM02xNO/hunter2==;EndpointSuffix=windows.net",
        "x-api-key: hunter2",
        "api key: hunter2",
        "Server=db;UID=mlflow;pwd=hunter2",
        'answered: "{\\"password\\": \\"hunter2 hunter2\\"}"',
        '{"password": "it\'s hunter2"}',
        "secret = ab,hunter2",
        "token hf_hunter2hunter2hunter2 is not known",
    ],
)
def test_a_message_that_is_passed_on_has_no_secrets(message: str) -> None:
    shown = tail(f"Traceback\n{message}\nValueError: no")
    assert "hunter2" not in shown
    assert shown.endswith("\nValueError: no")


@pytest.mark.parametrize(
    "sentence",
    [
        "Ask ann@example.org; she knows why a@b was refused at https://store.test/x, and file:///srv/a@b/c was not.",
        "The password is wrong. No token was given; log in first.",
        "version 7 of models:/iris@production is not at s3://models/iris/7/",
        "Sign in, pwd in hand.",
    ],
)
def test_a_sentence_stays_one(sentence: str) -> None:
    assert tail(sentence) == sentence


def test_what_was_masked_may_be_masked_again() -> None:
    once = tail('https://user:pa/ss@host, Authorization: Basic hunter2, "password": "hunter2" and token=hunter2')
    assert tail(once) == once == 'https://***@host, Authorization: Basic *** "password": "***" and token=***'


@pytest.mark.parametrize("piece", ["a", "a-", "token", "a://", "secret ", "Bearer ", "\x1b[", " "])
def test_no_message_keeps_the_deployer_from_its_work(piece: str) -> None:
    """A model chooses what it says when it does not load. Patterns without limits took most of a minute for 32 kB."""
    assert len(tail(piece * 200_000)) <= LONGEST_TAIL


def test_what_no_database_takes_is_not_passed_on() -> None:
    shown = tail("a\x00b\ud800c\x1b[31md\te\nf")
    assert shown == "a\ufffdb\ufffdcd\te\nf"
    assert json.dumps(shown).encode()

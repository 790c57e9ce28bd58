"""Who is given bytes, of which places, and what lent credentials may do."""

from __future__ import annotations

import json

import pytest

from app.domain.downloads import (
    NoSuchPart,
    Part,
    check_lasts,
    check_scope,
    check_within,
    part_of,
    partition_of,
    session_name,
    session_policy,
)
from app.domain.errors import InsufficientScope, InvalidInput, Unresolvable
from app.domain.identity import Credential, CredentialKind, Scope

ROOTS = ["/srv/artifacts", "s3://models/mlflow", "file:///mnt/a%20b"]


@pytest.mark.parametrize("kind", CredentialKind)
@pytest.mark.parametrize("scopes", [None, frozenset[Scope](), frozenset(Scope) - {Scope.RESOLVE}])
def test_nothing_but_a_token_that_names_resolve_is_given_bytes(
    kind: CredentialKind, scopes: frozenset[Scope] | None
) -> None:
    with pytest.raises(InsufficientScope) as refused:
        check_scope(Credential(kind, scopes=scopes))
    assert refused.value.scope == "resolve"
    check_scope(Credential(kind, scopes=frozenset({Scope.RESOLVE, Scope.TRACK})))


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/artifacts/1/models/m-1/artifacts/",
        "s3://models/mlflow/1/artifacts/",
        "s3://models/mlflow/a%2Fb/",
        "file:///mnt/a%20b/model/",
    ],
)
def test_what_lies_below_a_root_is_given(uri: str) -> None:
    assert check_within(uri, ROOTS) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/artifacts-old/1/",
        "file:///srv/artifacts/../secrets/",
        "file:///srv/artifacts/%2e%2e/secrets/",
        "file:///srv/artifacts/1//2/",
        "file://elsewhere/srv/artifacts/1/",
        "file:///etc/",
        "/etc/",
        "s3://models/mlflow-private/1/",
        "s3://models/",
        "s3://models/mlflow/../private/",
        "s3://models.example/mlflow/1/",
        "s3://user@models/mlflow/1/",
        "s3:///models/mlflow/1/",
        "S3://models/mlflow/1/?versionId=2",
        "s3://models/mlflow/1/#x",
        "gs://models/mlflow/1/",
        "https://models/mlflow/1/",
        "mlflow-artifacts:/1/",
        "runs:/1/model",
        "file:///srv/artifacts\\..\\x/",
        "s3://[/",
        "",
    ],
)
def test_what_lies_elsewhere_is_not_given_on_a_registrants_word(uri: str) -> None:
    with pytest.raises(Unresolvable):
        check_within(uri, ROOTS)


def test_lent_credentials_read_one_folder_and_list_nothing_else() -> None:
    policy = json.loads(session_policy("models", "mlflow/1/artifacts/", partition="aws-cn"))
    read, listing = policy["Statement"]
    assert read["Action"] == ["s3:GetObject", "s3:GetObjectVersion"]
    assert read["Resource"] == ["arn:aws-cn:s3:::models/mlflow/1/artifacts/*"]
    assert (listing["Action"], listing["Resource"]) == (["s3:ListBucket"], ["arn:aws-cn:s3:::models"])
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["mlflow/1/artifacts/*"]}}


@pytest.mark.parametrize("prefix", ["", "a", "a*/", "a?/", "${aws:username}/", "a\n/"])
def test_no_credentials_are_lent_that_a_policy_cannot_limit(prefix: str) -> None:
    with pytest.raises(Unresolvable):
        session_policy("models", prefix)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", Part(0, 10)),
        ("bytes=4-", Part(4, 6)),
        ("bytes=4-5", Part(4, 2)),
        ("bytes=4-99", Part(4, 6)),
        ("bytes=-3", Part(7, 3)),
        ("bytes=-99", Part(0, 10)),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("bytes=٤-", None),
    ],
)
def test_a_range_is_one_part_or_the_whole(header: str | None, part: Part | None) -> None:
    assert part_of(header, 10) == part


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_part_behind_the_end_is_none(header: str, size: int) -> None:
    with pytest.raises(NoSuchPart):
        part_of(header, size)


def test_a_part_says_where_it_lies() -> None:
    assert Part(4, 6).content_range(10) == "bytes 4-9/10"


def test_roles_and_sessions_are_named_as_stores_allow() -> None:
    assert partition_of("arn:aws-us-gov:iam::123456789012:role/path/reads") == "aws-us-gov"
    assert [partition_of(arn) for arn in ("reads", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x")] == [
        None
    ] * 3
    assert session_name("https://idp|repo:org/app:ref", longest=64) == "countersign-repo-org-app-ref"
    assert len(session_name("https://idp|" + "x" * 99, longest=32)) == 32
    assert session_name("https://idp|::", longest=64) == "countersign-caller"


def test_nothing_is_lent_for_longer_than_the_operator_says() -> None:
    assert check_lasts(900, least=60, longest=900) == 900
    for seconds in (59, 901):
        with pytest.raises(InvalidInput, match="expires_in: expected 60 to 900 seconds"):
            check_lasts(seconds, least=60, longest=900)

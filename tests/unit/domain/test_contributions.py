"""Who had a hand in a version: keys, folders, names, and what is said of each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.contributions import (
    CHANGES_ARTIFACTS,
    CREATES,
    LONGEST_KEY,
    NOBODY,
    Contribution,
    Hand,
    asked_key,
    claimed_by_name,
    creation,
    folder_of,
    involved,
    is_named,
    names_of,
    rests_on,
    run_folder,
    version_key,
)
from app.domain.identity import Claim, Identity
from app.domain.policies import DEFAULT_POLICY
from app.domain.promotions import Kind, Promotion
from app.domain.routes import NEVER, ROUTES, RouteClass
from app.domain.storage import Storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MILLISECONDS = int(NOON.timestamp() * 1000)
RUN, OTHER_RUN = "a" * 32, "b" * 32
LOGGED = "m-" + "c" * 32


def promotion(source_uri: str, *, run_id: str | None = RUN, workspace: str = "default") -> Promotion:
    return Promotion(
        id="prm_1",
        kind=Kind.PROMOTION,
        model="m",
        alias="production",
        to_version="7",
        from_version=None,
        model_created_at=1,
        run_id=run_id,
        source_uri=source_uri,
        uri="file:///a/",
        artifact_root=Storage("/a", ("s3://elsewhere",)).artifact_root(source_uri, workspace=workspace),
        digest=None,
        policy=DEFAULT_POLICY,
        requested_by="i|ann",
        requested_by_name="ann",
        reason="",
        created_at=NOON,
        updated_at=NOON,
        workspace=workspace,
        version_created_at=MILLISECONDS,
    )


def hand(kind: Hand, who: str, key: str = "k") -> Contribution:
    return Contribution(kind, key, f"i|{who}", who, NOON)


def test_every_post_that_gives_something_an_author_is_noticed_under_each_of_its_addresses() -> None:
    noticed = sorted((route.template.partition("/2.0")[2], creation(route)) for route in ROUTES if creation(route))
    assert noticed == sorted((end, hand) for end, hand in CREATES.items() for _ in ("/api", "/ajax-api"))


def test_every_open_route_that_changes_files_has_a_guard_that_is_noticed() -> None:
    changing = [
        route for route in ROUTES if route.route_class in {RouteClass.ARTIFACT_WRITE, RouteClass.ARTIFACT_DELETE}
    ]
    open_ones = [route for route in changing if route.closed_as not in NEVER]
    assert open_ones
    assert {route.guard for route in open_ones} == CHANGES_ARTIFACTS


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        (f"1/models/{LOGGED}/artifacts/MLmodel", f"1/models/{LOGGED}/artifacts"),
        (f"1/{RUN}/artifacts/model/artifacts/weights.bin", f"1/{RUN}/artifacts"),
        (f"1/{RUN.upper()}/Artifacts/x", f"1/{RUN}/artifacts"),
        (f"team/artifacts/{RUN}/artifacts/x/y", f"team/artifacts/{RUN}/artifacts"),
        (f"1/traces/tr-{RUN}/artifacts/traces.json", "1/traces"),
        ("artifacts/x/y.bin", "artifacts/x"),
        ("x", "x"),
    ],
)
def test_a_write_is_of_the_folder_of_its_run_or_logged_model_or_of_its_parent(path: str, folder: str) -> None:
    assert folder_of(path) == folder


def test_what_is_deleted_may_be_a_folder_and_nothing_beside_it_is_touched() -> None:
    assert folder_of("1/models", is_deleted=True) == "1/models"
    assert folder_of(f"1/{RUN}/artifacts/model", is_deleted=True) == f"1/{RUN}/artifacts"


def test_a_path_in_a_workspace_has_one_spelling() -> None:
    path = f"1/{RUN}/artifacts/x"
    folder = f"workspaces/team-a/1/{RUN}/artifacts"
    assert folder_of(path, workspace="team-a") == folder
    assert folder_of(f"workspaces/team-a/{path}", workspace="team-a") == folder
    assert rests_on(promotion(f"mlflow-artifacts:/1/{RUN}/artifacts/x", workspace="team-a")).root == f"{folder}/x"


_SEGMENT = st.sampled_from(["1", "models", "artifacts", "traces", RUN, LOGGED, f"tr-{RUN}", "Model", "x", "y" * 200])


@given(st.lists(_SEGMENT, min_size=1, max_size=12), st.data(), st.booleans())
def test_whatever_folder_a_version_is_registered_from_who_wrote_in_it_is_found(
    segments: list[str], data: st.DataObject, is_deleted: bool
) -> None:
    written = folder_of("/".join(segments), is_deleted=is_deleted)
    root = segments[: data.draw(st.integers(1, len(segments)))]
    resting = rests_on(promotion(f"mlflow-artifacts:/{'/'.join(root)}"))
    assert written in resting.folders or f"{written}/".startswith(f"{resting.root}/")
    assert len(written.encode()) <= LONGEST_KEY


def test_a_logged_model_rests_on_itself_and_on_the_run_that_its_version_names() -> None:
    resting = rests_on(promotion(f"mlflow-artifacts:/1/models/{LOGGED}/artifacts"))
    assert resting.logged_models == {LOGGED}
    assert resting.runs == {RUN}
    assert run_folder(RUN) in resting.folders


def test_the_run_whose_folder_it_is_counts_though_the_version_names_another_or_none() -> None:
    source = f"mlflow-artifacts:/1/{RUN}/artifacts/model"
    assert rests_on(promotion(source, run_id=None)).runs == {RUN}
    assert rests_on(promotion(source, run_id=OTHER_RUN)).runs == {RUN, OTHER_RUN}


def test_bytes_that_lie_elsewhere_are_of_their_run_and_logged_model_and_of_no_folder_that_is_served() -> None:
    resting = rests_on(promotion(f"s3://elsewhere/root/1/{RUN}/artifacts/x", run_id=None))
    assert (resting.runs, resting.logged_models) == ({RUN}, set())
    assert all(":" in folder for folder in resting.folders)
    assert rests_on(promotion(f"s3://elsewhere/1/models/{LOGGED}/artifacts")).logged_models == {LOGGED}


def test_a_version_is_told_from_another_of_its_number_by_its_time() -> None:
    assert version_key("7", 1) != version_key("7", 2)


@pytest.mark.parametrize(
    ("since", "counts"),
    [
        (timedelta(minutes=-16), False),
        (timedelta(minutes=-15), True),
        (timedelta(minutes=4), True),
        (timedelta(minutes=6), False),
    ],
)
def test_who_asked_for_a_version_about_its_time_may_have_registered_it(since: timedelta, counts: bool) -> None:
    first, last = rests_on(promotion("mlflow-artifacts:/x")).asked
    assert (first <= asked_key("m", NOON + since, "ask_1") <= last) is counts


@pytest.mark.parametrize("name", ["M", "ｍ", " m ", "m\u0301"])
def test_a_model_that_is_asked_for_by_a_name_like_its_own_is_that_model(name: str) -> None:
    assert asked_key(name, NOON) == asked_key("m", NOON)
    assert asked_key("m2", NOON) != asked_key("m", NOON)


@given(st.text())
def test_whatever_a_model_is_called_its_key_is_fit_for_an_index(name: str) -> None:
    key = asked_key(name + "\0\ud800\ufdfa" + "x" * 10_000, NOON)
    assert len(key.encode()) <= LONGEST_KEY + len("/001767268800000/")
    assert "\0" not in key


def test_everybody_with_a_hand_in_it_is_barred_and_told_with_what() -> None:
    found = involved(
        promotion(f"mlflow-artifacts:/1/models/{LOGGED}/artifacts"),
        [
            hand(Hand.VERSION, "ann"),
            hand(Hand.VERSION, "bob"),
            hand(Hand.VERSION_ASKED, "eve"),
            hand(Hand.RUN, "cem", RUN),
            hand(Hand.SOURCE_RUN, "cem", LOGGED),
            hand(Hand.LOGGED_MODEL, "cem", LOGGED),
            hand(Hand.ARTIFACT, "dee", "1/x"),
            hand(Hand.ARTIFACT, "dee", "1"),
        ],
    )
    assert found.barred == {
        "i|ann": "asked for this promotion and registered version 7",
        "i|bob": "registered version 7",
        "i|cem": "created the run that version 7 comes from and created the logged model that is version 7",
        "i|dee": "changed the artifacts of version 7",
    }
    assert found.unrecorded == ()


def test_of_a_version_that_came_past_the_door_only_who_asked_for_the_promotion_is_known() -> None:
    found = involved(promotion(f"mlflow-artifacts:/1/models/{LOGGED}/artifacts"), [])
    assert found.barred == {"i|ann": "asked for this promotion"}
    assert found.unrecorded == (
        "who registered version 7",
        "who created the run that version 7 comes from",
        "who created the logged model that is version 7",
        "who wrote the artifacts of version 7",
    )


def test_without_a_known_author_whoever_asked_for_it_may_have_been() -> None:
    found = involved(promotion("mlflow-artifacts:/x"), [hand(Hand.VERSION_ASKED, "eve")])
    assert found.barred["i|eve"] == "may have registered version 7, whose author was not recorded"
    assert "who registered version 7" in found.unrecorded


def identity(name: str = "Ann Müller", subject: str = "4711", **claims: Claim) -> Identity:
    return Identity("https://issuer.example", subject, name, claims=claims)


@pytest.mark.parametrize(
    ("claims", "claimed"),
    [
        ({"preferred_username": "ann"}, "ann"),
        ({"preferred_username": "ann"}, "ANN"),
        ({"preferred_username": "ann"}, " ann "),
        ({"preferred_username": "ann"}, "ann@corp.example"),
        ({"preferred_username": "ann"}, "CORP\\ann"),
        ({"email": "ann@corp.example"}, "ann"),
        ({"email": "ann@corp.example"}, "Ann@Corp.example"),
        ({"upn": "CORP\\Ann"}, "ann"),
        ({"nickname": ("x", "ann")}, "ann"),
        ({}, "ann müller"),
        ({}, "4711"),
    ],
)
def test_a_person_is_named_by_whatever_their_provider_calls_them(claims: dict[str, Claim], claimed: str) -> None:
    assert is_named(identity(**claims), ["somebody else", claimed])


@pytest.mark.parametrize(
    ("claims", "claimed"),
    [
        ({"email": "ann@corp.example"}, "ann@other.example"),
        ({"email": "ann@corp.example"}, "an"),
        ({"email": "@corp.example"}, ""),
        ({"preferred_username": ""}, ""),
        ({"groups": "ann"}, "ann"),
        ({}, "ann"),
        ({"preferred_username": "root"}, "root"),
        ({"email": "jenkins@corp.example"}, "jenkins"),
    ],
)
def test_a_person_is_not_named_by_nothing_by_what_programs_share_or_by_another_address(
    claims: dict[str, Claim], claimed: str
) -> None:
    assert not is_named(identity(**claims), [claimed])


def test_of_several_people_those_are_barred_whom_mlflow_names() -> None:
    ann, bob = identity(preferred_username="ann"), identity("Bob", "4712", preferred_username="bob")
    assert claimed_by_name([ann, bob], iter(["root", "ann"])) == {ann.id: "is named as the run's user"}
    assert claimed_by_name([ann, bob], []) == {}


@given(st.sampled_from(sorted(NOBODY)))
def test_what_many_run_under_names_nobody(name: str) -> None:
    assert name not in names_of(identity(name, name, email=f"{name}@corp.example", preferred_username=name.upper()))


def test_an_address_is_its_owners_though_what_is_before_the_at_is_shared() -> None:
    assert is_named(identity(email="admin@ann.example"), ["admin@ann.example"])

"""One spelling for each name, and physical addresses."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.digests import FileDigest, tree_digest
from app.domain.errors import InvalidInput, Unresolvable
from app.domain.names import (
    ModelReference,
    check_alias,
    check_experiment,
    check_identifier,
    check_model,
    check_version,
    parse_models_uri,
)
from app.domain.storage import ancestors, artifact_root, in_workspace, is_below, paths_below, physical_uri


@pytest.mark.parametrize("value", ["", "02", " 2 ", "+2", "0_2", "٢", "2.0", "0", "-1", "2\n", "1" * 30])
def test_a_version_has_one_spelling(value: str) -> None:
    with pytest.raises(InvalidInput):
        check_version(value)


@pytest.mark.parametrize(
    "value", ["", "production\n", "prod uction", "ｐroduction", "рroduction", "latest", "V3", "a" * 256]
)
def test_an_alias_is_ascii_and_not_reserved(value: str) -> None:
    with pytest.raises(InvalidInput):
        check_alias(value)


@pytest.mark.parametrize("value", ["", " ", "a/b", "a:b", "a\nb", "a\x00b", "a" * 257])
def test_a_model_is_named_as_mlflow_allows(value: str) -> None:
    with pytest.raises(InvalidInput):
        check_model(value)


@pytest.mark.parametrize("value", ["", "01", " 1", "1 ", "+1", "1.0", "\u0661", "1\n", "-1", "1_0"])
def test_an_experiment_has_one_spelling(value: str) -> None:
    assert [check_experiment(number) for number in ("0", "7", "901234567890123456")]
    with pytest.raises(InvalidInput):
        check_experiment(value)


@pytest.mark.parametrize("value", ["", "-a", " a", "a ", "a\n", "a/b", "ä", "a" * 257])
def test_a_run_has_one_spelling(value: str) -> None:
    assert check_identifier("0f_a-B", field="run_id") == "0f_a-B"
    with pytest.raises(InvalidInput):
        check_identifier(value, field="run_id")


def test_models_uris_are_read() -> None:
    assert parse_models_uri("models:/my model@production") == ModelReference("my model", alias="production")
    assert parse_models_uri("models:/my%20model/7") == ModelReference("my model", version="7")
    assert parse_models_uri("models:/a@b@production") == ModelReference("a@b", alias="production")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "iris",
        "models:iris/1",
        "models://host/iris/1",
        "models:/iris",
        "models:/iris/x",
        "models:/a/b/1",
        "s3://b/k",
    ],
)
def test_what_is_no_models_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        parse_models_uri(uri)


@pytest.mark.parametrize("uri", ["models:/m@latest", "models:/m@LATEST", "models:/m/latest", "models:/m/Production"])
def test_what_moves_by_itself_is_not_resolved(uri: str) -> None:
    with pytest.raises(Unresolvable):
        parse_models_uri(uri)


@given(st.text(max_size=30))
def test_reading_a_uri_answers_or_refuses(text: str) -> None:
    try:
        reference = parse_models_uri(f"models:/{text}")
    except (InvalidInput, Unresolvable):
        return
    assert (reference.alias is None) != (reference.version is None)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("/srv/art", "file:///srv/art/1/models/m-x/artifacts/"),
        ("/srv/my art", "file:///srv/my%20art/1/models/m-x/artifacts/"),
        ("file:///srv/art", "file:///srv/art/1/models/m-x/artifacts/"),
        ("s3://bucket/prefix", "s3://bucket/prefix/1/models/m-x/artifacts/"),
    ],
)
def test_a_served_artifact_has_a_physical_uri_with_a_trailing_slash(destination: str, expected: str) -> None:
    assert physical_uri("mlflow-artifacts:/1/models/m-x/artifacts", destination=destination) == expected


@pytest.mark.parametrize(
    "source",
    [
        "runs:/abc/model",
        "models:/m/1",
        "s3://evil/x",
        "file:///etc",
        "/etc/passwd",
        "http://evil/x",
        "mlflow-artifacts://evil/1/x",
        "mlflow-artifacts:/../etc",
        "mlflow-artifacts:/1/./x",
        "mlflow-artifacts:/1//x",
        "mlflow-artifacts:/1/%2e%2e/x",
        "mlflow-artifacts:/1/x?y",
        "mlflow-artifacts:/1/x#y",
        "mlflow-artifacts:/1\\x",
        "mlflow-artifacts:/1/x\n",
        "mlflow-artifacts:/",
        "dbfs:/x",
    ],
)
def test_other_sources_have_no_physical_uri(source: str) -> None:
    with pytest.raises(Unresolvable):
        physical_uri(source, destination="/srv/art")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_no_source_leads_out_of_the_destination(path: str) -> None:
    try:
        uri = physical_uri(f"mlflow-artifacts:/{path}", destination="/srv/art")
    except Unresolvable:
        return
    parts = unquote(urlsplit(uri).path).split("/")
    assert parts[:3] == ["", "srv", "art"]
    assert ".." not in parts
    assert artifact_root(f"mlflow-artifacts:/{path}") == "/".join(parts[3:-1])


def test_ancestors_are_a_path_and_the_folders_above_it() -> None:
    assert ancestors("a/b/c") == ["a", "a/b", "a/b/c"]


@pytest.mark.parametrize(
    ("uri", "destination", "expected"),
    [
        ("mlflow-artifacts:/1/a", "/srv/art", ("1/a",)),
        ("mlflow-artifacts:/1/a%20b/", "/srv/art", ("1/a%20b", "1/a b")),
        ("mlflow-artifacts:/1/%252561", "/srv/art", ("1/%252561", "1/a")),
        ("mlflow-artifacts://host:5000/1/a", "/srv/art", ("1/a",)),
        ("http://host/api/2.0/mlflow-artifacts/artifacts/1/a", "/srv/art", ("1/a",)),
        ("http://host/elsewhere/1/a", "/srv/art", ()),
        ("/srv/art/1/a", "/srv/art", ("1/a",)),
        ("file:///srv/art/1/a", "/srv/art/", ("1/a",)),
        ("/srv/art/1/a", "file:///srv/art", ("1/a",)),
        ("/srv/artifacts/1/a", "/srv/art", ()),
        ("s3://bucket/prefix/1/a", "s3://bucket/prefix", ("1/a",)),
        ("s3://bucket/prefix", "s3://bucket/prefix/", ("",)),
        ("s3://bucket/prefixed/1/a", "s3://bucket/prefix", ()),
        ("s3://other/prefix/1/a", "s3://bucket/prefix", ()),
        ("dbfs:/x", "/srv/art", ()),
        ("mlflow-artifacts://[x", "/srv/art", ()),
    ],
)
def test_bytes_are_protected_under_every_address_they_have(
    uri: str, destination: str, expected: tuple[str, ...]
) -> None:
    assert paths_below(uri, destination=destination) == expected


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("1/a", "1/a", True),
        ("1/a/b", "1/a", True),
        ("1/A/b", "1/a/", True),
        ("1//a/./b", "1/a", True),
        ("\uff11/a", "1", True),
        ("1/ab", "1/a", False),
        ("1", "1/a", False),
        ("anything", "", True),
    ],
)
def test_a_folder_holds_what_some_disk_would_find_in_it(path: str, folder: str, expected: bool) -> None:
    assert is_below(path, folder) is expected


def test_the_tree_digest_is_the_documented_one() -> None:
    files = {"b.txt": b"2", "a/x": b"1", "a-": b"3"}
    found = [FileDigest(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()]
    lines = "".join(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in ["a-", "a/x", "b.txt"])
    assert tree_digest(found) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


@given(st.dictionaries(st.text("abc/", min_size=1, max_size=4), st.binary(max_size=4), max_size=5), st.randoms())
def test_the_tree_digest_does_not_depend_on_order(files: dict[str, bytes], chance: object) -> None:
    found = [FileDigest(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()]
    mixed = list(found)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert tree_digest(mixed) == tree_digest(found)


@pytest.mark.parametrize(
    ("path", "workspace", "expected"),
    [
        ("1/r/artifacts", "default", "1/r/artifacts"),
        ("workspaces/team-a/1", "default", "workspaces/team-a/1"),  # MLflow refuses it, or has no workspaces
        ("1/r/artifacts", "team-a", "workspaces/team-a/1/r/artifacts"),
        ("workspaces/team-a/1", "team-a", "workspaces/team-a/1"),
        ("workspaces/team-b/1", "team-a", "workspaces/team-b/1"),  # MLflow refuses it
        ("workspaces", "team-a", "workspaces"),
        ("workspacesx/1", "team-a", "workspaces/team-a/workspacesx/1"),
        ("Workspaces/team-a/1", "team-a", "workspaces/team-a/Workspaces/team-a/1"),
    ],
)
def test_a_path_lies_in_the_folder_of_its_workspace(path: str, workspace: str, expected: str) -> None:
    assert in_workspace(path, workspace) == expected


def test_the_bytes_of_a_version_are_those_that_mlflow_serves_in_its_workspace() -> None:
    for source in ("mlflow-artifacts:/1/r/artifacts", "mlflow-artifacts:/workspaces/team-a/1/r/artifacts"):
        uri = physical_uri(source, destination="s3://b/p", workspace="team-a")
        assert uri == "s3://b/p/workspaces/team-a/1/r/artifacts/"
        assert "workspaces/team-a/1/r/artifacts" in paths_below(source, destination="s3://b/p", workspace="team-a")
    for source in ("workspaces/team-b/1/r", "workspaces/team-a", "workspaces"):
        with pytest.raises(Unresolvable):
            artifact_root(f"mlflow-artifacts:/{source}", workspace="team-a")

"""One spelling for each name, and physical addresses."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.store.artifact.utils.models import _parse_model_uri

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
from app.domain.storage import (
    Storage,
    ancestors,
    artifact_root,
    checked_root,
    in_workspace,
    is_below,
    parse_runs_uri,
    paths_below,
)


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


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("models:/my model@production", ModelReference("my model", alias="production")),
        ("models:/my%20model/7", ModelReference("my model", version="7")),
        ("models:/a@b@production", ModelReference("a@b", alias="production")),
        ("models:/m@LATEST", ModelReference("m", stage="latest")),
        ("models:/m/latest", ModelReference("m", stage="latest")),
        ("models:/m/Production", ModelReference("m", stage="production")),
        ("models:/m-0a1b", ModelReference("", model_id="m-0a1b")),
        ("models:/m-0a1b@production", ModelReference("m-0a1b", alias="production")),
        ("models:/m-0a1b/2", ModelReference("m-0a1b", version="2")),
    ],
)
def test_models_uris_are_read(uri: str, expected: ModelReference) -> None:
    assert parse_models_uri(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "iris",
        "models:iris/1",
        "models://host/iris/1",
        "models:/iris",
        "models:/iris/x",
        "models:/iris/",
        "models:/iris@",
        "models:/@production",
        "models:/a/b/1",
        "models:/a/m@production",
        "models:/a%2fb/1",
        "models:/m@production?x=1",
        "models:/m@production#x",
        "models:/m/02",
        "models:/m/\u0662",
        "models:/m@\uff50roduction",
        "models:/m-",
        "models:/M-0a1b",
        "models:/m-0a1b?x",
        "models:/m-..",
        "Models:/m/1",
        "s3://b/k",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_models_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        parse_models_uri(uri)


def test_who_names_a_run_is_told_to_register_what_it_logged() -> None:
    with pytest.raises(InvalidInput, match="registered first"):
        parse_models_uri("runs:/0a1b/model")


@given(st.one_of(st.text(max_size=30), st.text("m-a1@/%v.", max_size=12)))
def test_reading_a_uri_answers_or_refuses(text: str) -> None:
    try:
        reference = parse_models_uri(f"models:/{text}")
    except InvalidInput:
        return
    assert (
        sum(part is not None for part in (reference.alias, reference.version, reference.stage, reference.model_id)) == 1
    )
    assert (reference.model == "") == (reference.model_id is not None)
    assert parse_models_uri(str(reference)) == reference


@given(st.text("m-a1@/v9", max_size=12))
def test_what_is_read_is_what_mlflow_reads(text: str) -> None:
    try:
        reference = parse_models_uri(f"models:/{text}")
    except InvalidInput:
        return
    theirs = _parse_model_uri(f"models:/{text}")
    name, version = theirs.name or "", theirs.version
    assert (name, version, theirs.model_id) == (reference.model, reference.version, reference.model_id)
    assert theirs.alias == reference.alias or (theirs.alias or "").lower() == reference.stage


ROOTS = (
    "s3://bkt2/root",
    "s3://whole-bucket",
    "gs://g_1/x",
    "abfss://con@a.dfs.core.windows.net/r",
    "wasbs://con@acc.net",
)
SERVERS = ("http://mlflow:5000", "https://models.example/ml")
LOCAL = Storage("/srv/art", ROOTS, SERVERS)
ON_S3 = Storage("s3://bkt/prefix", ROOTS, SERVERS)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("/srv/art", "file:///srv/art/1/models/m-x/artifacts/"),
        ("/srv/my art", "file:///srv/my%20art/1/models/m-x/artifacts/"),
        ("file:///srv/art", "file:///srv/art/1/models/m-x/artifacts/"),
        ("s3://bucket/prefix", "s3://bucket/prefix/1/models/m-x/artifacts/"),
        ("s3://bucket", "s3://bucket/1/models/m-x/artifacts/"),
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_a_served_artifact_has_a_physical_uri_with_a_trailing_slash(destination: str, expected: str, end: str) -> None:
    storage = Storage(destination, servers=SERVERS)
    for root in (
        "mlflow-artifacts:",
        "mlflow-artifacts://MLflow:5000",
        "mlflow-artifacts://models.example",
        "mlflow-artifacts://models.example:443",
        "http://mlflow:5000/api/2.0/mlflow-artifacts/artifacts",
        "https://models.example/ml/api/2.0/mlflow-artifacts/artifacts",
    ):
        source = f"{root}/1/models/m-x/artifacts{end}"
        assert storage.physical_uri(source) == expected
        assert storage.artifact_root(source) == "1/models/m-x/artifacts"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://bkt2/root/1/models/m-x/artifacts", "s3://bkt2/root/1/models/m-x/artifacts/"),
        ("s3://bkt2/root/a/", "s3://bkt2/root/a/"),
        ("s3://whole-bucket/a b/c=1", "s3://whole-bucket/a b/c=1/"),
        ("s3://bkt2/root/100%25/a%20b", "s3://bkt2/root/100%25/a%20b/"),  # a key is not decoded
        ("gs://g_1/x/y", "gs://g_1/x/y/"),
        ("abfss://con@a.dfs.core.windows.net/r/y", "abfss://con@a.dfs.core.windows.net/r/y/"),
        ("wasbs://con@acc.net/y", "wasbs://con@acc.net/y/"),
    ],
)
def test_an_address_below_a_root_that_is_allowed_is_given_out_as_it_is(source: str, expected: str) -> None:
    assert LOCAL.physical_uri(source) == expected
    assert LOCAL.artifact_root(source) == expected.rstrip("/")


def test_an_address_in_the_destination_is_guarded_as_what_is_served_from_there() -> None:
    assert ON_S3.physical_uri("s3://bkt/prefix/1/r/artifacts/m") == "s3://bkt/prefix/1/r/artifacts/m/"
    assert ON_S3.artifact_root("s3://bkt/prefix/1/r/artifacts/m") == "1/r/artifacts/m"
    for source in ("/srv/art/1/a b", "file:///srv/art/1/a%20b", "file:///srv/art/1/a b/"):
        assert LOCAL.physical_uri(source) == "file:///srv/art/1/a%20b/"
        assert LOCAL.artifact_root(source) == "1/a b"


REFUSED = {
    "models:/m/1": "another version",
    "runs:/abc/model": "register the model again",
    "dbfs:/x": "kind",
    "foo://x/y": "kind",
    "S3://bkt2/root/x": "kind",
    "s3a://bkt2/root/x": "kind",
    "s3:/bkt2/root/x": "kind",
    "s3:bkt2": "kind",
    "": "kind",
    "x": "kind",
    "mlflow-artifacts:1/x": "kind",
    "MLFLOW-ARTIFACTS:/1/x": "kind",
    # Another place, or one that looks like one of ours.
    "s3://evil/x": "none of the places",
    "s3://bkt2/x": "none of the places",
    "s3://bkt2/rooted/x": "none of the places",
    "s3://bkt2/root": "none of the places",
    "s3://bkt2/root/": "none of the places",
    "s3://bkt22/root/x": "none of the places",
    "s3://BKT2/root/x": "none of the places",
    "s3://bkt2/Root/x": "none of the places",
    "s3://bkt2.evil.example/root/x": "none of the places",
    "s3://bkt/prefix/x": "none of the places",  # the destination is a local folder here
    "gs://bkt2/root/x": "none of the places",
    "abfss://con@evil.dfs.core.windows.net/r/y": "none of the places",
    "s3://bkt2/r\u043e\u043et/x": "beyond ASCII",
    "s3://bkt2/root/\uff0e\uff0e/x": "beyond ASCII",
    "s3://bkt2/root/x\u200b": "beyond ASCII",
    "s3://bkt2/root/x\n": "cannot be seen",
    "s3://bkt2/root/\x00": "cannot be seen",
    # Ways out.
    "s3://bkt2/root/../secret": "not a plain address",
    "s3://bkt2/root/./x": "not a plain address",
    "s3://bkt2/root/x/..": "not a plain address",
    "s3://bkt2/root//x": "not a plain address",
    "s3://bkt2/root/x//": "not a plain address",
    "s3://bkt2/root/%2e%2e/secret": "not a plain address",
    "s3://bkt2/root/%252e%252E/secret": "not a plain address",
    "s3://bkt2/root/a%2f..%2fb": "not a plain address",
    "s3://bkt2/root/a%00": "not a plain address",
    "s3://bkt2/root/a%3Fb": "not a plain address",
    "s3://bkt2/root/a*": "not a plain address",
    "gs://g_1/x/a%20b": "not a plain address",
    "s3://bkt2/root\\x": "backslash",
    "s3://bkt2/root/x?versionId=1": "query",
    "s3://bkt2/root/x#y": "fragment",
    "s3://bkt2:443/root/x": "port",
    "s3:///root/x": "no bucket",
    "s3://../root/x": "no bucket",
    "s3://key:secret@bkt2/root/x": "user or a password",
    "s3://key@bkt2/root/x": "user or a password",
    "wasbs://con:secret@acc.net/y": "user or a password",
    "foo://key:secret@x/y": "user or a password",
    "http://u:p@mlflow:5000/api/2.0/mlflow-artifacts/artifacts/1": "user or a password",
    # Hosts.
    "mlflow-artifacts://evil/1/x": "not this MLflow server",
    "mlflow-artifacts://mlflow/1/x": "not this MLflow server",
    "mlflow-artifacts://mlflow:5001/1/x": "not this MLflow server",
    "mlflow-artifacts://mlflow.evil.example:5000/1/x": "not this MLflow server",
    "mlflow-artifacts:///1/x": "not this MLflow server",
    "http://evil/api/2.0/mlflow-artifacts/artifacts/1/x": "not this MLflow server",
    "http://mlflow:5000.evil.example/api/2.0/mlflow-artifacts/artifacts/1/x": "not this MLflow server",
    "https://mlflow:5000/api/2.0/mlflow-artifacts/artifacts/1/x": "artifact service",
    "https://models.example/api/2.0/mlflow-artifacts/artifacts/1/x": "artifact service",
    "http://mlflow:5000/api/2.0/mlflow/experiments/get": "artifact service",
    "http://mlflow:5000/x/api/2.0/mlflow-artifacts/artifacts/1": "artifact service",
    "http://mlflow:5000": "artifact service",
    "http://mlflow:5000/api/2.0/mlflow-artifacts/artifacts/../../x": "not a plain",
    "http://mlflow:5000/api/2.0/mlflow-artifacts/artifacts/": "not a plain",
    # Folders.
    "/etc/passwd": "not below",
    "file:///etc": "not below",
    "/srv/art": "not below",
    "/srv/artifacts/x": "not below",
    "/srv/ART/x": "not below",
    "file:/srv/art/x": "not written as",
    "file://host/srv/art/x": "not written as",
    "/srv/art/../x": "not a plain",
    "/srv/art//x": "not a plain",
    "file:///srv/art/%2e%2e/x": "not a plain",
    "file:///srv/art/a%252fb": "not a plain",
    "mlflow-artifacts:/../etc": "not a plain",
    "mlflow-artifacts:/1/./x": "not a plain",
    "mlflow-artifacts:/1//x": "not a plain",
    "mlflow-artifacts:/1/x//": "not a plain",
    "mlflow-artifacts:/1/%2e%2e/x": "not a plain",
    "mlflow-artifacts:/1/a%20b": "not a plain",
    "mlflow-artifacts:/1/x?y": "query",
    "mlflow-artifacts:/1/x#y": "fragment",
    "mlflow-artifacts:/1\\x": "backslash",
    "mlflow-artifacts:/1/x\n": "cannot be seen",
    "mlflow-artifacts:/": "not a plain",
}
"""Each with a part of the reason."""


@pytest.mark.parametrize(("source", "reason"), REFUSED.items())
def test_no_other_address_is_given_out_and_the_reason_is_said(source: str, reason: str) -> None:
    with pytest.raises(Unresolvable, match=reason) as refused:
        LOCAL.physical_uri(source)
    assert "secret@" not in refused.value.message


def test_a_folder_is_no_address_where_artifacts_lie_in_a_bucket() -> None:
    for source in ("/prefix/1/x", "/srv/art/1/x", "file:///prefix/1/x", "s3:///prefix/1"):
        with pytest.raises(Unresolvable):
            ON_S3.physical_uri(source)


PIECES = (
    *("s3:", "gs:", "file:", "mlflow-artifacts:", "http:", "//", "/", "bkt2", "root", "srv", "art", "mlflow:5000"),
    *("..", ".", "%2e", "%2F", "%25", "a", " ", "@", ":", "\\", "?", "#", "\uff0f", "workspaces", "team-a"),
)
SPELLINGS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.sampled_from(PIECES),
        max_size=14,
    ).map("".join),
)


@given(SPELLINGS, st.sampled_from([LOCAL, ON_S3]), st.sampled_from(["default", "team-a"]))
@example("s3://bkt2/root/a", LOCAL, "default")
def test_no_source_leads_out_of_the_places_that_are_allowed(source: str, storage: Storage, workspace: str) -> None:
    for spelling in (source, f"mlflow-artifacts:/{source}", f"s3://bkt2/root/{source}", f"file:///srv/art/{source}"):
        try:
            uri = storage.physical_uri(spelling, workspace=workspace)
        except Unresolvable:
            continue
        places = ("file:///srv/art", "s3://bkt/prefix", *ROOTS)
        inside = [uri.removeprefix(f"{place}/") for place in places if uri.startswith(f"{place}/")]
        assert inside
        assert uri.endswith("/")
        assert uri.isascii()
        for below in inside:
            decoded = unquote(unquote(below)).rstrip("/").split("/")
            assert not {"", ".", ".."} & set(decoded)
            assert decoded[:1] != ["workspaces"] or decoded[1] == workspace
        # Who guards bytes by their path knows these by it.
        root = storage.artifact_root(spelling, workspace=workspace)
        if uri.startswith(("file:", "s3://bkt/")):
            assert root in paths_below(uri, destination=storage.destination, workspace=workspace)


@pytest.mark.parametrize("uri", ["s3://bkt2/root/", "s3://bkt2", "s3://bkt2/", "gs://g_1/x", "wasbs://con@acc.net"])
def test_a_root_that_is_allowed_has_no_slash_at_its_end(uri: str) -> None:
    assert checked_root(uri) == uri.rstrip("/")


@pytest.mark.parametrize(
    "uri",
    ["", "bkt2", "/srv", "file:///srv", "http://x", "s3://", "s3://b/../c", "s3://b//c", "s3://u@b", "s3://b?x", "*"],
)
def test_what_nothing_can_lie_below_is_no_root(uri: str) -> None:
    with pytest.raises(Unresolvable):
        checked_root(uri)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("runs:/0a1b/model", ("0a1b", "model")),
        ("runs:/0a1b/a/b/", ("0a1b", "a/b")),
        ("mlflow-artifacts:/1/x", None),
        ("s3://b/k", None),
    ],
)
def test_a_source_in_a_run_names_the_run_and_the_path(source: str, expected: tuple[str, str] | None) -> None:
    assert parse_runs_uri(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "runs:/",
        "runs:/0a1b",
        "runs:/0a1b/",
        "runs:0a1b/m",
        "runs://0a1b/m",
        "runs:/0a/../m",
        "runs:/0a1b/%2e%2e/m",
        "runs:/0a1b/m?x",
    ],
)
def test_a_source_in_a_run_that_is_written_otherwise_is_refused(source: str) -> None:
    with pytest.raises(Unresolvable):
        parse_runs_uri(source)


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
        uri = Storage("s3://b/p").physical_uri(source, workspace="team-a")
        assert uri == "s3://b/p/workspaces/team-a/1/r/artifacts/"
        assert "workspaces/team-a/1/r/artifacts" in paths_below(source, destination="s3://b/p", workspace="team-a")
    for source in ("workspaces/team-b/1/r", "workspaces/team-a", "workspaces"):
        with pytest.raises(Unresolvable):
            artifact_root(f"mlflow-artifacts:/{source}", workspace="team-a")


@pytest.mark.parametrize(
    ("source", "workspaces"),
    [
        ("s3://bkt/prefix/1/r", {"default"}),
        ("s3://bkt/prefix/workspaces/team-a/1", {"team-a"}),
        ("s3://bkt2/root/workspaces/team-a/1", {"team-a"}),
        ("s3://bkt2/root/1/r", {"default", "team-a", "team-b"}),  # a workspace may have a root to itself
        ("s3://bkt2/root/workspaces/1", set()),
        ("s3://bkt2/root/workspaces/default/1", {"default"}),
        ("s3://bkt/prefix/workspaces/default/1", {"default"}),
    ],
)
def test_an_address_in_the_folder_of_a_workspace_is_of_that_workspace_alone(source: str, workspaces: set[str]) -> None:
    for workspace in ("default", "team-a", "team-b"):
        try:
            assert ON_S3.physical_uri(source, workspace=workspace) == f"{source}/"
        except Unresolvable:
            assert workspace not in workspaces
        else:
            assert workspace in workspaces
    for workspace, folder in (
        ("team-a", "/srv/art/1/r"),
        ("default", "/srv/art/workspaces/team-a/1"),
        ("default", "mlflow-artifacts:/workspaces/team-a/1"),
    ):
        with pytest.raises(Unresolvable, match="is not of workspace"):
            LOCAL.physical_uri(folder, workspace=workspace)

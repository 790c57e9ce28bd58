"""Whether what is listed is what was approved: every way in which it can differ, and what must be read to know."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.digests import FileDigest, StoredFile, measured
from app.domain.errors import BytesChanged
from app.domain.manifests import Manifest, manifest_of
from app.domain.verifying import (
    NAMED,
    BytesState,
    Difference,
    Rhythm,
    Seen,
    Sight,
    Verification,
    VersionKey,
    check_as_approved,
    compared,
    oldest_reading,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RHYTHM = Rhythm(timedelta(minutes=1), timedelta(days=1))
CONTENT = {"MLmodel": b"flavors", "data/a": b"aa", "data/b": b"bb"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stored(path: str, content: bytes, stamp: str = "1", **more: object) -> StoredFile:
    return replace(StoredFile(path, len(content), stamp), **more)  # type: ignore[arg-type]  # of StoredFile


TREE = measured(FileDigest(path, len(content), sha256(content)) for path, content in CONTENT.items())
FILES = [stored(path, content) for path, content in CONTENT.items()]
MANIFEST = manifest_of(TREE, {})
SEEN = {path: Seen(len(content), "1", sha256(content), NOW) for path, content in CONTENT.items()}
KEY = VersionKey("default", "iris", 1, "7", 2)
GOOD = Verification(KEY, "file:///m/", TREE.digest, "prm_1", NOW, seen=SEEN, aliases=("production",))


def look(
    files: list[StoredFile],
    before: Verification = GOOD,
    manifest: Manifest | None = MANIFEST,
    *,
    after: timedelta = timedelta(minutes=1),
) -> Sight:
    return compared(files, before, manifest, RHYTHM, at=NOW + after)


def unread(sight: Sight) -> list[str]:
    return [file.path for file in sight.unread]


def test_what_is_as_it_was_need_not_be_read() -> None:
    sight = look(FILES)
    assert (sight.state, sight.unread, sight.difference) == (BytesState.AS_APPROVED, (), Difference())
    assert measured(sight.digests).digest == TREE.digest


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*FILES, stored("new", b"")], "added: new"),
        (FILES[:2], "removed: data/b"),
        ([*FILES[:2], stored("data/b", b"bbb", "2")], "changed: data/b"),
        ([FILES[0], stored("data/B", b"bb"), FILES[1]], "added: data/B; removed: data/b"),
        ([*FILES[:2], stored("data/b", b"cc", "2", sha256=sha256(b"cc"))], "changed: data/b"),
    ],
    ids=["added", "removed", "another size", "renamed", "another content, as the store itself says"],
)
def test_what_the_list_says_need_not_be_read(files: list[StoredFile], message: str) -> None:
    sight = look(files)
    assert (sight.state, sight.message, sight.unread) == (BytesState.CHANGED, message, ())


def test_a_new_stamp_is_no_change_before_the_file_was_read() -> None:
    files = [*FILES[:2], stored("data/b", b"bb", "2")]
    sight = look(files)
    assert (sight.state, unread(sight), sight.digests) == (BytesState.AS_APPROVED, ["data/b"], ())
    same = replace(GOOD, seen={**SEEN, "data/b": Seen(2, "2", sha256(b"bb"), NOW)})
    assert look(files, same).state is BytesState.AS_APPROVED
    other = replace(GOOD, seen={**SEEN, "data/b": Seen(2, "2", sha256(b"cc"), NOW)})
    sight = look(files, other)
    assert (sight.state, sight.message) == (BytesState.CHANGED, "changed: data/b")


@pytest.mark.parametrize("state", [BytesState.CHANGED, BytesState.GONE])
def test_what_was_not_as_approved_is_not_so_again_before_it_was_read(state: BytesState) -> None:
    bad = replace(GOOD, state=state, message="why")
    files = [*FILES[:2], stored("data/b", b"bb", "2")]
    sight = look(files, bad)
    assert (sight.state, sight.message, unread(sight)) == (state, "why", ["data/b"])
    assert look(FILES, bad).state is BytesState.AS_APPROVED


def test_what_was_read_long_ago_is_read_again_unless_it_cannot_have_changed() -> None:
    files = [FILES[0], stored("data/a", b"aa", is_immutable=True), stored("data/b", b"bb", sha256=sha256(b"bb"))]
    assert unread(look(files, after=timedelta(hours=23))) == []
    assert unread(look(files, after=timedelta(hours=25))) == ["MLmodel"]
    # What nobody is served is read when its list differs.
    former = replace(GOOD, aliases=())
    assert unread(look(files, former, after=timedelta(days=100))) == []


def test_a_clock_that_was_set_back_has_everything_read_again_and_one_that_is_late_has_not() -> None:
    assert unread(look(FILES, after=timedelta(seconds=-5))) == []
    assert unread(look(FILES, after=timedelta(days=-300))) == [*CONTENT]


def test_without_a_manifest_everything_must_be_read_and_the_digest_decides() -> None:
    unknown = replace(GOOD, seen={})
    sight = look(FILES, unknown, None)
    assert (sight.state, unread(sight)) == (BytesState.AS_APPROVED, [*CONTENT])
    assert look(FILES, GOOD, None).state is BytesState.AS_APPROVED
    sight = look([*FILES, stored("new", b"", sha256=sha256(b""))], GOOD, None)
    assert sight.state is BytesState.CHANGED
    assert (sight.message or "").startswith("its digest is sha256:")
    assert sight.digests == ()


def test_of_many_files_some_are_named_and_the_others_counted() -> None:
    sight = look([stored(f"new/{number:03}", b"") for number in range(NAMED + 5)] + FILES)
    assert (sight.message or "").endswith("new/019 and 5 more")
    assert [len(paths) for paths in sight.difference.named.values()] == [NAMED]


def test_only_what_is_as_approved_may_resolve() -> None:
    check_as_approved(None, TREE.digest)
    check_as_approved(GOOD, TREE.digest)
    changed = replace(GOOD, state=BytesState.CHANGED, message="changed: a")
    with pytest.raises(BytesChanged, match=r"^Version 7 of model iris is not what was approved: changed: a\.$"):
        check_as_approved(changed, TREE.digest)
    with pytest.raises(BytesChanged, match=r"^Version 7 of model iris is gone: There are no artifacts\.$"):
        check_as_approved(replace(GOOD, state=BytesState.GONE, message="There are no artifacts"), TREE.digest)
    with pytest.raises(BytesChanged, match=r"not what was approved: its digest is .* since promotion") as refusal:
        check_as_approved(GOOD, "sha256:0")
    assert refusal.value.details == {"state": "changed", "promotion": "prm_1"}
    assert str(GOOD) == "Version 7 of model iris is what was approved."


def test_it_is_due_before_the_next_look_and_seldom_once_it_holds_no_alias() -> None:
    assert timedelta() < RHYTHM.due(NOW, holds=True) - NOW < RHYTHM.look
    assert RHYTHM.look < RHYTHM.due(NOW, holds=False) - NOW < RHYTHM.read


def test_the_oldest_reading_is_that_of_the_file_that_was_read_first() -> None:
    later = {**SEEN, "data/b": replace(SEEN["data/b"], read_at=NOW + timedelta(hours=1))}
    assert oldest_reading(TREE.files, later) == NOW
    assert oldest_reading(TREE.files, {}) is None


def test_a_version_of_another_workspace_says_so() -> None:
    assert (str(KEY), str(replace(KEY, workspace="fraud"))) == ("iris/7", "fraud/iris/7")

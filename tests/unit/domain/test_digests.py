"""The tree digest, and which trees have none."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.digests import MOST_FILES, FileDigest, Measurement, check_count, check_path, measured, tree_digest
from app.domain.errors import Unresolvable

CONTENTS = st.dictionaries(st.text("abÄ/. ~-", min_size=1, max_size=8), st.binary(max_size=4), min_size=1, max_size=6)


def digests(contents: dict[str, bytes]) -> list[FileDigest]:
    return [FileDigest(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in contents.items()]


def test_the_tree_digest_is_what_the_documented_command_prints(tmp_path: Path) -> None:
    contents = {"MLmodel": b"flavors", "data/model.bin": b"x", "data.bin": b"y", "ümläut and space": b"", "Z": b"z"}
    for path, data in contents.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    documented = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    printed = subprocess.run(documented, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert tree_digest(digests(contents)) == f"sha256:{printed.split()[0]}"


@given(CONTENTS, CONTENTS)
def test_two_trees_have_one_digest_only_if_they_are_the_same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (tree_digest(digests(one)) == tree_digest(digests(other))) == (one == other)


def test_a_line_end_in_a_name_would_make_two_trees_alike_and_is_refused() -> None:
    honest = digests({"a": b"1", "b": b"2"})
    forged = FileDigest(f"a\n{honest[1].sha256}  b", 1, honest[0].sha256)
    assert tree_digest(honest) == tree_digest([forged])
    with pytest.raises(Unresolvable, match="control character"):
        check_path(forged.path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "./a",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\x85b",
        "a\\b",
        "\udcff",
    ],
)
def test_a_path_that_is_read_differently_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(Unresolvable):
        check_path(path)


def test_a_path_may_be_as_long_as_a_key_of_s3() -> None:
    assert check_path("ä" * 512)
    with pytest.raises(Unresolvable, match="1025 bytes"):
        check_path("ä" * 512 + "a")


@pytest.mark.parametrize("path", ["a", "a/b c", "...", "a..b", ".gitignore", "ümläut", "日本", "a:b"])
def test_other_paths_are_taken_as_they_are(path: str) -> None:
    assert check_path(path) == path


def test_a_tree_has_at_least_one_file_and_not_too_many() -> None:
    check_count(1, "file:///m/")
    check_count(MOST_FILES, "file:///m/")
    with pytest.raises(Unresolvable, match="There are no artifacts at file:///m/"):
        check_count(0, "file:///m/")
    with pytest.raises(Unresolvable, match="more than 50,000 files at file:///m/"):
        check_count(MOST_FILES + 1, "file:///m/")


def test_what_was_measured_is_in_order_whatever_came_first() -> None:
    found = measured(reversed(digests({"A": b"1", "a": b"22", "ä": b"333"})))
    assert [file.path for file in found.files] == ["A", "a", "ä"]
    assert (found.size, found.digest) == (6, tree_digest(found.files))


@pytest.mark.parametrize(
    ("total", "read", "digest", "share"),
    [(8, 0, None, 0.0), (8, 2, None, 0.25), (8, 9, None, 1.0), (0, 0, None, 0.0), (0, 0, "sha256:…", 1.0)],
)
def test_a_measurement_tells_its_share(total: int, read: int, digest: str | None, share: float) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Measurement("prm_1", total, read, 1, 0, digest, now, now).share == share

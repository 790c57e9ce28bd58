"""The command that prints the digest of a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from app.cli.digest import digest
from app.domain.errors import Unresolvable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my model"
    (root / "data").mkdir(parents=True)
    (root / "data" / "weights").write_bytes(b"x")
    (root / "MLmodel").write_bytes(b"")
    return root


def test_the_digest_is_that_of_the_lines_that_it_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest(str(folder), files=True, as_json=False)
    lines = capsys.readouterr().out
    assert lines == "".join(
        f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in (("MLmodel", b""), ("data/weights", b"x"))
    )
    digest(str(folder), files=False, as_json=False)
    assert capsys.readouterr().out == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}\n"


def test_everything_is_printed_as_json(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    digest(".", files=False, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["size"] == 1
    assert printed["digest"].startswith("sha256:")
    assert [file["path"] for file in printed["files"]] == ["MLmodel", "data/weights"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unresolvable, match=r"There are no artifacts at .*/missing/"):
        digest(str(tmp_path / "missing"), files=False, as_json=False)

"""What the processes of `countersign up` are given, and where it keeps things."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from app.domain.errors import InvalidConfiguration
from app.embedded.environment import child_environment, locked, open_data_folder, secret, short_directory


def test_variables_of_the_shell_that_would_bend_a_part_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PGHOST", "COUNTERSIGN_PORT", "RAY_ADDRESS", "SECRET_KEY", "CANAILLE_CONFIG"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    environment = child_environment({"COUNTERSIGN_PORT": "8080"})
    assert "elsewhere" not in environment.values()
    assert environment["COUNTERSIGN_PORT"] == "8080"
    assert "127.0.0.1" in environment["NO_PROXY"]
    assert environment["PATH"] == os.environ["PATH"]


def test_a_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path)
    path, first = secret(folder, "name", lambda: "first")
    assert secret(folder, "name", lambda: "second") == (path, first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_secret_file_left_by_a_crash_is_filled(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path)
    (folder.secrets / "name").touch()
    assert secret(folder, "name", lambda: "value")[1] == "value"


def test_a_folder_too_deep_for_sockets_gets_a_private_one_elsewhere(tmp_path: Path) -> None:
    preferred = tmp_path / ("deep" * 40)
    path = short_directory(preferred, 80)
    try:
        assert len(str(path)) < 80
        assert path == short_directory(preferred, 80)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        path.chmod(0o777)
        with pytest.raises(InvalidConfiguration, match="belongs to somebody else"):
            short_directory(preferred, 80)
    finally:
        path.rmdir()


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path)
    with locked(folder), pytest.raises(InvalidConfiguration, match=f"process {os.getpid()}"), locked(folder):
        pass
    with locked(folder):
        pass

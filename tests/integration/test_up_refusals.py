"""`countersign up` refuses with one line that says what to do."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded.environment import locked, open_data_folder
from tests.platform import free_port
from tests.running import try_up


def refusal(completed: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert completed.returncode != 0
    assert "Traceback" not in completed.stderr + completed.stdout
    assert "WARNING" not in completed.stderr.upper()
    lines = completed.stderr.strip().splitlines()
    assert len(lines) == 1, completed.stderr
    return lines[0]


def test_a_port_in_use_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(try_up(tmp_path / "data", port))
    assert f"port {port} is in use" in line
    assert "--port" in line


def test_a_host_that_is_not_ours_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    for host in ("192.0.2.77", "no-such-host.invalid"):
        line = refusal(try_up(tmp_path / "data", free_port(), "--host", host))
        assert host in line
        assert "--host" in line


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("something else")
    for path in (file, file / "below"):
        line = refusal(try_up(path, free_port()))
        assert str(file) in line
        assert "--data-dir" in line
    assert file.read_text() == "something else"


def test_a_data_folder_that_nobody_can_write_is_refused() -> None:
    line = refusal(try_up("/proc/countersign", free_port()))
    assert "/proc/countersign" in line
    assert "--data-dir" in line


def test_a_data_folder_that_this_user_cannot_write_is_refused(tmp_path: Path) -> None:
    # Root may write in every folder of a disk; not in the kernel's own.
    folder = tmp_path if os.geteuid() else Path("/sys/kernel")
    if os.geteuid():
        folder.chmod(0o500)
    line = refusal(try_up(folder, free_port()))
    assert str(folder) in line
    assert "--data-dir" in line


def test_a_path_that_urls_cannot_carry_is_refused(tmp_path: Path) -> None:
    line = refusal(try_up(tmp_path / "50%?", free_port()))
    assert "--data-dir" in line
    assert not (tmp_path / "50%?").exists()


def test_a_missing_parent_folder_is_made(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path / "a" / "b" / "c")
    assert folder.root.is_dir()
    assert folder.secrets.stat().st_mode & 0o077 == 0


def test_a_second_up_on_the_same_folder_is_refused_and_names_the_first(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path / "data")
    with locked(folder):
        line = refusal(try_up(folder.root, free_port()))
    assert f"process {os.getpid()}" in line
    assert str(folder.root) in line


@pytest.mark.parametrize(("module", "extra", "options"), [("canaille", "embedded", []), ("ray", "ray", ["--with-ray"])])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    module: str, extra: str, options: list[str], tmp_path: Path
) -> None:
    # An interpreter that cannot find the package, as after an install without the extra.
    hide = f"""
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == {module!r} else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from app.cli import main
sys.argv[1:] = ["up", "--data-dir", {str(tmp_path / "data")!r}, "--port", "{free_port()}", *{options!r}]
main()
"""
    completed = subprocess.run([sys.executable, "-c", hide], check=False, capture_output=True, text=True, timeout=60)
    assert f"pip install 'countersign[{extra}]'" in refusal(completed)


def test_a_database_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path / "data")
    folder.postgres.mkdir(mode=0o700)
    (folder.postgres / "PG_VERSION").write_text("18\n")
    line = refusal(try_up(folder.root, free_port()))
    assert "PostgreSQL did not start" in line
    assert str(folder.logs / "postgres.log") in line
    assert not folder.processes_file.exists(), "something was left running"


def test_an_mlflow_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path / "data")
    (folder.mlflow / "mlflow.db").write_bytes(b"this is not a database" * 100)
    line = refusal(try_up(folder.root, free_port()))
    assert re.search(r"MLflow did not start: .*not a database", line), line
    assert str(folder.logs / "mlflow.log") in line

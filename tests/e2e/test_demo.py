"""`python -m demo` as a newcomer runs it: the whole story on real parts, and how it ends when it cannot begin."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platform import free_port, until

STORY_WITHIN_S = 800
DEMO = (sys.executable, "-m", "demo")


def tell(*options: str, within_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *options], capture_output=True, text=True, timeout=within_s, check=False)


@pytest.mark.ray
@pytest.mark.timeout(STORY_WITHIN_S + 60)
def test_the_whole_story_happens_and_leaves_nothing_running(tmp_path: Path):
    port, data = free_port(), tmp_path / "data"

    told = tell("--once", "--port", str(port), "--data-dir", str(data), within_s=STORY_WITHIN_S)

    assert told.returncode == 0, told.stdout[-5000:] + told.stderr
    for number in range(1, 7):
        assert re.search(rf"^{number}  \w", told.stdout, re.MULTILINE), f"no chapter {number}"
    assert "PERMISSION_DENIED: Alias 'production' of model 'diabetes' is protected" in told.stdout
    assert f"http://127.0.0.1:{port}/console/promotions/prm_" in told.stdout
    assert "403 Forbidden" in told.stdout
    assert '{"predictions": [' in told.stdout
    assert re.findall(r"(\d+) requests meanwhile, 0 failed: \d+ by version (\d), \d+ by version (\d)", told.stdout)
    assert re.search(r"Version 1 of diabetes is in \S+ \(verified, sha256:[0-9a-f]{64}\)", told.stdout)
    assert "who followed the alias was told of versions 1, 2, 1, each as it took over" in told.stdout
    assert "The audit log is intact" in told.stdout
    assert "All of this really happened" in told.stdout
    assert not (data / "connection.json").exists()
    ports = json.loads((data / "ports.json").read_text()).values()
    assert [each for each in (port, *ports) if _is_open(each)] == []


def test_a_port_that_is_taken_ends_it_with_one_line_that_says_what_to_change(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = tell("--once", "--port", str(port), "--data-dir", str(tmp_path / "data"))

    assert told.returncode == 1
    assert told.stderr.splitlines() == [
        f"countersign up: port {port} is in use by another process; choose another with --port"
    ]
    assert "2  " not in told.stdout


def test_beginning_from_nothing_does_not_remove_a_folder_that_is_no_data_folder(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("three years of work")

    told = tell("--once", "--clean", "--data-dir", str(tmp_path))

    assert told.returncode == 1
    assert told.stderr.splitlines() == [
        f"demo: {tmp_path} is not a data folder of `countersign up`, so it is not removed"
    ]
    assert (tmp_path / "thesis.txt").exists()


def test_whoever_stops_it_while_it_starts_gets_everything_stopped(tmp_path: Path):
    data = tmp_path / "data"
    command = [*DEMO, "--port", str(free_port()), "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as story:
        until((data / "processes.json").exists, "the start of the first part")
        story.send_signal(signal.SIGTERM)
        said, _ = story.communicate(timeout=100)

    assert story.returncode == 128 + signal.SIGTERM
    assert said.rstrip().endswith("stopped")
    assert "Traceback" not in said
    assert [each for each in json.loads((data / "ports.json").read_text()).values() if _is_open(each)] == []


def _is_open(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0

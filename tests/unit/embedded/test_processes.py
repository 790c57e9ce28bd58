"""Only what an earlier run started is stopped, however numbers are given away again."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.embedded.environment import MARK
from app.embedded.processes import ProcessTable, is_running, stop_leftovers, working_in
from app.embedded.supervisor import LONGEST_DELAY_S, back_off, bound, describe_end, reason_in, rotate

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)",
]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_a_process_that_an_earlier_run_started_is_stopped(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    file = tmp_path / "processes.json"
    ProcessTable(file, "mark").add("mlflow", sleeper.pid)
    assert stop_leftovers(file) == ["mlflow"]
    assert sleeper.wait(5) == -15


def test_a_process_that_only_has_the_same_number_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    file = tmp_path / "processes.json"
    created = psutil.Process(sleeper.pid).create_time() - 3600
    file.write_text(json.dumps({"mark": "m", "processes": {"mlflow": {"pid": sleeper.pid, "create_time": created}}}))
    assert stop_leftovers(file) == []
    assert sleeper.poll() is None


def test_what_a_part_had_started_is_found_by_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "processes.json"
    file.write_text(json.dumps({"mark": "a-mark-of-this-test", "processes": {}}))
    with subprocess.Popen(SLEEP, env={**os.environ, MARK: "a-mark-of-this-test:mlflow"}) as orphan:
        stop_leftovers(file)
        assert orphan.wait(5) == -15


def test_who_ignores_the_request_is_killed_after_a_grace(tmp_path: Path) -> None:
    file = tmp_path / "processes.json"
    with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        ProcessTable(file, "mark").add("gateway", stubborn.pid)
        assert stop_leftovers(file, grace_s=0.3) == ["gateway"]
        assert stubborn.wait(5) == -9


def test_a_broken_record_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "processes.json"
    for text in ("", "[]", '{"processes": {"gateway": {"pid": "x"}}}'):
        file.write_text(text)
        assert stop_leftovers(file) == []


def test_a_zombie_does_not_count_as_running() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        seen = psutil.Process(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(seen)


def test_who_works_in_a_folder_is_found(tmp_path: Path) -> None:
    assert not working_in(tmp_path)
    with subprocess.Popen(SLEEP, cwd=tmp_path) as process:
        assert [found.pid for found in working_in(tmp_path)] == [process.pid]
        process.kill()


def test_restarts_come_at_once_and_then_ever_later() -> None:
    delays = list(itertools.islice(back_off(), 10))
    assert delays[0] == 0.2
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S


def test_the_end_of_a_process_is_told_in_words() -> None:
    assert describe_end(-9) == "SIGKILL"
    assert describe_end(3) == "exit code 3"


def test_logs_are_bounded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab") as writer:
        writer.write(b"old\n" * 100)
        writer.flush()
        bound(log, longest=10)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "part.log.1").read_bytes() == b"old\n" * 100
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "part.log.1").read_bytes() == b"new\n"


def test_the_line_that_says_why_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert reason_in(log) == "it left no log"
    log.write_text("first\nthe last\n\n")
    assert reason_in(log) == "the last"
    log.write_text("DatabaseError: file is not a database\n[SQL: select 1]\n(Background on this error at: …)\n")
    assert reason_in(log) == "DatabaseError: file is not a database"

"""``countersign resolve``: printed, followed through a gateway that comes and goes, and run for the newest version."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from countersign_client import credentials, follow, resolve, resolving
from countersign_client.cli import resolving as command_module
from countersign_client.errors import InvalidAddress, InvalidUsage, Refused
from countersign_client.store import LoginStore

from tests.client.standin import Answer, Seen, Standin

Command = Callable[..., int]
URI = "models:/iris@production"
PATH = "/control/v1/resolve"


@dataclass
class Alias:
    """What it means, and what becomes of who asks."""

    version: int = 1
    status: int = 200
    has_etag: bool = True
    """Something on the way may take it off."""
    asked: list[Seen] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def answer(self, seen: Seen) -> Answer:
        self.asked.append(seen)
        with self.changed:
            etag = seen.headers.get("If-None-Match")
            if "wait" in seen.query:
                self.changed.wait_for(lambda: self.status != 200 or self.etag != etag, 0.2)
            if self.status != 200:
                return self.status, {"detail": f"No: {self.status}."}
            return (304, {}) if self.etag == etag else (200, self.document)

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    @property
    def document(self) -> dict[str, object]:
        return {
            "model": "iris",
            "version": str(self.version),
            "alias": "production",
            "uri": f"s3://models/iris/{self.version}/",
            "digest": "sha256:1" if self.version == 1 else None,
            "promotion_id": "prm_1",
            "flavors": ["python_function"],
            **({"etag": self.etag} if self.has_etag else {}),
        }

    def becomes(self, *, version: int | None = None, status: int = 200) -> None:
        with self.changed:
            self.version, self.status = version or self.version, status
            self.changed.notify_all()


@pytest.fixture
def alias(
    gateway: Standin, no_credentials: None, store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Alias]:
    alias = Alias()
    # Not by `Standin.answers`, which answers one at a time.
    before = gateway.answer
    monkeypatch.setattr(gateway, "answer", lambda seen: alias.answer(seen) if seen.path == PATH else before(seen))
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", gateway.access)
    monkeypatch.setattr(resolving, "_PAUSES_S", (0.001, 0.002))
    monkeypatch.setattr(command_module, "_PAUSES_S", (0.01, 0.02))
    yield alias
    alias.becomes(status=403)  # whoever still watches ends
    credentials._short.clear()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def terminated(after: Callable[[], object]) -> threading.Thread:
    """SIGTERM for this process as soon as ``after`` is true."""

    def send() -> None:
        try:
            until(after)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_it_is_printed_for_people_for_scripts_and_for_programs(
    alias: Alias, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("resolve", URI) == 0
    said = capsys.readouterr().out.splitlines()
    assert "uri          s3://models/iris/1/" in said
    assert "version      1" in said
    assert command("resolve", URI, "--field", "uri") == 0
    assert capsys.readouterr().out == "s3://models/iris/1/\n"
    assert command("resolve", URI, "--field", "flavors") == 0
    assert capsys.readouterr().out == '["python_function"]\n'
    assert command("resolve", URI, "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] == "1"
    assert command("resolve", URI, "--workspace", "team-a") == 0
    assert alias.asked[-1].query == {"uri": URI, "workspace": "team-a"}


@pytest.mark.parametrize(
    "wrong",
    [("--field", "nothing"), ("--once",), ("--field", "uri", "--json"), ("--watch", "--once", "--json", "-f", "x")],
)
def test_what_cannot_be_meant_is_said(alias: Alias, command: Command, wrong: tuple[str, ...]) -> None:
    assert command("resolve", URI, *wrong) == 2


@pytest.mark.parametrize(("status", "exit_code"), [(404, 1), (403, 1), (422, 2), (401, 3), (503, 4)])
def test_each_refusal_has_its_status(alias: Alias, command: Command, status: int, exit_code: int) -> None:
    alias.status = status
    assert command("resolve", URI) == exit_code


def test_a_command_is_run_with_the_answer_in_its_environment(alias: Alias, command: Command, tmp_path: Path) -> None:
    assert command("resolve", URI, "--exec", f"env > {tmp_path}/env; exit 7") == 7
    environment = (tmp_path / "env").read_text().splitlines()
    assert {
        "COUNTERSIGN_URI=s3://models/iris/1/",
        "COUNTERSIGN_VERSION=1",
        "COUNTERSIGN_DIGEST=sha256:1",
        "COUNTERSIGN_MODEL=iris",
        "COUNTERSIGN_ALIAS=production",
        "COUNTERSIGN_PROMOTION_ID=prm_1",
        f"COUNTERSIGN_REFERENCE={URI}",
    } <= set(environment)
    assert command("resolve", URI, "--exec", "kill -9 $$") == 137


def test_what_no_environment_can_hold_is_not_put_there(
    alias: Alias, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, document = tmp_path / "out", alias.document
    told = {**document, "promotion_id": "prm\0_1\n$(touch x)", "digest": ["sha256:1"], "version": "1;\0true"}
    monkeypatch.setattr(Alias, "document", told)
    assert command("resolve", URI, "--exec", f'echo "$COUNTERSIGN_PROMOTION_ID|$COUNTERSIGN_DIGEST" > {out}') == 0
    assert out.read_text() == "prm[U+0000]_1 $(touch x)|\n"


def test_what_is_watched_is_printed_at_each_change_through_whatever_happens(
    alias: Alias, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def steps() -> bool:
        said.append(capsys.readouterr().out)
        shown = "".join(said)
        if "version 1" in shown and alias.version == 1:
            alias.becomes(status=503)
            until(lambda: len(alias.asked) > 5)
            alias.becomes(status=404)
            alias.becomes(version=2)
        elif "version 2" in shown and alias.version == 2:
            alias.becomes(version=3)
        return "version 3" in shown

    interrupting = terminated(steps)
    assert command("resolve", URI, "--watch") == 130
    interrupting.join()
    assert "".join(said).splitlines() == [
        f"version {number} of iris  s3://models/iris/{number}/" for number in (1, 2, 3)
    ]
    assert alias.asked[1].headers["If-None-Match"] == '"1"'


def test_one_change_is_waited_for(alias: Alias, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    def move() -> None:
        until(lambda: sum("wait" in seen.query for seen in alias.asked) > 1)  # the first was answered with 304
        alias.becomes(version=2)

    moving = threading.Thread(target=move)
    moving.start()
    assert command("resolve", URI, "--watch", "--once", "--field", "version") == 0
    moving.join()
    assert capsys.readouterr().out == "2\n"


def test_of_what_changes_while_a_command_runs_the_newest_alone_is_run(
    alias: Alias, command: Command, tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    run = f'echo "$COUNTERSIGN_VERSION $COUNTERSIGN_DIGEST" >> {log}; while [ ! -e {go} ]; do sleep 0.01; done'

    def steps() -> bool:
        if log.exists() and alias.version == 1:
            for version in (2, 3, 4):
                alias.becomes(version=version)
                until(lambda: sum(seen.headers.get("If-None-Match") == alias.etag for seen in alias.asked))
            go.touch()
        return log.exists() and "4" in log.read_text()

    interrupting = terminated(steps)
    assert command("resolve", URI, "--watch", "--exec", run) == 130
    interrupting.join()
    assert log.read_text().splitlines() == ["1 sha256:1", "4 "], "and nothing is left of an earlier version"


def test_a_command_that_fails_is_run_again_until_it_succeeds_or_something_newer_comes(
    alias: Alias, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    run = f'echo $COUNTERSIGN_VERSION >> {log}; [ $COUNTERSIGN_VERSION = 2 ] && [ "$(grep -c 2 {log})" = 2 ]'

    def steps() -> bool:
        runs = log.read_text().split() if log.exists() else []
        if runs.count("1") >= 3 and alias.version == 1:
            alias.becomes(version=2)
        return runs.count("2") == 2

    interrupting = terminated(steps)
    assert command("resolve", URI, "--watch", "--exec", run) == 130
    interrupting.join()
    assert log.read_text().split().count("2") == 2
    assert "the command ended with 1 for version 1. Again in 0.01 s." in capsys.readouterr().err


def test_sigterm_is_passed_on_to_the_command(alias: Alias, command: Command, tmp_path: Path) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"
    run = f"trap 'touch {ended}; exit' TERM; touch {started}; while :; do sleep 0.01; done"
    interrupting = terminated(started.exists)
    assert command("resolve", URI, "--watch", "--exec", run) == 130
    interrupting.join()
    assert ended.exists()


@pytest.mark.parametrize(("status", "exit_code"), [(403, 1), (401, 3)])
def test_who_may_not_any_more_stops_watching(alias: Alias, command: Command, status: int, exit_code: int) -> None:
    def refuse() -> None:
        until(lambda: any("wait" in seen.query for seen in alias.asked))
        alias.becomes(status=status)

    refusing = threading.Thread(target=refuse)
    refusing.start()
    assert command("resolve", URI, "--watch") == exit_code
    refusing.join()


def test_a_script_follows_by_a_loop(alias: Alias) -> None:
    versions = []
    for found in follow(URI):
        versions.append(found.version)
        if found.version == "3":
            break
        alias.becomes(version=int(found.version) + 1)
    assert versions == ["1", "2", "3"]
    assert resolve(URI).uri == "s3://models/iris/3/"
    alias.status = 404
    with pytest.raises(Refused, match="No: 404"):
        next(follow(URI))


def test_the_same_answer_is_no_news_where_its_etag_is_taken_off(alias: Alias) -> None:
    alias.has_etag = False
    following = follow(URI)
    assert next(following).version == "1"

    def change() -> None:
        until(lambda: len(alias.asked) > 3)
        alias.becomes(version=2)

    changing = threading.Thread(target=change)
    changing.start()
    assert next(following).version == "2"
    changing.join()


def test_who_names_no_gateway_is_told_so(alias: Alias, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COUNTERSIGN_URL")
    with pytest.raises(InvalidAddress, match="COUNTERSIGN_URL"):
        resolve(URI)
    assert issubclass(InvalidAddress, InvalidUsage)


def test_a_workload_exchanges_the_token_in_its_file_for_one_that_resolves(
    alias: Alias, gateway: Standin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("COUNTERSIGN_TOKEN")
    monkeypatch.setenv("COUNTERSIGN_ID_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text("a.b.c\n")
    assert resolve(URI).version == "1"
    [form] = gateway.forms("/auth/token")
    assert (form["subject_token"], form["scope"]) == ("a.b.c", "resolve")
    credentials._short.clear()
    (tmp_path / "token").unlink()
    with pytest.raises(Exception, match="COUNTERSIGN_ID_TOKEN_FILE names cannot be read"):
        resolve(URI)

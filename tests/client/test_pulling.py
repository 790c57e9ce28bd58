"""Downloads from a gateway that lies, breaks off, or is slow: nothing wrong ever gets a name, and nothing is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from countersign_client import pulling
from countersign_client.digests import digest_of, is_plain, tree_digest
from countersign_client.errors import Changed, ClientError, InvalidUsage, Refused, Unreachable
from countersign_client.pulling import Pulled

from app.domain.digests import FileDigest
from app.domain.digests import tree_digest as tree_digest_of_gateway

FILES = {"MLmodel": b"flavors: {}\n", "weights/model.bin": b"w" * 3_000_000, "code/__init__.py": b""}
URI = "models:/iris@production"
Command = Callable[..., int]


@dataclass
class Serving:
    """A gateway and its store in one. ``breaks_after`` bytes of an answer it hangs up, as often as it says."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    listing: dict[str, Any] = field(default_factory=dict)
    has_urls: bool = True
    breaks_after: int | None = None
    breaks: int = 0
    expired: int = 0
    says_expired: int = 403
    away: bool = False
    moved: bool = False
    etags: dict[str, str] = field(default_factory=dict)
    heeds_if_range: bool = True
    replaces: dict[str, bytes] = field(default_factory=dict)
    """What lies there, under another ETag, as soon as an answer broke off."""
    hold: threading.Event | None = None
    signed: str | None = None
    """The URL of every file, if it is a lie."""
    raw: bytes | None = None
    """The list, if it is none."""
    read: list[tuple[str, str, str]] = field(default_factory=list)
    """How, what, and which range."""

    @property
    def digests(self) -> dict[str, str]:
        return {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}

    def listed(self) -> dict[str, Any]:
        files = [{"path": path, "size": len(FILES[path]), "sha256": sha256} for path, sha256 in self.digests.items()]
        answer = {
            "model": "iris",
            "version": "7",
            "digest": tree_digest(self.digests),
            "has_urls": self.has_urls,
            "files": files,
        }
        return {**answer, **self.listing}


@pytest.fixture
def serving(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:  # noqa: C901  # one server
    state = Serving()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            if address.path == "/control/v1/resolve/files":
                self._send(200, state.raw or json.dumps(state.listed()).encode())
            elif address.path == "/control/v1/resolve/content":
                assert self.headers["Authorization"] == "Bearer cs_pat_x"
                self._bytes("gateway", query["path"])
            else:
                assert "Authorization" not in self.headers, "no token goes to a store"
                self._bytes("store", address.path.removeprefix("/store/"))

        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if state.moved:
                self._json(412, {"detail": "models:/iris@production is version 8 by now, not 7."})
                return
            store = "http://127.0.0.1:9" if state.away else state.url
            urls = {path: f"{store}/store/{path}?signature=x" for path in wanted["files"]}
            signed = [
                {"path": path, "url": url if state.signed is None else state.signed} for path, url in urls.items()
            ]
            self._json(200, {"files": signed})

        def _json(self, status: int, document: object) -> None:
            self._send(status, json.dumps(document).encode())

        def _bytes(self, how: str, path: str) -> None:
            wanted = self.headers.get("Range", "")
            state.read.append((how, path, wanted))
            if how == "store" and state.expired:
                state.expired -= 1
                self._send(state.says_expired, b"<Error/>")
                return
            content, etag = state.files[path], state.etags.get(path)
            if state.heeds_if_range and self.headers.get("If-Range", etag) != etag:
                wanted = ""
            first = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
            headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if wanted else {}
            if etag:
                headers["ETag"] = etag
            self._send(206 if wanted else 200, content[first:], breaks=True, **headers)

        def _send(self, status: int, content: bytes, *, breaks: bool = False, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if breaks and state.breaks and state.breaks_after is not None and len(content) > state.breaks_after:
                state.breaks -= 1
                state.files |= state.replaces
                state.etags |= dict.fromkeys(state.replaces.keys() & state.etags.keys(), '"another"')
                self.wfile.write(content[: state.breaks_after])
                self.wfile.flush()
                if state.hold:
                    state.hold.wait(60)
                self.close_connection = True
                return
            with suppress(ConnectionError):  # who asked may have been stopped meanwhile
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("COUNTERSIGN_URL", state.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", "cs_pat_x")
    monkeypatch.setattr(pulling, "_PAUSES_S", (0.001, 0.002))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def pull(folder: Path, **options: Any) -> Pulled:
    return pulling.pull(URI, folder, **options)


def lies_there(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_behind(folder: Path) -> list[Path]:
    return [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]


@pytest.mark.parametrize("has_urls", [True, False])
def test_everything_is_there_under_its_name_and_nothing_else(serving: Serving, folder: Path, has_urls: bool) -> None:
    serving.has_urls = has_urls
    pulled = pull(folder)
    assert lies_there(folder) == FILES
    assert (pulled.digest, pulled.downloaded) == (digest_of(folder), 3_000_012)
    assert {how for how, _, _ in serving.read} == {"store" if has_urls else "gateway"}
    assert not left_behind(folder)


def test_both_sides_mean_the_same_by_a_digest() -> None:
    files = {"ü": "0" * 64, "z/a": "1" * 64, "Z": "2" * 64}
    assert tree_digest(files) == tree_digest_of_gateway(FileDigest(path, 1, sha256) for path, sha256 in files.items())


def test_what_is_there_already_is_not_downloaded_again(serving: Serving, folder: Path) -> None:
    pull(folder)
    serving.read.clear()
    assert pull(folder).downloaded == 0
    assert not serving.read


def test_a_connection_that_breaks_is_gone_on_with_from_there(serving: Serving, folder: Path) -> None:
    serving.breaks_after, serving.breaks = 1_000_000, 2
    assert pull(folder).downloaded == 3_000_012
    ranges = [wanted for _, path, wanted in serving.read if path == "weights/model.bin"]
    assert ranges == ["", "bytes=1000000-", "bytes=2000000-"]
    assert lies_there(folder) == FILES


def test_an_earlier_try_is_gone_on_with(serving: Serving, folder: Path) -> None:
    serving.breaks_after, serving.breaks = 0, 99
    serving.files["weights/model.bin"] = FILES["weights/model.bin"]
    with pytest.raises(Unreachable):
        pull(folder)
    [partial] = left_behind(folder)
    (partial / "files" / "weights").mkdir(exist_ok=True)
    (partial / "files" / "weights" / "model.bin").write_bytes(b"w" * 2_999_999)
    (partial / "files" / "stranger").write_text("of nobody")
    serving.breaks = 0
    serving.read.clear()
    assert pull(folder).downloaded == 1 + 12
    assert ("store", "weights/model.bin", "bytes=2999999-") in serving.read
    assert lies_there(folder) == FILES
    assert not left_behind(folder)


def test_what_an_earlier_try_left_damaged_is_had_once_more(serving: Serving, folder: Path) -> None:
    serving.breaks_after, serving.breaks = 0, 99
    with pytest.raises(Unreachable):
        pull(folder)
    [partial] = left_behind(folder)
    (partial / "files" / "weights" / "model.bin").write_bytes(b"?" * 2_000_000)
    serving.breaks = 0
    pull(folder)
    assert lies_there(folder) == FILES


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', None])
@pytest.mark.parametrize("has_urls", [True, False])
def test_what_nothing_verifies_is_of_one_object(
    serving: Serving, folder: Path, heeds_if_range: bool, etag: str | None, has_urls: bool
) -> None:
    """Some stores do not know ``If-Range``, and a weak ETag says little."""
    path, another = "weights/model.bin", b"a" * 3_000_000
    serving.listing = {"digest": None, "files": [{**file, "sha256": None} for file in serving.listed()["files"]]}
    serving.has_urls, serving.heeds_if_range = has_urls, heeds_if_range
    serving.etags = {path: etag} if etag else {}
    serving.breaks_after, serving.breaks, serving.replaces = 2_000_000, 1, {path: another}
    assert pull(folder).digest is None
    assert lies_there(folder) == {**FILES, path: another}


def test_what_nothing_verifies_is_gone_on_with_while_it_is_the_same_object(serving: Serving, folder: Path) -> None:
    serving.listing = {"digest": None, "files": [{**file, "sha256": None} for file in serving.listed()["files"]]}
    serving.etags = {path: f'"{path}"' for path in FILES}
    serving.breaks_after, serving.breaks = 2_000_000, 1
    assert pull(folder).downloaded == 3_000_012
    assert lies_there(folder) == FILES


@pytest.mark.parametrize("says_expired", [400, 403])
def test_a_url_that_has_expired_is_asked_for_anew(serving: Serving, folder: Path, says_expired: int) -> None:
    """S3 says 400 where the credentials that signed it have."""
    serving.expired, serving.says_expired = 1, says_expired
    pull(folder)
    assert lies_there(folder) == FILES
    assert {how for how, _, _ in serving.read} == {"store"}


def test_a_store_that_cannot_be_reached_is_read_through_the_gateway(serving: Serving, folder: Path) -> None:
    serving.away = True
    said: list[str] = []
    pull(folder, say=said.append)
    assert lies_there(folder) == FILES
    assert said == ["The store cannot be reached from here. Downloading through the gateway."]


@pytest.mark.parametrize("content", [b"z" * 3_000_000, b"w" * 3_000_001])
def test_bytes_that_are_not_what_was_approved_get_no_name(serving: Serving, folder: Path, content: bytes) -> None:
    serving.files["weights/model.bin"] = content
    with pytest.raises(Changed, match=r"weights/model\.bin is (not what|longer than) was approved"):
        pull(folder)
    assert not folder.exists()
    assert not left_behind(folder)


def test_an_alias_that_moves_meanwhile_is_said(serving: Serving, folder: Path) -> None:
    serving.moved = True
    with pytest.raises(Changed, match="is version 8 by now"):
        pull(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/cron.d/x", "a/../../outside", "a//b", "", ".", "a\\b", "a\nb", "a/./b", "a\x1b[2J"]
)
def test_no_path_of_a_gateway_leads_out_of_the_folder(serving: Serving, folder: Path, path: str) -> None:
    assert not is_plain(path)
    serving.listing = {"digest": None, "files": [{"path": path, "size": 1, "sha256": None}]}
    with pytest.raises(Refused, match="may lie outside"):
        pull(folder)
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [
        [],
        [{"path": "a", "size": -1, "sha256": None}],
        [{"path": "a", "size": True, "sha256": None}],
        [{"path": "a", "size": 1, "sha256": "x"}],
        [{"path": "a", "size": 1, "sha256": None}, {"path": "A", "size": 1, "sha256": None}],
        [{"path": "a", "size": 1, "sha256": None}, {"path": "a/b", "size": 1, "sha256": None}],
        [{"path": "\xe9/a", "size": 1, "sha256": None}, {"path": "e\u0301/a", "size": 1, "sha256": None}],
        [{"path": "a", "size": 1, "sha256": "0" * 64}],
    ],
)
def test_a_list_that_cannot_be_is_not_believed(serving: Serving, folder: Path, files: list[object]) -> None:
    serving.listing = {"files": files}
    with pytest.raises(Refused):
        pull(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "url", ["http://[::1", "file:///etc/passwd", "ftp://127.0.0.1/x", "http:///x", "//127.0.0.1/x", "http://[x]/"]
)
def test_a_url_that_is_none_of_a_store_is_not_asked(serving: Serving, folder: Path, url: str) -> None:
    serving.signed = url
    with pytest.raises(Refused, match="none of a store"):
        pull(folder)
    assert not folder.exists()


def test_an_answer_that_is_nested_without_end_is_not_believed(serving: Serving, folder: Path) -> None:
    serving.raw = b'{"files": ' + b"[" * 200_000
    with pytest.raises(Refused, match="does not answer as a Countersign gateway does"):
        pull(folder)


@pytest.mark.parametrize("kind", ["link", "open"])
def test_nothing_is_gone_on_with_that_others_can_change(serving: Serving, folder: Path, kind: str) -> None:
    """Who shares the folder above knows the name: they could exchange what was verified before it gets its own."""
    serving.breaks_after, serving.breaks = 0, 99
    with pytest.raises(Unreachable):
        pull(folder)
    serving.breaks = 0
    [partial] = left_behind(folder)
    if kind == "link":
        partial.rename(folder.parent / "theirs")
        partial.symlink_to(folder.parent / "theirs")
    else:
        partial.chmod(0o777)
    with pytest.raises(InvalidUsage, match="others may write in it"):
        pull(folder)
    assert not folder.exists()


def test_what_lies_there_is_not_called_something_else_where_nothing_says_what_it_is(
    serving: Serving, folder: Path
) -> None:
    folder.mkdir()
    (folder / "MLmodel").write_bytes(b"the same, or not")
    serving.listing = {"digest": None, "files": [{"path": "MLmodel", "size": 1, "sha256": None}]}
    with pytest.raises(InvalidUsage, match="No promotion has pinned this version"):
        pull(folder)


def test_a_folder_of_something_else_is_replaced_by_force_alone(serving: Serving, folder: Path) -> None:
    folder.mkdir()
    pull(folder)  # an empty one is as good as none
    (folder / "weights" / "model.bin").write_bytes(b"another")
    with pytest.raises(InvalidUsage, match="--force"):
        pull(folder)
    assert (folder / "weights" / "model.bin").read_bytes() == b"another"
    pull(folder, force=True)
    assert lies_there(folder) == FILES
    assert not left_behind(folder)


def test_what_holds_no_model_is_not_replaced_even_by_force(serving: Serving, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidUsage, match="holds no model"):
        pull(folder, force=True)
    (folder.parent / "link").symlink_to(folder)
    for other in (folder / "thesis.tex", folder.parent / "link"):
        with pytest.raises(InvalidUsage, match="is no folder"):
            pull(other, force=True)
    assert lies_there(folder) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("force", [False, True])
def test_what_is_put_there_meanwhile_is_not_replaced(serving: Serving, folder: Path, force: bool) -> None:
    class Meanwhile:
        def begin(self, files: int, size: int) -> None:
            folder.mkdir()
            (folder / "thesis.tex").write_text("years of work")

        def advance(self, size: int) -> None: ...

    with pytest.raises(InvalidUsage, match="holds no model" if force else "something else"):
        pull(folder, force=force, progress=Meanwhile())
    assert lies_there(folder) == {"thesis.tex": b"years of work"}
    (folder / "thesis.tex").unlink()
    assert pull(folder).downloaded == 0, "what was downloaded is kept"
    assert lies_there(folder) == FILES


def test_what_a_try_put_aside_that_was_killed_is_there_again(serving: Serving, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.countersign-replaced")
    aside.mkdir()
    (aside / "MLmodel").write_bytes(b"the one before")
    serving.breaks_after, serving.breaks = 0, 99
    with pytest.raises(InvalidUsage, match="--force"):
        pull(folder)
    with pytest.raises(Unreachable):
        pull(folder, force=True)
    assert lies_there(folder) == {"MLmodel": b"the one before"}
    serving.breaks = 0
    pull(folder, force=True)
    assert lies_there(folder) == FILES
    assert not left_behind(folder)


def test_what_was_put_aside_is_not_forgotten_before_something_else_is_there(serving: Serving, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.countersign-replaced")
    aside.mkdir()
    (aside / "MLmodel").write_bytes(b"the one before")
    folder.mkdir()  # by who mounts it
    serving.breaks_after, serving.breaks = 0, 99
    with pytest.raises(Unreachable):
        pull(folder)
    assert lies_there(aside) == {"MLmodel": b"the one before"}
    serving.breaks = 0
    pull(folder)
    assert not left_behind(folder)


def test_who_is_interrupted_while_a_folder_is_replaced_has_what_was_there(
    serving: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    (folder / "MLmodel").write_bytes(b"the one before")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "files":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull(folder, force=True)
    assert lies_there(folder) == {"MLmodel": b"the one before"}


def test_a_disk_that_is_too_small_is_said_before_anything_is_downloaded(serving: Serving, folder: Path) -> None:
    size = 1 << 60
    serving.listing = {"digest": None, "files": [{"path": "a", "size": size, "sha256": None}]}
    with pytest.raises(ClientError, match=r"[GM]iB are free on the disk"):
        pull(folder)
    assert not serving.read


def test_a_disk_that_is_full_is_said_and_what_is_there_is_kept(serving: Serving, folder: Path) -> None:
    class Full:
        def begin(self, files: int, size: int) -> None: ...
        def advance(self, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ClientError, match="is full"):
        pull(folder, progress=Full())
    assert not folder.exists()
    assert left_behind(folder)
    pull(folder)
    assert lies_there(folder) == FILES


def test_two_pulls_at_once_download_once(serving: Serving, folder: Path) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(pull(folder).downloaded)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 0, 3_000_012]
    assert lies_there(folder) == FILES


def test_the_command_says_what_it_did(
    serving: Serving,
    folder: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COUNTERSIGN_URL", serving.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", "cs_pat_x")
    assert command("pull", URI, str(folder)) == 0
    assert f"Version 7 of iris is in {folder} (verified, sha256:" in capsys.readouterr().out
    assert command("pull", URI, str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["downloaded"] == 0
    (folder / "MLmodel").write_text("mine")
    assert command("pull", URI, str(folder)) == 2
    serving.files["MLmodel"] = b"flavors: []\n"
    assert command("pull", URI, str(folder), "--force") == 7
    assert (folder / "MLmodel").read_text() == "mine"


def test_an_interrupted_pull_keeps_what_it_has(
    serving: Serving, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERSIGN_URL", serving.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", "cs_pat_x")
    serving.breaks_after, serving.breaks, serving.hold = 2_000_000, 1, threading.Event()

    def interrupt() -> None:
        while not any(path.stat().st_size >= 1_000_000 for path in folder.parent.glob(".*/files/weights/model.bin")):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    assert command("pull", URI, str(folder)) == 130
    interrupting.join()
    serving.hold.set()
    assert not folder.exists()
    serving.read.clear()
    assert command("pull", URI, str(folder)) == 0
    [wanted] = [wanted for _, path, wanted in serving.read if path == "weights/model.bin"]
    assert wanted.startswith("bytes=")
    assert lies_there(folder) == FILES

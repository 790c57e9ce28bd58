"""The file of logins: for one person alone, whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable

import pytest
from countersign_client.errors import UnsafeStore
from countersign_client.store import Login, LoginStore

KeepLogin = Callable[..., Login]


def test_what_was_kept_is_found(store: LoginStore, signed_in: KeepLogin) -> None:
    login = signed_in()
    assert store.get(login.gateway) == login
    assert store.get("https://elsewhere.example") is None


def test_no_file_is_no_login(store: LoginStore) -> None:
    assert store.all() == {}


def test_only_its_owner_can_read_the_file_and_the_folder(store: LoginStore, signed_in: KeepLogin) -> None:
    before = os.umask(0)
    try:
        signed_in()
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_can_read_or_write_is_refused(store: LoginStore, signed_in: KeepLogin, mode: int) -> None:
    login = signed_in()
    store.path.chmod(mode)
    with pytest.raises(UnsafeStore, match="chmod 600"):
        store.get(login.gateway)


def test_a_file_of_somebody_else_is_refused(store: LoginStore, signed_in: KeepLogin) -> None:
    signed_in()
    if os.geteuid() == 0:
        os.chown(store.path, 12345, -1)
    else:
        store.path.unlink()
        store.path.symlink_to("/etc/passwd")
    with pytest.raises(UnsafeStore, match="belongs to somebody else"):
        store.all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '{"format": 2, "logins": []}',
        '{"format": 1}',
        '{"format": 1, "logins": [{"gateway": "https://gateway.example"}]}',
        '{"format": 1, "logins": [null]}',
        b"\xff",
    ],
)
def test_a_damaged_file_is_an_error_that_says_what_to_do(store: LoginStore, text: str | bytes) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(text if isinstance(text, bytes) else text.encode())
    store.path.chmod(0o600)
    with pytest.raises(UnsafeStore, match="Remove it, and sign in again"):
        store.all()


@pytest.mark.parametrize(
    "changed",
    [
        {"token_endpoint": "https://thief.example/auth/token"},
        {"revocation_endpoint": "https://thief.example/auth/revoke"},
        {"gateway": "https://thief.example"},
        {"access_token": "two\r\nHeaders: of one"},
        {"refresh_token": None},
        {"expires_at": "tomorrow"},
    ],
)
def test_a_login_that_would_send_a_token_to_another_is_damaged(
    store: LoginStore, signed_in: KeepLogin, changed: dict[str, object]
) -> None:
    signed_in()
    document = json.loads(store.path.read_text())
    document["logins"][0] |= changed
    store.path.write_text(json.dumps(document))
    with pytest.raises(UnsafeStore):
        store.all()


def test_a_damaged_file_is_not_quoted(store: LoginStore, signed_in: KeepLogin) -> None:
    login = signed_in()
    store.path.write_text(store.path.read_text()[:-10])
    with pytest.raises(UnsafeStore) as refused:
        store.all()
    assert login.refresh_token not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_write_that_fails_leaves_what_was_there(
    store: LoginStore, signed_in: KeepLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = signed_in()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnsafeStore, match="No space left"), store.locked():
        store.remove(login.gateway)
    assert store.get(login.gateway) == login
    assert {path.name for path in store.path.parent.iterdir()} <= {"logins.json", "logins.json.lock"}


def test_a_login_shows_no_token_when_it_is_printed(signed_in: KeepLogin) -> None:
    login = signed_in()
    assert login.access_token not in repr(login)
    assert login.refresh_token not in repr(login)

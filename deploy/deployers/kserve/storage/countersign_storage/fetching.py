"""Has the approved files of a version in a folder: all of them, verified, or none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from countersign_client.errors import Changed, ClientError, Refused, Unreachable
from countersign_client.pulling import Pulled, pull
from countersign_client.resolving import Resolved, resolve

from countersign_storage.addresses import Address

_Result = TypeVar("_Result")
_OWN = ".countersign"
"""In the folder of the model: what is not yet verified. An earlier try of this pod may have left something there."""
_PAUSES_S = (1.0, 15.0)
"""Between two tries while the gateway does not answer: the first, and the longest."""


def fetch(
    address: Address,
    folder: Path,
    *,
    gateway: str,
    patience_s: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Pulled:
    """Have a version in ``folder``, which is then as it was approved; when this raises, nothing of it is there.

    Args:
        address: of the version.
        folder: is there, perhaps as a mount of its own, and is emptied.
        gateway: its address.
        patience_s: for how long it is asked again while it does not answer.
        say: told in a line how it goes.
        sleep: how one waits.
        clock: seconds, of whatever beginning.

    Raises:
        Refused: no promotion has approved the version, or we may not have it.
        Changed: what is there is not what was approved.
        Unreachable: neither gateway nor store answered in time.
        ClientError: what else went wrong; see ``countersign_client.pulling.pull``.
    """
    until = clock() + patience_s

    def patiently(ask: Callable[[], _Result]) -> _Result:
        pause, longest = _PAUSES_S
        while True:
            try:
                return ask()
            except Unreachable as error:
                if clock() + pause > until:
                    raise
                say(f"{error} Trying again in {pause:.0f} s.")
            sleep(pause)
            pause = min(pause * 2, longest)

    own = folder / _OWN
    try:
        approved = patiently(lambda: _approved(address, gateway))
        folder.mkdir(parents=True, exist_ok=True)
        _empty(folder, but=own)
        own.mkdir(exist_ok=True)
        pulled = patiently(
            lambda: pull(address.uri, own / "model", gateway=gateway, workspace=address.workspace, force=True, say=say)
        )
        _check(pulled, approved, address)
        for each in pulled.folder.iterdir():
            each.rename(folder / each.name)
    except BaseException as error:
        # What is there of it is gone on with by the next try, of the same pod; it has no name yet.
        kept = own if isinstance(error, Unreachable) else None
        with suppress(ClientError):
            _empty(folder, but=kept)
        raise
    shutil.rmtree(own)
    return pulled


def _approved(address: Address, gateway: str) -> Resolved:
    """What the gateway says of it. Raises ``Refused``: it says of no promotion that approved it."""
    found = resolve(gateway, address.uri, workspace=address.workspace)
    if (found.model, found.version) != (address.model, address.version):
        raise Refused(f"{gateway} answered for {found.model}/{found.version} what was asked of {address}.")
    if not found.digest or not found.document.get("promotion_id"):
        raise Refused(f"{address} is not approved: it holds no alias by a promotion now. Promote it, or name what is.")
    return found


def _check(pulled: Pulled, approved: Resolved, address: Address) -> None:
    """Return if that is what was approved. Raises ``Changed``, ``Refused``."""
    if pulled.digest != approved.digest:
        raise Changed(f"{address} was approved anew while it was downloaded. Start again.")
    if not (pulled.folder / "MLmodel").is_file():
        raise Refused(f"{address} has no MLmodel: it is no model of MLflow's.")


def _empty(folder: Path, *, but: Path | None = None) -> None:
    """Remove what is in a folder; the folder may be a mount, which stays."""
    try:
        for each in folder.iterdir() if folder.is_dir() else ():
            if each == but:
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink()
    except OSError as error:
        raise ClientError(f"{folder} cannot be emptied: {error.strerror}.") from None

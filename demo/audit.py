"""The last chapter: the audit log of the story as a table, its chain verified by the server and without it."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path

from rich import box
from rich.table import Table

from demo.calls import Control, Json
from demo.failure import require
from demo.platform import countersign
from demo.screen import Screen

EXPORT = "audit-export.ndjson"
PAGE = 200
VERIFY_WITHIN_S = 120
HASH_SHOWN = 8


def last_sequence(control: Control) -> int:
    """The number of the newest entry; 0 when there is none."""
    newest = control.get("administrator", "/audit", newest_first="true", limit=1)["items"]
    return int(newest[0]["entry"]["sequence"]) if newest else 0


def entries_after(control: Control, sequence: int) -> list[Json]:
    """All entries after one, in their order."""
    found: list[Json] = []
    after: int | None = sequence
    while after is not None:
        page = control.get("administrator", "/audit", after=after, limit=PAGE)
        found += page["items"]
        after = page["next_after"]
    return found


def tell(entries: list[Json], screen: Screen) -> None:
    """The entries as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("#", "time (UTC)", "who", "what", "about", "hash"):
        table.add_column(name, justify="right" if name == "#" else "left", overflow="fold")
    for item in entries:
        entry = item["entry"]
        at = datetime.fromisoformat(entry["at"]).strftime("%H:%M:%S")
        row = (str(entry["sequence"]), at, entry["actor"]["name"], entry["action"], about(entry))
        table.add_row(*row, item["hash"][:HASH_SHOWN])
    screen.show(table)


def about(entry: Json) -> str:
    """What an entry is about, short enough for a table."""
    details = entry["details"]
    if "to_version" in details:
        return f"{details['model']}@{details['alias']}: {details['from_version'] or 'none'} → {details['to_version']}"
    if entry["action"].startswith(("deployment.", "bytes.")):
        return f"{details['model']} version {details['version']}"
    if "problem" in details:
        return f"{details['problem']}: …/{entry['object'].rpartition('/')[2]}"
    return str(entry["object"])


def require_history(entries: list[Json], promotion_ids: list[str]) -> None:
    """Each promotion must be there from its beginning to its end."""
    for promotion_id in promotion_ids:
        told = [item["entry"]["action"] for item in entries if item["entry"]["object"] == promotion_id]
        for action in ("requested", "approved", "applied", "live"):
            require(f"promotion.{action}" in told, f"the audit log lacks promotion.{action} of {promotion_id}")


def verify(control: Control, entries: list[Json], folder: Path, screen: Screen) -> None:
    """The chain is intact, says the server, and so says the command that has only the exported file."""
    export = control.call("administrator", "GET", "/audit/export")
    require(export.status_code == 200, f"the audit log was not exported: {export.text}")
    file = folder / EXPORT
    file.touch(mode=0o600)
    file.write_bytes(export.content)
    exported = {json.loads(line)["hash"] for line in export.text.splitlines()}
    require(all(item["hash"] in exported for item in entries), "the export lacks entries that were shown")

    answer = control.tell("administrator", "GET", "/audit/verify")
    require(answer.status_code == 200, f"the audit log was not verified: {answer.text}")
    said = answer.json()
    require(said["intact"], f"the audit log is not intact: {said['problem']}")
    screen.done(f"intact: {said['entries']} entries, last hash {said['last_hash']}")

    screen.line(f"$ countersign audit verify --file {file}")
    done = subprocess.run(  # noqa: S603 - our own command
        [countersign(), "audit", "verify", "--file", str(file)],
        capture_output=True,
        text=True,
        timeout=VERIFY_WITHIN_S,
        check=False,
    )
    require(done.returncode == 0, f"the exported log did not verify: {done.stderr.strip() or done.stdout.strip()}")
    screen.quote(done.stdout.strip())

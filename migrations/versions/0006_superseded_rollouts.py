"""What becomes of a rollout whose place another promotion took: it is undone, with or without the one that took it."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

MOVES = [
    # What took its place undid it, or was not applied.
    ("superseded", "rolled_back"),
    ("superseded", "failed"),
]


def upgrade() -> None:
    for before, after in MOVES:
        op.execute(f"INSERT INTO promotion_moves VALUES ('{before}', '{after}')")

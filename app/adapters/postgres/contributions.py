"""Who had a hand in which version, run, logged model and folder of artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, false, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import contributions
from app.domain.contributions import Contribution, Hand, RestsOn


def _begins(prefix: str) -> ColumnElement[bool]:
    """Whether a key begins with ``prefix``, which ends in a slash: keys are compared by their bytes, with an index."""
    return and_(contributions.c.key >= prefix, contributions.c.key < prefix[:-1] + chr(ord("/") + 1))


class Contributions:
    """Rows are added and never taken away, but for what was asked for and is known now."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, contribution: Contribution) -> None:
        """Write it down; again is as good as once."""
        statement = insert(contributions).values(
            hand=contribution.hand.value,
            key=contribution.key,
            principal_id=contribution.principal_id,
            principal_name=contribution.principal_name,
            at=contribution.at,
        )
        again = {"principal_name": statement.excluded.principal_name, "at": statement.excluded.at}
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["hand", "key", "principal_id"], set_=again)
        )

    async def answered(self, asked_key: str) -> None:
        """What came of a request for a version is known."""
        await self._connection.execute(
            delete(contributions).where(
                contributions.c.hand == Hand.VERSION_ASKED.value, contributions.c.key == asked_key
            )
        )

    async def renamed(self, prefix: str, new_prefix: str) -> None:
        """What was asked for under one name of a model was asked for under the other."""
        key = contributions.c.key
        await self._connection.execute(
            update(contributions)
            .where(contributions.c.hand == Hand.VERSION_ASKED.value, _begins(prefix))
            .values(key=literal(new_prefix) + func.substr(key, len(prefix) + 1))
        )

    async def pass_on(self, run_id: str, model_id: str) -> None:
        """Whoever created a run has a hand in a logged model that comes from it."""
        authors = select(
            literal(Hand.SOURCE_RUN.value),
            literal(model_id),
            contributions.c.principal_id,
            contributions.c.principal_name,
            contributions.c.at,
        ).where(contributions.c.hand == Hand.RUN.value, contributions.c.key == run_id)
        names = ["hand", "key", "principal_id", "principal_name", "at"]
        await self._connection.execute(insert(contributions).from_select(names, authors).on_conflict_do_nothing())

    async def to(self, rests_on: RestsOn) -> Sequence[Contribution]:
        """Everybody's hand in what a version rests on, the earliest first."""
        hand, key, root = contributions.c.hand, contributions.c.key, rests_on.root
        beneath = _begins(f"{root}/") if root else false()
        first, last = rests_on.asked
        rows = await self._connection.execute(
            select(contributions)
            .where(
                or_(
                    and_(hand == Hand.VERSION.value, key == rests_on.version),
                    and_(hand == Hand.VERSION_ASKED.value, key.between(first, last)),
                    and_(hand == Hand.RUN.value, key.in_(rests_on.runs)),
                    and_(hand.in_([Hand.LOGGED_MODEL.value, Hand.SOURCE_RUN.value]), key.in_(rests_on.logged_models)),
                    and_(hand == Hand.ARTIFACT.value, or_(key.in_(rests_on.folders), beneath)),
                )
            )
            .order_by(contributions.c.at, contributions.c.principal_id)
        )
        return [Contribution(Hand(row.hand), row.key, row.principal_id, row.principal_name, row.at) for row in rows]

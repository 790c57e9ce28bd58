"""Lanes: in which order deliveries go out, who sends from which, and what came of it (ADR 0026).

A lane is one receiver's messages about one model. There is a row for each that has something pending. Whoever adds a
delivery locks the row to the end of its transaction; whoever takes a lane away or gives it back never waits for such a
lock, and looks again a moment later. So a row cannot go while something is added behind it, and nobody who adds slowly
holds up those who send.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.deliveries import URGENT, delivery_of
from app.adapters.postgres.presence import LOCK_CLASS
from app.domain.deliveries import Attempt, Delivery, Receiver, ReceiverKind

LaneKey = tuple[str, str]
"""The receiver, as text, and the lane."""


@dataclass(frozen=True, slots=True)
class Head:
    """A delivery that is next in its lane; ``is_superseded`` when a newer generation is wanted by now."""

    delivery: Delivery
    is_superseded: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A delivery as it is after an attempt, or without one when there is nothing to try."""

    delivery: Delivery
    attempt: Attempt | None


# From index to index over the receivers that have lanes, however many lanes each has; of each the longest due.
_CLAIM = text(
    """
    WITH RECURSIVE waiting AS (
        (SELECT receiver FROM delivery_lanes ORDER BY receiver LIMIT 1)
        UNION ALL
        SELECT (SELECT l.receiver FROM delivery_lanes AS l WHERE l.receiver > w.receiver ORDER BY l.receiver LIMIT 1)
        FROM waiting AS w WHERE w.receiver IS NOT NULL
    ), free AS (
        SELECT w.receiver, coalesce(k.lanes, :most) AS lanes
        FROM waiting AS w
        LEFT JOIN unnest(CAST(:receivers AS text[]), CAST(:lanes AS integer[])) AS k (receiver, lanes) USING (receiver)
        WHERE w.receiver IS NOT NULL
    ), due AS (
        SELECT found.receiver, found.lane
        FROM free
        CROSS JOIN LATERAL (
            SELECT l.receiver, l.lane FROM delivery_lanes AS l
            WHERE l.receiver = free.receiver AND l.held_by IS NULL
                AND l.due_at <= CASE WHEN free.lanes > 0 THEN CAST(:now AS timestamptz) ELSE :urgent END
            ORDER BY l.due_at LIMIT greatest(free.lanes, 1)
            FOR UPDATE SKIP LOCKED
        ) AS found
        LIMIT :all
    )
    UPDATE delivery_lanes AS l SET held_by = :number FROM due
    WHERE l.receiver = due.receiver AND l.lane = due.lane
    RETURNING l.receiver, l.lane
    """
)

# A statement of its own: it must see what was committed before the lanes were ours.
_HEADS = text(
    """
    SELECT d.*, coalesce(p.generation > d.generation, false) AS is_superseded
    FROM unnest(CAST(:receivers AS text[]), CAST(:lanes AS text[])) AS ours (receiver, lane)
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries AS each
        WHERE each.receiver = ours.receiver AND each.lane = ours.lane AND each.state = 'pending'
        ORDER BY each.sequence LIMIT :limit
    ) AS d
    LEFT JOIN deployments AS p ON p.id = d.deployment_id
    ORDER BY d.receiver, d.lane, d.sequence
    """
)

_FREE_ABANDONED = text(
    """
    UPDATE delivery_lanes SET held_by = NULL
    WHERE (receiver, lane) IN (
        SELECT receiver, lane FROM delivery_lanes
        WHERE held_by IS NOT NULL AND held_by NOT IN (
            SELECT CAST(objid AS bigint) FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND CAST(classid AS bigint) = :lock_class
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )
        FOR UPDATE SKIP LOCKED
    )
    """
)

# What somebody else settled meanwhile stays as it is: whoever lost its lane has nothing to say.
_SETTLE = text(
    """
    UPDATE deliveries AS d
    SET state = r.state, attempts = r.attempts, next_attempt_at = r.next_attempt_at, settled_at = r.settled_at
    FROM unnest(
        CAST(:ids AS text[]), CAST(:states AS text[]), CAST(:attempts AS integer[]), CAST(:tried AS integer[]),
        CAST(:next AS timestamptz[]), CAST(:settled AS timestamptz[])
    ) AS r (id, state, attempts, tried, next_attempt_at, settled_at)
    WHERE d.id = r.id AND d.state = 'pending' AND d.attempts = r.attempts - r.tried
    RETURNING d.id
    """
)

_LOG = text(
    """
    INSERT INTO delivery_attempts
        (delivery_id, number, started_at, duration_ms, status, error, response, address, request_headers,
         response_headers)
    SELECT id, number, started_at, duration_ms, status, error, response, address, CAST(request AS jsonb),
        CAST(answer AS jsonb)
    FROM unnest(
        CAST(:ids AS text[]), CAST(:numbers AS integer[]), CAST(:started AS timestamptz[]),
        CAST(:durations AS integer[]), CAST(:statuses AS integer[]), CAST(:errors AS text[]),
        CAST(:responses AS text[]), CAST(:addresses AS text[]), CAST(:requests AS text[]), CAST(:answers AS text[])
    ) AS a (id, number, started_at, duration_ms, status, error, response, address, request, answer)
    """
)

_LOCK_HELD = text(
    """
    SELECT l.receiver, l.lane FROM delivery_lanes AS l
    JOIN unnest(CAST(:receivers AS text[]), CAST(:lanes AS text[])) AS t (receiver, lane) USING (receiver, lane)
    WHERE l.held_by = :number
    FOR UPDATE OF l SKIP LOCKED
    """
)

# After the locks, in a statement of its own: what was added before them is seen.
_END_TURNS = text(
    """
    WITH turns AS MATERIALIZED (
        SELECT t.receiver, t.lane, t.due_at,
            EXISTS (
                SELECT FROM deliveries AS d
                WHERE d.receiver = t.receiver AND d.lane = t.lane AND d.state = 'pending'
            ) AS has_more,
            t.receiver LIKE 'target:%' AND EXISTS (
                SELECT FROM deliveries AS d JOIN deployments AS p ON p.id = d.deployment_id
                WHERE d.receiver = t.receiver AND d.lane = t.lane AND d.state = 'pending'
                    AND p.generation > d.generation
            ) AS is_superseded
        FROM unnest(CAST(:receivers AS text[]), CAST(:lanes AS text[]), CAST(:due AS timestamptz[]))
            AS t (receiver, lane, due_at)
    ), ended AS (
        DELETE FROM delivery_lanes AS l USING turns AS t
        WHERE l.receiver = t.receiver AND l.lane = t.lane AND NOT t.has_more
    )
    UPDATE delivery_lanes AS l
    SET held_by = NULL, due_at = CASE WHEN t.is_superseded THEN CAST(:now AS timestamptz) ELSE t.due_at END
    FROM turns AS t WHERE l.receiver = t.receiver AND l.lane = t.lane AND t.has_more
    """
)

_RELEASE_ALL = text(
    """
    UPDATE delivery_lanes SET held_by = NULL WHERE (receiver, lane) IN (
        SELECT receiver, lane FROM delivery_lanes WHERE held_by = :number FOR UPDATE SKIP LOCKED
    )
    """
)

_HASTEN = text(
    """
    UPDATE delivery_lanes SET due_at = :now WHERE (receiver, lane) IN (
        SELECT receiver, lane FROM delivery_lanes WHERE receiver = :receiver AND due_at > :now FOR UPDATE SKIP LOCKED
    )
    """
)

_HASTEN_ALL = text(
    """
    UPDATE delivery_lanes SET due_at = :now WHERE (receiver, lane) IN (
        SELECT receiver, lane FROM delivery_lanes WHERE due_at > :now FOR UPDATE SKIP LOCKED
    )
    """
)

_SET_FAILING: Mapping[ReceiverKind, str] = {
    ReceiverKind.ENDPOINT: "UPDATE endpoints SET failing_since = :since WHERE name = :name",
    ReceiverKind.TARGET: "UPDATE targets SET failing_since = :since WHERE name = :name",
}

_DELIVERED_SINCE = text(
    """
    SELECT EXISTS (
        SELECT FROM deliveries WHERE receiver = :receiver AND state = 'delivered' AND settled_at >= :since
    )
    """
)

# From now back, in days of 24 hours: clocks and zones do not matter.
_DAYS_OF_FAILURE = text(
    """
    SELECT count(DISTINCT floor(extract(epoch FROM CAST(:now AS timestamptz) - a.started_at) / 86400))
    FROM deliveries AS d JOIN delivery_attempts AS a ON a.delivery_id = d.id
    WHERE d.receiver = :receiver AND d.created_at > CAST(:since AS timestamptz) - interval '30 days'
        AND a.started_at > :since AND a.started_at <= :now AND coalesce(a.status, 0) NOT BETWEEN 200 AND 299
    """
)


class DeliveryLanes:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def free_abandoned(self) -> int:
        """Let go of what those hold whose connection has ended; returns how many lanes."""
        return (await self._connection.execute(_FREE_ABANDONED, {"lock_class": LOCK_CLASS})).rowcount

    async def claim(
        self, number: int, lanes: Mapping[str, int], *, most: int, all_together: int, now: datetime
    ) -> list[LaneKey]:
        """Hold lanes that are due, of each receiver those that are due for longest.

        Args:
            number: of whoever claims.
            lanes: from how many lanes may be sent to a receiver; by its name.
            most: to one that is not among them.
            all_together: to all of them.
            now: lanes that are due later are left.
        """
        values = {
            "number": number,
            "receivers": list(lanes),
            "lanes": list(lanes.values()),
            "most": most,
            "all": all_together,
            "now": now,
            "urgent": URGENT,
        }
        return [(row.receiver, row.lane) for row in await self._connection.execute(_CLAIM, values)]

    async def heads(self, lanes: Sequence[LaneKey], *, limit: int) -> Mapping[LaneKey, Sequence[Head]]:
        """What is next in each of these lanes, in order, at most ``limit`` of each."""
        found: dict[LaneKey, list[Head]] = {lane: [] for lane in lanes}
        if lanes:
            values = {**_columns(lanes), "limit": limit}
            for row in await self._connection.execute(_HEADS, values):
                found[row.receiver, row.lane].append(Head(delivery_of(row), row.is_superseded))
        return found

    async def settle(self, results: Sequence[Result]) -> frozenset[str]:
        """Write what came of attempts; returns the ids of those deliveries of which it was still to be said."""
        if not results:
            return frozenset()
        values = {
            "ids": [each.delivery.id for each in results],
            "states": [each.delivery.state.value for each in results],
            "attempts": [each.delivery.attempts for each in results],
            "tried": [0 if each.attempt is None else 1 for each in results],
            "next": [each.delivery.next_attempt_at for each in results],
            "settled": [each.delivery.settled_at for each in results],
        }
        written = frozenset((await self._connection.scalars(_SETTLE, values)).all())
        made = [
            (each.delivery.id, each.attempt)
            for each in results
            if each.attempt is not None and each.delivery.id in written
        ]
        if made:
            await self._connection.execute(_LOG, _log_columns(made))
        return written

    async def end_turns(self, number: int, turns: Mapping[LaneKey, datetime], *, now: datetime) -> frozenset[LaneKey]:
        """Give lanes back, due when it is said, or take them away if nothing is pending in them.

        Returns those of which that could be done. Of the others, somebody is adding to them: ask again.
        """
        if not turns:
            return frozenset()
        locked = await self._connection.execute(_LOCK_HELD, {**_columns(list(turns)), "number": number})
        ours = sorted((row.receiver, row.lane) for row in locked)
        if ours:
            values = {**_columns(ours), "due": [turns[lane] for lane in ours], "now": now}
            await self._connection.execute(_END_TURNS, values)
        return frozenset(ours)

    async def release_all(self, number: int) -> None:
        """Give back whatever a number holds."""
        await self._connection.execute(_RELEASE_ALL, {"number": number})

    async def hasten(self, receiver: Receiver, *, now: datetime) -> None:
        """Have every lane of a receiver be due now."""
        await self._connection.execute(_HASTEN, {"receiver": str(receiver), "now": now})

    async def hasten_all(self, *, now: datetime) -> None:
        """Have every lane of everybody be due now."""
        await self._connection.execute(_HASTEN_ALL, {"now": now})

    async def set_failing(self, receiver: Receiver, *, since: datetime | None) -> None:
        """Since when a receiver has taken nothing; none when it does."""
        await self._connection.execute(text(_SET_FAILING[receiver.kind]), {"name": receiver.name, "since": since})

    async def has_delivered(self, receiver: Receiver, *, since: datetime) -> bool:
        """Whether a receiver took anything since then."""
        return bool(await self._connection.scalar(_DELIVERED_SINCE, {"receiver": str(receiver), "since": since}))

    async def days_of_failure(self, receiver: Receiver, *, since: datetime, until: datetime) -> int:
        """On how many of the days (of 24 hours, counted back from ``until``) a receiver did not take a message."""
        values = {"receiver": str(receiver), "since": since, "now": until}
        return int(await self._connection.scalar(_DAYS_OF_FAILURE, values) or 0)


def _columns(lanes: Sequence[LaneKey]) -> dict[str, list[str]]:
    return {"receivers": [receiver for receiver, _ in lanes], "lanes": [lane for _, lane in lanes]}


def _log_columns(made: Sequence[tuple[str, Attempt]]) -> dict[str, object]:
    return {
        "ids": [delivery_id for delivery_id, _ in made],
        "numbers": [attempt.number for _, attempt in made],
        "started": [attempt.started_at for _, attempt in made],
        "durations": [attempt.duration_ms for _, attempt in made],
        "statuses": [attempt.status for _, attempt in made],
        "errors": [attempt.error for _, attempt in made],
        "responses": [attempt.response for _, attempt in made],
        "addresses": [attempt.address for _, attempt in made],
        "requests": [json.dumps(dict(attempt.request_headers)) for _, attempt in made],
        "answers": [json.dumps(dict(attempt.response_headers)) for _, attempt in made],
    }

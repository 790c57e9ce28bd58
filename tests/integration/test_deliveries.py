"""Messages go out in order, whatever dies; no receiver pays for another; and what was sent can be sent again."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from app.adapters.secrets import Secrets
from app.domain.deliveries import Cause, DeliveryState, Filter, Receiver, ReceiverKind, Replay
from app.domain.deployments import Target
from app.domain.endpoints import ANY_PRIVATE, ReceiverState, StoredEndpoint
from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from app.domain.events import EventType
from app.domain.receiver_health import DISABLED_AFTER, TRIPS_AT
from app.services.dispatching import Limits
from app.services.endpoints import Endpoints, write_endpoint
from app.services.recording import actor_of
from tests.conftest import database_of
from tests.principals import principal
from tests.sending import ADMINISTRATOR, Answer, Office, open_office, until

NOBODY = principal("nobody")


@pytest.fixture(scope="module")
async def office(postgres: Callable[[str], str], template_database: str) -> AsyncIterator[Office]:
    with database_of(postgres, template_database) as url:
        async with open_office(url) as office:
            yield office


@pytest.fixture
def desk(office: Office) -> Endpoints:
    return Endpoints(office.database.unit_of_work, office.clock, secrets=Secrets())


async def stored(office: Office, name: str) -> StoredEndpoint:
    async with office.database.unit_of_work() as work:
        return await work.endpoints.get(name)


async def until_waiting(office: Office, name: str) -> None:
    """Until the lane of an endpoint is given back."""
    query = "SELECT FROM delivery_lanes WHERE receiver = $1 AND held_by IS NULL AND due_at > $2"
    while not await office.rows(query, f"endpoint:{name}", office.clock.now()):  # noqa: ASYNC110  # of a table
        await asyncio.sleep(0.01)


async def moved(office: Office, name: str, url: str) -> None:
    async with office.database.unit_of_work() as work:
        present = (await work.endpoints.get(name)).endpoint
        actor, at = actor_of(ADMINISTRATOR), office.clock.now()
        await write_endpoint(work, replace(present, url=url), actor=actor, by="test", at=at)
        await work.commit()


def answering(statuses: Iterable[int], **headers: str) -> Answer:
    """With these, one after the other, then 204."""
    left = iter(statuses)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=next(left, 204), headers=headers)

    return answer


def by_lane(received: list[str]) -> dict[str, list[int]]:
    """The numbers of messages in each lane, in the order in which they were taken first."""
    found: dict[str, list[int]] = {}
    for message in dict.fromkeys(received):
        lane, _, number = message.rpartition("#")
        found.setdefault(lane, []).append(int(number))
    return found


def are_in_order(received: list[str]) -> bool:
    return all(numbers == sorted(numbers) for numbers in by_lane(received).values())


# Order and what dies.


async def test_a_message_is_delivered_once_with_everything_in_the_log(office: Office) -> None:
    name = await office.endpoint()
    async with office.sending():
        (sent,) = await office.post([office.message(name, "m")])
        await office.settled(name)
    delivery, (attempt,) = await office.deliveries.get(sent)
    assert (delivery.state, delivery.attempts, attempt.status) == (DeliveryState.DELIVERED, 1, 204)
    assert attempt.request_headers["webhook-id"] == delivery.message_id
    assert office.sink.received[name] == [delivery.message_id]


async def test_each_lane_is_in_order_though_every_third_answer_is_a_failure_and_two_send(office: Office) -> None:
    name, chance = await office.endpoint(), random.Random(7)  # the same each time

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=503 if chance.random() < 0.3 else 204)

    office.sink.answers[name] = answer
    messages = [office.message(name, f"lane-{number % 12}") for number in range(240)]
    async with office.sending(2):
        for start in range(0, len(messages), 40):
            await office.post(messages[start : start + 40])
        await office.settled(name)
    received = office.sink.received[name]
    assert Counter(received) == Counter(each.message_id for each in messages)
    assert are_in_order(received)


async def test_none_is_lost_nor_out_of_order_when_the_receiver_and_those_who_send_are_killed_again_and_again(
    office: Office,
) -> None:
    name, chance = await office.endpoint(), random.Random(11)  # the same each time
    processed: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        """As a receiver that tells repetitions: it fails before it has done its work, or after."""
        fate, message = chance.random(), request.headers["webhook-id"]
        if fate >= 0.2 and message not in processed:
            processed.append(message)
        return web.Response(status=503 if fate < 0.3 else 204)

    office.sink.answers[name] = answer
    messages = [office.message(name, f"storm-{number % 40}") for number in range(400)]
    kill = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1147497590"
    async with office.sending(2):
        await office.post(messages)
        for part in (50, 120, 200, 280):
            await until(lambda part=part: len(processed) >= part, f"{part} messages")  # type: ignore[misc]
            await office.rows(kill)
            if part in {120, 280}:
                await office.sink.close()
                await office.sink.open()
        await office.settled(name)
    assert Counter(processed) == Counter(each.message_id for each in messages)
    assert are_in_order(processed)
    assert set(await office.states(name)) == {"delivered"}


async def test_whoever_adds_while_others_empty_the_lanes_leaves_nothing_behind(office: Office) -> None:
    name = await office.endpoint()
    lanes = [f"busy-{number}" for number in range(3)]

    async def add(chance: random.Random) -> None:
        for _ in range(25):
            async with office.database.unit_of_work() as work:
                await work.deliveries.add([office.message(name, lane) for lane in chance.sample(lanes, 2)])
                # The lanes are locked meanwhile: those who send must neither wait for it nor take them away.
                await asyncio.sleep(chance.random() * 0.01)
                await work.commit()

    async with office.sending(2):
        await asyncio.gather(*(add(random.Random(seed)) for seed in range(4)))
        await office.settled(name)
    assert Counter(await office.states(name)) == {"delivered": 200}
    sent = await office.rows(
        "SELECT message_id FROM deliveries WHERE receiver = $1 ORDER BY sequence", f"endpoint:{name}"
    )
    in_order: dict[str, list[str]] = {}
    for row in sent:
        in_order.setdefault(row["message_id"].partition("#")[0], []).append(row["message_id"])
    for lane, expected in in_order.items():
        assert [each for each in office.sink.received[name] if each.startswith(f"{lane}#")] == expected


async def test_what_one_was_sending_when_its_connection_died_is_sent_by_another_with_the_same_id(
    office: Office,
) -> None:
    name, release = await office.endpoint(), asyncio.Event()

    async def hang_once(_request: web.Request) -> web.Response:
        if office.sink.arrived[name] == 1:
            await release.wait()
        return web.Response(status=204)

    office.sink.answers[name] = hang_once
    async with office.sending():
        first, second = await office.post([office.message(name, "m"), office.message(name, "m")])
        await until(lambda: office.sink.arrived[name] == 1, "the first call")
        assert await office.rows("SELECT FROM delivery_lanes WHERE receiver = $1 AND held_by > 0", f"endpoint:{name}")
        async with office.sending():
            locks = (
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN delivery_lanes ON held_by = CAST(objid AS bigint)"
            )
            await office.rows(f"{locks} WHERE locktype = 'advisory' AND receiver = $1", f"endpoint:{name}")
            await office.settled(name)
        release.set()
    received = office.sink.received[name]
    assert are_in_order(received)
    for each in (first, second):
        delivery, attempts = await office.deliveries.get(each)
        assert (delivery.state, len(attempts)) == (DeliveryState.DELIVERED, delivery.attempts)


async def test_who_is_asked_to_stop_finishes_what_was_begun_and_leaves_the_rest(office: Office) -> None:
    name, release = await office.endpoint(), asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(status=204)

    office.sink.answers[name] = wait
    task = asyncio.create_task(office.dispatcher(Limits(per_receiver=1, grace_s=20)).run())
    first, second = await office.post([office.message(name, "one"), office.message(name, "two")])
    await until(lambda: office.sink.arrived[name] == 1, "the first call")
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, release.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await office.states(name) == ["delivered", "pending"]
    lanes = await office.rows("SELECT lane, held_by FROM delivery_lanes WHERE receiver = $1", f"endpoint:{name}")
    assert [tuple(row) for row in lanes] == [("two", None)]
    async with office.sending():
        await office.settled(name)
    assert len(await office.deliveries.page(Filter(receiver=Receiver(ReceiverKind.ENDPOINT, name)))) == len(
        [first, second]
    )


# Receivers that misbehave.


async def test_a_receiver_that_hangs_delays_no_other(office: Office) -> None:
    slow, quick = await office.endpoint(), await office.endpoint()
    release = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(status=204)

    office.sink.answers[slow] = hang
    async with office.sending():
        await office.post([office.message(slow, f"m{number}") for number in range(100)])
        await until(lambda: office.sink.arrived[slow] == 8, "as many calls as one receiver is given at a time")
        await office.post([office.message(quick, f"m{number}") for number in range(100)])
        await office.settled(quick)
        assert (office.sink.arrived[slow], len(office.sink.received[quick])) == (8, 100)
        release.set()
        await office.settled(slow)


async def test_a_receiver_that_is_away_is_asked_by_one_message_at_a_time_and_all_go_out_when_it_is_back(
    office: Office,
) -> None:
    name, is_away = await office.endpoint(), [True]

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=503 if is_away[0] else 204)

    office.sink.answers[name] = answer
    messages = [office.message(name, f"m{number}") for number in range(300)]
    async with office.sending():
        await office.post(messages)
        await until(lambda: office.sink.arrived[name] > TRIPS_AT + 8, "it counting as away")
        before = await office.rows("SELECT failing_since FROM endpoints WHERE name = $1", name)
        # Each of the three hundred would be tried by itself.
        assert office.sink.arrived[name] < len(messages)
        is_away[0] = False
        await office.settled(name)
    assert before[0]["failing_since"] is not None
    assert [row[0] for row in await office.rows("SELECT failing_since FROM endpoints WHERE name = $1", name)] == [None]
    assert len(office.sink.received[name]) == len(messages)


async def test_a_receiver_is_given_the_time_that_it_asks_for(office: Office) -> None:
    name = await office.endpoint()
    office.sink.answers[name] = answering([429], **{"retry-after": "300"})
    async with office.sending():
        (sent,) = await office.post([office.message(name, "m")])
        await office.settled(name)
    delivery, attempts = await office.deliveries.get(sent)
    assert [each.status for each in attempts] == [429, 204]
    assert delivery.settled_at
    assert delivery.settled_at - delivery.created_at >= timedelta(seconds=300)


async def test_an_endpoint_that_is_gone_is_disabled_at_once_and_others_are_told(office: Office) -> None:
    name = await office.endpoint()
    listener = await office.endpoint(events=("endpoint.*",), models=("*",))
    office.sink.answers[name] = answering([410])
    async with office.sending(), fanning_out(office):
        await office.post([office.message(name, "m") for _ in range(3)] + [office.message(name, "n")])
        await office.settled(name)
        await until(lambda: office.sink.received[listener], "the event")
    assert set(await office.states(name)) <= {"dead", "delivered"}
    assert (await office.states(name))[:3] == ["dead"] * 3
    async with office.database.unit_of_work() as work:
        stored = await work.endpoints.get(name)
        (entry,) = await work.audit.page(object_id=name)
    assert (stored.state, stored.state_reason) == (ReceiverState.DISABLED, "it answered 410 Gone")
    assert entry.document["action"] == "endpoint.disabled"
    (told,) = await office.deliveries.page(Filter(receiver=Receiver(ReceiverKind.ENDPOINT, listener)))
    assert json.loads(told.body)["data"]["endpoint"] == name


async def test_an_endpoint_that_takes_nothing_on_each_of_some_days_is_disabled(office: Office) -> None:
    name = await office.endpoint()
    office.sink.answers[name] = answering([500] * 10_000)
    async with office.sending():
        await office.post([office.message(name, f"m{number}") for number in range(TRIPS_AT)])
        await until(lambda: office.sink.arrived[name] > TRIPS_AT, "failures")
        # At once: nobody was there to try, or the clock was put forward. That says nothing of the endpoint.
        seen = office.sink.arrived[name]
        office.clock.move(DISABLED_AFTER + timedelta(days=1))
        await office.post([office.message(name, "late")])
        await until(lambda: office.sink.arrived[name] > seen + 2, "attempts")
        assert (await stored(office, name)).state is ReceiverState.ACTIVE
        for day in range(1, DISABLED_AFTER.days):
            seen = office.sink.arrived[name]
            office.clock.move(timedelta(days=1))
            await office.post([office.message(name, f"day {day}")])
            await until(lambda seen=seen: office.sink.arrived[name] > seen, "an attempt")  # type: ignore[misc]
        await office.settled(name)
    assert "it took nothing since" in ((await stored(office, name)).state_reason or "")
    assert set(await office.states(name)) == {"dead"}


async def test_a_clock_that_is_put_back_keeps_nothing_waiting(office: Office) -> None:
    name = await office.endpoint()
    office.sink.answers[name] = answering([500] * TRIPS_AT)
    async with office.sending():
        await office.post([office.message(name, f"m{number}") for number in range(TRIPS_AT)])
        await until(lambda: office.sink.arrived[name] >= TRIPS_AT, "failures")
        office.clock.move(-timedelta(days=1))
        await office.settled(name)
    assert set(await office.states(name)) == {"delivered"}


async def test_what_is_sent_to_an_endpoint_that_was_enabled_or_moved_waits_for_no_failure_of_before(
    office: Office, desk: Endpoints
) -> None:
    name, other = await office.endpoint(), await office.endpoint()
    office.sink.answers[name] = answering([503] * 2, **{"retry-after": "40000"})
    async with office.sending():
        await office.post([office.message(name, "m")])
        await until(lambda: office.sink.arrived[name] == 1, "a failure")
        await until_waiting(office, name)
        await desk.disable(ADMINISTRATOR, name)
        await office.settled(name)
        await desk.enable(ADMINISTRATOR, name)
        await office.post([office.message(name, "m")])
        await until(lambda: office.sink.arrived[name] == 2, "another failure")
        await until_waiting(office, name)
        await moved(office, name, f"{office.sink.url}/{other}")
        await office.settled(name)
    assert (await office.states(name), len(office.sink.received[other])) == (["dead", "delivered"], 1)


async def test_what_cannot_be_written_of_one_message_keeps_no_other_from_being_sent_once(office: Office) -> None:
    name = await office.endpoint()
    messages = [office.message(name, f"m{number}") for number in range(40)]
    await office.rows(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"
    )
    await office.rows(
        "CREATE TRIGGER full_disk BEFORE INSERT ON delivery_attempts FOR EACH ROW"
        f" WHEN (NEW.delivery_id = '{messages[7].id}') EXECUTE FUNCTION full_disk()"
    )
    with capture_logs() as logs:
        async with office.sending():
            await office.post(messages)
            await until(lambda: office.sink.received[name].count(messages[7].message_id) > 2, "it to be sent again")
            assert (await office.states(name)).count("delivered") == len(messages) - 1
            await office.rows("DROP TRIGGER full_disk ON delivery_attempts")
            await office.settled(name)
    assert {each["lane"] for each in logs if each["event"] == "lane_broke"} == {"m7"}
    counts = Counter(office.sink.received[name])
    assert {counts[each.message_id] for each in messages if each is not messages[7]} == {1}


async def test_what_waits_for_an_endpoint_that_was_removed_is_not_sent(office: Office) -> None:
    name = await office.endpoint()
    await office.post([office.message(name, "m")])
    async with office.database.unit_of_work() as work:
        await work.endpoints.remove(name)
        await work.commit()
    async with office.sending():
        await office.settled(name)
    assert (await office.states(name), office.sink.arrived[name]) == (["dead"], 0)


async def test_a_secret_that_cannot_be_read_is_a_failed_attempt_that_says_so(office: Office) -> None:
    name = await office.endpoint(secrets=("env:NOT_SET",))
    async with office.sending():
        (sent,) = await office.post([office.message(name, "m", cause=Cause.PING)])
        await office.settled(name)
    delivery, (attempt,) = await office.deliveries.get(sent)
    assert delivery.state is DeliveryState.DEAD
    assert "NOT_SET" in (attempt.error or "")
    assert office.sink.arrived[name] == 0


async def test_a_message_is_signed_with_the_secrets_that_can_be_read(office: Office) -> None:
    name = await office.endpoint(secrets=("env:NOT_SET", "env:SECRET_OF_TESTS"))
    async with office.sending():
        (sent,) = await office.post([office.message(name, "m")])
        await office.settled(name)
    delivery, (attempt,) = await office.deliveries.get(sent)
    assert (delivery.state, attempt.request_headers["webhook-signature"]) == (DeliveryState.DELIVERED, "v1,***")


# Calls to targets.


async def test_of_the_calls_that_wait_for_a_target_the_newest_goes_out_and_the_others_are_superseded(
    office: Office,
) -> None:
    target, statuses = "deployer", [503]
    # There is no promotion here, and nothing that could be deployed.
    await office.rows("ALTER TABLE deployments DROP CONSTRAINT deployments_promotion_id_fkey")
    await office.rows("ALTER TABLE deployment_generations DROP CONSTRAINT deployment_generations_promotion_id_fkey")
    async with office.database.unit_of_work() as work:
        where = Target(target, f"{office.sink.url}/{target}", ("env:SECRET_OF_TESTS",), (), (ANY_PRIVATE,))
        await work.targets.put(where, at=office.clock.now())
        await work.commit()
    office.sink.answers[target] = answering(statuses)

    async def call() -> str:
        async with office.database.unit_of_work() as work:
            deployment = await work.deployments.desire(
                new_id="dep_1",
                target=target,
                workspace="default",
                model="m",
                version="1",
                uri="s3://b/m/",
                digest="d",
                promotion_id="prm_1",
                at=office.clock.now(),
            )
            receiver, generation = Receiver(ReceiverKind.TARGET, target), deployment.generation
            more = {"receiver": receiver, "deployment_id": deployment.id, "generation": generation}
            message = office.message(target, "m", cause=Cause.DEPLOYMENT, **more)
            await work.deliveries.add([message])
            await work.commit()
        return message.id

    first, second = await call(), await call()
    async with office.sending():
        await office.settled(target)
        assert (await office.deliveries.get(first))[0].state is DeliveryState.SUPERSEDED
        assert (await office.deliveries.get(second))[0].attempts == 2
        # One that waits to be tried again does not keep a newer one waiting.
        office.sink.answers[target] = answering([503], **{"retry-after": "600"})
        third = await call()
        await until(lambda: office.sink.arrived[target] == 3, "the third call")
        fourth = await call()
        await office.settled(target)
    assert (await office.deliveries.get(third))[0].state is DeliveryState.SUPERSEDED
    assert (await office.deliveries.get(fourth))[0].state is DeliveryState.DELIVERED


# From events to deliveries.


def fanning_out(office: Office) -> Background:
    return Background(office.fanning_out.run())


class Background:
    """Something that goes on meanwhile."""

    def __init__(self, work: object) -> None:
        self._task = asyncio.create_task(work)  # type: ignore[arg-type]  # a coroutine

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_each_event_goes_out_once_to_each_endpoint_that_hears_it_though_two_fan_out(office: Office) -> None:
    await office.event("fan-1")
    both = {"models": ("fan-*",)}
    all_of_it, rejected = await office.endpoint(**both), await office.endpoint(events=("*.rejected",), **both)
    events = [
        await office.event(f"fan-{n % 3}", EventType.REJECTED if n % 5 == 0 else EventType.APPLIED) for n in range(25)
    ]
    await asyncio.gather(*(office.fanning_out.fan_out() for _ in range(4)))
    async with office.sending(), fanning_out(office), fanning_out(office):
        events += [await office.event("fan-2") for _ in range(5)]
        await until(lambda: len(office.sink.received[all_of_it]) == len(events), "all events")
        await office.settled(all_of_it)
        await office.settled(rejected)
    # What had happened before they were made is not theirs.
    assert Counter(office.sink.received[all_of_it]) == Counter(events)
    assert Counter(office.sink.received[rejected]) == Counter(events[:25:5])
    (newest, *_) = await office.deliveries.page(Filter(receiver=Receiver(ReceiverKind.ENDPOINT, all_of_it)))
    message = json.loads(newest.body)
    assert (message["specversion"], message["id"], newest.lane) == ("1.0", newest.message_id, "fan-2")


# Again.


async def test_a_message_is_sent_again_with_its_id_once_for_each_key(office: Office) -> None:
    name = await office.endpoint()
    async with office.sending():
        (sent,) = await office.post([office.message(name, "m")])
        await office.settled(name)
        again = await office.deliveries.redeliver(ADMINISTRATOR, sent, idempotency_key="k")
        assert await office.deliveries.redeliver(ADMINISTRATOR, sent, idempotency_key="k") == again
        await office.settled(name)
    assert (again.replays, again.cause) == (sent, Cause.REPLAY)
    assert office.sink.received[name] == [again.message_id] * 2


async def test_what_waits_or_has_nobody_who_takes_it_is_not_sent_again(office: Office) -> None:
    name = await office.endpoint()
    (sent,) = await office.post([office.message(name, "m")])
    with pytest.raises(Conflict, match="waits"):
        await office.deliveries.redeliver(ADMINISTRATOR, sent)
    with pytest.raises(Forbidden):
        await office.deliveries.redeliver(NOBODY, sent)
    with pytest.raises(NotFound):
        await office.deliveries.redeliver(ADMINISTRATOR, "dlv_none")
    async with office.database.unit_of_work() as work:
        await work.endpoints.set_state(name, ReceiverState.DISABLED, reason="a test")
        await work.deliveries.abandon(Receiver(ReceiverKind.ENDPOINT, name), at=office.clock.now())
        await work.commit()
    assert await office.states(name) == ["dead"]
    with pytest.raises(Conflict, match="disabled"):
        await office.deliveries.redeliver(ADMINISTRATOR, sent)
    with pytest.raises(Conflict, match="disabled"):
        await office.deliveries.ping(ADMINISTRATOR, name)
    with pytest.raises(Conflict, match="disabled"):
        await office.deliveries.replay(ADMINISTRATOR, name, Replay())
    async with office.sending():
        await office.settled(name)


async def test_a_message_that_its_receiver_refuses_can_be_skipped_so_that_those_behind_it_go_on(office: Office) -> None:
    name = await office.endpoint()

    async def refuse_the_first(request: web.Request) -> web.Response:
        return web.Response(status=400 if request.headers["webhook-id"] == "poison" else 204)

    office.sink.answers[name] = refuse_the_first
    async with office.sending():
        poison, good = await office.post([office.message(name, "m", message_id="poison"), office.message(name, "m")])
        await until(lambda: office.sink.arrived[name] > 2, "a second attempt")
        assert (await office.deliveries.get(good))[0].attempts == 0
        with pytest.raises(Forbidden):
            await office.deliveries.skip(NOBODY, poison)
        await office.deliveries.skip(ADMINISTRATOR, poison)
        await office.settled(name)
        with pytest.raises(Conflict, match="dead already"):
            await office.deliveries.skip(ADMINISTRATOR, poison)
    assert await office.states(name) == ["dead", "delivered"]


async def test_what_was_skipped_while_it_was_being_sent_holds_up_nothing(office: Office) -> None:
    name, is_skipped = await office.endpoint(), asyncio.Event()

    async def refuse_the_first(request: web.Request) -> web.Response:
        if request.headers["webhook-id"] != "slow poison":
            return web.Response(status=204)
        await is_skipped.wait()
        return web.Response(status=400)

    office.sink.answers[name] = refuse_the_first
    poison = office.message(name, "m", message_id="slow poison", attempts=20)
    async with office.sending():
        await office.post([poison, office.message(name, "m")])
        await until(lambda: office.sink.arrived[name], "an attempt")
        await office.deliveries.skip(ADMINISTRATOR, poison.id)
        is_skipped.set()
        await office.settled(name)
    assert await office.states(name) == ["dead", "delivered"]


async def test_a_ping_is_sent_at_once_though_its_receiver_is_left_alone_and_once(office: Office) -> None:
    name = await office.endpoint()
    office.sink.answers[name] = answering([429] + [500] * 50, **{"retry-after": "900"})
    async with office.sending():
        await office.post([office.message(name, f"m{number}") for number in range(3)])
        await until(lambda: office.sink.arrived[name] >= 1, "an attempt")
        ping = await office.deliveries.ping(ADMINISTRATOR, name, idempotency_key="k")
        assert await office.deliveries.ping(ADMINISTRATOR, name, idempotency_key="k") == ping
        while (await office.deliveries.get(ping.id))[0].state is DeliveryState.PENDING:  # noqa: ASYNC110  # of a table
            await asyncio.sleep(0.02)
        again = await office.deliveries.redeliver(ADMINISTRATOR, ping.id)
        while (await office.deliveries.get(again.id))[0].state is DeliveryState.PENDING:  # noqa: ASYNC110  # of a table
            await asyncio.sleep(0.02)
        office.sink.answers.pop(name)
        await office.settled(name)
    for each in (ping, again):
        delivery, attempts = await office.deliveries.get(each.id)
        assert (delivery.state, len(attempts)) == (DeliveryState.DEAD, 1)
    assert json.loads(delivery.body)["type"] == "countersign.endpoint.pinged.v1"
    with pytest.raises(Forbidden):
        await office.deliveries.ping(NOBODY, name)


async def test_what_an_endpoint_missed_is_replayed_in_order_and_what_it_got_only_when_all_is_wanted(
    office: Office,
) -> None:
    name, since = await office.endpoint(models=("replayed",)), office.clock.now()
    events = []
    async with office.sending():
        events += [await office.event("replayed") for _ in range(3)]
        await office.fanning_out.fan_out()
        await office.settled(name)
        async with office.database.unit_of_work() as work:
            await work.endpoints.set_state(name, ReceiverState.DISABLED, reason="a test")
            await work.commit()
        events += [await office.event("replayed", EventType.REJECTED) for _ in range(4)]
        await office.fanning_out.fan_out()
        async with office.database.unit_of_work() as work:
            await work.endpoints.enable(name)
            await work.commit()
        missed, everything = Replay(since=since), Replay(since=since, only_missed=False)
        replay = office.deliveries.replay
        assert await replay(ADMINISTRATOR, name, missed, dry_run=True) == 4
        assert await replay(ADMINISTRATOR, name, everything, dry_run=True) == 7
        assert (
            await replay(
                ADMINISTRATOR, name, Replay(since=since, types=("*.applied",), only_missed=False), dry_run=True
            )
            == 3
        )
        assert office.sink.received[name] == events[:3]
        assert await replay(ADMINISTRATOR, name, missed) == 4
        await office.settled(name)
        assert office.sink.received[name] == events
        assert await replay(ADMINISTRATOR, name, missed) == 0
        assert await replay(ADMINISTRATOR, name, everything) == 7
        await office.settled(name)
    assert office.sink.received[name] == events * 2
    with pytest.raises(InvalidInput, match="types"):
        await replay(ADMINISTRATOR, name, Replay(types=("promotion.exploded",)))
    with pytest.raises(Forbidden):
        await replay(NOBODY, name, missed)


# The log.


async def test_the_log_is_read_by_receiver_state_model_type_and_message(office: Office) -> None:
    name = await office.endpoint()
    messages = [office.message(name, f"log-{number % 2}", event_type=f"type-{number}") for number in range(4)]
    async with office.sending():
        await office.post(messages)
        await office.settled(name)
    receiver = Receiver(ReceiverKind.ENDPOINT, name)

    async def found(**sought: object) -> set[str]:
        page = await office.deliveries.page(Filter(receiver=receiver, **sought))  # type: ignore[arg-type]
        return {each.id for each in page}

    all_of_them = {each.id for each in messages}
    assert await found(states=(DeliveryState.DELIVERED,)) == all_of_them
    assert await found(states=(DeliveryState.DEAD, DeliveryState.PENDING)) == set()
    assert await found(model="log-1") == {messages[1].id, messages[3].id}
    assert await found(event_type="type-2") == {messages[2].id}
    assert await found(message_id=messages[0].message_id) == {messages[0].id}
    assert await found(until=messages[0].created_at) == set()
    assert await found(since=messages[0].created_at) == all_of_them


async def test_the_log_of_what_was_sent_long_ago_is_removed_and_what_never_arrived_later(office: Office) -> None:
    name, now = await office.endpoint(), office.clock.now()
    old = {"created_at": now - timedelta(days=40)}
    async with office.sending():
        await office.post([office.message(name, "m", **old), office.message(name, "m")])
        await office.settled(name)
        office.sink.answers[name] = answering([500])
        await office.post([office.message(name, "m", cause=Cause.PING, **old)])
        await office.settled(name)
    async with office.database.unit_of_work() as work:
        limits = {"before": now - timedelta(days=30), "limit": 10}
        assert await work.deliveries.remove_settled(dead_before=now - timedelta(days=90), **limits) == 1  # type: ignore[arg-type]
        await work.commit()
    assert await office.states(name) == ["delivered", "dead"]


async def test_what_is_claimed_and_what_is_next_is_looked_up_however_much_waits(office: Office) -> None:
    name = await office.endpoint()
    await office.post([office.message(name, f"m{number}") for number in range(200)])
    async with office.database.unit_of_work() as work:
        assert (await work.deliveries.backlog()).pending >= 200
    plans = []
    for query in (
        "SELECT lane FROM delivery_lanes WHERE receiver = 'r' AND held_by IS NULL AND due_at < now() ORDER BY due_at",
        "SELECT id FROM deliveries WHERE receiver = 'r' AND lane = 'l' AND state = 'pending' ORDER BY sequence",
        "SELECT receiver FROM delivery_lanes WHERE held_by IS NOT NULL",
        "SELECT created_at FROM deliveries WHERE state = 'pending' ORDER BY created_at",
        "SELECT id FROM deliveries WHERE lane = 'l' ORDER BY created_at DESC, id DESC",
        "SELECT id FROM deliveries WHERE receiver = 'r' ORDER BY created_at DESC, id DESC",
        "SELECT message_id FROM deliveries WHERE message_id = ANY(ARRAY['m'])",
    ):
        settings = "".join(f"SET enable_{each} = off; " for each in ("seqscan", "sort", "bitmapscan"))
        plans.append(" ".join(row[0] for row in await office.explained(settings, query)))
    used = [re.findall(r"Index (?:Only )?Scan (?:Backward )?using (\w+)", plan) for plan in plans]
    assert used == [
        ["delivery_lanes_due"],
        ["deliveries_in_lane"],
        ["delivery_lanes_held"],
        ["deliveries_of_state"],
        ["deliveries_of_lane"],
        ["deliveries_of_receiver"],
        ["deliveries_of_message"],
    ]
    async with office.sending():
        await office.settled(name)

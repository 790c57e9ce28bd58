"""MLflow is given a few requests at a time: bounded, fair, balanced by who is free, and nothing that streams waits."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY

from app.proxy import Sizes
from app.proxy.asgi import Receive, Scope, Send
from app.proxy.watching import PROGRESS, Patience
from tests.platform import free_port, until
from tests.proxying import Answer, Door, connect, door, exchange, read, read_answer, request, serving

SEARCH = "/api/2.0/mlflow/runs/search"
GET = "/api/2.0/mlflow/runs/get?run_id="
LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/1/a.bin"
JSON = {"content-type": "application/json"}
OTHER = "token-of-viewer"


@dataclass
class Busy:
    """An MLflow that answers when it is told to, and remembers what it was asked and how much of it at once."""

    go: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    chunked: list[bool] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    is_stalled: bool = False
    answer: bytes = b"{}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        if target in {"/health", "/version"}:
            await self._answer(send, b"3.17.2")
            return
        if target == PROGRESS:
            await self._until(lambda: not self.is_stalled)
            await self._answer(send, b"{}")
            return
        self.asked.append(target)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            body = await read(receive)
            self.lengths.append(len(body))
            self.digests.append(hashlib.sha256(body).hexdigest())
            self.chunked.append(any(name == b"transfer-encoding" for name, _ in scope["headers"]))
            await self._until(lambda: self.go.is_set() and not self.is_stalled)
        finally:
            self.at_once -= 1
        await self._answer(send, self.answer)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - what it waits for happens in another thread
            await asyncio.sleep(0.005)

    async def _answer(self, send: Send, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Site:
    door: Door
    upstreams: list[Busy]
    urls: list[str]
    pool: ThreadPoolExecutor

    @property
    def upstream(self) -> Busy:
        return self.upstreams[0]

    def ask(self, target: str, *, token: str | None = "token-of-requester", method: str = "GET") -> Future[Answer]:
        return self.pool.submit(exchange, self.door.url, request(method, target, token=token))

    def send(self, method: str, target: str, body: bytes = b"", *, token: str = "token-of-requester") -> Future[Answer]:
        return self.pool.submit(exchange, self.door.url, request(method, target, headers=JSON, body=body, token=token))

    def asked(self, count: int) -> None:
        until(lambda: sum(len(each.asked) for each in self.upstreams) >= count, f"{count} requests", patience_s=20)

    def waiting(self, count: int, lane: str = "interactive") -> None:
        until(lambda: metric("countersign_admission_waiting", lane=lane) == count, f"{count} waiting", patience_s=20)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


@contextmanager
def site(
    *, upstreams: int = 1, per_worker: int = 1, sizes: Sizes | None = None, timeout_s: float = 20
) -> Iterator[Site]:
    patience = Patience(interval_s=0.05, idle_s=0.2, stall_s=0.3, answer_s=0.3)
    busy = [Busy() for _ in range(upstreams)]
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(each)) for each in busy]
        running = stack.enter_context(
            door(*urls, per_worker=per_worker, sizes=sizes, patience=patience, timeout_s=timeout_s)
        )
        pool = stack.enter_context(ThreadPoolExecutor(64))
        stack.callback(lambda: [_release(each) for each in busy])
        yield Site(running, busy, urls, pool)


def _release(busy: Busy) -> None:
    busy.is_stalled = False
    busy.go.set()


def test_mlflow_is_given_no_more_requests_at_a_time_than_was_set() -> None:
    with site(per_worker=3) as here:
        answers = [here.ask(f"{GET}{number}") for number in range(30)]
        here.asked(3)
        here.waiting(27)
        here.upstream.go.set()

        assert {answer.result().status for answer in answers} == {200}
        assert here.upstream.most_at_once == 3


def test_principals_take_turns() -> None:
    with site() as here:
        greedy = [here.ask(f"{GET}greedy-{number}") for number in range(10)]
        here.asked(1)
        here.waiting(9)
        modest = here.ask(f"{GET}modest", token=OTHER)
        here.waiting(10)
        here.upstream.go.set()
        for answer in [*greedy, modest]:
            answer.result()

    assert here.upstream.asked.index(f"{GET}modest") <= 2


def test_who_looks_goes_before_what_is_written_in_bulk() -> None:
    with site() as here:
        first = here.ask(f"{GET}first")
        here.asked(1)
        written = [here.send("POST", LOG_BATCH, b"{}") for _ in range(3)]
        here.waiting(3, "nested")
        looked = here.ask(f"{GET}looked")
        here.waiting(1)
        here.upstream.go.set()
        for answer in [first, looked, *written]:
            assert answer.result().status == 200

    assert here.upstream.asked[1] == f"{GET}looked"


def test_all_who_did_not_log_in_share_one_turn() -> None:
    with site(sizes=Sizes(queue=10, share=2, deadline_s=20)) as here:
        held = here.ask(f"{GET}held")
        here.asked(1)
        strangers = [here.ask("/ajax-api/3.0/mlflow/server-info", token=None) for _ in range(2)]
        here.waiting(2)
        refused = here.ask("/ajax-api/3.0/mlflow/server-info", token=None).result()
        known = here.ask(f"{GET}known")
        here.waiting(3)
        here.upstream.go.set()

        assert refused.status == 429
        assert {answer.result().status for answer in [held, known, *strangers]} == {200}


def test_one_principal_that_waits_too_often_is_told_to_send_less() -> None:
    with site(sizes=Sizes(queue=10, share=2, deadline_s=20)) as here:
        waiting = [here.ask(f"{GET}{number}") for number in range(3)]
        here.waiting(2)
        refused = here.ask(f"{GET}again").result()
        other = here.ask(f"{GET}other", token=OTHER)
        here.waiting(3)
        here.upstream.go.set()

        assert (refused.status, refused.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
        assert 1 <= int(dict(refused.headers)["retry-after"]) <= 30
        assert {answer.result().status for answer in [*waiting, other]} == {200}


def test_a_full_waiting_room_says_when_to_come_again() -> None:
    with site(sizes=Sizes(queue=2, share=2, deadline_s=20)) as here:
        waiting = [here.ask(f"{GET}{number}") for number in range(3)]
        here.waiting(2)
        refused = here.ask(f"{GET}other", token=OTHER).result()
        here.upstream.go.set()

        assert (refused.status, refused.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert 1 <= int(dict(refused.headers)["retry-after"]) <= 30
        assert {answer.result().status for answer in waiting} == {200}


def test_nobody_waits_for_ever() -> None:
    with site(sizes=Sizes(queue=10, share=10, deadline_s=0.2)) as here:
        first = here.ask(f"{GET}first")
        here.asked(1)
        late = here.ask(f"{GET}late").result()
        here.upstream.go.set()

        assert (late.status, late.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert first.result().status == 200
        assert here.upstream.asked == [f"{GET}first"]


def test_who_goes_away_while_waiting_leaves_the_line() -> None:
    with site() as here:
        first = here.ask(f"{GET}first")
        here.asked(1)
        with connect(here.door.url) as connection:
            connection.sendall(request("GET", f"{GET}gone"))
            here.waiting(1)
        here.waiting(0)
        here.upstream.go.set()
        assert first.result().status == 200
        assert here.ask(f"{GET}next").result().status == 200

    assert here.upstream.asked == [f"{GET}first", f"{GET}next"]


def test_a_caller_who_sends_slowly_takes_no_place() -> None:
    whole = request("POST", SEARCH, headers=JSON, body=b'{"experiment_ids": ["0"]}')
    with site() as here, connect(here.door.url) as slow:
        here.upstream.go.set()
        slow.sendall(whole[:-5])
        assert here.ask(f"{GET}quick").result().status == 200
        assert here.upstream.asked == [f"{GET}quick"]
        slow.sendall(whole[-5:])
        assert read_answer(slow).status == 200


def test_a_caller_who_reads_slowly_takes_no_place() -> None:
    with site() as here, socket.socket() as slow:
        here.upstream.answer = b" " * (32 * 1024 * 1024)
        here.upstream.go.set()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", int(here.door.url.rpartition(":")[2])))
        slow.sendall(request("GET", f"{GET}large"))
        slow.recv(100)
        here.upstream.answer = b"{}"
        assert here.ask(f"{GET}quick").result().status == 200


def test_files_are_not_held_in_the_line() -> None:
    with site() as here:
        held = here.ask(f"{GET}held")
        here.asked(1)
        files = [here.ask(ARTIFACT) for _ in range(5)]
        here.asked(6)
        here.upstream.go.set()

        assert {answer.result().status for answer in [held, *files]} == {200}
        assert here.upstream.most_at_once == 6


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "in chunks"])
@pytest.mark.parametrize("size", [0, 10, 3 * 1024 * 1024], ids=["empty", "small", "large"])
def test_mlflow_is_given_a_whole_body_with_its_length(size: int, is_chunked: bool) -> None:
    body = bytes(number % 251 for number in range(1024)) * (size // 1024) or b"x" * size
    headers = {**JSON, **({"transfer-encoding": "chunked"} if is_chunked else {})}
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if is_chunked and body else b"0\r\n\r\n" if is_chunked else body
    with serving(upstream := Busy()) as url, door(url, max_json_body=4 * 1024 * 1024) as running:
        upstream.go.set()
        answer = exchange(running.url, request("POST", LOG_BATCH, headers=headers, body=sent))

    assert answer.status == 200
    assert upstream.digests == [hashlib.sha256(body).hexdigest()]
    assert upstream.chunked == [False]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_body_beyond_the_limit_is_refused_and_reaches_nobody(is_chunked: bool) -> None:
    body = b"x" * (4 * 1024 + 1)
    headers = {**JSON, **({"transfer-encoding": "chunked"} if is_chunked else {})}
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    with serving(upstream := Busy()) as url, door(url, max_json_body=1024) as running:
        answer = exchange(running.url, request("POST", LOG_BATCH, headers=headers, body=sent))

    assert (answer.status, answer.json()["error_code"]) == (413, "INVALID_PARAMETER_VALUE")
    assert "4096" in answer.json()["message"]
    assert upstream.asked == []


@pytest.mark.parametrize(("method", "target"), [("POST", SEARCH), ("PUT", ARTIFACT)], ids=["JSON", "a file"])
def test_a_body_that_stops_arriving_is_given_up(method: str, target: str) -> None:
    with serving(upstream := Busy()) as url, door(url, timeout_s=0.3) as running, connect(running.url) as slow:
        upstream.go.set()
        slow.sendall(request(method, target, headers={**JSON, "content-length": "100"}, body=b"")[:] + b"half")
        answer = read_answer(slow)

    assert (answer.status, answer.json()["error_code"]) == (408, "DEADLINE_EXCEEDED")
    assert upstream.lengths == []


def test_several_servers_are_balanced_by_who_is_free() -> None:
    with site(upstreams=2) as here:
        busy, free = here.upstreams
        held = [here.ask(f"{GET}{number}") for number in range(2)]
        here.asked(2)
        assert [len(each.asked) for each in here.upstreams] == [1, 1]

        free.go.set()
        for number in range(8):
            assert here.ask(f"{GET}free-{number}").result().status == 200
        busy.go.set()

        assert {answer.result().status for answer in held} == {200}
        assert [len(each.asked) for each in here.upstreams] == [1, 9]


def test_a_server_that_cannot_be_reached_costs_no_answer() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with serving(upstream := Busy()) as url, door(nobody, url) as running:
        upstream.go.set()
        answers = [exchange(running.url, request("GET", f"{GET}{number}")) for number in range(6)]

        assert {answer.status for answer in answers} == {200}
        assert metric("countersign_upstream_up", upstream=nobody) == 0
        assert metric("countersign_upstream_up", upstream=url) == 1


def test_a_server_that_comes_back_is_asked_again() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with door(url, patience=Patience(interval_s=0.05)) as running:
        refused = exchange(running.url, request("GET", f"{GET}1"))
        assert (refused.status, refused.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert dict(refused.headers)["retry-after"] == "2"
        with serving(upstream := Busy(), port=port):
            upstream.go.set()
            until(lambda: metric("countersign_upstream_up", upstream=url) == 1, "its return", patience_s=20)
            assert exchange(running.url, request("GET", f"{GET}2")).status == 200


def test_a_server_that_stalls_is_taken_out_and_put_back_when_it_moves() -> None:
    with site(upstreams=2) as here:
        stalled, well = here.upstreams
        stalled.is_stalled = True
        for each in here.upstreams:
            each.go.set()
        held = [here.ask(f"{GET}held-{number}") for number in range(2)]
        until(lambda: stalled.asked, "a request at the one that stalls", patience_s=20)
        until(lambda: not is_up(here.urls[0]), "it to be taken out", patience_s=20)
        assert metric("countersign_upstream_taken_out_total", upstream=here.urls[0], reason="stalled") == 1

        for number in range(5):
            assert here.ask(f"{GET}after-{number}").result(timeout=5).status == 200
        assert len(stalled.asked) == 1
        stalled.is_stalled = False
        until(lambda: is_up(here.urls[0]), "its return", patience_s=20)

        assert {answer.result().status for answer in held} == {200}
        assert len(well.asked) >= 6


def test_a_slow_query_is_no_reason_to_take_a_server_out() -> None:
    with site() as here:
        slow = here.ask(f"{GET}slow")
        here.asked(1)
        time.sleep(1)  # several times the patience of its watch
        here.upstream.go.set()

        assert slow.result().status == 200
        assert metric("countersign_upstream_taken_out_total", upstream=here.urls[0], reason="stalled") == 0


def is_up(url: str) -> bool:
    return metric("countersign_upstream_up", upstream=url) == 1

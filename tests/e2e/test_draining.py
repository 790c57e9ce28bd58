"""A gateway that is told to stop lets its callers turn away first: no request fails."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx
import pytest

from tests.platform import Countersign, free_port, until

READ = "/api/2.0/mlflow/experiments/get?experiment_id=0"


@pytest.fixture
def gateways(countersign: Countersign) -> Iterator[list[Countersign]]:
    """Two on one database, as behind a load balancer."""
    both = []
    for _ in range(2):
        port = str(free_port())
        changed = {
            "COUNTERSIGN_PORT": port,
            "COUNTERSIGN_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "COUNTERSIGN_DRAIN_S": "2",
        }
        both.append(replace(countersign, environment=countersign.environment | changed, processes=[]))
    try:
        for each in both:
            each.start("gateway")
        yield both
    finally:
        for each in both:
            each.stop()


@dataclass
class Balancer:
    """Asks the first gateway that says it is ready, over connections that are kept while the gateway keeps them."""

    gateways: list[Countersign]
    seen: Counter[int | str] = field(default_factory=Counter)
    chosen: str = ""
    is_over: bool = False

    def look(self) -> None:
        while not self.is_over:
            ready = [each.url for each in self.gateways if _status(f"{each.url}/readyz") == 200]
            self.chosen = ready[0] if ready else ""
            time.sleep(0.1)

    def ask(self, token: str) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        while not self.is_over:
            url = self.chosen
            if url not in connections:
                parts = urlsplit(url)
                connections[url] = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
            try:
                connections[url].request("GET", READ, headers={"Authorization": f"Bearer {token}"})
                answer = connections[url].getresponse()
                answer.read()
                self.seen[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[repr(error)] += 1
                del connections[url]
        for connection in connections.values():
            connection.close()


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code
    except httpx.HTTPError:
        return 0


def test_stopping_one_of_two_gateways_under_load_fails_no_request(gateways: list[Countersign]) -> None:
    balancer = Balancer(gateways)
    token = gateways[0].token("scientist")
    threads = [threading.Thread(target=balancer.look)]
    threads[0].start()
    until(lambda: balancer.chosen, "a gateway that is ready")
    threads += [threading.Thread(target=balancer.ask, args=(token,)) for _ in range(4)]
    for thread in threads[1:]:
        thread.start()
    until(lambda: balancer.seen[200] > 50, "some load")
    first = gateways[0].processes[0]

    first.send_signal(signal.SIGTERM)
    first.wait(30)
    before = balancer.seen[200]
    until(lambda: balancer.seen[200] > before + 50, "load on the second one")
    balancer.is_over = True
    for thread in threads:
        thread.join()

    assert first.returncode == -signal.SIGTERM
    assert set(balancer.seen) == {200}


def test_while_it_drains_it_answers_says_so_and_closes_connections(gateways: list[Countersign]) -> None:
    gateway = gateways[0]
    process = gateway.processes[0]
    headers = {"Authorization": f"Bearer {gateway.token('scientist')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=30) as client:
        assert "connection" not in client.get(READ).headers
        process.send_signal(signal.SIGTERM)
        until(lambda: _status(f"{gateway.url}/readyz") == 503, "word of its end", patience_s=10)
        answer = client.get(READ)
        parts = client.get("/readyz").json()["parts"]

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert parts["gateway"] == "is about to stop"


def test_a_second_signal_ends_the_draining(gateways: list[Countersign]) -> None:
    gateway = gateways[0]
    process = gateway.processes[0]
    process.send_signal(signal.SIGTERM)
    until(lambda: _status(f"{gateway.url}/readyz") == 503, "word of its end", patience_s=10)
    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == -signal.SIGTERM

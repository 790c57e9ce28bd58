"""Receivers that misbehave, and addresses that must not be reached: each attempt ends in a clear record, and soon."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import logging
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trustme
from standardwebhooks import Webhook

from app.adapters.webhook_sender import Limits, WebhookSender
from app.adapters.webhook_sender.connections import MOST_POOLS
from app.domain.deliveries import Attempt, Call
from app.domain.errors import InvalidConfiguration

SECRET = "whsec_" + b64encode(b"s" * 32).decode()
SOON = Limits(connect_s=0.3, body_s=0.1)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """A server on loopback that does what it is told with each connection."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def receiving(behaviour: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        receiver.connections += 1
        # What the sender breaks off is not this test's concern.
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await behaviour(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    receiver = Receiver(server.sockets[0].getsockname()[1])
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*pieces: bytes, keep: bool = False) -> Behaviour:
    """Sends this as the answer, and closes."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if not keep:
                return

    return behave


async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200000000\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: and more\r\n" * 64)
        await writer.drain()


async def dripping_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.01)


async def dripping_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.01)


async def false_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n")
    await asyncio.sleep(0.05)  # in one piece with its headers it is no answer at all
    writer.write(b"zz\r\n")


async def endless_continue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


def call(url: str, *, allowed: Sequence[str] = ("private",), timeout_s: float = 0.4, body: str = "{}") -> Call:
    return Call(url, (SECRET,), "msg_1", body, 1, tuple(allowed), timeout_s)


@pytest.fixture(autouse=True)
def _quiet_loop(caplog: pytest.LogCaptureFixture) -> None:
    # asyncio tells of connections that end during a handshake, which is what is tested.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(limits=SOON)
    yield sender
    await sender.close()


def names(**addresses: Sequence[str] | Exception) -> Callable[[str, int], list[tuple[socket.AddressFamily, str]]]:
    """A name server that knows these hosts (``_`` for a dot); each look-up takes the next list, as if they changed."""

    def look_up(host: str, _port: int) -> list[tuple[socket.AddressFamily, str]]:
        found = addresses[host.replace(".", "_")]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in found]

    return look_up


async def sent(sender: WebhookSender, behaviour: Behaviour, **changes: object) -> Attempt:
    async with receiving(behaviour) as receiver:
        attempt, _ = await sender.send(replace(call(f"http://127.0.0.1:{receiver.port}/hook"), **changes))  # type: ignore[arg-type]
    return attempt


async def test_a_message_arrives_as_it_was_signed(sender: WebhookSender) -> None:
    got: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await request(reader))
        writer.write(OK)
        await writer.drain()

    body = '{"name":"Grüße 模型"}'
    attempt = await sent(sender, behave, body=body)
    assert (attempt.status, attempt.error, attempt.response, attempt.address) == (200, None, "ok", "127.0.0.1")
    head, _, arrived = got[0].partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    headers = {name.lower(): value for name, value in headers.items()}
    Webhook(SECRET).verify(arrived, headers, json_parse=False)
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert headers["user-agent"].startswith("countersign-webhooks/")
    assert attempt.request_headers["webhook-signature"] == "v1,***"
    assert attempt.request_headers["webhook-id"] == "msg_1"


@pytest.mark.parametrize(
    ("behaviour", "status", "says"),
    [
        pytest.param(hanging, None, "no answer from 127.0.0.1 within 0.4 s", id="hangs before the headers"),
        pytest.param(dripping_headers, None, "within 0.4 s", id="drips headers"),
        pytest.param(endless_continue, None, "within 0.4 s", id="says 100 for ever"),
        pytest.param(endless_headers, None, "not answer in HTTP", id="sends headers for ever"),
        pytest.param(dripping_body, 200, "took longer than 0.1 s", id="drips its body"),
        pytest.param(endless_body, 200, None, id="sends 200 MB"),
        pytest.param(answering(b"SSH-2.0-OpenSSH_9.9\r\n"), None, "not answer in HTTP", id="is no web server"),
        pytest.param(answering(b"\x16\x03\x01\x02\x00\xff\x00"), None, "not answer in HTTP", id="sends garbage"),
        pytest.param(answering(b"HTTP/1.1 2000 OK\r\n\r\n"), None, "not answer in HTTP", id="an impossible status"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"), None, "not answer in HTTP", id="a false length"
        ),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 20_000 + b"\r\n\r\n"), None, "HTTP", id="a long header"
        ),
        pytest.param(answering(b""), None, "closed the connection before it answered", id="closes at once"),
        pytest.param(answering(b"HTTP/1.1 200"), None, "127.0.0.1", id="closes in its headers"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), 200, "broke off", id="closes in its body"
        ),
        pytest.param(false_chunks, 503, "the answer's body", id="sends chunks that are none"),
    ],
)
async def test_whatever_a_receiver_does_the_attempt_says_it(
    sender: WebhookSender, behaviour: Behaviour, status: int | None, says: str | None
) -> None:
    attempt = await sent(sender, behaviour)
    assert attempt.status == status
    assert (says is None and attempt.error is None) or (says or "-") in (attempt.error or "")
    assert len(attempt.response) <= 2048
    assert attempt.address == "127.0.0.1"


async def test_of_a_large_answer_the_beginning_is_read_and_the_connection_closed(sender: WebhookSender) -> None:
    written = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with receiving(behave) as receiver:
        attempt, _ = await sender.send(call(f"http://127.0.0.1:{receiver.port}/"))
        assert (attempt.status, len(attempt.response)) == (200, 2048)
        again, _ = await sender.send(call(f"http://127.0.0.1:{receiver.port}/"))
        assert again.status == 200
        assert receiver.connections == 2
    assert written < 50_000_000  # what the system's buffers hold, and not 400 MB


async def test_a_compressed_answer_is_not_unpacked(sender: WebhookSender) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n".encode()
    attempt = await sent(sender, answering(head + bomb))
    assert (attempt.status, attempt.response) == (200, "[gzip, not shown]")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(sender: WebhookSender, status: int) -> None:
    location = b"http://169.254.169.254/latest/meta-data/?token=s3cret"
    answer = b"HTTP/1.1 %d Moved\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n" % (status, location)
    attempt = await sent(sender, answering(answer))
    assert (attempt.status, attempt.error) == (status, "redirects are not followed")
    assert attempt.response_headers["location"] == "http://169.254.169.254/latest/meta-data/?token=***"
    assert attempt.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("120", (120, 120)),
        ("0", (0, 0)),
        ("99999999999999999999999", (604800, 604800)),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", (0, 0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", (604800, 604800)),
        ("in-a-minute", (50, 60)),
    ],
)
async def test_a_receiver_says_when_to_come_again(
    sender: WebhookSender, retry_after: str, seconds: tuple[float, float] | None
) -> None:
    if retry_after == "in-a-minute":
        then = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
        retry_after = then.strftime("%a, %d %b %Y %H:%M:%S GMT")
    answer = f"HTTP/1.1 503 later\r\nretry-after: {retry_after}\r\ncontent-length: 0\r\n\r\n".encode()
    async with receiving(answering(answer)) as receiver:
        attempt, wait = await sender.send(call(f"http://127.0.0.1:{receiver.port}/"))
    assert attempt.status == 503
    assert (wait is None) == (seconds is None)
    if wait is not None and seconds is not None:
        assert seconds[0] <= wait <= seconds[1]


async def test_what_is_kept_of_an_answer_is_bounded_masked_and_text(sender: WebhookSender) -> None:
    headers = (
        b"set-cookie: session=s3cret\r\nset-cookie: b=s3cret\r\nauthorization: Bearer s3cret\r\n"
        b"x-api-key: s3cret\r\nX-Auth-Token: s3cret\r\nx-long: " + b"y" * 4000 + b"\r\n"
        b"x-bytes: \xff\xfe\r\nx-twice: 1\r\nx-twice: 2\r\n"
    )
    headers += b"".join(b"x-%d: 1\r\n" % number for number in range(40))
    answer = b"HTTP/1.1 200 OK\r\n" + headers + b"content-length: 7\r\n\r\na\x00b\xff\xfe\xf0c"
    attempt = await sent(sender, answering(answer))
    kept = attempt.response_headers
    assert attempt.status == 200
    assert "s3cret" not in str(kept)
    assert kept["set-cookie"] == kept["authorization"] == kept["x-api-key"] == kept["x-auth-token"] == "***"
    assert (len(kept), len(kept["x-long"]), kept["x-twice"]) == (32, 200, "1, 2")
    for text in (attempt.response, *kept.values()):
        assert "\x00" not in text
        text.encode()
    assert attempt.response.startswith("a\ufffdb\ufffd")


# Addresses.


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1%25lo]/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:{port}/",
        "http://[::]:{port}/",
        "http://255.255.255.255/",
        "http://224.0.0.1/",
        "http://0:{port}/",
        "http://0x0:{port}/",
    ],
)
async def test_some_addresses_are_not_reached_whatever_is_allowed(sender: WebhookSender, url: str) -> None:
    async with receiving(answering(OK)) as receiver:
        attempt, _ = await sender.send(
            call(url.format(port=receiver.port), allowed=("0.0.0.0/0", "::/0", "private"), timeout_s=2)
        )
        assert receiver.connections == 0
    assert attempt.status is None
    assert attempt.address is None
    assert "refused" in (attempt.error or "") or "cannot be called" in (attempt.error or ""), attempt.error


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "127.0.0.1.",
        "LOCALHOST",
        "①②⑦.⓪.⓪.①",
    ],
)
async def test_loopback_is_not_reached_by_any_way_to_write_it(sender: WebhookSender, host: str) -> None:
    async with receiving(answering(OK)) as receiver:
        attempt, _ = await sender.send(call(f"http://{host}:{receiver.port}/", allowed=(), timeout_s=2))
        assert receiver.connections == 0
    assert (attempt.status, attempt.address) == (None, None)
    assert "refused" in (attempt.error or "") or "cannot be called" in (attempt.error or ""), attempt.error


async def test_a_receiver_is_reached_in_the_networks_that_it_may_be_in_and_in_no_other() -> None:
    sender = WebhookSender(limits=SOON, look_up=names(hook_example=["127.0.0.1"]))
    async with receiving(answering(OK, keep=True)) as receiver:
        url = f"http://hook.example:{receiver.port}/"
        for allowed, reached in (((), False), (("10.0.0.0/8",), False), (("127.0.0.0/8",), True), (("private",), True)):
            attempt, _ = await sender.send(call(url, allowed=allowed))
            assert (attempt.status == 200) is reached
        # The connections of those that may are not lent to who may not.
        attempt, _ = await sender.send(call(url, allowed=()))
        assert "127.0.0.1 is a private address" in (attempt.error or "")
    await sender.close()


async def test_of_several_addresses_each_is_checked_and_only_allowed_ones_are_tried() -> None:
    look_up = names(
        hook_example=["169.254.169.254", "10.0.0.1", "127.0.0.1", "::1"], bad_example=["10.0.0.1", "169.254.169.254"]
    )
    sender = WebhookSender(limits=SOON, look_up=look_up)
    async with receiving(answering(OK)) as receiver:
        attempt, _ = await sender.send(call(f"http://hook.example:{receiver.port}/", allowed=("127.0.0.1/32",)))
        assert (attempt.status, attempt.address, receiver.connections) == (200, "127.0.0.1", 1)
        attempt, _ = await sender.send(call(f"http://bad.example:{receiver.port}/", allowed=("127.0.0.1/32",)))
        assert attempt.address is None
        assert (attempt.error or "").startswith("refused: ")
        assert "10.0.0.1 is a private address" in (attempt.error or "")
        assert "169.254.169.254 is link-local" in (attempt.error or "")
    await sender.close()


async def test_a_name_that_changes_between_two_look_ups_leads_nowhere_else() -> None:
    """DNS rebinding: neither what is said first nor what is said next is connected to."""
    asked: list[str] = []

    def look_up(host: str, _port: int) -> list[tuple[socket.AddressFamily, str]]:
        asked.append(host)
        return [(socket.AF_INET, "127.0.0.1" if len(asked) > 1 else "169.254.169.254")]

    sender = WebhookSender(limits=SOON, look_up=look_up)
    async with receiving(answering(OK)) as receiver:
        for _ in range(3):
            attempt, _ = await sender.send(call(f"http://hook.example:{receiver.port}/", allowed=()))
            assert attempt.status is None
            assert (attempt.error or "").startswith("refused: ")
        assert receiver.connections == 0
    await sender.close()


async def test_a_name_that_changes_while_connections_are_kept_leads_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding of a receiver that was good: a kept connection goes where it went, and each new one is judged."""
    address, later_s = "127.0.0.1", 0.0

    def look_up(_host: str, _port: int) -> list[tuple[socket.AddressFamily, str]]:
        return [(socket.AF_INET, address)]

    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + later_s)
    sender = WebhookSender(limits=SOON, look_up=look_up)
    async with receiving(answering(OK, keep=True)) as receiver:
        good = call(f"http://hook.example:{receiver.port}/", allowed=("127.0.0.1/32",))
        assert (await sender.send(good))[0].status == 200
        address = "127.0.0.2"
        attempt, _ = await sender.send(good)
        assert (attempt.status, attempt.address, receiver.connections) == (200, "127.0.0.1", 1)
        # Whoever may be elsewhere is lent no connection of this one.
        attempt, _ = await sender.send(replace(good, allowed_networks=("10.0.0.0/8",)))
        assert attempt.error == "refused: 127.0.0.2 is a private address, and allowed_networks does not have it"
        later_s = 60.0  # and neither the connection nor the address is remembered any more
        attempt, _ = await sender.send(good)
        assert attempt.error == "refused: 127.0.0.2 is a private address, and allowed_networks does not have it"
        assert receiver.connections == 1
    await sender.close()


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no address was found for hook.example"),
        (OSError(5, "x"), "no address was found for hook.example"),
        (UnicodeError("label too long"), "cannot be called"),
    ],
)
async def test_a_name_that_is_not_known_is_told(failure: Exception, says: str) -> None:
    sender = WebhookSender(limits=SOON, look_up=names(hook_example=failure))
    attempt, _ = await sender.send(call("http://hook.example/"))
    assert says in (attempt.error or "")
    await sender.close()


async def test_a_name_server_that_hangs_holds_up_its_own_receiver_alone() -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look_up(host: str, _port: int) -> list[tuple[socket.AddressFamily, str]]:
        if host == "slow.example":
            asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        return [(socket.AF_INET, "127.0.0.1")]

    sender = WebhookSender(limits=SOON, look_up=look_up)
    async with receiving(answering(OK)) as receiver:
        slow = asyncio.gather(*(sender.send(call(f"http://slow.example:{receiver.port}/")) for _ in range(40)))
        attempt, _ = await sender.send(call(f"http://quick.example:{receiver.port}/"))
        assert attempt.status == 200
        for late, _ in await slow:
            assert late.error == "no connection from slow.example within 0.4 s"
        released.set()
        await asyncio.sleep(0)
    await sender.close()


async def test_where_nobody_listens_it_is_told(sender: WebhookSender) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        attempt, _ = await sender.send(call(f"http://127.0.0.1:{free.getsockname()[1]}/"))
    assert attempt.error == "no connection to 127.0.0.1: connection refused"


async def test_a_host_that_does_not_take_the_connection_is_given_up_in_time(sender: WebhookSender) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:  # the queue of those who wait to be accepted is full now
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        attempt, _ = await sender.send(call(f"http://127.0.0.1:{port}/", timeout_s=2))
        for each in waiting:
            each.close()
    assert attempt.error == "no connection to 127.0.0.1 in time"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "//x/", "x", "", "http://x:0x/"])
async def test_what_is_no_url_is_not_called(sender: WebhookSender, url: str) -> None:
    attempt, _ = await sender.send(call(url))
    assert attempt.status is None
    assert attempt.error == "the URL cannot be called"


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    sender: WebhookSender, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password s3cret\n")
    got: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await request(reader))
        writer.write(OK)
        await writer.drain()

    async with receiving(hanging) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        attempt = await sent(sender, behave)
        assert (attempt.status, proxy.connections) == (200, 0)
    assert b"authorization" not in got[0].lower()


@asynccontextmanager
async def proxying(*, refuses: bool = False) -> AsyncIterator[tuple[Receiver, list[str]]]:
    """A proxy on loopback that takes every host for a port of it there."""
    asked: list[str] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0].decode())
        if refuses:
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        elif asked[-1].startswith("CONNECT"):
            port = int(asked[-1].split()[1].rpartition(":")[2])
            there, onwards = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(carry(reader, onwards), carry(there, writer))
        else:
            writer.write(OK)

    async with receiving(behave) as receiver:
        yield receiver, asked


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65_536):
        writer.write(piece)
    writer.close()


async def test_with_a_proxy_it_connects_to_receivers_that_are_in_no_private_network(
    authority: trustme.CA, ca_file: Path
) -> None:
    tls = serving(authority.issue_cert("hook.example"))
    async with proxying() as (proxy, asked), receiving(answering(OK), tls=tls) as receiver:
        sender = WebhookSender(limits=SOON, ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}", look_up=names())
        attempt, _ = await sender.send(call("http://hook.example/x", allowed=()))
        assert (attempt.status, attempt.address) == (200, "127.0.0.1")
        attempt, _ = await sender.send(call(f"https://hook.example:{receiver.port}/x", allowed=(), timeout_s=2))
        assert (attempt.status, attempt.error) == (200, None)
        assert asked == ["POST http://hook.example/x HTTP/1.1", f"CONNECT hook.example:{receiver.port} HTTP/1.1"]
        await sender.close()


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1", "10.0.0.1", "localhost", "[::1]", "2130706433"])
async def test_a_proxy_is_not_asked_for_an_address_that_is_refused(host: str) -> None:
    async with proxying() as (proxy, asked):
        sender = WebhookSender(limits=SOON, proxy=f"http://127.0.0.1:{proxy.port}")
        attempt, _ = await sender.send(call(f"http://{host}/", allowed=()))
        await sender.close()
    assert (attempt.status, attempt.address, asked) == (None, None, [])
    assert (attempt.error or "").startswith("refused: ")


async def test_receivers_in_a_private_network_are_reached_without_the_proxy() -> None:
    async with proxying() as (proxy, asked), receiving(answering(OK)) as receiver:
        sender = WebhookSender(limits=SOON, proxy=f"http://127.0.0.1:{proxy.port}")
        attempt, _ = await sender.send(call(f"http://127.0.0.1:{receiver.port}/"))
        await sender.close()
    assert (attempt.status, receiver.connections, asked) == (200, 1, [])


async def test_a_proxy_that_refuses_or_is_away_is_told_and_its_password_is_not() -> None:
    async with proxying(refuses=True) as (proxy, _):
        sender = WebhookSender(limits=SOON, proxy=f"http://ann:s3cret@127.0.0.1:{proxy.port}")
        attempt, _ = await sender.send(call("https://hook.example/", allowed=()))
        assert attempt.error == "the proxy did not connect to hook.example: it answered 403"
    attempt, _ = await sender.send(call("https://hook.example/", allowed=()))
    assert attempt.error == "no connection to the proxy: connection refused"
    assert "s3cret" not in str(attempt)
    await sender.close()


# Connections.


async def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_no_failure(
    sender: WebhookSender,
) -> None:
    served = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        for _ in range(2):
            await request(reader)
            served += 1
            writer.write(OK)
            await writer.drain()
        await request(reader)  # and closes without an answer

    async with receiving(behave) as receiver:
        for _ in range(5):
            attempt, _ = await sender.send(call(f"http://127.0.0.1:{receiver.port}/"))
            assert (attempt.status, attempt.error) == (200, None)
        assert (served, receiver.connections) == (5, 3)


async def test_a_receiver_that_hangs_delays_no_other(sender: WebhookSender) -> None:
    async with receiving(hanging) as dead, receiving(answering(OK, keep=True)) as alive:
        waiting = [asyncio.create_task(sender.send(call(f"http://127.0.0.1:{dead.port}/"))) for _ in range(100)]
        for _ in range(20):
            attempt, _ = await sender.send(call(f"http://127.0.0.1:{alive.port}/"))
            assert attempt.status == 200
        assert not any(each.done() for each in waiting)
        assert all(attempt.status is None for attempt, _ in await asyncio.gather(*waiting))


async def test_a_receiver_that_hangs_delays_no_other_at_its_host() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"POST /hangs " in await request(reader):
            await reader.read()
        writer.write(OK)
        await writer.drain()

    sender = WebhookSender()  # whose connections have the time that a busy computer needs for so many
    async with receiving(behave) as host:
        url = f"http://127.0.0.1:{host.port}"
        waiting = [asyncio.create_task(sender.send(call(f"{url}/hangs", timeout_s=30))) for _ in range(100)]
        while host.connections < 64:  # noqa: ASYNC110  # of a socket
            await asyncio.sleep(0.005)
        attempt, _ = await sender.send(call(f"{url}/answers", timeout_s=5))
        assert attempt.status == 200
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await sender.close()


async def test_pools_of_receivers_that_are_not_sent_to_any_more_are_closed(sender: WebhookSender) -> None:
    async with receiving(answering(OK, keep=True)) as receiver:
        for number in range(MOST_POOLS + 20):
            await sender.send(call("http://10.0.0.1/", allowed=(f"192.168.{number % 256}.{number // 256}/32",)))
        attempt, _ = await sender.send(call(f"http://127.0.0.1:{receiver.port}/"))
        assert attempt.status == 200
    assert len(sender._pools._pools) <= MOST_POOLS + 1


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def sent_over_tls(tls: ssl.SSLContext | None, ca_file: Path | None, behaviour: Behaviour) -> Attempt:
    sender = WebhookSender(limits=SOON, look_up=names(hook_example=["127.0.0.1"]), ca_file=ca_file)
    async with receiving(behaviour, tls=tls) as receiver:
        attempt, _ = await sender.send(call(f"https://hook.example:{receiver.port}/", timeout_s=2))
    await sender.close()
    return attempt


async def test_the_certificate_is_verified_against_the_host_of_the_url(authority: trustme.CA, ca_file: Path) -> None:
    tls = serving(authority.issue_cert("hook.example"))
    attempt = await sent_over_tls(tls, ca_file, answering(OK))
    assert (attempt.status, attempt.error, attempt.address) == (200, None, "127.0.0.1")


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        ("another authority", "is signed by an authority that is not known here"),
        ("another host", "is for another host"),
        ("expired", "has expired"),
        ("not yet", "is not valid yet"),
        ("self-signed", "is self-signed"),
        ("for clients", "is not meant for servers"),
    ],
)
async def test_a_bad_certificate_is_told_in_plain_words(
    authority: trustme.CA, ca_file: Path, problem: str, says: str, tmp_path: Path
) -> None:
    now = dt.datetime.now(dt.UTC)
    if problem == "self-signed":
        tls = self_signed("hook.example", tmp_path)
    elif problem == "for clients":
        tls = self_signed("hook.example", tmp_path, authority=authority)
    else:
        issuer = trustme.CA() if problem == "another authority" else authority
        host = "other.example" if problem == "another host" else "hook.example"
        since = now + dt.timedelta(days=1) if problem == "not yet" else None
        until = now - dt.timedelta(days=1) if problem == "expired" else None
        tls = serving(issuer.issue_cert(host, not_before=since, not_after=until))
    attempt = await sent_over_tls(tls, ca_file, answering(OK))
    assert attempt.status is None
    assert attempt.error == f"the certificate of hook.example {says}"


async def test_without_its_authority_a_good_certificate_is_refused(authority: trustme.CA) -> None:
    attempt = await sent_over_tls(serving(authority.issue_cert("hook.example")), None, answering(OK))
    assert "authority that is not known" in (attempt.error or "")


async def test_a_server_without_tls_is_told(ca_file: Path) -> None:
    attempt = await sent_over_tls(None, ca_file, answering(OK))
    assert attempt.status is None
    assert "TLS" in (attempt.error or "") or "in time" in (attempt.error or ""), attempt.error


async def test_a_server_that_hangs_in_the_handshake_is_given_up_in_time(ca_file: Path) -> None:
    attempt = await sent_over_tls(None, ca_file, hanging)
    assert attempt.error == "no connection to hook.example (127.0.0.1) in time"


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("nothing", "no certificate in PEM")])
def test_a_file_of_authorities_that_is_none_is_told_at_the_start(
    tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidConfiguration, match=f"COUNTERSIGN_WEBHOOK_CA_FILE.*{says}"):
        WebhookSender(ca_file=path)


# Secrets.


async def test_a_message_that_cannot_be_signed_is_not_sent_and_the_secret_is_not_told(sender: WebhookSender) -> None:
    async with receiving(answering(OK)) as receiver:
        for secrets in ((), ("whsec_dG9vIHNob3J0",), ("whpk_" + "A" * 43 + "=",), (SECRET, "hunter2!")):
            attempt, _ = await sender.send(replace(call(f"http://127.0.0.1:{receiver.port}/"), secrets=secrets))
            assert (attempt.error or "").startswith("not signed: ")
            assert not any(secret in (attempt.error or "") for secret in secrets)
        assert receiver.connections == 0


async def test_secrets_of_a_url_are_in_no_record(sender: WebhookSender) -> None:
    for behaviour in (answering(OK), answering(b"garbage\r\n\r\n"), hanging):
        async with receiving(behaviour) as receiver:
            url = f"http://ann:s3cret@127.0.0.1:{receiver.port}/s3cret?token=s3cret"
            attempt, _ = await sender.send(call(url))
        assert "s3cret" not in str(attempt)
    attempt, _ = await sender.send(call("http://ann:s3cret@hook.invalid:1x/?token=s3cret"))
    assert "s3cret" not in str(attempt)
    assert "s3cret" not in repr(call("http://x/", timeout_s=1))
    assert SECRET not in repr(call("http://x/"))


def self_signed(host: str, folder: Path, *, authority: trustme.CA | None = None) -> ssl.SSLContext:
    """A certificate that is its own issuer; or, of an authority, one that is for clients alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    issuer, signing_key = name, key
    if authority is not None:
        issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
        signing_key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)  # type: ignore[assignment]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    )
    if authority is not None:
        usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
    certificate = builder.sign(signing_key, hashes.SHA256())
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context

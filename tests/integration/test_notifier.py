"""Notifications to people, on real sockets: a mail server, and sinks that stand where Slack and Teams are."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from app.adapters.messenger import Messenger
from app.adapters.notifier import WAYS, Notifier, checked_url
from app.adapters.webhook_sender import WebhookSender
from app.domain.deliveries import Attempt, Call
from app.domain.endpoints import Channel

# Apprise imports it where it is still there.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
TEAMS = (
    "https://prod-1.westus.logic.azure.com:443/workflows/abc123/triggers/manual/paths/invoke"
    "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=s3cret"
)
MAIL = "mailto://127.0.0.1:{port}?from=gate@example.com&to=risk@example.com"
EVENT = {
    "type": "countersign.promotion.failed.v1",
    "data": {
        "model": "iris",
        "to_version": "7",
        "alias": "production",
        "promotion": "prm_1",
        "reason": "no <room> & more",
    },
}


def call(channel: Channel, url: str, *, timeout_s: float = 5.0, body: str | None = None) -> Call:
    return Call("", (url,), "msg_1", json.dumps(EVENT) if body is None else body, 1, (), timeout_s, channel)


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    notifier = Notifier("https://gate.example/")
    yield notifier
    await notifier.close()


async def told(notifier: Notifier, channel: Channel, url: str, **changes: object) -> Attempt:
    attempt, retry_after = await notifier.send(replace(call(channel, url), **changes))  # type: ignore[arg-type]
    assert retry_after is None
    return attempt


@dataclass
class Sink:
    """Stands where a chat is."""

    port: int = 0
    status: int = 200
    answer: str = "ok"
    got: list[tuple[str, dict[str, object]]] = field(default_factory=list)


@asynccontextmanager
async def sinking(tls: ssl.SSLContext | None = None) -> AsyncIterator[Sink]:
    sink = Sink()

    async def take(request: web.Request) -> web.Response:
        sink.got.append((request.path_qs, await request.json()))
        headers = {"location": "http://169.254.169.254/"} if 300 <= sink.status < 400 else None
        return web.Response(status=sink.status, text=sink.answer, headers=headers)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    sink.port = runner.addresses[0][1]
    try:
        yield sink
    finally:
        await runner.cleanup()


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sink]:
    from apprise.plugins.slack import NotifySlack

    async with sinking() as sink:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{sink.port}/services")
        yield sink


async def test_slack_is_told_in_plain_words(notifier: Notifier, slack: Sink) -> None:
    attempt = await told(notifier, Channel.SLACK, SLACK)
    assert (attempt.status, attempt.error) == (200, None)
    [(path, payload)] = slack.got
    assert path == "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    [attachment] = payload["attachments"]  # type: ignore[misc]
    assert attachment["title"] == "iris 7 → @production: failed"
    assert "Why: no (room) &amp; more" in attachment["text"]
    assert attachment["text"].endswith("https://gate.example/console/promotions/prm_1")
    assert "footer_icon" not in attachment


@pytest.mark.parametrize(("status", "seen"), [(404, 404), (410, 410), (429, 429), (500, 500), (302, 302)])
async def test_what_slack_answers_is_the_status_of_the_attempt(
    notifier: Notifier, slack: Sink, status: int, seen: int
) -> None:
    slack.status = status
    attempt = await told(notifier, Channel.SLACK, SLACK)
    assert attempt.status == seen
    assert len(slack.got) == 1
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in str(attempt)


async def test_teams_is_told_over_tls_by_a_workflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    ways = {**WAYS, Channel.TEAMS: replace(WAYS[Channel.TEAMS], hosts=("localhost",))}
    notifier = Notifier("https://gate.example", ways=ways)
    async with sinking(tls) as sink:
        sink.status = 202
        url = TEAMS.replace("prod-1.westus.logic.azure.com:443", f"localhost:{sink.port}")
        attempt = await told(notifier, Channel.TEAMS, url)
        assert (attempt.status, attempt.error) == (200, None)
        [(path, payload)] = sink.got
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        attempt = await told(notifier, Channel.TEAMS, url)
        assert attempt.status is None  # its certificate is nobody's
    await notifier.close()
    assert path.startswith("/workflows/abc123/triggers/manual/paths/invoke?")
    assert "sig=s3cret" in path
    text = json.dumps(payload, ensure_ascii=False)
    assert "iris 7 → @production: failed" in text
    assert "Why: no (room) & more" in text
    assert "[Open in Countersign](https://gate.example/console/promotions/prm_1)" in text


class Inbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.refuses = False

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's
        if self.refuses:
            return "554 no"
        self.envelopes.append(envelope)
        return "250 taken"


@pytest.fixture
async def mail() -> AsyncIterator[tuple[Inbox, int]]:
    inbox = Inbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(inbox), "127.0.0.1", 0)
    yield inbox, server.sockets[0].getsockname()[1]
    server.close()


async def test_an_e_mail_is_sent_as_text(notifier: Notifier, mail: tuple[Inbox, int]) -> None:
    inbox, port = mail
    attempt = await told(notifier, Channel.EMAIL, MAIL.format(port=port))
    assert (attempt.status, attempt.error) == (200, None)
    [envelope] = inbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("gate@example.com", ["risk@example.com"])
    assert isinstance(envelope.content, bytes)
    message = message_from_bytes(envelope.content, policy=policy.default)
    assert message["subject"] == "iris 7 → @production: failed"
    assert message.get_content_type() == "text/plain"
    text = message.get_content()
    assert "Why: no (room) & more" in text
    assert "https://gate.example/console/promotions/prm_1" in text


async def test_a_mail_server_that_refuses_or_is_away_is_told(notifier: Notifier, mail: tuple[Inbox, int]) -> None:
    inbox, port = mail
    inbox.refuses = True
    attempt = await told(notifier, Channel.EMAIL, MAIL.format(port=port))
    assert (attempt.status, attempt.error) == (None, "E-Mail could not be reached, or refused it")
    attempt = await told(notifier, Channel.EMAIL, MAIL.format(port=1).replace("mailto://", "mailto://u:s3cret@"))
    assert attempt.status is None
    assert "s3cret" not in str(attempt)


async def test_who_hangs_is_given_up_in_time_and_holds_up_no_program(notifier: Notifier) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = MAIL.format(port=server.sockets[0].getsockname()[1])
    attempt = await told(notifier, Channel.EMAIL, url, timeout_s=0.2)
    assert attempt.status is None
    assert attempt.error in {"not taken within 0.2 s", "E-Mail could not be reached, or refused it"}
    server.close()


async def test_one_who_hangs_holds_up_nobody_else(notifier: Notifier, slack: Sink) -> None:
    is_over = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = MAIL.format(port=server.sockets[0].getsockname()[1])
    hanging = [asyncio.create_task(told(notifier, Channel.EMAIL, url, timeout_s=20)) for _ in range(8)]
    await asyncio.sleep(0)
    attempt = await told(notifier, Channel.SLACK, SLACK)
    assert (attempt.status, len(slack.got)) == (200, 1)
    assert not any(each.done() for each in hanging)
    is_over.set()
    assert {each.status for each in await asyncio.gather(*hanging)} == {None}
    server.close()


@pytest.mark.parametrize("body", ["", "[]", "nonsense", '"text"'])
async def test_a_message_that_is_no_event_is_not_sent(notifier: Notifier, slack: Sink, body: str) -> None:
    attempt = await told(notifier, Channel.SLACK, SLACK, body=body)
    assert (attempt.error, slack.got) == ("the message is no event", [])


@pytest.mark.parametrize(
    ("channel", "url"),
    [
        (Channel.SLACK, ""),
        (Channel.SLACK, "postgresql://countersign:s3cret@db/countersign"),
        (Channel.SLACK, "whsec_s3cret"),
        (Channel.SLACK, "http://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/s3cret"),
        (Channel.SLACK, "https://hooks.slack.com.evil.example/services/T1JJ3T3L2/A1BRTD4JD/s3cret"),
        (Channel.SLACK, "https://hooks.slack.com@evil.example/services/T1JJ3T3L2/A1BRTD4JD/s3cret"),
        (Channel.SLACK, SLACK + "?verify=no"),
        (Channel.SLACK, SLACK + "?redirect=yes"),
        (Channel.SLACK, SLACK + "#x"),
        (Channel.SLACK, MAIL),
        (Channel.TEAMS, SLACK),
        (Channel.TEAMS, TEAMS.replace("logic.azure.com", "logic.azure.com.evil.example")),
        (Channel.TEAMS, TEAMS.replace("https://", "https://x@")),
        (Channel.TEAMS, TEAMS.replace("prod-1.westus.logic.azure.com", "169.254.169.254")),
        (Channel.TEAMS, TEAMS + "&template=/etc/passwd"),
        (Channel.TEAMS, TEAMS + "&template=http://evil.example/"),
        (Channel.TEAMS, TEAMS + "&verify=no"),
        (Channel.TEAMS, TEAMS + "&+X-Header=1"),
        (Channel.TEAMS, TEAMS + "&:token=1"),
        (Channel.EMAIL, "mailto://u:s3cret@mail.example?pgpprv=/etc/ssl/private/key"),
        (Channel.EMAIL, "mailtos://u:s3cret@mail.example?verify=no"),
        (Channel.EMAIL, "mailtos://u:s3cret@mail.example?to=a@example.com;verify=no&%76erify=no"),
        (Channel.EMAIL, "json://evil.example/"),
        (Channel.EMAIL, "syslog://"),
        (Channel.EMAIL, "exec:///bin/sh"),
        (Channel.EMAIL, "file:///etc/passwd"),
        (Channel.EMAIL, "mailto://mail.example\\@evil.example"),
        (Channel.EMAIL, "mailto://mail.example:x/"),
        (Channel.EMAIL, "mailto:ann@example.com"),
    ],
)
async def test_what_is_not_of_the_channel_is_not_called_and_not_shown(
    notifier: Notifier, channel: Channel, url: str
) -> None:
    with pytest.raises(ValueError, match="the secret of the endpoint: expected"):
        checked_url(channel, url)
    attempt = await told(notifier, channel, url)
    assert (attempt.status, (attempt.error or "")[:34]) == (None, "the secret of the endpoint: expect")
    assert "s3cret" not in str(attempt)


async def test_what_apprise_does_not_understand_is_told(notifier: Notifier) -> None:
    attempt = await told(notifier, Channel.SLACK, "https://hooks.slack.com/nothing/of/this")
    assert attempt.error == "the secret of the endpoint is not a URL that messages can be sent to"


async def test_nothing_secret_is_logged_even_when_everything_is(
    notifier: Notifier, slack: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await told(notifier, Channel.SLACK, SLACK)
        slack.status = 500
        await told(notifier, Channel.SLACK, SLACK)
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in caplog.text


async def test_the_channel_decides_who_sends(slack: Sink) -> None:
    messenger = Messenger(WebhookSender(), Notifier("https://gate.example"))
    to_people, _ = await messenger.send(call(Channel.SLACK, SLACK))
    to_a_program, _ = await messenger.send(call(Channel.WEBHOOK, SLACK))
    await messenger.close()
    assert (to_people.status, len(slack.got)) == (200, 1)
    assert (to_a_program.error or "").startswith("not signed")

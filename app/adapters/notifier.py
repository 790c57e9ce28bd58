"""Tells people: the same deliveries as to programs, by apprise to Slack, Microsoft Teams, or by e-mail.

Where a message goes is a secret of the operator's: the URL of a Slack or Teams webhook, or ``mailto://``. Apprise knows
far more than these, with options that read files, follow redirects or trust any certificate: of each channel only the
hosts and the options in the table are taken.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

from app.adapters.clock import SystemClock
from app.domain.deliveries import Attempt, Call
from app.domain.endpoints import Channel
from app.domain.notifications import Notification, notification_of
from app.ports import Clock

if TYPE_CHECKING:
    from apprise import NotifyBase

AT_ONCE = 32
TO_ONE = 2
"""Messages under way to one receiver: one that hangs leaves threads to the others."""
TAKEN = 200
"""The status of an attempt that Slack, Teams or the mail server took; each has its own way to say so."""

_MARKUP = re.compile(r"[\\`*_~#\[\]<>]")
_STATUS = re.compile(r"error=(\d{3})\b")


@dataclass(frozen=True, slots=True)
class _Way:
    """What the URL of a channel may be. A host that starts with a dot stands for all below it; none: any host."""

    schemes: frozenset[str]
    hosts: tuple[str, ...]
    options: frozenset[str]
    added: str
    expected: str
    is_markdown: bool = False


WAYS: Mapping[Channel, _Way] = {
    Channel.SLACK: _Way(
        frozenset({"https"}),
        ("hooks.slack.com", "hooks.slack-gov.com"),
        frozenset(),
        "image=no&footer=no",
        "the URL of a Slack webhook, as https://hooks.slack.com/services/…",
    ),
    Channel.TEAMS: _Way(
        frozenset({"https"}),
        (".logic.azure.com", ".logic.azure.us", ".api.powerplatform.com"),
        frozenset({"api-version", "sp", "sv", "sig"}),
        "image=no",
        "the URL of a Teams workflow, as https://….logic.azure.com/workflows/…/triggers/manual/paths/invoke?…",
        is_markdown=True,  # in which alone it knows links
    ),
    Channel.EMAIL: _Way(
        frozenset({"mailto", "mailtos"}),
        (),
        frozenset({"from", "to", "cc", "bcc", "name", "reply", "smtp", "mode", "user", "pass"}),
        "format=text",
        "mailtos://user:password@host?from=…&to=…, with the address of a mail server",
    ),
}


class Notifier:
    """See ``app.ports.WebhookSender``: the first secret of a call says where it goes.

    Apprise blocks, therefore it runs in threads of its own. One whose time is up is left behind, and ends with its
    sockets' time-outs; what it sent meanwhile is sent again.

    Args:
        public_url: where the console is.
        ways: what URLs may be, for tests.
    """

    def __init__(self, public_url: str, *, clock: Clock | None = None, ways: Mapping[Channel, _Way] = WAYS) -> None:
        self._public_url = public_url.rstrip("/")
        self._clock = clock or SystemClock()
        self._ways = ways
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="notifier")
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(TO_ONE))

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, call: Call) -> tuple[Attempt, float | None]:
        started, began = self._clock.now(), time.perf_counter()
        status: int | None = None
        error: str | None = None
        try:
            notification = notification_of(_message(call.body), public_url=self._public_url)
            where = checked_url(call.channel, call.secrets[0] if call.secrets else "", self._ways)
            async with asyncio.timeout(call.timeout_s):
                status, error = await self._told(where, notification, call)
        except TimeoutError:
            error = f"not taken within {call.timeout_s:g} s"
        except ValueError as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001  # apprise and its plugins raise anything
            error = f"not sent: {type(failure).__name__}"
        duration = round((time.perf_counter() - began) * 1000)
        return Attempt(call.number, started, duration, status, error, ""), None

    async def _told(self, where: str, notification: Notification, call: Call) -> tuple[int | None, str | None]:
        turns, loop = self._turns[where], asyncio.get_running_loop()
        await turns.acquire()
        is_markdown = self._ways[call.channel].is_markdown
        telling = self._threads.submit(_tell, where, notification, is_markdown, call.timeout_s)

        def give_back(_telling: Future[tuple[int | None, str | None]]) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(turns.release)

        # When the thread has ended: not before, though nobody waits for it any more.
        telling.add_done_callback(give_back)
        return await asyncio.wrap_future(telling)


def checked_url(channel: Channel, url: str, ways: Mapping[Channel, _Way] = WAYS) -> str:
    """The URL as apprise is given it.

    Raises:
        ValueError: it is not one of this channel's; says what was expected, and nothing of the URL.
    """
    way = ways[channel]
    expected = ValueError(f"the secret of the endpoint: expected {way.expected}")
    try:
        parts = urlsplit(url)
        _ = parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise expected from None
    if not url.isprintable() or not url.isascii() or " " in url or "\\" in url or "#" in url:
        raise expected
    if parts.scheme not in way.schemes or not parts.hostname or not _is_host_of(way, parts):
        raise expected
    if {name.lower() for name, _ in options} - way.options:
        raise expected
    return f"{url}{'&' if parts.query else '?'}{way.added}"


def _is_host_of(way: _Way, parts: SplitResult) -> bool:
    if not way.hosts:
        return True
    host = parts.hostname or ""
    known = any(host.endswith(each) if each.startswith(".") else host == each for each in way.hosts)
    return known and "@" not in parts.netloc


def _message(body: str) -> Mapping[str, object]:
    try:
        message = json.loads(body)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ValueError("the message is no event")  # noqa: TRY004  # of the delivery, which is told like the rest
    return message


def _tell(url: str, notification: Notification, is_markdown: bool, timeout_s: float) -> tuple[int | None, str | None]:
    """The status of the attempt, and why it failed."""
    import apprise  # noqa: PLC0415  # a tenth of a second and 150 plugins, for a process that may never tell anybody

    _quiet()
    asset = apprise.AppriseAsset(
        app_id="Countersign",
        http_redirects=False,
        storage_mode="memory",
        async_mode=False,
        allow_templates=False,
        service_timeout=timeout_s,
    )
    plugin = apprise.Apprise.instantiate(url, asset=asset)
    if plugin is None or not _is_safe(plugin, url):
        return None, "the secret of the endpoint is not a URL that messages can be sent to"
    plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout_s
    service = apprise.Apprise(asset=asset)
    service.add(plugin)
    kind = apprise.NotifyType.FAILURE if notification.is_alarm else apprise.NotifyType.INFO
    title, body = _in_markdown(notification) if is_markdown else _as_text(notification)
    with service.notify(
        title=title,
        body=body,
        notify_type=kind,
        body_format=apprise.NotifyFormat.MARKDOWN if is_markdown else apprise.NotifyFormat.TEXT,
        log_level=logging.WARNING,
    ) as result:
        if result:
            return TAKEN, None
        said = " ".join(entry.message for entry in result.logs())
    status = _STATUS.search(said)
    if status is not None:
        return int(status[1]), None
    return None, f"{plugin.service_name} could not be reached, or refused it"


def _as_text(notification: Notification) -> tuple[str, str]:
    return notification.title, f"{notification.text}\n\n{notification.link}"


def _in_markdown(notification: Notification) -> tuple[str, str]:
    lines = [_literal(line) for line in notification.text.splitlines()]
    return _literal(notification.title), "\n\n".join([*lines, f"[Open in Countersign]({notification.link})"])


def _literal(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)


def _is_safe(plugin: NotifyBase, url: str) -> bool:
    """Whether apprise understood the URL as we did."""
    from apprise.plugins.email.base import NotifyEmail  # noqa: PLC0415  # as apprise itself
    from apprise.plugins.slack import NotifySlack  # noqa: PLC0415
    from apprise.plugins.workflows import NotifyWorkflows  # noqa: PLC0415

    if not isinstance(plugin, NotifyEmail | NotifySlack | NotifyWorkflows):
        return False
    if isinstance(plugin, NotifyWorkflows) and (plugin.template or plugin.host != urlsplit(url).hostname):
        return False
    return bool(plugin.verify_certificate) and not plugin.redirects


def _quiet() -> None:
    """URLs hold secrets, and these libraries log them when everything is logged."""
    logging.getLogger("apprise").propagate = False
    for name in ("apprise", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)

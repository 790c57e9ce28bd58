"""``countersign deployments``: what runs where, whether it should, its history; having a target called again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Limit, Reason, Timeout, say, seconds
from countersign_client.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from countersign_client.wire import Json

deployments = typer.Typer(help="What runs where: versions on targets, and whether they should.", no_args_is_help=True)


def _an_id(value: str) -> str:
    if not value.startswith("dep_"):
        raise typer.BadParameter("expected an id, as dep_…; `countersign deployments list` has them")
    return value


DeploymentId = Annotated[
    str, typer.Argument(metavar="ID", help="The deployment, as dep_…", show_default=False, callback=_an_id)
]
WaitForIt = Annotated[bool, typer.Option("--wait", "-w", help="Until the target has done it; the exit status says so.")]

_ENDS = frozenset({"Ready", "Failed", "Errored", "Superseded"})
_ALL = 100
_LISTED = 200
"""Calls that one answer has: they are long."""
_PAUSES_S = (0.2, 3.0)
"""Between two looks at a deployment: the first, and the longest."""


class Phase(StrEnum):
    REQUESTED = "Requested"
    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    READY = "Ready"
    FAILED = "Failed"
    ERRORED = "Errored"
    SUPERSEDED = "Superseded"


@deployments.command(name="list")
def list_deployments(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of this model.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="On this target.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option("--version", "-v", help="Of this one.", show_default=False)] = None,
    promotion: Annotated[str | None, typer.Option("--promotion", help="By this one.", show_default=False)] = None,
    phase: Annotated[Phase | None, typer.Option("--phase", help="In this one.", show_default=False)] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="In this one.", show_default=False)] = None,
    limit: Limit = 200,
    gateway: GatewayOption = None,
    *,
    drift: Annotated[bool, typer.Option("--drift", help="What is not as it should be; 7 if there is such.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what runs where.

    \b
    countersign deployments list --model iris
    countersign deployments list --drift || echo "look at it"
    """
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.following import Exit
    from countersign_client.wire import moment_of, plain

    asked = {"model": model, "target": target, "version": version, "promotion": promotion, "workspace": workspace}
    query = {name: value for name, value in asked.items() if value is not None}
    if phase:
        query["phase"] = phase.value
    if drift:
        query["drifted"] = "true"
    found = list(pages(chosen(gateway), "/deployments", query, limit=limit))
    if as_json:
        print_json({"items": found})
    else:
        table = Table("id", "target", "model", "serves", "since", "health", "rollout", "drift")
        for each in found:
            served = _part(each, "served")
            table.add_row(
                *(plain(each.get(name)) for name in ("id", "target", "resource")),
                _shares_in_words(each),
                moment_of(served.get("since")) if _serves_alone(each) else "",
                plain(each.get("health")),
                _rollout(each),
                plain(each.get("drift_message")),
            )
        print_table(table)
    if drift and found:
        raise typer.Exit(Exit.FAILED)


@deployments.command()
def show(deployment_id: DeploymentId, gateway: GatewayOption = None, *, as_json: AsJson = False) -> None:
    """Show a deployment: what the target is to serve, what it says it serves, since when, and whether that is right."""
    from countersign_client.calls import call

    found = call(chosen(gateway), "GET", _path(deployment_id))
    if as_json:
        print_json(found)
        return
    for title, value in told(found):
        if value:
            typer.echo(f"{title:<14}{value}")


@deployments.command()
def history(
    deployment_id: DeploymentId, limit: Limit = 50, gateway: GatewayOption = None, *, as_json: AsJson = False
) -> None:
    """List what a target was to serve of a model, newest first, and what came of it."""
    from rich.table import Table

    from countersign_client.calls import pages
    from countersign_client.wire import moment_of, plain

    found = list(pages(chosen(gateway), f"{_path(deployment_id)}/generations", {}, limit=limit))
    if as_json:
        print_json({"items": found})
        return
    table = Table("generation", "to serve", "rollout", "called", "ready", "promotion", "because")
    for each in found:
        because = [plain(each.get("reason")), plain(each.get("message"))]
        table.add_row(
            plain(str(each.get("generation"))),
            _desired(each),
            plain(each.get("phase")),
            moment_of(each.get("requested_at")),
            moment_of(each.get("ready_at")),
            plain(each.get("promotion_id")),
            ": ".join(part for part in because if part),
        )
    print_table(table)


@deployments.command()
def redeploy(
    deployment_id: DeploymentId,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; others read it.", show_default=False)] = "",
    timeout: Timeout = "30m",
    gateway: GatewayOption = None,
    *,
    wait: WaitForIt = False,
    as_json: AsJson = False,
) -> None:
    """Have a target be called again with the same version; what was taken away from it comes back.

    Needs the role responder, or a login with `--scope admin`.
    """
    _act(chosen(gateway), deployment_id, "redeploy", reason, wait_s=_wait(timeout, wait=wait), as_json=as_json)


@deployments.command()
def remove(
    deployment_id: DeploymentId,
    reason: Reason,
    timeout: Timeout = "30m",
    gateway: GatewayOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: WaitForIt = False,
    as_json: AsJson = False,
) -> None:
    """Take a model away from a target. Its alias stays where it is, and its next promotion deploys it again.

    Needs the role responder, or a login with `--scope admin`.
    """
    address, wait_s = chosen(gateway), _wait(timeout, wait=wait)
    if not yes:
        typer.confirm(f"Have {deployment_id} serve nothing any more?", abort=True)
    _act(address, deployment_id, "remove", reason, wait_s=wait_s, as_json=as_json)


@deployments.command()
def desired(
    target: Annotated[str, typer.Argument(help="The target's name.", show_default=False)],
    gateway: GatewayOption = None,
) -> None:
    """Print what a target is to serve as JSON, as its deployer pulls it. Needs the role deployer."""
    from countersign_client.calls import call, items

    address, after = chosen(gateway), ""
    found: list[Mapping[str, object]] = []
    while True:
        page = call(
            address, "GET", f"/targets/{quote(target, safe='')}/desired", query={"after": after, "limit": str(_LISTED)}
        )
        found += items(page.get("items"))
        if not isinstance(following := page.get("next_after"), str):
            break
        after = following
    print_json({"target": target, "items": found})


def told(found: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A deployment, as titles and what is said under them."""
    from countersign_client.calls import items
    from countersign_client.wire import moment_of, plain

    served = _part(found, "served")
    yield "deployment", plain(found.get("id"))
    yield "what", f"{plain(found.get('resource'))} on {plain(found.get('target'))}"
    yield "to serve", f"{_desired(found)}, by {plain(found.get('promotion_id'))}"
    since = f"{moment_of(served.get('since'))}, by {plain(served.get('promotion_id'))}"
    if _serves_alone(found):
        yield "serves", f"version {_shares_in_words(found)} since {since}"
    else:
        yield "serves", _shares_in_words(found) or ("nothing" if served else "nothing yet")
        yield "served alone", f"version {plain(served.get('version'))}, from {since}" if served else ""
    for each in items(found.get("serving")):
        where = f" at {plain(each.get('url'))}" if each.get("url") else ""
        ready = "" if each.get("ready") else ", not ready"
        yield "it says", f"version {plain(each.get('version'))}, {plain(str(each.get('weight')))} %{ready}{where}"
    yield "health", plain(found.get("health"))
    yield "rollout", _rollout(found)
    reason = [plain(found.get("reason")), plain(found.get("message"))]
    yield "because", ": ".join(part for part in reason if part)
    yield "heard of", moment_of(found.get("heard_at")) or "never"
    yield "told nothing", plain(found.get("obstacle"))
    yield "digest", plain(found.get("digest"))
    if found.get("drift"):
        yield "drift", f"{plain(found.get('drift'))} since {moment_of(found.get('drifted_since'))}"
        yield "", plain(found.get("drift_message"))


def _act(gateway: str, deployment_id: str, what: str, reason: str, *, wait_s: float | None, as_json: bool) -> None:
    """Have something done to a deployment, say what came of it, and end with the status of that."""
    from countersign_client.following import Exit, created

    document: dict[str, Json] = {"reason": reason}
    made = created(gateway, f"{_path(deployment_id)}/{what}", document, say=say())
    if wait_s is not None:
        made = _ended(gateway, deployment_id, made, timeout_s=wait_s)
    if as_json:
        print_json(made)
    else:
        for title, value in told(made):
            if value and title in {"what", "to serve", "rollout", "because"}:
                typer.echo(f"{title:<14}{value}")
    if wait_s is None or made.get("phase") == "Ready":
        return
    raise typer.Exit(Exit.FAILED if made.get("phase") in _ENDS else Exit.TIMED_OUT)


def _ended(gateway: str, deployment_id: str, made: Mapping[str, object], *, timeout_s: float) -> Mapping[str, object]:
    """A deployment when its target has done what it was asked to do, or as it is when the time is over."""
    from countersign_client.calls import call
    from countersign_client.following import retried

    deadline, tell, found = time.monotonic() + timeout_s, say(), made
    pause, longest = _PAUSES_S
    told_last = ""
    while found.get("phase") not in _ENDS and (left := deadline - time.monotonic()) > 0:
        if (line := _rollout(found)) != told_last:
            tell(line)
            told_last = line
        time.sleep(min(pause, left))
        pause = min(2 * pause, longest)
        found = retried(lambda: call(gateway, "GET", _path(deployment_id)), deadline=deadline, say=tell)
    return found


def _wait(timeout: str, *, wait: bool) -> float | None:
    return seconds(timeout, "--timeout") if wait else None


def _desired(found: Mapping[str, object]) -> str:
    from countersign_client.wire import plain

    if found.get("action") == "remove":
        return "nothing"
    stable, weight = _part(found, "stable"), found.get("weight")
    rest = f", version {plain(stable.get('version'))} the rest" if stable else ""
    return f"version {plain(found.get('version'))}" + (f" ({weight} %{rest})" if weight != 100 or rest else "")


def _shares(found: Mapping[str, object]) -> list[Mapping[str, object]]:
    """What gets requests now, the most first, as the gateway's console tells it (``Deployment.shares`` there)."""
    from countersign_client.calls import items

    shares, served, stable = list(items(found.get("serving"))), _part(found, "served"), _part(found, "stable")
    if not shares and found.get("phase") == "Ready" and found.get("action") == "apply":
        weight = number if isinstance(number := found.get("weight"), int) else _ALL
        rest = [{"version": stable.get("version"), "weight": _ALL - weight, "ready": True}] if stable else []
        shares = [{"version": found.get("version"), "weight": weight, "ready": True}, *rest]
    elif not shares and served:
        shares = [{"version": served.get("version"), "weight": _ALL, "ready": True}]
    return sorted((each for each in shares if each.get("weight")), key=_weight, reverse=True)


def _weight(share: Mapping[str, object]) -> int:
    return weight if isinstance(weight := share.get("weight"), int) else 0


def _serves_alone(found: Mapping[str, object]) -> bool:
    """Whether the version that was served with all requests last gets them all."""
    version = _part(found, "served").get("version")
    return [(each.get("version"), _weight(each)) for each in _shares(found)] == [(version, _ALL)]


def _shares_in_words(found: Mapping[str, object]) -> str:
    from countersign_client.wire import plain

    def told(share: Mapping[str, object]) -> str:
        weight = f"{_weight(share)} %" if _weight(share) != _ALL else ""
        more = ", ".join(part for part in (weight, "" if share.get("ready") else "not ready") if part)
        return plain(share.get("version")) + (f" ({more})" if more else "")

    return ", ".join(told(each) for each in _shares(found))


def _rollout(found: Mapping[str, object]) -> str:
    from countersign_client.wire import plain

    return f"{plain(found.get('phase'))} (generation {plain(str(found.get('generation')))})"


def _part(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = found.get(name)
    return part if isinstance(part, Mapping) else {}


def _path(deployment_id: str) -> str:
    return f"/deployments/{quote(deployment_id, safe='')}"

"""The course from projects to served models: everything is examined first, then done step by step.

Each step is written down (``ledger``), so that who runs it again goes on where it was: what has not changed is not
trained again, what was promoted is not asked for again.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import requests

from countersign_client.addresses import LOOPBACK, origin_of
from countersign_client.bootstrapping.ledger import Entry, Ledger, Training
from countersign_client.bootstrapping.problems import NotReady, Problem, Stopped
from countersign_client.bootstrapping.projects import NAMES, Environment, Project, environment_of, fingerprint, read
from countersign_client.bootstrapping.ray import Dashboard, Ray, dashboard_of
from countersign_client.bootstrapping.registry import Registry
from countersign_client.bootstrapping.renewing import renewing
from countersign_client.bootstrapping.training import Run, environment_for, needs_renewing, train
from countersign_client.calls import call
from countersign_client.deploying import (
    NotDeployed,
    Protection,
    ask_for,
    deployment_of,
    follow_until_live,
    protection_of,
    url_of,
)
from countersign_client.errors import ClientError, NotSignedIn, Unreachable
from countersign_client.following import Answer, Exit, end_of, retried
from countersign_client.wire import NO_PROXY, plain

if TYPE_CHECKING:
    from countersign_client.bootstrapping.forwarding import Listener

Say = Callable[[str], None]

_GUIDE = "docs/guides/bootstrap.md"
_NOT_IN_FILTERS = re.compile(r"[^A-Za-z0-9_.-]+")
_PAUSE_S = 0.5
_TIMEOUT_S = (3, 30)
_ASKED_AGAIN = frozenset({"failed", "stale", "expired"})
"""Ends of a promotion after which the same version may be asked for again; of the others, somebody said no."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. Times are in seconds; lists as they were given."""

    names: str
    paths: str
    ports: str
    gateway: str
    parameters: str = ""
    alias: str = "production"
    target: str | None = None
    experiment: str | None = None
    manager: str = "auto"
    only: tuple[str, ...] = ()
    output: Path = Path("models_to_serve.json")
    timeout_s: int = 600
    approval_timeout_s: int = 86_400
    reason: str = "countersign bootstrap"
    retrain: bool = False
    serve_at: str | None = None
    """The address to listen at for the models' own ports; none: the ports are written down only."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What is to be done, and everything that it takes is there."""

    order: Order
    projects: tuple[Project, ...]
    environments: dict[str, Environment]
    protections: dict[str, Protection]
    target: str
    ray: Ray
    ledger: Ledger
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A model whose promotion is asked for."""

    entry: Entry
    refused: Mapping[str, object] | None = None
    """The promotion, if somebody said no to it: whatever the target is to serve is served."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that answers."""

    entry: Entry
    version: str
    """The one that answered: a later one than ``entry.version``, if somebody has promoted one since."""
    digest: str


def examine(order: Order, say: Say, *, already: Sequence[Problem] = ()) -> Examined:
    """Look whether everything is there, before anything is begun. Waits for the gateway and for Ray.

    ``already`` is what is known to be wrong; without a gateway, that is among it.

    Raises:
        NotReady: all that is in the way.
    """
    ledger = Ledger(order.output.absolute())
    try:
        return _examined(order, ledger, say, already)
    except BaseException:
        ledger.let_go()
        raise


def _examined(order: Order, ledger: Ledger, say: Say, already: Sequence[Problem]) -> Examined:
    projects, problems = read(order.names, order.paths, order.ports, order.parameters)
    problems += already
    known = {project.name for project in projects}
    problems += [
        Problem("--only", f"{plain(name)} is not in {NAMES}") for name in order.only if known and name not in known
    ]
    projects = [project for project in projects if not order.only or project.name in order.only]
    dashboard = dashboard_of(os.environ)
    if isinstance(dashboard, Problem):
        problems.append(dashboard)
    environments = {}
    if missing := _missing_packages(order):
        problems += missing
    else:
        for project in projects:
            environments[project.name], found = environment_of(project, order.manager)
            problems += found
    if unusable := ledger.read():
        problems.append(unusable)
    protections, target = dict[str, Protection](), ""
    if order.gateway:
        problems += _of_tracking(order.gateway)
        protections, target, found = _ask_gateway(order, projects, say, is_patient=not problems)
        problems += found
    if problems or isinstance(dashboard, Problem):
        raise NotReady(problems)
    listeners, problems = _take_ports(order, projects)
    if problems:
        raise NotReady(problems)
    ray = _reach(dashboard, order, say)
    return Examined(order, tuple(projects), environments, protections, target, ray, ledger, tuple(listeners))


def carry_out(examined: Examined, say: Say) -> list[Served]:
    """Train, register, promote, and wait until each answers.

    Raises:
        Stopped, NotDeployed: a step failed.
        Refused, NotSignedIn, Unreachable, UnsafeStore: the gateway does not let it.
    """
    order, registry = examined.order, Registry(examined.order.gateway)
    try:
        if not order.only:
            examined.ledger.keep_only(project.name for project in examined.projects)
        entries = [_trained(project, examined, registry, say) for project in examined.projects]
        entries = _as_all_left(entries, examined)
        # All are asked for before one is waited for: whoever approves, approves all at once.
        asked = [_asked_for(entry, examined, say) for entry in entries]
        return [_live(entry, examined, say) for entry in asked]
    finally:
        examined.ledger.let_go()


def _missing_packages(order: Order) -> list[Problem]:
    needed = ["mlflow", *(["aiohttp"] if order.serve_at else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    hint = "install it with: pip install 'countersign-client[bootstrap]'"
    return [Problem("Python", f"the package {name} is missing; {hint}") for name in missing]


def _of_tracking(gateway: str) -> list[Problem]:
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if tracking and origin_of(tracking) != gateway:
        return [Problem("MLFLOW_TRACKING_URI", f"it is not the gateway {gateway}: models are registered through that")]
    return []


def _ask_gateway(
    order: Order, projects: Sequence[Project], say: Say, *, is_patient: bool
) -> tuple[dict[str, Protection], str, list[Problem]]:
    """What policies say of each model; the target; and what is wrong with those."""
    deadline = time.monotonic() + (order.timeout_s if is_patient else 0)
    protections: dict[str, Protection] = {}
    problems: list[Problem] = []
    try:
        retried(lambda: call(order.gateway, "GET", "/me"), deadline=deadline, say=say if is_patient else _nothing)
        for project in projects:
            found = protection_of(order.gateway, project.name, order.alias)
            if found is None:
                problems.append(_unprotected(project, order.alias))
            elif not found.targets or (order.target is not None and order.target not in found.targets):
                problems.append(_elsewhere(project, found, order.target))
            else:
                protections[project.name] = found
    except NotSignedIn as error:
        return {}, "", [*problems, Problem("gateway", str(error), Exit.LOGIN_NEEDED)]
    except Unreachable as error:
        return {}, "", [*problems, Problem("gateway", str(error), Exit.UNREACHABLE)]
    except ClientError as error:
        return {}, "", [*problems, Problem("gateway", str(error), Exit.REFUSED)]
    targets = {order.target} if order.target else {name for each in protections.values() for name in each.targets}
    if len(targets) > 1:
        problems.append(Problem("--target", f"policies deploy these models to {', '.join(sorted(targets))}: name one"))
    return protections, next(iter(targets), ""), problems


def _unprotected(project: Project, alias: str) -> Problem:
    what = f"no policy protects its alias {alias}, so nothing would deploy it; {_GUIDE} shows a policy that does"
    return Problem(project.name, what)


def _elsewhere(project: Project, found: Protection, target: str | None) -> Problem:
    places = f"deploys to {', '.join(found.targets)}" if found.targets else "deploys nowhere"
    wanted = f"target {target}" if target else "a target that serves from this Ray"
    what = (
        f"policy {found.policy}, which protects its alias {found.alias}, {places}: {wanted} is to be in its `targets`"
    )
    return Problem(project.name, f"{what}; {_GUIDE} shows how to make one")


def _take_ports(order: Order, projects: Sequence[Project]) -> tuple[list[Listener], list[Problem]]:
    if order.serve_at is None:
        return [], []
    from countersign_client.bootstrapping.forwarding import Listener, close, take_port  # noqa: PLC0415  # aiohttp

    taken = [take_port(project.name, order.serve_at, project.port) for project in projects]
    listeners = [each for each in taken if isinstance(each, Listener)]
    problems = [each for each in taken if isinstance(each, Problem)]
    if problems:
        close(listeners)
    return listeners, problems


def _reach(dashboard: Dashboard, order: Order, say: Say) -> Ray:
    if dashboard.said:
        say(dashboard.said)
    ray = Ray(dashboard)
    if problem := ray.reached(timeout_s=order.timeout_s, say=say):
        if problem.exit is Exit.UNREACHABLE:
            problem = replace(
                problem, what=f"{problem.what} It was waited for {order.timeout_s} s (SERVE_WAIT_TIMEOUT)."
            )
        raise NotReady([problem])
    return ray


def _trained(project: Project, examined: Examined, registry: Registry, say: Say) -> Entry:
    order, ledger = examined.order, examined.ledger
    mark, before = fingerprint(project), _before(project, order, ledger)
    is_same = before.version and mark in {before.project, before.left} and not order.retrain
    if is_same and _patiently(order, say, lambda: registry.has(project.name, before.version, before.run_id)):
        say(f"[{project.name}] has not changed since version {before.version} was trained: it is not trained again")
        return ledger.put(replace(before, training=None))
    training = None if order.retrain else _finished(project, mark, before.training, examined, registry, say)
    if training is None:
        training = _train(project, mark, before, examined, say)
    run_id, version = _patiently(order, say, lambda: _registered(project, training, registry))
    say(f"[{project.name}] version {version}, of run {run_id}")
    uri = f"models:/{quote(project.name, safe=' @')}/{version}"
    left = training.left or fingerprint(project)
    new = Entry(project.name, str(project.path), project.port, training.project, run_id, version, uri, left)
    return ledger.put(replace(new, gateway=order.gateway, alias=order.alias))


def _as_all_left(entries: Sequence[Entry], examined: Examined) -> list[Entry]:
    """Where several models are of one folder, what the training of one left there is no change to the others."""
    paths = [entry.path for entry in entries]
    return [
        examined.ledger.put(replace(entry, left=fingerprint(project))) if paths.count(entry.path) > 1 else entry
        for project, entry in zip(examined.projects, entries, strict=True)
    ]


def _before(project: Project, order: Order, ledger: Ledger) -> Entry:
    """What is known of a model at this gateway; of a promotion, if it is to this alias. What is not known is empty."""
    known = ledger.get(project.name)
    if known is None or known.gateway not in {"", order.gateway}:
        return Entry(project.name, str(project.path), project.port, gateway=order.gateway, alias=order.alias)
    if known.alias not in {"", order.alias}:
        known = replace(known, alias=order.alias, promotion="", digest="", url="")
    return replace(known, path=str(project.path), port=project.port, gateway=order.gateway)


def _finished(
    project: Project, mark: str, begun: Training | None, examined: Examined, registry: Registry, say: Say
) -> Training | None:
    """The training that was begun, if it is of this project as it is now, and came to its end."""
    if begun is None or mark not in {begun.project, begun.left}:
        return None
    found = _patiently(examined.order, say, lambda: registry.run_named(begun.experiment, begun.run))
    if found is None or not found.is_finished:
        return None
    say(f"[{project.name}] was trained already, by run {found.run_id}: it is not trained again")
    return begun


def _train(project: Project, mark: str, before: Entry, examined: Examined, say: Say) -> Training:
    """Train, with what the run is called written down before: whatever happens afterwards, it is found again."""
    order, ledger, environment = examined.order, examined.ledger, examined.environments[project.name]
    if environment.said:
        say(f"[{project.name}] {environment.said}")
    name = f"bootstrap-{_NOT_IN_FILTERS.sub('-', project.name)}-{secrets.token_hex(4)}"
    run = Run(project, environment.manager, order.experiment or project.name, name)
    training = Training(mark, run.experiment, run.name)
    ledger.put(replace(before, training=training))
    say(f"[{project.name}] $ mlflow run {project.path} --env-manager {run.manager}")
    with renewing(order.gateway) if needs_renewing(order.gateway, run.manager) else nullcontext() as renewed:
        train(run, environment_for(order.gateway, renewed), say)
    training = replace(training, left=fingerprint(project))
    ledger.put(replace(before, training=training))
    return training


def _registered(project: Project, training: Training, registry: Registry) -> tuple[str, str]:
    """Run and version; again, it is the same version."""
    found = registry.run_named(training.experiment, training.run)
    if found is None:
        raise Stopped(f"{project.name}: the run is not there; did the project log to another server?", Exit.FAILED)
    version = registry.version_of(project.name, found.run_id)
    if version is None:
        model_id = registry.logged_model(found.experiment_id, found.run_id, project.name)
        version = registry.register(project.name, model_id, found.run_id)
    return found.run_id, version


def _patiently(order: Order, say: Say, step: Callable[[], Answer]) -> Answer:
    """What a step returns, tried again while the gateway is away: hours of training are behind some. It may be done
    twice.
    """
    return retried(step, deadline=time.monotonic() + order.timeout_s, say=say)


def _asked_for(entry: Entry, examined: Examined, say: Say) -> _Asked:
    order = examined.order
    if entry.promotion:
        path = f"/promotions/{quote(entry.promotion, safe='')}"
        known = _patiently(order, say, lambda: call(order.gateway, "GET", path))
        # Entries of before did not say to which alias.
        if (entry.alias or plain(known.get("alias")) or order.alias) == order.alias:
            entry = replace(entry, alias=order.alias)
            if end_of(known) in {None, Exit.DONE, Exit.BLOCKED}:
                return _Asked(entry)
            if plain(known.get("state")) not in _ASKED_AGAIN:
                return _refused(entry, known, examined, say)
    promotion = ask_for(
        *(order.gateway, entry.name, entry.version, order.alias),
        reason=order.reason,
        within_s=order.timeout_s,
        say=say,
    )
    protection = examined.protections[entry.name]
    asked = plain(promotion.get("id"))
    needed = f", which asks for: {', '.join(protection.approvals)}" if protection.approvals else ""
    say(f"[{entry.name}] {asked}: version {entry.version} to {order.alias}, under policy {protection.policy}{needed}")
    if page := plain(promotion.get("console")):
        say(f"[{entry.name}]   for people: {page}")
    return _Asked(examined.ledger.put(replace(entry, promotion=asked, alias=order.alias)))


def _refused(entry: Entry, promotion: Mapping[str, object], examined: Examined, say: Say) -> _Asked:
    """What became of a version that somebody said no to: the target serves another, or nothing."""
    order = examined.order
    state, why = plain(promotion.get("state")), plain(promotion.get("state_reason")) or "without a reason"
    is_over = (
        f"version {entry.version} is not asked for again: promotion {entry.promotion} is {state}, {why}. "
        "Change the project, or run with --retrain."
    )
    there = _patiently(order, say, lambda: deployment_of(order.gateway, examined.target, entry.name))
    if there is None:
        raise Stopped(f"{entry.name}: {is_over}", Exit.ENDED)
    say(f"[{entry.name}] {is_over} What {examined.target} is to serve is served until then.")
    return _Asked(entry, promotion)


def _live(asked: _Asked, examined: Examined, say: Say) -> Served:
    order, entry = examined.order, asked.entry
    needs_people = bool(examined.protections[entry.name].approvals)
    limit = order.timeout_s + (order.approval_timeout_s if needs_people else 0)
    try:
        done = asked.refused or follow_until_live(
            order.gateway, entry.promotion, timeout_s=limit, say=lambda line: say(f"[{entry.name}] {line}")
        )
    except NotDeployed as error:
        raise NotDeployed(f"{entry.name}: {error}", error.exit) from None
    digest = plain(done.get("digest"))
    deployment = _patiently(order, say, lambda: deployment_of(order.gateway, examined.target, entry.name))
    if deployment is None or not (url := url_of(deployment)):
        how = "done" if asked.refused is None else plain(asked.refused.get("state"))
        raise Stopped(
            f"{entry.name}: promotion {entry.promotion} is {how}, but {examined.target} does not say where it serves "
            "it: it was removed from there, or the policy did not name the target then (`countersign deployments`).",
            Exit.FAILED,
        )
    version = plain(deployment.get("version"))
    if version != entry.version:
        if asked.refused is None:
            say(f"[{entry.name}] version {version} was promoted since: that one is served")
        digest = plain(deployment.get("digest"))
    _until_it_answers(entry.name, version, url, order.timeout_s)
    if examined.ray.serves(digest) is False:
        raise Stopped(
            f"{entry.name}: target {examined.target} serves it at {url}, but not from the Ray at {examined.ray.url}: "
            "RAY_ADDRESS and the target's deployer mean different clusters.",
            Exit.FAILED,
        )
    kept = examined.ledger.put(replace(entry, url=url, digest=plain(done.get("digest"))))
    say(f"[{entry.name}] version {version} answers at {url}")
    return Served(kept, version, digest)


def _until_it_answers(name: str, version: str, url: str, timeout_s: float) -> None:
    """Return once ``GET url`` is answered by this version (or by one that does not say which)."""
    deadline, seen = time.monotonic() + timeout_s, "nothing"
    while True:
        try:
            with requests.get(
                url,
                auth=lambda request: request,  # what ~/.netrc has is not for it
                proxies=NO_PROXY if urlsplit(url).hostname in LOOPBACK else None,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as answer:
                answered_by = answer.headers.get("X-Model-Version", version)
                if answer.status_code == requests.codes.ok and answered_by == version:
                    return
                seen = f"{answer.status_code} by version {plain(answered_by)}"
        except requests.RequestException:
            seen = "no answer"
        if time.monotonic() > deadline:
            raise Stopped(f"{name}: {url} does not answer with version {version} ({seen}).", Exit.TIMED_OUT)
        time.sleep(_PAUSE_S)


def _nothing(_: str) -> None:
    pass

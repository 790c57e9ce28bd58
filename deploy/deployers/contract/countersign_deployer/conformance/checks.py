"""What is examined, in this order: each check has a name, what is expected in one sentence, and how it is looked at."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

import httpx
from pydantic import ValidationError

from countersign_deployer.conformance.gateway import Forgery, Json, PlayedGateway, Received
from countersign_deployer.conformance.play import Nonconforming, Play, Subject, Unreachable
from countersign_deployer.contract import MOST_BYTES, DeploymentStatus
from countersign_deployer.phases import FOLLOWING, REASONS, Phase, Reason
from countersign_deployer.signatures import BadSignature, verify

NO_DIGEST = f"sha256:{'0' * 64}"


class Result(StrEnum):
    """How a check went."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check went, and why if it did not pass."""

    check: str
    expected: str
    result: Result
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the contract says."""

    name: str
    expected: str
    look: Callable[[Play], None]
    needs: str | None = None
    """A check without which this one says nothing."""


CHECKS: list[Check] = []


def examine(subject: Subject, gateway: PlayedGateway, *, skip: Collection[str] = ()) -> Iterator[Outcome]:
    """Look at everything but what is to be skipped, one after the other.

    Raises:
        Unreachable: nobody answers at the deployer's address.
    """
    with httpx.Client(follow_redirects=False, trust_env=False) as client:
        _reach(client, subject)
        play = Play(subject, gateway, client)
        unmet: set[str] = set()
        for check in CHECKS:
            outcome = Outcome(check.name, check.expected, Result.PASSED)
            if check.name in skip:
                outcome = replace(outcome, result=Result.SKIPPED, seen="you said so")
            elif check.needs in unmet:
                outcome = replace(outcome, result=Result.SKIPPED, seen=f"'{check.needs}' did not pass")
            else:
                try:
                    check.look(play)
                except Nonconforming as seen:
                    outcome = replace(outcome, result=Result.FAILED, seen=str(seen))
            if outcome.result is not Result.PASSED:
                unmet.add(check.name)
            yield outcome


def _reach(client: httpx.Client, subject: Subject) -> None:
    """Wait until somebody is there; the checks will say more. It may have waited for us: we are its gateway."""
    give_up_at = time.monotonic() + subject.bounds.start_s
    while True:
        try:
            client.get(subject.url, timeout=subject.bounds.answer_s)
        except httpx.ConnectError:
            if time.monotonic() > give_up_at:
                raise Unreachable(f"nobody answers at {subject.url}") from None
            time.sleep(0.05)
        except httpx.HTTPError:
            return
        else:
            return


def _check(name: str, expected: str, *, needs: str | None = None) -> Callable[[Callable[[Play], None]], None]:
    def add(look: Callable[[Play], None]) -> None:
        CHECKS.append(Check(name, expected, look, needs))

    return add


# --- who may call


@_check("unsigned", "a call without a signature is answered 401")
def _(play: Play) -> None:
    with _hints(play):
        _expect(play.deliver(json.dumps(play.event(play.data())), {}), 401)


@_check("wrong secret", "a call that is signed with another secret is answered 401")
def _(play: Play) -> None:
    event = play.event(play.data())
    _expect(play.post(event["id"], json.dumps(event), secret=play.subject.callback_secret), 401)


@_check("old", "a call that was signed ten minutes ago is answered 401")
def _(play: Play) -> None:
    event = play.event(play.data())
    _expect(play.post(event["id"], json.dumps(event), late_s=-600), 401)


@_check("from the future", "a call that is signed for in ten minutes is answered 401")
def _(play: Play) -> None:
    event = play.event(play.data())
    _expect(play.post(event["id"], json.dumps(event), late_s=600), 401)


@_check("other body", "a call whose body is not what was signed is answered 401")
def _(play: Play) -> None:
    event = play.event(play.data())
    signed = play.sign(event["id"], json.dumps(event))
    _expect(play.deliver(json.dumps({**event, "data": {**event["data"], "generation": 2**60}}), signed), 401)


@_check("no trace", "what was refused leaves no trace: a signed GET of its deployment is answered 404")
def _(play: Play) -> None:
    _expect(play.status(), 404)


# --- what may be asked for


@_check("not JSON", "a signed body that is not JSON is answered 400")
def _(play: Play) -> None:
    _expect(play.post(f"evt_{secrets.token_hex(8)}", "nonsense"), 400)


@_check("too long", "a call of more than 256 KiB is answered 413")
def _(play: Play) -> None:
    event = play.event(play.data())
    _expect(play.post(event["id"], json.dumps(event) + " " * MOST_BYTES), 413)


@_check("unknown target", "a call for another target is answered 422 with a problem that names data.target")
def _(play: Play) -> None:
    _expect_problem(play.send(play.data(target=f"not-{play.subject.target}")), "target")


@_check("incomplete", "a call without a generation is answered 422 with a problem that names data.generation")
def _(play: Play) -> None:
    data = play.data()
    del data["generation"]
    _expect_problem(play.send(data), "generation")


@_check("foreign callback", "a call to report elsewhere than to the gateway is answered 422, naming data.callback.url")
def _(play: Play) -> None:
    elsewhere = f"https://elsewhere.invalid/control/v1/deployments/{play.deployment_id}/status"
    # The second one only begins like the gateway's address.
    for url in (elsewhere, elsewhere.replace("https://", f"{play.gateway.url}@")):
        with _about(url):
            _expect_problem(play.send(play.data(callback={"url": url})), "callback")


@_check("foreign files", "files elsewhere than the deployer may load from are answered 422, naming the uri")
def _(play: Play) -> None:
    model, data = play.subject.model, play.data()
    elsewhere = ["https://elsewhere.invalid/models/"]
    if model.uri.startswith("file:"):
        elsewhere.append(f"{model.uri}{'../' * 64}etc/")
    for uri in elsewhere:
        with _about(uri):
            _expect_problem(play.send({**data, "model": {**data["model"], "uri": uri}}), "uri")
        with _about(f"{uri} of the stable version"):
            stable = {"version": "3", "uri": uri, "digest": model.digest}
            _expect_problem(play.send({**data, "traffic": {"weight": 10, "stable": stable}}), "uri", "traffic")


# --- a version goes live


@_check("accepted", "a call is answered 202 {result: accepted, observed_generation} in time")
def _(play: Play) -> None:
    play.gateway.refuse_next(1)  # see 'retry'
    data = play.call()
    play.live = data
    with _hints(play):
        _expect(play.send(data), 202, result="accepted", observed_generation=data["generation"])


@_check("ready", "the version is reported Ready with the whole traffic, and that it is ready", needs="accepted")
def _(play: Play) -> None:
    _expect_ready(play, play.live["generation"], {"1": 100})


@_check("retry", "a report that we answered 503 comes again: same webhook-id, same body, signed anew", needs="accepted")
def _(play: Play) -> None:
    refused = [each for each in play.gateway.received if each.answered == 503]
    if not refused:
        raise Nonconforming("no report came")
    first = refused[0]

    def again() -> list[Received]:
        return [each for each in play.gateway.received if each.id == first.id][1:]

    if not play.gateway.wait_for(again, play.subject.bounds.retry_s):
        raise Nonconforming(f"it did not come again in {play.subject.bounds.retry_s:g} s")
    if any(each.body != first.body for each in again()):
        raise Nonconforming("another body under the same webhook-id")


@_check("unchanged", "the same generation with the same content is answered 200 {result: unchanged}", needs="ready")
def _(play: Play) -> None:
    event = play.event(play.live)
    for _ in range(2):  # the second time it is a replay: the same id, too
        _expect(play.post(event["id"], json.dumps(event)), 200, result="unchanged")


@_check(
    "conflict",
    "the same generation with another digest, traffic or config is answered 409; an unknown option may be 422",
    needs="ready",
)
def _(play: Play) -> None:
    live = play.live
    for change in (
        {"model": {**live["model"], "digest": NO_DIGEST}},
        {"traffic": {"weight": 50, "stable": None}},
        {"config": {"other": True}},
        {"action": "remove"},
    ):
        with _about(f"with another {next(iter(change))}"):
            answer = play.send({**live, **change})
            if "config" in change and answer.status_code == 422:  # who knows no such option may say so first
                _expect_problem(answer, "config")
            else:
                _expect(answer, 409)


@_check("late call", "a lower generation is answered 200 {result: superseded, current_generation}", needs="ready")
def _(play: Play) -> None:
    current = play.live["generation"]
    answer = play.send({**play.live, "generation": current - 1})
    _expect(answer, 200, result="superseded", current_generation=current)
    if (told := _status(play)["generation"]) != current:
        raise Nonconforming(f"afterwards the status is of generation {told}")


@_check("status", "a signed GET of the deployment is answered 200 with what was last reported", needs="ready")
def _(play: Play) -> None:
    status = _status(play)
    last = play.reports_of(play.live["generation"])[-1].data
    for member in ("deployment_id", "target", "resource", "generation", "phase", "reason"):
        if status.get(member) != last.get(member):
            raise Nonconforming(f"{member} is {status.get(member)!r}, reported was {last.get(member)!r}")


@_check("signed status", "the answer is signed with the callback secret, for this webhook-id", needs="ready")
def _(play: Play) -> None:
    answer = play.status()
    if answer.headers.get("webhook-id") != answer.request.headers["webhook-id"]:
        raise Nonconforming(f"its webhook-id is {answer.headers.get('webhook-id')!r}")
    try:
        verify(answer.content, answer.headers, [play.subject.callback_secret])
    except BadSignature as error:
        raise Nonconforming(str(error)) from None


@_check("private status", "a GET that is unsigned, or signed for another path, is answered 401")
def _(play: Play) -> None:
    with _about("unsigned"):
        _expect(play.status(signed_for=None), 401)
    with _about("signed for another path"):
        _expect(play.status(signed_for="/v1/deployments/dep_other"), 401)


@_check("unknown status", "a signed GET of an unknown deployment is answered 404 with a problem")
def _(play: Play) -> None:
    answer = play.status("dep_unknown")
    _expect(answer, 404)
    _expect_problem_type(answer)


# --- what goes wrong


@_check("bad model", "a version without files ends Failed with a reason; the earlier one serves on", needs="ready")
def _(play: Play) -> None:
    bad = play.subject.bad_uri or f"{play.subject.model.uri.rstrip('/')}/there-is-nothing/"
    data = play.call("2")
    data["model"] |= {"uri": bad, "digest": NO_DIGEST}  # its own, or who keeps what it has loaded would have it
    _expect_failure(play, data, any_of=[r for r, kind in REASONS.items() if kind.ends_in is Phase.FAILED])


@_check("other bytes", "files of another digest end Failed, DigestMismatch; the earlier one serves on", needs="ready")
def _(play: Play) -> None:
    data = play.call("2")
    data["model"]["digest"] = NO_DIGEST
    _expect_failure(play, data, any_of=[Reason.DIGEST_MISMATCH])


@_check(
    "other stable bytes",
    "so do other files of the stable version, and what served has its share; who cannot split requests answers 422",
    needs="ready",
)
def _(play: Play) -> None:
    live = play.live["model"]
    stable = {"version": live["version"], "uri": live["uri"], "digest": NO_DIGEST}
    data = play.call("2", traffic={"weight": 10, "stable": stable})
    answer = play.send(data)
    if answer.status_code == 422:
        _expect_problem(answer, "traffic")
        return
    end = _failed(play, data, answer, any_of=[Reason.DIGEST_MISMATCH])
    serving = [each for each in end.get("serving") or [] if isinstance(each, dict) and each.get("ready") is True]
    if not any(each.get("version") == live["version"] and each.get("weight") in range(90, 101) for each in serving):
        raise Nonconforming(f"serving is {json.dumps(serving)}, expected version {live['version']} as it was")


@_check("newer wins", "of two calls in a row both end, and the newer one is what serves", needs="ready")
def _(play: Play) -> None:
    older, newer = play.call("2"), play.call("1")
    for data in (older, newer):
        _expect(play.send(data), 202, result="accepted")
    _expect_ready(play, newer["generation"], {"1": 100})
    play.live = newer
    end = play.end_of(older["generation"])
    if end["phase"] not in {Phase.SUPERSEDED, Phase.READY}:
        raise Nonconforming(f"the older one ended {end['phase']} ({end.get('reason')}: {end.get('message')})")


# --- traffic


@_check("weights", "10 % go to the new version and 90 % to the stable one, or the call is answered 422", needs="ready")
def _(play: Play) -> None:
    stable = {key: play.live["model"][key] for key in ("version", "uri", "digest")}
    for weight in (0, 10):
        data = play.call("2", traffic={"weight": weight, "stable": stable})
        answer = play.send(data)
        if answer.status_code == 422:
            _expect_problem(answer, "traffic")
            return
        _expect(answer, 202, result="accepted")
        _expect_ready(play, data["generation"], {"2": weight, "1": 100 - weight})
        play.live = data


# --- what is desired


@_check("desired", "what is desired is asked for, signed, and taken like a call", needs="ready")
def _(play: Play) -> None:
    data = play.call("2")
    play.gateway.desire([data])
    _await_ask(play)
    if not all(ask.is_signed for ask in play.gateway.asks):
        raise Nonconforming("the question was not signed with the callback secret, over `GET <path>`")
    _expect_ready(play, data["generation"], {"2": 100})
    play.live = data


@_check(
    "forged desired", "an answer that is not the gateway's, or not to this question, changes nothing", needs="desired"
)
def _(play: Play) -> None:
    play.gateway.desire([])
    forged = {forgery: play.call("1") for forgery in Forgery}
    play.gateway.forge(forged)
    while play.gateway.forges:
        _await_ask(play)
    _await_ask(play)  # the answer to the one before has been looked at
    current = _status(play)["generation"]
    for forgery, data in forged.items():
        if current == data["generation"] or play.reports_of(data["generation"]):
            raise Nonconforming(f"it took what the answer held that was {forgery}")


@_check("desired is no list of removals", "what is not listed any more serves on", needs="desired")
def _(play: Play) -> None:
    play.gateway.desire([])
    _await_ask(play)
    _await_ask(play)  # the answer to the first has been taken
    status = _status(play)
    _expect_serving(status, {play.live["model"]["version"]: 100})


@_check("removed", "after `remove` it is Ready and serves nothing; lower generations stay superseded", needs="ready")
def _(play: Play) -> None:
    lower = play.call("1")
    data = play.call(play.live["model"]["version"], action="remove")
    _expect(play.send(data), 202, result="accepted")
    _expect_ready(play, data["generation"], {})
    _expect(play.send(lower), 200, result="superseded")


# --- what was told, all in all


@_check("signed reports", "every report is signed with the callback secret", needs="accepted")
def _(play: Play) -> None:
    unsigned = sum(not each.is_signed for each in play.gateway.received)
    if unsigned:
        raise Nonconforming(f"{unsigned} of {len(play.gateway.received)} were not")


@_check("valid reports", "every report is a CloudEvent by the schema, sent to its callback", needs="accepted")
def _(play: Play) -> None:
    callback = play.data()["callback"]["url"].removeprefix(play.gateway.url)
    for each in play.gateway.received:
        mistakes = list(each.mistakes)
        if not each.path.endswith(callback):
            mistakes.append(f"sent to {each.path}")
        expected = play.data()
        mistakes += [
            f"data.{member} is {each.data.get(member)!r}"
            for member in ("deployment_id", "target", "resource")
            if each.data.get(member) != expected[member]
        ]
        if mistakes:
            raise Nonconforming("; ".join(mistakes))


@_check("sequence", "`sequence` is higher with each report of a generation", needs="accepted")
def _(play: Play) -> None:
    for generation, reports in _by_generation(play).items():
        numbers = [report.get("sequence") for report in reports]
        for before, after in pairwise(numbers):
            if not (isinstance(before, int) and isinstance(after, int) and before < after):
                raise Nonconforming(f"{before}, then {after}, of generation {generation}")


@_check("phases", "Accepted, Progressing and an end, in this order; what failed stays so", needs="accepted")
def _(play: Play) -> None:
    following = {before.value: {after.value for after in FOLLOWING[before]} for before in Phase}
    for generation, reports in _by_generation(play).items():
        for before, after in pairwise(str(report.get("phase")) for report in reports):
            if after not in following.get(before, {after}):
                raise Nonconforming(f"{before}, then {after}, of generation {generation}")


@_check("reasons", "what fails says why, with a reason that leads to that end", needs="accepted")
def _(play: Play) -> None:
    reasons: dict[str, Phase] = {reason.value: kind.ends_in for reason, kind in REASONS.items()}
    for reports in _by_generation(play).values():
        for report in reports:
            phase, reason = report.get("phase"), report.get("reason", "")
            if phase in {Phase.FAILED, Phase.ERRORED} and reasons.get(reason) != phase:
                raise Nonconforming(f"{phase} with the reason {reason!r}")
            if reason and reason not in reasons:
                raise Nonconforming(f"the reason {reason!r} is not in the list")


# --- how it is looked at


@contextmanager
def _about(what: str) -> Iterator[None]:
    try:
        yield
    except Nonconforming as seen:
        raise Nonconforming(f"{what}: {seen}") from None


@contextmanager
def _hints(play: Play) -> Iterator[None]:
    """Say what is usually amiss when nothing goes yet: an address, a secret, what the deployer allows."""
    try:
        yield
    except Nonconforming as seen:
        hints = {
            "data.callback.url": f"start the deployer with {play.gateway.url} as its gateway, or see --gateway-url",
            "data.model.uri": f"let the deployer load from {play.subject.model.uri}",
            "data.target": f"is {play.subject.target!r} its target?",
            "401": "is --secret-file what the deployer verifies calls with, and is its clock right?",
            "404": f"is {play.subject.url} where it takes calls?",
            "405": f"is {play.subject.url} where it takes calls?",
        }
        hint = next(
            (hint for sign, hint in hints.items() if f'"{sign}"' in str(seen) or str(seen).startswith(sign)), ""
        )
        raise Nonconforming(f"{seen}\n{hint}".strip()) from None


def _expect(answer: httpx.Response, status: int, **members: Any) -> None:
    if answer.status_code != status:
        raise Nonconforming(f"{answer.status_code} {answer.text[:300]}".strip())
    if members:
        body = _object(answer)
        for name, value in members.items():
            if body.get(name) != value:
                raise Nonconforming(f"{name} is {body.get(name)!r} in {answer.text[:300]}")


def _expect_problem(answer: httpx.Response, *any_of: str) -> None:
    _expect(answer, 422)
    _expect_problem_type(answer)
    errors = _object(answer).get("errors")
    fields = [str(each.get("field")) for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    if not any(field in named.split(".") for named in fields for field in any_of):
        raise Nonconforming(f"the fields named are {fields}")


def _expect_problem_type(answer: httpx.Response) -> None:
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind != "application/problem+json":
        raise Nonconforming(f"{answer.status_code}, but its Content-Type is {kind or 'missing'}")


def _object(answer: httpx.Response) -> Json:
    try:
        body = answer.json()
    except ValueError:
        raise Nonconforming(f"not JSON: {answer.text[:300]}") from None
    if not isinstance(body, dict):
        raise Nonconforming(f"not an object: {answer.text[:300]}")
    return body


def _status(play: Play) -> Json:
    answer = play.status()
    _expect(answer, 200)
    try:
        DeploymentStatus.model_validate_json(answer.content)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise Nonconforming(f"the status' {'.'.join(map(str, found['loc']))}: {found['msg']}") from None
    return _object(answer)


def _expect_ready(play: Play, generation: int, weights: dict[str, int]) -> None:
    end = play.end_of(generation)
    if end["phase"] != Phase.READY:
        raise Nonconforming(f"it ended {end['phase']} ({end.get('reason')}: {end.get('message')})")
    _expect_serving(end, weights)


def _expect_serving(status: Json, weights: dict[str, int]) -> None:
    """That what is named serves as it should. Others may still be loaded, without traffic."""
    serving = [each for each in status.get("serving") or [] if isinstance(each, dict)]
    found = {each.get("version"): each.get("weight") for each in serving if each.get("ready") is True}
    with_traffic = {version: weight for version, weight in found.items() if weight}
    expected = {version: weight for version, weight in weights.items() if weight}
    if with_traffic != expected or not set(weights) <= set(found):
        raise Nonconforming(f"serving is {json.dumps(serving)}, expected ready with the weights {weights}")


def _failed(play: Play, data: Json, answer: httpx.Response, *, any_of: Collection[Reason]) -> Json:
    _expect(answer, 202, result="accepted")
    end = play.end_of(data["generation"])
    if end["phase"] != Phase.FAILED or end.get("reason") not in any_of:
        raise Nonconforming(f"it ended {end['phase']} with the reason {end.get('reason')!r}")
    return end


def _expect_failure(play: Play, data: Json, *, any_of: Collection[Reason]) -> None:
    end = _failed(play, data, play.send(data), any_of=any_of)
    _expect_serving(end, {play.live["model"]["version"]: 100})


def _await_ask(play: Play) -> None:
    before = len(play.gateway.asks)
    if play.subject.restart is not None:
        play.subject.restart()
    if not play.gateway.wait_for(lambda: len(play.gateway.asks) > before, play.subject.bounds.pull_s):
        strayed = f" ({play.gateway.strayed[-1]})" if play.gateway.strayed else ""
        raise Nonconforming(f"nobody asked in {play.subject.bounds.pull_s:g} s{strayed}")


def _by_generation(play: Play) -> dict[int, list[Json]]:
    """The reports' data in the order they first came, without repetitions."""
    found: dict[int, dict[str, Json]] = {}
    for each in play.gateway.received:
        found.setdefault(each.generation, {}).setdefault(each.id, each.data)
    return {generation: list(reports.values()) for generation, reports in found.items()}

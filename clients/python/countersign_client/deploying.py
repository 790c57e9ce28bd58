"""What a target serves, and by which promotion it would serve something else: for MLflow's deployment client and for
`countersign bootstrap`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from countersign_client.calls import call, items, pages
from countersign_client.errors import ClientError, InvalidUsage, Refused
from countersign_client.following import PATIENCE_S, Exit, Followed, created, follow, missing, retried
from countersign_client.wire import Json, plain

_MOST = 1000
_WILD = frozenset("*?[")
_DEFAULT = "default/"
"""The workspace of what is named without one."""
_REMOVE = "remove"
_PAUSE_S = 0.3
"""Between two looks at a deployment."""
_NOT_FOUND = 404
_NO_METHOD = 405


class NotDeployed(ClientError):
    """A promotion did not end as it should have. ``exit`` says how."""

    def __init__(self, message: str, how: Exit) -> None:
        super().__init__(message)
        self.exit = how
        self.exit_code = int(how)


@dataclass(frozen=True, slots=True)
class Protection:
    """The policy that protects an alias of a model, and what it asks for and does."""

    policy: str
    alias: str
    targets: tuple[str, ...]
    approvals: tuple[str, ...]
    """The names of the rules by which people approve; none: nobody need approve."""


def protection_of(gateway: str, model: str, alias: str, *, workspace: str | None = None) -> Protection | None:
    """The policy that counts for an alias; none if it is not protected. Raises as ``calls.ask``."""
    query = {"model": model, "alias": alias, **({"workspace": workspace} if workspace else {})}
    chosen = call(gateway, "GET", "/policies/for", query=query).get("policy")
    if not isinstance(chosen, Mapping):
        return None
    name = str(chosen.get("name"))
    document = call(gateway, "GET", f"/policies/{quote(name, safe='')}").get("document")
    return _protection(name, alias, document)


def alias_for(
    gateway: str, model: str, target: str, *, alias: str | None = None, workspace: str | None = None
) -> Protection:
    """The protected alias by whose promotion a model is deployed to a target: the one that is named, or the only one.

    Raises:
        InvalidUsage: there is none, or several; what there is, is named.
        Refused, NotSignedIn, Unreachable, UnsafeStore: see ``calls.ask``.
    """
    if alias is not None:
        found = protection_of(gateway, model, alias, workspace=workspace)
        if found is None:
            raise InvalidUsage(
                f"No policy protects alias {alias} of {model}: nothing is deployed when it moves. "
                f"{_choices(_aliases_of(gateway, model, target, workspace))}"
            )
        if target not in found.targets:
            places = f"deploys to {', '.join(found.targets)}" if found.targets else "deploys nowhere"
            raise InvalidUsage(f"Policy {found.policy}, which protects {alias} of {model}, {places}, not to {target}.")
        return found
    choices = _aliases_of(gateway, model, target, workspace)
    if len(choices) != 1:
        raise InvalidUsage(f"Which alias of {model} deploys it to {target}? {_choices(choices)}")
    return choices[0]


def ask_for(
    gateway: str,
    model: str,
    version: str,
    alias: str,
    *,
    reason: str = "",
    workspace: str | None = None,
    within_s: float = PATIENCE_S,
    say: Callable[[str], None],
) -> Mapping[str, object]:
    """The promotion of a version; asked for, or found if it was asked for before. Raises as ``following.created``."""
    document: dict[str, Json] = {"model": model, "version": version, "alias": alias, "reason": reason}
    if workspace is not None:
        document["workspace"] = workspace
    made = created(gateway, "/promotions", document, within_s=within_s, say=say)
    if not plain(made.get("id")):
        raise Refused(f"{gateway} answered without a promotion; is it a Countersign gateway?")
    return made


def follow_until_live(
    gateway: str, promotion_id: str, *, timeout_s: float, say: Callable[[str], None]
) -> Mapping[str, object]:
    """The promotion, once it is done.

    Raises:
        NotDeployed: it ended otherwise, is blocked, or the time was over; with what the gateway says of it.
        Refused, NotSignedIn, Unreachable: see ``following.follow``.
    """
    followed = follow(gateway, promotion_id, timeout_s=timeout_s, say=say)
    if followed.exit is Exit.DONE:
        return followed.detail
    raise NotDeployed(how_it_ended(promotion_id, followed), followed.exit)


def how_it_ended(promotion_id: str, followed: Followed) -> str:
    """A sentence or two, in the gateway's words."""
    detail, state = followed.detail, plain(followed.detail.get("state"))
    words = [plain(detail.get("state_reason"))]
    words += [
        f"{plain(each.get('target'))}: {plain(each.get('phase'))}, {plain(each.get('message'))}"
        for each in items(detail.get("deployments"))
        if each.get("message")
    ]
    if followed.exit in {Exit.BLOCKED, Exit.TIMED_OUT}:
        words += list(missing(detail))
        stays = f"It stays open: `countersign promotions show {promotion_id} --wait` follows it."
        how = "is blocked" if followed.exit is Exit.BLOCKED else f"was still {state} when the time was over"
        return " ".join([f"Promotion {promotion_id} {how}.", *_sentences(words), stays])
    return " ".join([f"Promotion {promotion_id} is {state}.", *_sentences(words)])


def deployments_on(gateway: str, target: str, *, model: str | None = None) -> list[Mapping[str, object]]:
    """What a target is to serve, without what was removed from it. Raises as ``calls.ask``."""
    return [each for each in _known_on(gateway, target, model) if each.get("action") != _REMOVE]


def deployment_of(gateway: str, target: str, resource: str, *, removed: bool = False) -> Mapping[str, object] | None:
    """The one of a model, or of ``<workspace>/<model>``; none if the target is to serve nothing of it.

    With ``removed``, the one that was removed, if it was. Raises as ``calls.ask``.
    """
    found = _known_on(gateway, target, resource.rpartition("/")[2])
    ours = [each for each in found if each.get("resource") == resource.removeprefix(_DEFAULT)]
    return next((each for each in ours if (each.get("action") == _REMOVE) is removed), None)


def require_known(gateway: str, target: str, resource: str) -> None:
    """Return if there are such a target and such a model, as far as we may know.

    Raises:
        Refused: there are not, with status 404.
        NotSignedIn, Unreachable, UnsafeStore: see ``calls.ask``.
    """
    policies = items(call(gateway, "GET", "/policies").get("items"))
    is_named = any(target in _texts(each.get("document"), "targets") for each in policies)
    if not is_named and not any(pages(gateway, "/deployments", {"target": target}, limit=1)):
        raise Refused(
            f"No policy that you may read names a target {target}, and nothing that you may read is deployed to it.",
            status=_NOT_FOUND,
        )
    workspace, _, model = resource.removeprefix(_DEFAULT).rpartition("/")
    try:
        holder_of(gateway, model, "production", workspace=workspace or None)
    except Refused as error:
        # What is said of an alias is said of a model that is there.
        if error.status != _NOT_FOUND or "alias" not in error.problem:
            raise


def holder_of(gateway: str, model: str, alias: str, *, workspace: str | None = None) -> str:
    """The version that holds an alias; nothing if none does.

    Raises:
        Refused: there is no such model or alias.
        NotSignedIn, Unreachable, UnsafeStore: see ``calls.ask``.
    """
    path = f"/models/{quote(model, safe='')}/aliases/{quote(alias, safe='')}"
    return plain(call(gateway, "GET", path, query={"workspace": workspace} if workspace else None).get("version"))


def url_of(deployment: Mapping[str, object]) -> str:
    """Where a deployment answers, as its deployer says; nothing if that is not known."""
    for each in items(deployment.get("serving")):
        url = each.get("url")
        if isinstance(url, str) and url.startswith(("http://", "https://")) and url.isprintable():
            return url
    return ""


def redeploy(gateway: str, deployment: Mapping[str, object], *, reason: str, say: Callable[[str], None]) -> None:
    """Have a target serve again what was removed from it. Raises as ``calls.ask``."""
    created(gateway, f"{_path(deployment)}/redeploy", {"reason": reason}, say=say)


def remove(gateway: str, deployment: Mapping[str, object], *, reason: str, say: Callable[[str], None]) -> None:
    """Have a target serve nothing of a model any more. Raises as ``calls.ask``."""
    try:
        created(gateway, f"{_path(deployment)}/remove", {"reason": reason}, say=say)
    except Refused as error:
        if error.status == _NO_METHOD:
            raise Refused(f"{gateway} is older than this client: it removes no deployments.") from None
        raise


def follow_until_done(
    gateway: str, deployment: Mapping[str, object], *, timeout_s: float, say: Callable[[str], None]
) -> Mapping[str, object]:
    """A deployment, once its target has done what it is to do.

    Raises:
        NotDeployed: it could not, or not in time; with what the target says.
        Refused, NotSignedIn, Unreachable, UnsafeStore: see ``calls.ask``.
    """
    deadline, told = time.monotonic() + timeout_s, ""
    while True:
        now = retried(lambda: call(gateway, "GET", _path(deployment)), deadline=deadline, say=say)
        phase, message = plain(now.get("phase")), plain(now.get("message"))
        line = f"{plain(now.get('target'))}: {phase}{', ' if message else ''}{message}"
        if phase == "Ready":
            return now
        if phase in {"Failed", "Errored"}:
            raise NotDeployed(line, Exit.FAILED)
        if time.monotonic() > deadline:
            raise NotDeployed(f"{line}: the time was over.", Exit.TIMED_OUT)
        if line != told:
            say(line)
        told = line
        time.sleep(_PAUSE_S)


def _path(deployment: Mapping[str, object]) -> str:
    return f"/deployments/{quote(plain(deployment.get('id')), safe='')}"


def _known_on(gateway: str, target: str, model: str | None) -> list[Mapping[str, object]]:
    query = {"target": target, **({"model": model} if model is not None else {})}
    return list(pages(gateway, "/deployments", query, limit=_MOST))


def _aliases_of(gateway: str, model: str, target: str, workspace: str | None) -> list[Protection]:
    """Every alias whose policy deploys the model to the target; patterns are left as they are."""
    found = []
    for policy in items(call(gateway, "GET", "/policies").get("items")):
        document = policy.get("document")
        alias = str(document.get("alias")) if isinstance(document, Mapping) else ""
        if not alias or target not in _texts(document, "targets"):
            continue
        if _WILD & set(alias):
            continue  # any name that it matches would do: people say which
        chosen = protection_of(gateway, model, alias, workspace=workspace)
        if chosen is not None and target in chosen.targets and chosen not in found:
            found.append(chosen)
    return found


def _protection(name: str, alias: str, document: object) -> Protection:
    known = document if isinstance(document, Mapping) else {}
    rules = tuple(plain(rule.get("name")) for rule in items(known.get("approvals")))
    return Protection(name, alias, _texts(known, "targets"), rules)


def _texts(document: object, field: str) -> tuple[str, ...]:
    values = document.get(field) if isinstance(document, Mapping) else None
    return tuple(str(each) for each in values) if isinstance(values, list) else ()


def _choices(found: list[Protection]) -> str:
    if not found:
        return "No policy that names an alias of it deploys it there; see docs/guides/policies-and-targets.md."
    return "There is " + ", ".join(sorted(f"{each.alias} (policy {each.policy})" for each in found)) + "."


def _sentences(words: list[str]) -> list[str]:
    return [each if each.endswith((".", "!", "?")) else f"{each}." for each in words if each]

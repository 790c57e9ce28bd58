"""The inventory: how what a target serves differs from what it is to serve, and whether that was approved.

Nothing is concluded from what a target does not tell: a deployer may leave ``serving`` out, and is then believed by
its phase alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.deployments import Action, Deployment, Drift, Health, Serving
from app.domain.phases import Phase, Reason

SILENT_AFTER = timedelta(minutes=5)
"""A target that answers no question for so long is *silent*."""
UNSETTLED_AFTER = timedelta(seconds=60)
"""A generation that is under way, and not heard of for so long, is asked after."""
LONGEST_UNTIL_CALLED = timedelta(hours=1)
"""Between two calls of what a target goes on not knowing of."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known when a deployment is judged.

    Args:
        at: the present.
        approved: the versions that aliases hold, by our ledger, under policies that name the target; none: that is not
            known, or being changed, and what was found before stays.
    """

    at: datetime
    approved: frozenset[str] | None = None


def drift_of(deployment: Deployment, standing: Standing) -> Drift | None:
    """How it has drifted; none if it has not, or is being changed just now. The first rule that applies counts."""
    return next((drift for drift, applies in RULES if applies(deployment, standing)), None)


def _is_silent(deployment: Deployment, standing: Standing) -> bool:
    if deployment.obstacle is None or deployment.is_gone:
        return False
    heard_at = max(deployment.heard_at or deployment.requested_at, deployment.requested_at)
    return standing.at - heard_at > SILENT_AFTER


def _is_settled(deployment: Deployment, standing: Standing) -> bool:
    """Whether its target has done what it was asked to do last, or has ended in trying.

    What failed before it was ever ready is its promotion's to tell, as long as that goes on.
    """
    return deployment.was_ready or deployment.is_ready or not (deployment.is_open or standing.approved is None)


def _wanted(deployment: Deployment) -> set[str]:
    if deployment.action is Action.REMOVE:
        return set()
    return {deployment.version, *([deployment.stable.version] if deployment.stable else [])}


def _present(deployment: Deployment) -> Sequence[Serving]:
    return [each for each in deployment.serving if each.version == deployment.version]


def _has_other_bytes(deployment: Deployment, standing: Standing) -> bool:
    digests = {deployment.version: deployment.digest}
    if deployment.stable:
        digests[deployment.stable.version] = deployment.stable.digest
    return (
        _is_settled(deployment, standing)
        and deployment.action is Action.APPLY
        and any(each.digest and each.digest != digests.get(each.version, each.digest) for each in deployment.serving)
    )


def _has_other_version(deployment: Deployment, standing: Standing) -> bool:
    if not _is_settled(deployment, standing):
        return False
    wanted = _wanted(deployment)
    is_other = any(each.weight and each.version not in wanted for each in deployment.serving)
    return is_other or deployment.phase is Phase.SUPERSEDED


def _is_missing(deployment: Deployment, standing: Standing) -> bool:
    """It was ready, says that it is not any more, and tells of nothing loaded of what it is to serve."""
    return (
        _is_settled(deployment, standing)
        and deployment.action is Action.APPLY
        and not deployment.is_ready
        and not any(each.is_ready for each in _present(deployment))
        and deployment.was_ready
    )


def _is_unapproved(deployment: Deployment, standing: Standing) -> bool:
    if deployment.action is not Action.APPLY or not _is_settled(deployment, standing):
        return False
    if standing.approved is None:
        return deployment.drift is Drift.UNAPPROVED
    return deployment.version not in standing.approved


def _is_unhealthy(deployment: Deployment, standing: Standing) -> bool:
    return _is_settled(deployment, standing) and deployment.health is Health.UNHEALTHY


def _has_other_weight(deployment: Deployment, _: Standing) -> bool:
    present = _present(deployment)
    return (
        deployment.is_ready
        and deployment.action is Action.APPLY
        and bool(present)
        and sum(each.weight for each in present) != deployment.weight
    )


RULES: Sequence[tuple[Drift, Callable[[Deployment, Standing], bool]]] = (
    (Drift.SILENT, _is_silent),
    (Drift.OTHER_BYTES, _has_other_bytes),
    (Drift.OTHER_VERSION, _has_other_version),
    (Drift.MISSING, _is_missing),
    (Drift.UNAPPROVED, _is_unapproved),
    (Drift.UNHEALTHY, _is_unhealthy),
    (Drift.OTHER_WEIGHT, _has_other_weight),
)
"""Each kind of drift and when it is one, what matters most first."""


class Meaning(StrEnum):
    """What a target's answer means, when it is asked after a deployment."""

    TOLD = "told"
    LOST = "lost"
    """It does not know of the deployment: it has lost its state, and is called again."""
    MUTE = "mute"
    """It is there, and answers no such questions."""
    AWAY = "away"
    """It does not answer, or does not let us ask."""


def meaning_of(status: int | None, content_type: str) -> Meaning:
    """What an answer means. That a deployment is not known is believed of a problem document alone (RFC 9457).

    A proxy, and a deployer that knows no such address, answer 404 too.
    """
    if status == _OK:
        return Meaning.TOLD
    if status == _NOT_FOUND and content_type.partition(";")[0].strip().lower() == "application/problem+json":
        return Meaning.LOST
    return Meaning.MUTE if status in _NO_SUCH_QUESTION else Meaning.AWAY


_OK, _NOT_FOUND = 200, 404
_NO_SUCH_QUESTION = frozenset({_NOT_FOUND, 405, 501})
_ALL = 100


def is_refused(deployment: Deployment) -> bool:
    """Whether its target did not take the call: to send it the same again is no use."""
    return deployment.has_failed and deployment.reason is Reason.CALL_REFUSED


def pause_before_calling_again(deployment: Deployment, called_at: datetime) -> timedelta:
    """How long after the last call a target is called again that does not know of it.

    It is as long as it was not heard of when it was called: none at first, and then twice as long each time.
    """
    heard_at = max(deployment.heard_at or deployment.requested_at, deployment.requested_at)
    return min(called_at - heard_at, LONGEST_UNTIL_CALLED)


def judged(deployment: Deployment, standing: Standing) -> Deployment:
    """The deployment with its drift, and since when that is so."""
    drift = drift_of(deployment, standing)
    if drift is deployment.drift:
        return deployment
    return replace(deployment, drift=drift, drifted_since=standing.at if drift else None)


def drift_message(deployment: Deployment) -> str:
    """A sentence for a person; empty if it has not drifted."""
    return _MESSAGES[deployment.drift](deployment) if deployment.drift else ""


def _share(each: Serving) -> str:
    return f"version {each.version} ({each.weight} %{'' if each.is_ready else ', not ready'})"


def shares_in_words(deployment: Deployment) -> str:
    """What gets requests at a target now; empty if that is not known, or nothing does."""
    shares = deployment.shares
    if len(shares) == 1 and shares[0].weight == _ALL:
        return f"version {shares[0].version}{'' if shares[0].is_ready else ' (not ready)'}"
    return served_in_words(shares) if shares else ""


def served_in_words(serving: Collection[Serving]) -> str:
    """What a target says it serves."""
    return " and ".join(_share(each) for each in serving) or "nothing"


def desired_in_words(deployment: Deployment) -> str:
    """What a target is to serve."""
    if deployment.action is Action.REMOVE:
        return "nothing"
    rest = f" and version {deployment.stable.version} the rest" if deployment.stable else ""
    return f"version {deployment.version} ({deployment.weight} %){rest}"


def _because(deployment: Deployment) -> str:
    said = ": ".join(part for part in (str(deployment.reason), deployment.message[:300].rstrip(".")) if part)
    return f" ({said})" if said else ""


def _differs(deployment: Deployment) -> str:
    return f"It serves {served_in_words(deployment.serving)}, and is to serve {desired_in_words(deployment)}."


def _newer(deployment: Deployment) -> str:
    known = f"generation {deployment.generation}"
    return (
        f"generation {deployment.observed_generation}, newer than {known},"
        if deployment.is_behind
        else (f"something newer than {known}")
    )


_MESSAGES: dict[Drift, Callable[[Deployment], str]] = {
    Drift.SILENT: lambda each: f"The target is not heard of: {(each.obstacle or 'it does not answer').rstrip('.')}.",
    Drift.OTHER_BYTES: lambda each: (
        f"The files that it serves as {' and '.join(sorted({_share(one) for one in each.serving}))} are not those that "
        "were approved."
    ),
    Drift.OTHER_VERSION: lambda each: (
        f"It says that {_newer(each)} was asked of it. {_differs(each)}"
        if each.phase is Phase.SUPERSEDED
        else _differs(each)
    ),
    Drift.MISSING: lambda each: f"It does not say any more that it serves version {each.version}{_because(each)}.",
    Drift.UNAPPROVED: lambda each: (
        f"It serves version {each.version}, which holds no alias any more whose policy names this target."
    ),
    Drift.UNHEALTHY: lambda each: f"Version {each.version} is not well{_because(each)}.",
    Drift.OTHER_WEIGHT: _differs,
}

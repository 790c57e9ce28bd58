"""Every refusal and failure that Countersign itself can name.

::

    CountersignError
    ├── InvalidConfiguration          the operator must mend a setting
    ├── InvalidInput                  what was sent is wrong; names the field
    │   ├── TooLarge                  a body beyond the limit
    │   ├── HeadersTooLarge           headers beyond the limit
    │   └── TooSlow                   a body that stopped arriving
    ├── NotAuthenticated              who are you? (RFC 6750 section 3)
    ├── SignInFailed                  a person cannot be signed in this way
    ├── OAuthRefused                  a client of ours is refused (RFC 6749 section 5.2)
    ├── Forbidden                     you may not
    │   ├── InsufficientScope         you may, this token may not (RFC 6750 section 3.1)
    │   ├── InsufficientAuthentication  you may, after proving anew who you are (RFC 9470)
    │   ├── CrossOrigin               a page of another origin wants it, not you
    │   ├── SelfApproval              you asked for it, somebody else must approve
    │   ├── NotAnApprover             the policy does not name you
    │   ├── SelfGrant                 nobody gives this to themselves
    │   ├── PromotionRequired         a protected alias moves only through a promotion
    │   └── Governed                  a promotion rests on this; it cannot be changed or deleted
    ├── RouteRefused                  this route of MLflow is closed
    ├── UnknownRoute                  no such route
    ├── NotFound                      names what is missing
    ├── Conflict                      the state forbids it; names the state
    │   ├── IllegalMove
    │   ├── AlreadyDecided
    │   ├── WouldLockOut              nobody could undo it
    │   ├── BytesChanged              what lies there is not what was approved
    │   └── PreconditionFailed        it was changed meanwhile (RFC 9110 section 13)
    ├── Unsupported                   a capability that is not offered (MLflow's client falls back)
    ├── Unresolvable                  no physical address can be given
    │   ├── NoArtifacts               nothing lies there
    │   ├── ArtifactsUnreadable       the store does not let us see what lies there
    │   └── ArtifactsUnsettled        what lies there is being written
    └── Unavailable                   a part we depend on does not answer; try again
        ├── UpstreamUnavailable       that part is MLflow
        │   └── UpstreamNotReached    nothing was sent to it: another one may be asked
        ├── Overloaded                too many wait for MLflow
        └── TooManyRequests           too many of one principal wait for MLflow

The family knows no HTTP: ``app/domain/problems.py`` is the one table that maps it to status codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class CountersignError(Exception):
    """Root of the family. ``str(error)`` is a sentence for the person who asked and carries no secret."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        """Machine-readable members that are shown beside the message, such as ``state`` or ``field``."""


class InvalidConfiguration(CountersignError):
    """A setting is missing or wrong."""


class InvalidInput(CountersignError):
    """What was sent is wrong. `field` says where; where there is more, `errors` names each field."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}", field=field)
        self.problems: tuple[tuple[str, str], ...] = ((field, expected),)
        """The fields, and what was expected of each."""

    @classmethod
    def of_all(cls, problems: Iterable[tuple[str, str]]) -> Self:
        """Several at once, a line each; machines find them in ``errors``."""
        problems = tuple(problems)
        error = cls(*problems[0])
        if len(problems) > 1:
            error.problems = problems
            error.message = "\n".join(f"{field}: {expected}" for field, expected in problems)
            error.args = (error.message,)
            error.details["errors"] = [{"field": field, "expected": expected} for field, expected in problems]
        return error


class TooLarge(InvalidInput):
    """A body beyond the limit."""


class HeadersTooLarge(InvalidInput):
    """Headers beyond the limit, in number or bytes."""


class TooSlow(InvalidInput):
    """A body that stopped arriving."""


class NotAuthenticated(CountersignError):
    """No credential, or one that does not verify. The message never quotes the credential."""

    def __init__(self, message: str, *, error: str | None = None, principal_id: str | None = None) -> None:
        super().__init__(message)
        self.error = error
        """The RFC 6750 section 3.1 code, none when no credential was sent."""
        self.principal_id = principal_id
        """Whose it is, if that is known: for the audit log, not for the caller."""


class SignInFailed(CountersignError):
    """A person cannot be signed in this way; what to do next is in the message."""


class OAuthRefused(CountersignError):
    """A client of our token endpoint is refused. The message never quotes what was sent."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        """The code, as ``invalid_grant`` (RFC 6749 section 5.2, RFC 8628 section 3.5)."""


class Forbidden(CountersignError):
    """The principal is known and may not."""


class InsufficientScope(Forbidden):
    """The principal may; the token it came with was given less."""

    def __init__(self, message: str, *, scope: str, **details: object) -> None:
        super().__init__(message, scope=scope, **details)
        self.scope = scope
        """The scopes of which one is needed, separated by spaces (RFC 6750 section 3)."""


class InsufficientAuthentication(Forbidden):
    """The principal may, after they have proved anew who they are; ``sign_in`` is where."""

    def __init__(self, message: str, *, max_age_s: int, acr: Iterable[str] = (), **details: object) -> None:
        acr_values = " ".join(sorted(acr))
        shown = {"acr_values": acr_values} if acr_values else {}
        super().__init__(message, max_age=max_age_s, **shown, **details)
        self.max_age_s = max_age_s
        """How many seconds ago they may have proved it, at most."""
        self.acr_values = acr_values
        """The authentication context classes of which one is needed, separated by spaces; empty: any."""


class CrossOrigin(Forbidden):
    """A page of another origin wants to change something with a person's session, or to read it."""


class SelfApproval(Forbidden):
    """Who asked for a promotion cannot approve it."""


class NotAnApprover(Forbidden):
    """The policy does not name this principal as an approver."""


class SelfGrant(Forbidden):
    """Nobody gives themselves the right to ask for promotions or to decide on them; another administrator can."""


class PromotionRequired(Forbidden):
    """A protected alias moves only through a promotion, which has been opened."""


class Governed(Forbidden):
    """A promotion rests on what would be changed or deleted."""

    def __init__(
        self, message: str, *, model: str | None = None, workspace: str = "default", **details: object
    ) -> None:
        super().__init__(message, **details)
        self.model = model
        """Whose promotion the message tells of, if that is not what was asked about."""
        self.workspace = workspace
        """The model's."""


class RouteRefused(Forbidden):
    """A route of MLflow that is closed, with the reason."""


class UnknownRoute(CountersignError):
    """No such route: unknown means no."""


class NotFound(CountersignError):
    """Something that was named does not exist."""


class Conflict(CountersignError):
    """The state of a thing forbids what was asked."""


class IllegalMove(Conflict):
    """A promotion cannot go from the state it is in to the one asked for."""


class AlreadyDecided(Conflict):
    """This principal has decided on this promotion already."""


class WouldLockOut(Conflict):
    """After this change you, or everybody, could not administer any more."""


class BytesChanged(Conflict):
    """What lies at the address of a version is not what was approved, or is gone; it does not resolve until it is."""


class PreconditionFailed(Conflict):
    """What ``If-Match`` or ``If-None-Match`` asks for is not so: it was changed meanwhile."""


class Unsupported(CountersignError):
    """A capability that is not offered."""


class Unresolvable(CountersignError):
    """No physical address can be given for a model version."""


class NoArtifacts(Unresolvable):
    """There is nothing where the artifacts should be, as the store itself says."""


class ArtifactsUnreadable(Unresolvable):
    """The store does not let us see the artifacts: nothing is known of them."""


class ArtifactsUnsettled(Unresolvable):
    """A file is not the one that was listed, or changed while it was read: no digest would be that of what is there."""


class Unavailable(CountersignError):
    """A part we depend on does not answer. Trying again later is right."""

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamUnavailable(Unavailable):
    """MLflow does not answer."""


class UpstreamNotReached(UpstreamUnavailable):
    """No connection to MLflow could be made: nothing was sent, so another one may be asked."""


class Overloaded(Unavailable):
    """Too many requests wait for MLflow, or this one waited too long."""


class TooManyRequests(Unavailable):
    """Too many requests of one principal wait for MLflow."""

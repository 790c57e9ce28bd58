"""Every refusal and failure that Countersign itself can name.

::

    CountersignError
    ├── InvalidConfiguration          the operator must mend a setting
    ├── InvalidInput                  what was sent is wrong; names the field
    │   ├── TooLarge                  a body beyond the limit
    │   ├── HeadersTooLarge           headers beyond the limit
    │   └── TooSlow                   a body that stopped arriving
    ├── NotAuthenticated              who are you? (RFC 6750 section 3)
    ├── Forbidden                     you may not
    │   ├── SelfApproval              you asked for it, somebody else must approve
    │   ├── NotAnApprover             the policy does not name you
    │   ├── PromotionRequired         a protected alias moves only through a promotion
    │   └── Governed                  a promotion rests on this; it cannot be changed or deleted
    ├── RouteRefused                  this route of MLflow is closed
    ├── UnknownRoute                  no such route
    ├── NotFound                      names what is missing
    ├── Conflict                      the state forbids it; names the state
    │   ├── IllegalMove
    │   └── AlreadyDecided
    ├── Unsupported                   a capability that is not offered (MLflow's client falls back)
    ├── Unresolvable                  no physical address can be given
    └── Unavailable                   a part we depend on does not answer; try again
        ├── UpstreamUnavailable       that part is MLflow
        │   └── UpstreamNotReached    nothing was sent to it: another one may be asked
        ├── Overloaded                too many wait for MLflow
        └── TooManyRequests           too many of one principal wait for MLflow

The family knows no HTTP: ``app/domain/problems.py`` is the one table that maps it to status codes.
"""

from __future__ import annotations


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
    """What was sent is wrong."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}", field=field)


class TooLarge(InvalidInput):
    """A body beyond the limit."""


class HeadersTooLarge(InvalidInput):
    """Headers beyond the limit, in number or bytes."""


class TooSlow(InvalidInput):
    """A body that stopped arriving."""


class NotAuthenticated(CountersignError):
    """No credential, or one that does not verify. The message never quotes the credential."""

    def __init__(self, message: str, *, error: str | None = None) -> None:
        super().__init__(message)
        self.error = error
        """The RFC 6750 section 3.1 code, none when no credential was sent."""


class Forbidden(CountersignError):
    """The principal is known and may not."""


class SelfApproval(Forbidden):
    """Who asked for a promotion cannot approve it."""


class NotAnApprover(Forbidden):
    """The policy does not name this principal as an approver."""


class PromotionRequired(Forbidden):
    """A protected alias moves only through a promotion, which has been opened."""


class Governed(Forbidden):
    """A promotion rests on what would be changed or deleted."""


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


class Unsupported(CountersignError):
    """A capability that is not offered."""


class Unresolvable(CountersignError):
    """No physical address can be given for a model version."""


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

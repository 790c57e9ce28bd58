"""Every route of MLflow, and what the door does with it.

``match(method, path)`` answers from ``ROUTES``; what is not in the table is refused. ``matcher_for(openings)`` answers
as an operator has opened it. ``tests/architecture`` walks both web frameworks of the installed MLflow and fails when
the table lacks a route or lists one that is gone.
"""

from collections.abc import Iterable

from app.domain.routes.kinds import BodyKind, Decision, Done, Forward, Guard, Match, Route, RouteClass, Ruling
from app.domain.routes.matching import Matcher
from app.domain.routes.messages import MESSAGES, Message
from app.domain.routes.openings import NEVER, OPENINGS, Opening, check_openings
from app.domain.routes.table import ROUTES, matrix, routes_with
from app.domain.routes.versions import warning_about

match = Matcher(ROUTES).match


def matcher_for(openings: Iterable[str]) -> Matcher:
    """The compiled table as it is with ``openings``.

    Raises:
        InvalidConfiguration: a name cannot be opened.
    """
    return Matcher(routes_with(openings))


__all__ = [
    "MESSAGES",
    "NEVER",
    "OPENINGS",
    "ROUTES",
    "BodyKind",
    "Decision",
    "Done",
    "Forward",
    "Guard",
    "Match",
    "Matcher",
    "Message",
    "Opening",
    "Route",
    "RouteClass",
    "Ruling",
    "check_openings",
    "match",
    "matcher_for",
    "matrix",
    "routes_with",
    "warning_about",
]

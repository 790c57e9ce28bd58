"""Every route of MLflow, and what the door does with it.

``match(method, path)`` answers from ``ROUTES``; what is not in the table is refused. ``tests/architecture`` walks both
web frameworks of the installed MLflow and fails when the table lacks a route or lists one that is gone.
"""

from app.domain.routes.kinds import BodyKind, Decision, Done, Forward, Guard, Match, Route, RouteClass, Ruling
from app.domain.routes.matching import Matcher
from app.domain.routes.messages import MESSAGES, Message
from app.domain.routes.table import ROUTES

match = Matcher(ROUTES).match

__all__ = [
    "MESSAGES",
    "ROUTES",
    "BodyKind",
    "Decision",
    "Done",
    "Forward",
    "Guard",
    "Match",
    "Matcher",
    "Message",
    "Route",
    "RouteClass",
    "Ruling",
    "match",
]

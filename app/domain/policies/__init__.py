"""Policies: what must be true before a protected alias moves. Data, with every revision immutable and numbered.

A policy protects an alias of the models that match a pattern. Its approval rules are all needed; one person counts for
one rule only; who had a hand in what is promoted never counts, administrators included.
"""

from app.domain.policies.approvals import Approval, ApprovalRule, RuleProgress, assign, is_satisfied
from app.domain.policies.choosing import Choice, choose, policy_for
from app.domain.policies.deciding import check_may_decide
from app.domain.policies.documents import document_of, policy_from_document
from app.domain.policies.policy import (
    DEFAULT_POLICY,
    BreakGlass,
    Check,
    CheckKind,
    Companions,
    Expiry,
    OnDrift,
    Policy,
    ReasonFor,
    Rejection,
    Soak,
    Supersede,
)

__all__ = [
    "DEFAULT_POLICY",
    "Approval",
    "ApprovalRule",
    "BreakGlass",
    "Check",
    "CheckKind",
    "Choice",
    "Companions",
    "Expiry",
    "OnDrift",
    "Policy",
    "ReasonFor",
    "Rejection",
    "RuleProgress",
    "Soak",
    "Supersede",
    "assign",
    "check_may_decide",
    "choose",
    "document_of",
    "is_satisfied",
    "policy_for",
    "policy_from_document",
]

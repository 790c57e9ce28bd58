"""The tables, as the queries see them. ``migrations/`` creates them, and the guards in the database itself."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


policy_revisions = Table(
    "policy_revisions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("document", JSONB, nullable=False),
    _moment("created_at"),
    Column("created_by", Text, nullable=False),
)

targets = Table(
    "targets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("callback_secret", Text, nullable=False),
    Column("allow_private_network", Boolean, nullable=False),
    Column("deadline_s", Integer, nullable=False),
    _moment("updated_at"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("to_version", Text, nullable=False),
    Column("from_version", Text),
    Column("model_created_at", BigInteger, nullable=False),
    Column("run_id", Text),
    Column("source_uri", Text, nullable=False),
    Column("artifact_root", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("policy_name", Text, nullable=False),
    Column("policy_revision", Integer, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("requested_by_name", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    Column("state", Text, nullable=False),
    Column("state_reason", Text),
    Column("alias_moved", Boolean, nullable=False),
    _moment("applied_at", nullable=True),
    Column("rolls_back", Text),
    Column("revision", Integer, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("principal_id", Text, primary_key=True),
    Column("principal_name", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _moment("decided_at"),
    Column("groups", ARRAY(Text), nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("is_service", Boolean, nullable=False),
)

alias_holders = Table(
    "alias_holders",
    metadata,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("promotion_id", Text, nullable=False),
    _moment("since"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("promotion_id", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("observed_generation", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    _moment("requested_at"),
    _moment("updated_at"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    _moment("created_at"),
    _moment("next_attempt_at"),
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    _moment("started_at"),
    Column("duration_ms", Integer, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("response", Text, nullable=False),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("entry", JSONB, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

"""The tables, as the queries see them. ``migrations/`` creates them, and the guards in the database itself."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
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
    Column("secrets", ARRAY(Text), nullable=False),
    Column("callback_secrets", ARRAY(Text), nullable=False),
    Column("allowed_networks", ARRAY(Text), nullable=False),
    Column("deadline_s", Integer, nullable=False),
    Column("options", JSONB, nullable=False),
    Column("metrics", JSONB(none_as_null=True)),
    _moment("updated_at"),
    Column("state", Text, nullable=False),
    Column("state_reason", Text),
    _moment("failing_since", nullable=True),
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
    Column("digest", Text),
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
    Column("workspace", Text, nullable=False),
    Column("version_created_at", BigInteger, nullable=False),
    _moment("scheduled_for", nullable=True),
    _moment("expires_at", nullable=True),
    Column("round", Integer, nullable=False),
    Column("void_reason", Text),
    _moment("due_at", nullable=True),
    Column("reminded", Integer, nullable=False),
    Column("replaced", JSONB),
)

decisions = Table(
    "decisions",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("principal_id", Text, primary_key=True),
    Column("principal_name", Text, nullable=False),
    Column("outcome", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    _moment("decided_at"),
    Column("groups", ARRAY(Text), nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("is_service", Boolean, nullable=False),
    Column("on_behalf_of", Text),
    Column("on_behalf_of_name", Text),
)

promoted_aliases = Table(
    "promoted_aliases",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("folded_model", Text, nullable=False),
)

alias_holders = Table(
    "alias_holders",
    metadata,
    Column("workspace", Text, primary_key=True),
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
    Column("workspace", Text, nullable=False),
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
    Column("action", Text, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("stable", JSONB(none_as_null=True)),
    Column("serving", JSONB, nullable=False),
    _moment("heard_at", nullable=True),
    _moment("ready_at", nullable=True),
    Column("served", JSONB(none_as_null=True)),
    _moment("looked_at", nullable=True),
    Column("obstacle", Text),
    Column("drift", Text),
    _moment("drifted_since", nullable=True),
    Column("call", JSONB(none_as_null=True)),
)
deployment_generations = Table(
    "deployment_generations",
    metadata,
    Column("deployment_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("action", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("stable", JSONB(none_as_null=True)),
    Column("promotion_id", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    _moment("requested_at"),
    _moment("ready_at", nullable=True),
    _moment("updated_at"),
)
rollouts = Table(
    "rollouts",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("step", Integer, nullable=False),
    _moment("step_began_at"),
    _moment("held_since", nullable=True),
    _moment("due_at", nullable=True),
    Column("reason", Text, nullable=False),
    Column("gates", JSONB, nullable=False),
    Column("formers", JSONB, nullable=False),
    _moment("updated_at"),
)
rollout_steps = Table(
    "rollout_steps",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("weight", Integer, nullable=False),
    Column("hold_s", Integer),
    Column("gates", JSONB, nullable=False),
    Column("keeps_stable", Boolean, nullable=False),
    Column("message", Text, nullable=False),
    _moment("began_at", nullable=True),
    _moment("held_since", nullable=True),
    _moment("ended_at", nullable=True),
    Column("outcome", Text),
)
gate_measurements = Table(
    "gate_measurements",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("gate", Text, primary_key=True),
    Column("at", DateTime(timezone=True), primary_key=True),
    Column("value", Float),
    Column("verdict", Text, nullable=False),
    Column("message", Text, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", JSONB, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("hears_after", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_reason", Text),
    _moment("failing_since", nullable=True),
    _moment("created_at"),
    _moment("updated_at"),
    Column("updated_by", Text, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sequence", BigInteger, Identity(always=True)),
    Column("receiver", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("event_sequence", BigInteger),
    Column("replays", Text),
    Column("deployment_id", Text),
    Column("generation", Integer),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    _moment("created_at"),
    _moment("next_attempt_at", nullable=True),
    _moment("settled_at", nullable=True),
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
    Column("address", Text),
    Column("request_headers", JSONB, nullable=False),
    Column("response_headers", JSONB, nullable=False),
)

delivery_lanes = Table(
    "delivery_lanes",
    metadata,
    Column("receiver", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    _moment("due_at"),
    Column("held_by", Integer),
)

fanned_out = Table("fanned_out", metadata, Column("sequence", BigInteger, nullable=False))

manifests = Table(
    "manifests",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("files", JSONB, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("description", JSONB, nullable=False),
    _moment("created_at"),
)

verifications = Table(
    "verifications",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("model_created_at", BigInteger, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("version_created_at", BigInteger, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("promotion_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("message", Text),
    Column("stamps", JSONB),
    _moment("looked_at", nullable=True),
    _moment("read_at", nullable=True),
    Column("obstacle", Text),
    Column("unread_bytes", BigInteger),
    _moment("due_at"),
    Column("writes", BigInteger, nullable=False, server_default="0"),
)

resolution_epoch = Table("resolution_epoch", metadata, Column("value", BigInteger, nullable=False))

resolvers = Table(
    "resolvers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen", BigInteger, nullable=False),
    _moment("alive_until"),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("entry", JSONB, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

principals = Table(
    "principals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("groups", ARRAY(Text), nullable=False),
    Column("claims", JSONB, nullable=False),
    _moment("first_seen_at"),
    _moment("vouched_at"),
    _moment("disabled_at", nullable=True),
    Column("disabled_by", Text),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_session", Text),
    Column("logout_hint", LargeBinary),
    _moment("created_at"),
    _moment("authenticated_at", nullable=True),
    Column("acr", Text),
    _moment("last_seen_at"),
    _moment("expires_at"),
    Column("address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    _moment("ended_at", nullable=True),
    Column("ended_by", Text),
    Column("end_reason", Text),
)

sign_ins = Table(
    "sign_ins",
    metadata,
    Column("state_digest", LargeBinary, primary_key=True),
    Column("browser_digest", LargeBinary, nullable=False),
    Column("provider", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("verifier", Text, nullable=False),
    Column("return_to", Text, nullable=False),
    _moment("created_at"),
    _moment("expires_at"),
)

logins = Table(
    "logins",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal_id", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("refresh_digest", LargeBinary),
    _moment("authenticated_at", nullable=True),
    Column("acr", Text),
    _moment("created_at"),
    _moment("refreshed_at"),
    _moment("expires_at"),
    Column("address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    _moment("ended_at", nullable=True),
    Column("ended_by", Text),
    Column("end_reason", Text),
)

used_refresh_tokens = Table(
    "used_refresh_tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("login_id", Text, nullable=False),
    _moment("used_at"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("identity", JSONB),
    Column("login_id", Text),
    Column("parent_id", Text),
    _moment("created_at"),
    _moment("expires_at"),
    _moment("last_used_at", nullable=True),
    _moment("revoked_at", nullable=True),
    Column("revoked_by", Text),
)

device_authorizations = Table(
    "device_authorizations",
    metadata,
    Column("device_digest", LargeBinary, primary_key=True),
    Column("user_code", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("state", Text, nullable=False),
    Column("principal_id", Text),
    _moment("authenticated_at", nullable=True),
    Column("acr", Text),
    _moment("created_at"),
    _moment("expires_at"),
    _moment("polled_at", nullable=True),
    Column("interval_s", Integer, nullable=False),
    Column("address", Text, nullable=False),
)

authorization_codes = Table(
    "authorization_codes",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("client", Text, nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("challenge", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("principal_id", Text, nullable=False),
    _moment("authenticated_at", nullable=True),
    Column("acr", Text),
    _moment("created_at"),
    _moment("expires_at"),
    Column("login_id", Text),
)

grants = Table(
    "grants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", JSONB, nullable=False),
    Column("revision", Integer, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    Column("updated_by", Text, nullable=False),
)

owners = Table(
    "owners",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("workspace", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("principal_id", Text, nullable=False),
    _moment("since"),
)

identity_epoch = Table("identity_epoch", metadata, Column("value", BigInteger, nullable=False))

seen_token_ids = Table(
    "seen_token_ids",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("token_id", Text, primary_key=True),
    _moment("expires_at"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    _moment("taken_at"),
    Column("facts", JSONB, nullable=False),
    Column("reads", JSONB, nullable=False),
    Column("results", JSONB, nullable=False),
)

posted_checks = Table(
    "posted_checks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("model_created_at", BigInteger, nullable=False),
    Column("version_created_at", BigInteger, nullable=False),
    Column("digest", Text),
    Column("promotion_id", Text),
    Column("name", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("link", Text),
    Column("posted_by", Text, nullable=False),
    Column("posted_by_name", Text, nullable=False),
    Column("posted_groups", ARRAY(Text), nullable=False),
    Column("posted_roles", ARRAY(Text), nullable=False),
    Column("is_service", Boolean, nullable=False),
    _moment("posted_at"),
    _moment("expires_at", nullable=True),
    Column("sequence", BigInteger, Identity(always=True)),
)

comments = Table(
    "comments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("promotion_id", Text, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("principal_name", Text, nullable=False),
    Column("text", Text, nullable=False),
    _moment("created_at"),
)

delegations = Table(
    "delegations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("from_id", Text, nullable=False),
    Column("from_name", Text, nullable=False),
    Column("to_id", Text, nullable=False),
    Column("to_name", Text, nullable=False),
    Column("models", Text, nullable=False),
    _moment("starts_at"),
    _moment("ends_at"),
    Column("reason", Text, nullable=False),
    _moment("created_at"),
    Column("created_by", Text, nullable=False),
    _moment("revoked_at", nullable=True),
)

reviews = Table(
    "reviews",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    _moment("opened_at"),
    _moment("closed_at", nullable=True),
    Column("closed_by", Text),
    Column("closed_by_name", Text),
    Column("comment", Text),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("sequence", BigInteger, Identity(always=True), primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("model_created_at", BigInteger, nullable=False),
    Column("version", Text),
    _moment("since"),
    Column("cause", Text, nullable=False),
    Column("promotion_id", Text),
    Column("principal_id", Text),
    Column("principal_name", Text),
)

alias_present = Table(
    "alias_present",
    metadata,
    Column("model", Text, primary_key=True),
    Column("workspace", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text),
    Column("model_created_at", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)
"""The last row of each alias in ``alias_history``; a trigger keeps it."""

drifts = Table(
    "drifts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("expected_version", Text),
    Column("expected_model_created_at", BigInteger),
    Column("seen_version", Text),
    Column("seen_model_created_at", BigInteger),
    _moment("found_at"),
    Column("holding", Text),
    _moment("ended_at", nullable=True),
    Column("ended_how", Text),
    Column("ended_by", Text),
    Column("restoring", Text),
    Column("attempts", Integer, nullable=False),
    _moment("next_attempt_at", nullable=True),
    Column("obstacle", Text),
)

first_looks = Table(
    "first_looks",
    metadata,
    Column("workspace", Text, primary_key=True),
    _moment("at"),
)

events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    _moment("at"),
    Column("workspace", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("data", JSONB, nullable=False),
)

event_keys = Table(
    "event_keys",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
)

noticed_versions = Table(
    "noticed_versions",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("created_at", BigInteger, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
)

noticed_until = Table(
    "noticed_until",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
)

contributions = Table(
    "contributions",
    metadata,
    Column("hand", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("principal_id", Text, primary_key=True),
    Column("principal_name", Text, nullable=False),
    _moment("at"),
)

measurements = Table(
    "measurements",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("total_bytes", BigInteger, nullable=False),
    Column("read_bytes", BigInteger, nullable=False),
    Column("total_files", Integer, nullable=False),
    Column("done_files", Integer, nullable=False),
    Column("digest", Text),
    _moment("started_at"),
    _moment("updated_at"),
)

measured_files = Table(
    "measured_files",
    metadata,
    Column("promotion_id", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("stamp", Text, nullable=False),
    Column("sha256", Text, nullable=False),
)

"""Who may pass: people and services, sessions, tokens, logins, grants, owners.

Secrets are kept as SHA-256 digests (each has 256 random bits), never as they are.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = [
    # What a provider said last of each (issuer, subject) that a session or token of ours belongs to.
    """
    CREATE TABLE principals (
        id text PRIMARY KEY,
        issuer text NOT NULL,
        subject text NOT NULL,
        name text NOT NULL,
        kind text NOT NULL CHECK (kind IN ('person', 'service')),
        groups text[] NOT NULL,
        claims jsonb NOT NULL,
        first_seen_at timestamptz NOT NULL,
        vouched_at timestamptz NOT NULL,
        disabled_at timestamptz,
        disabled_by text,
        UNIQUE (issuer, subject)
    )
    """,
    """
    CREATE TABLE sessions (
        id text PRIMARY KEY,
        digest bytea NOT NULL UNIQUE,
        principal_id text NOT NULL REFERENCES principals,
        provider text NOT NULL,
        provider_session text,
        logout_hint bytea,
        created_at timestamptz NOT NULL,
        authenticated_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        address text NOT NULL,
        user_agent text NOT NULL,
        ended_at timestamptz,
        ended_by text,
        end_reason text
    )
    """,
    "CREATE INDEX sessions_by_principal ON sessions (principal_id, created_at DESC, id DESC)",
    "CREATE INDEX sessions_by_provider_session ON sessions (provider, provider_session) WHERE ended_at IS NULL",
    "CREATE INDEX sessions_by_end ON sessions (expires_at)",
    # A sign-in that was begun: one browser, one provider, one use.
    """
    CREATE TABLE sign_ins (
        state_digest bytea PRIMARY KEY,
        browser_digest bytea NOT NULL,
        provider text NOT NULL,
        nonce text NOT NULL,
        verifier text NOT NULL,
        return_to text NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    # A client of ours that a person signed in to: the chain of its refresh tokens.
    """
    CREATE TABLE logins (
        id text PRIMARY KEY,
        principal_id text NOT NULL REFERENCES principals,
        client text NOT NULL,
        scopes text[] NOT NULL,
        refresh_digest bytea UNIQUE,
        authenticated_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL,
        refreshed_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        address text NOT NULL,
        user_agent text NOT NULL,
        ended_at timestamptz,
        ended_by text,
        end_reason text
    )
    """,
    "CREATE INDEX logins_by_principal ON logins (principal_id, created_at DESC, id DESC)",
    # A refresh token that is shown a second time was stolen, or its owner's was (RFC 9700 section 4.14).
    """
    CREATE TABLE used_refresh_tokens (
        digest bytea PRIMARY KEY,
        login_id text NOT NULL REFERENCES logins ON DELETE CASCADE,
        used_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX used_refresh_tokens_by_login ON used_refresh_tokens (login_id)",
    """
    CREATE TABLE tokens (
        id text PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('personal', 'exchanged', 'login')),
        digest bytea NOT NULL UNIQUE,
        principal_id text NOT NULL REFERENCES principals,
        name text NOT NULL,
        scopes text[] NOT NULL,
        identity jsonb,
        login_id text REFERENCES logins ON DELETE CASCADE,
        parent_id text REFERENCES tokens ON DELETE CASCADE,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        last_used_at timestamptz,
        revoked_at timestamptz,
        revoked_by text,
        CHECK (kind <> 'login' OR login_id IS NOT NULL),
        CHECK (kind <> 'exchanged' OR identity IS NOT NULL)
    )
    """,
    "CREATE INDEX tokens_by_principal ON tokens (principal_id, created_at DESC, id DESC)",
    "CREATE INDEX tokens_by_login ON tokens (login_id)",
    "CREATE INDEX tokens_by_end ON tokens (expires_at)",
    "CREATE INDEX tokens_by_parent ON tokens (parent_id) WHERE parent_id IS NOT NULL",
    """
    CREATE TABLE device_authorizations (
        device_digest bytea PRIMARY KEY,
        user_code text NOT NULL UNIQUE,
        client text NOT NULL,
        scopes text[] NOT NULL,
        state text NOT NULL CHECK (state IN ('pending', 'approved', 'denied')),
        principal_id text REFERENCES principals,
        authenticated_at timestamptz,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        polled_at timestamptz,
        interval_s integer NOT NULL,
        address text NOT NULL,
        CHECK (state <> 'approved' OR principal_id IS NOT NULL)
    )
    """,
    "CREATE INDEX device_authorizations_by_end ON device_authorizations (expires_at)",
    """
    CREATE TABLE authorization_codes (
        digest bytea PRIMARY KEY,
        client text NOT NULL,
        redirect_uri text NOT NULL,
        challenge text NOT NULL,
        scopes text[] NOT NULL,
        principal_id text NOT NULL REFERENCES principals,
        authenticated_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        login_id text REFERENCES logins ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE grants (
        name text PRIMARY KEY,
        document jsonb NOT NULL,
        revision integer NOT NULL CHECK (revision > 0),
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        updated_by text NOT NULL
    )
    """,
    # Creators own what they create. Experiments by their id, which stays; models by their name.
    """
    CREATE TABLE owners (
        kind text NOT NULL CHECK (kind IN ('model', 'experiment')),
        workspace text NOT NULL,
        name text NOT NULL,
        principal_id text NOT NULL,
        since timestamptz NOT NULL,
        PRIMARY KEY (kind, workspace, name)
    )
    """,
    "CREATE INDEX owners_by_principal ON owners (principal_id)",
    # Raised in the transaction of whatever must be forgotten by every process at once.
    "CREATE TABLE identity_epoch (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), value bigint NOT NULL)",
    "INSERT INTO identity_epoch (value) VALUES (1)",
    # Tokens that may be shown once, such as logout tokens (OpenID Connect Back-Channel Logout section 2.6).
    """
    CREATE TABLE seen_token_ids (
        issuer text NOT NULL,
        token_id text NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (issuer, token_id)
    )
    """,
]


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)

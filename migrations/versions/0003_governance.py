"""The second signature: workspaces, rounds of decisions, evidence, checks, delegation, history, drift, events.

What a promotion pins still never changes; its digest is set once, when its artifacts have been read.
"""

from __future__ import annotations

import unicodedata

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"

PROMOTIONS = [
    """
    ALTER TABLE promotions
        ADD COLUMN workspace text NOT NULL DEFAULT 'default',
        ADD COLUMN version_created_at bigint NOT NULL DEFAULT 0,
        ADD COLUMN scheduled_for timestamptz,
        ADD COLUMN expires_at timestamptz,
        ADD COLUMN round integer NOT NULL DEFAULT 1 CHECK (round > 0),
        ADD COLUMN void_reason text,
        ADD COLUMN due_at timestamptz,
        ADD COLUMN reminded integer NOT NULL DEFAULT 0,
        -- What the things that move with the alias were before, in the order of their steps: to undo a half-done move.
        ADD COLUMN replaced jsonb,
        ALTER COLUMN digest DROP NOT NULL,
        DROP CONSTRAINT promotions_kind_check,
        ADD CONSTRAINT promotions_kind_check CHECK (kind IN ('promotion', 'rollback', 'restore', 'break_glass'))
    """,
    "INSERT INTO promotion_moves VALUES ('approved', 'pending')",
    "DROP INDEX promotions_one_open_per_version",
    "DROP INDEX promotions_one_in_flight",
    "DROP INDEX promotions_by_alias",
    """
    CREATE UNIQUE INDEX promotions_one_open_per_version ON promotions (workspace, model, alias, to_version)
        WHERE state IN ('pending', 'approved', 'applying')
    """,
    """
    CREATE UNIQUE INDEX promotions_one_in_flight ON promotions (workspace, model, alias)
        WHERE state IN ('applying', 'rolling_out')
    """,
    # Lists go from the newest backwards, whatever they are filtered by, and however deep they are read.
    *(
        f"CREATE INDEX promotions_by_{name} ON promotions ({columns}, created_at DESC, id DESC)"
        for name, columns in {
            "model": "model",
            "name_of_alias": "alias",
            "workspace": "workspace",
            "state_and_time": "state",
        }.items()
    ),
    # Whoever may see some aliases alone has each of them looked up, in the index alone.
    *(
        f"CREATE INDEX promotions_by_{name} ON promotions ({columns}, created_at DESC, id DESC) INCLUDE (workspace)"
        for name, columns in {
            "alias": "model, alias",
            "alias_and_state": "model, alias, state",
            "alias_and_requester": "model, alias, requested_by",
        }.items()
    ),
    "CREATE INDEX promotions_applied ON promotions (model, alias, applied_at DESC) WHERE applied_at IS NOT NULL",
    # What the sweep looks at, and what is open of a version: few at any time, however many promotions there were.
    "CREATE INDEX promotions_due ON promotions (due_at) WHERE state IN ('pending', 'approved')",
    """
    CREATE INDEX promotions_open_by_version ON promotions (model, to_version)
        WHERE state IN ('pending', 'approved', 'applying')
    """,
    # Whether bytes are governed is asked at every write of some.
    "DROP INDEX promotions_by_run",
    "CREATE INDEX promotions_by_run ON promotions (lower(run_id))",
    "CREATE INDEX promotions_by_segment ON promotions USING gin (string_to_array(lower(artifact_root), '/'))",
    """
    ALTER TABLE decisions
        ADD COLUMN round integer NOT NULL DEFAULT 1,
        ADD COLUMN on_behalf_of text,
        ADD COLUMN on_behalf_of_name text,
        DROP CONSTRAINT decisions_pkey,
        ADD PRIMARY KEY (promotion_id, round, principal_id, outcome)
    """,
    # Whose word it is counts once in a round, whoever speaks it.
    """
    CREATE UNIQUE INDEX decisions_one_word ON decisions
        (promotion_id, round, (coalesce(on_behalf_of, principal_id)), outcome)
    """,
    """
    ALTER TABLE alias_holders
        ADD COLUMN workspace text NOT NULL DEFAULT 'default',
        DROP CONSTRAINT alias_holders_pkey,
        ADD PRIMARY KEY (workspace, model, alias)
    """,
    """
    ALTER TABLE deployments
        ADD COLUMN workspace text NOT NULL DEFAULT 'default',
        DROP CONSTRAINT deployments_target_model_key,
        ADD UNIQUE (target, workspace, model)
    """,
]

SIGN_INS = [
    # When somebody proved who they are, and how, as the provider says it; not known where it does not.
    """
    ALTER TABLE sessions ADD COLUMN acr text, ALTER COLUMN authenticated_at DROP NOT NULL
    """,
    """
    ALTER TABLE logins ADD COLUMN acr text, ALTER COLUMN authenticated_at DROP NOT NULL
    """,
    """
    ALTER TABLE authorization_codes ADD COLUMN acr text, ALTER COLUMN authenticated_at DROP NOT NULL
    """,
    "ALTER TABLE device_authorizations ADD COLUMN acr text",
]

TABLES = [
    # The aliases of which there are promotions, however many there are of each; found by the name's one spelling.
    """
    CREATE TABLE promoted_aliases (
        workspace text NOT NULL,
        model text NOT NULL,
        alias text NOT NULL,
        folded_model text NOT NULL,
        PRIMARY KEY (workspace, model, alias)
    )
    """,
    "CREATE INDEX promoted_aliases_by_fold ON promoted_aliases (folded_model)",
    # What the policy's checks looked at, as it was seen last, and what they said.
    """
    CREATE TABLE evidence (
        promotion_id text PRIMARY KEY REFERENCES promotions,
        taken_at timestamptz NOT NULL,
        facts jsonb NOT NULL,
        reads jsonb NOT NULL,
        results jsonb NOT NULL
    )
    """,
    # Verdicts that CI posted on a version, newest counts.
    """
    CREATE TABLE posted_checks (
        id text PRIMARY KEY,
        workspace text NOT NULL,
        model text NOT NULL,
        version text NOT NULL,
        model_created_at bigint NOT NULL,
        version_created_at bigint NOT NULL,
        digest text,
        promotion_id text REFERENCES promotions,
        name text NOT NULL,
        outcome text NOT NULL CHECK (outcome IN ('pass', 'fail', 'running')),
        message text NOT NULL,
        link text,
        posted_by text NOT NULL,
        posted_by_name text NOT NULL,
        posted_groups text[] NOT NULL,
        posted_roles text[] NOT NULL,
        is_service boolean NOT NULL,
        posted_at timestamptz NOT NULL,
        expires_at timestamptz,
        sequence bigint GENERATED ALWAYS AS IDENTITY
    )
    """,
    "CREATE INDEX posted_checks_of_version ON posted_checks (model, version, name, sequence DESC)",
    """
    CREATE TABLE comments (
        id text PRIMARY KEY,
        promotion_id text NOT NULL REFERENCES promotions,
        principal_id text NOT NULL,
        principal_name text NOT NULL,
        text text NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX comments_of_promotion ON comments (promotion_id, created_at, id)",
    # Somebody stands in for somebody else for a time.
    """
    CREATE TABLE delegations (
        id text PRIMARY KEY,
        from_id text NOT NULL,
        from_name text NOT NULL,
        to_id text NOT NULL,
        to_name text NOT NULL,
        models text NOT NULL,
        starts_at timestamptz NOT NULL,
        ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
        reason text NOT NULL,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        revoked_at timestamptz,
        CHECK (from_id <> to_id)
    )
    """,
    "CREATE INDEX delegations_to ON delegations (to_id, ends_at)",
    "CREATE INDEX delegations_from ON delegations (from_id, ends_at)",
    # What was moved at once must be looked at afterwards, by somebody else.
    """
    CREATE TABLE reviews (
        promotion_id text PRIMARY KEY REFERENCES promotions,
        workspace text NOT NULL,
        model text NOT NULL,
        alias text NOT NULL,
        opened_at timestamptz NOT NULL,
        closed_at timestamptz,
        closed_by text,
        closed_by_name text,
        comment text
    )
    """,
    "CREATE INDEX reviews_open ON reviews (model, alias) WHERE closed_at IS NULL",
    # Who held an alias: each row holds from `since` to the next row's.
    """
    CREATE TABLE alias_history (
        sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        workspace text NOT NULL,
        model text NOT NULL,
        alias text NOT NULL,
        model_created_at bigint NOT NULL,
        version text,
        since timestamptz NOT NULL,
        cause text NOT NULL CHECK (cause IN ('promotion', 'direct', 'unattributed', 'drift', 'companion', 'restored')),
        promotion_id text REFERENCES promotions,
        principal_id text,
        principal_name text
    )
    """,
    "CREATE INDEX alias_history_of ON alias_history (model, alias, workspace, sequence DESC) INCLUDE (since)",
    "CREATE INDEX alias_history_of_version ON alias_history (model, alias, version)",
    # The last row of each alias: who holds it now. The history grows for ever, and this is read every few seconds.
    """
    CREATE TABLE alias_present (
        model text NOT NULL,
        workspace text NOT NULL,
        alias text NOT NULL,
        version text,
        model_created_at bigint NOT NULL,
        sequence bigint NOT NULL REFERENCES alias_history,
        PRIMARY KEY (model, workspace, alias)
    )
    """,
    # An alias that somebody moved past the gateway.
    """
    CREATE TABLE drifts (
        id text PRIMARY KEY,
        workspace text NOT NULL,
        model text NOT NULL,
        alias text NOT NULL,
        expected_version text,
        expected_model_created_at bigint,
        seen_version text,
        seen_model_created_at bigint,
        found_at timestamptz NOT NULL,
        holding text REFERENCES promotions,
        ended_at timestamptz,
        ended_how text CHECK (ended_how IN ('restored', 'promotion', 'by itself', 'unprotected')),
        ended_by text REFERENCES promotions,
        restoring text REFERENCES promotions,
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz,
        obstacle text,
        CHECK ((ended_at IS NULL) = (ended_how IS NULL))
    )
    """,
    # The workspaces of which every alias was written down once, as it was found.
    "CREATE TABLE first_looks (workspace text PRIMARY KEY, at timestamptz NOT NULL)",
    "CREATE UNIQUE INDEX drifts_one_open ON drifts (workspace, model, alias) WHERE ended_at IS NULL",
    "CREATE INDEX drifts_by_time ON drifts (found_at DESC, id DESC)",
    # What happened, for whoever must be told.
    """
    CREATE TABLE events (
        sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE,
        type text NOT NULL,
        subject text NOT NULL,
        at timestamptz NOT NULL,
        workspace text NOT NULL,
        model text NOT NULL,
        alias text NOT NULL,
        data jsonb NOT NULL
    )
    """,
    "CREATE INDEX events_of_alias ON events (model, alias, workspace, sequence)",
    "CREATE INDEX events_of_type ON events (type, sequence)",
    # Who had a hand in what; by the bytes of its key, so that folders are found by how they begin.
    """
    CREATE TABLE contributions (
        hand text NOT NULL
            CHECK (hand IN ('version', 'version-asked', 'run', 'logged-model', 'source-run', 'artifact')),
        key text COLLATE "C" NOT NULL,
        principal_id text NOT NULL,
        principal_name text NOT NULL,
        at timestamptz NOT NULL,
        PRIMARY KEY (hand, key, principal_id)
    )
    """,
    # How far the digest of a promotion's artifacts is.
    """
    CREATE TABLE measurements (
        promotion_id text PRIMARY KEY REFERENCES promotions,
        total_bytes bigint NOT NULL CHECK (total_bytes >= 0),
        read_bytes bigint NOT NULL CHECK (read_bytes >= 0),
        total_files integer NOT NULL CHECK (total_files > 0),
        done_files integer NOT NULL CHECK (done_files >= 0),
        digest text CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
        started_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL
    )
    """,
    # The files that are done; dropped when the promotion is settled.
    """
    CREATE TABLE measured_files (
        promotion_id text NOT NULL REFERENCES promotions,
        path text COLLATE "C" NOT NULL,
        size bigint NOT NULL CHECK (size >= 0),
        stamp text NOT NULL,
        sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
        PRIMARY KEY (promotion_id, path)
    )
    """,
]

GUARDS = [
    """
    CREATE OR REPLACE FUNCTION guard_promotion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (NEW.id, NEW.kind, NEW.workspace, NEW.model, NEW.alias, NEW.to_version, NEW.from_version,
            NEW.model_created_at, NEW.version_created_at, NEW.run_id, NEW.source_uri, NEW.artifact_root, NEW.uri,
            NEW.policy_name, NEW.policy_revision, NEW.requested_by, NEW.requested_by_name, NEW.reason, NEW.created_at,
            NEW.rolls_back, NEW.scheduled_for, NEW.expires_at)
            IS DISTINCT FROM
           (OLD.id, OLD.kind, OLD.workspace, OLD.model, OLD.alias, OLD.to_version, OLD.from_version,
            OLD.model_created_at, OLD.version_created_at, OLD.run_id, OLD.source_uri, OLD.artifact_root, OLD.uri,
            OLD.policy_name, OLD.policy_revision, OLD.requested_by, OLD.requested_by_name, OLD.reason, OLD.created_at,
            OLD.rolls_back, OLD.scheduled_for, OLD.expires_at)
           OR (OLD.digest IS NOT NULL AND NEW.digest IS DISTINCT FROM OLD.digest)
        THEN
            RAISE EXCEPTION 'what promotion % pins cannot change', OLD.id USING ERRCODE =
            'integrity_constraint_violation';
        END IF;
        IF NEW.digest IS NULL AND NEW.state IN ('approved', 'applying', 'applied', 'rolling_out', 'live') THEN
            RAISE EXCEPTION 'promotion % has no digest and cannot be %', OLD.id, NEW.state
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF NEW.round < OLD.round THEN
            RAISE EXCEPTION 'promotion % cannot go back to round %', OLD.id, NEW.round
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF NEW.state <> OLD.state AND NOT EXISTS (
            SELECT 1 FROM promotion_moves WHERE from_state = OLD.state AND to_state = NEW.state
        ) THEN
            RAISE EXCEPTION 'promotion % cannot go from % to %', OLD.id, OLD.state, NEW.state
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION note_present_holder() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO alias_present AS present (model, workspace, alias, version, model_created_at, sequence)
        VALUES (NEW.model, NEW.workspace, NEW.alias, NEW.version, NEW.model_created_at, NEW.sequence)
        ON CONFLICT (model, workspace, alias) DO UPDATE SET
            version = excluded.version, model_created_at = excluded.model_created_at, sequence = excluded.sequence
        WHERE present.sequence < excluded.sequence;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER alias_history_says_who_is_present AFTER INSERT ON alias_history
        FOR EACH ROW EXECUTE FUNCTION note_present_holder()
    """,
    *(
        f"""
        CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
        for table in ("posted_checks", "comments", "alias_history", "events")
    ),
]

HISTORY = """
INSERT INTO alias_history
    (workspace, model, alias, model_created_at, version, since, cause, promotion_id, principal_id, principal_name)
SELECT workspace, model, alias, model_created_at, to_version, applied_at, 'promotion', id, requested_by,
    requested_by_name
FROM promotions WHERE applied_at IS NOT NULL ORDER BY applied_at, id
"""


def upgrade() -> None:
    for statement in [*PROMOTIONS, *SIGN_INS, *TABLES, *GUARDS, HISTORY]:
        op.execute(statement)
    _note_aliases()


def _note_aliases() -> None:
    """The aliases of the promotions that are there. No function of PostgreSQL folds as app/domain/grants.py does."""
    connection = op.get_bind()
    found = connection.execute(text("SELECT DISTINCT workspace, model, alias FROM promotions")).mappings().all()
    rows = [{**row, "folded": unicodedata.normalize("NFKC", row["model"]).casefold().strip()} for row in found]
    if rows:
        connection.execute(text("INSERT INTO promoted_aliases VALUES (:workspace, :model, :alias, :folded)"), rows)

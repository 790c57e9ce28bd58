"""Promotions, policies, deployments, deliveries, the audit log, and the job queue.

What the code promises is held here too: legal moves, pinned columns, one promotion in flight per alias, and logs that
only grow.
"""

from __future__ import annotations

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0001"
down_revision = None

STATES = [
    "pending",
    "approved",
    "applying",
    "applied",
    "rolling_out",
    "live",
    "rejected",
    "withdrawn",
    "expired",
    "superseded",
    "stale",
    "failed",
    "rolled_back",
]

# app/domain/promotions.py holds the same table; tests/integration compares them.
MOVES = {
    "pending": "approved rejected withdrawn expired superseded stale",
    "approved": "applying rejected withdrawn expired superseded stale",
    "applying": "applied stale failed",
    "applied": "rolling_out rolled_back",
    "rolling_out": "live failed superseded rolled_back",
    "live": "rolled_back",
    "failed": "rolled_back",
}

TABLES = [
    """
    CREATE TABLE policy_revisions (
        name text NOT NULL,
        revision integer NOT NULL CHECK (revision > 0),
        document jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        PRIMARY KEY (name, revision)
    )
    """,
    """
    CREATE TABLE targets (
        name text PRIMARY KEY,
        url text NOT NULL,
        secret text NOT NULL CHECK (secret ~ '^(file|env):'),
        callback_secret text NOT NULL CHECK (callback_secret ~ '^(file|env):'),
        allow_private_network boolean NOT NULL,
        deadline_s integer NOT NULL CHECK (deadline_s > 0),
        updated_at timestamptz NOT NULL
    )
    """,
    "CREATE TABLE promotion_states (name text PRIMARY KEY)",
    """
    CREATE TABLE promotion_moves (
        from_state text NOT NULL REFERENCES promotion_states,
        to_state text NOT NULL REFERENCES promotion_states,
        PRIMARY KEY (from_state, to_state)
    )
    """,
    """
    CREATE TABLE promotions (
        id text PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('promotion', 'rollback')),
        model text NOT NULL,
        alias text NOT NULL,
        to_version text NOT NULL,
        from_version text,
        model_created_at bigint NOT NULL,
        run_id text,
        source_uri text NOT NULL,
        artifact_root text NOT NULL,
        uri text NOT NULL CHECK (uri LIKE '%/'),
        digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
        policy_name text NOT NULL,
        policy_revision integer NOT NULL,
        requested_by text NOT NULL,
        requested_by_name text NOT NULL,
        reason text NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        state text NOT NULL REFERENCES promotion_states,
        state_reason text,
        alias_moved boolean NOT NULL,
        applied_at timestamptz,
        rolls_back text REFERENCES promotions,
        revision integer NOT NULL,
        FOREIGN KEY (policy_name, policy_revision) REFERENCES policy_revisions
    )
    """,
    # The same version is asked for once at a time.
    """
    CREATE UNIQUE INDEX promotions_one_open_per_version ON promotions (model, alias, to_version)
        WHERE state IN ('pending', 'approved', 'applying')
    """,
    # At most one promotion of an alias is past approved and not settled.
    """
    CREATE UNIQUE INDEX promotions_one_in_flight ON promotions (model, alias) WHERE state IN ('applying', 'rolling_out')
    """,
    "CREATE INDEX promotions_by_time ON promotions (created_at DESC, id DESC)",
    "CREATE INDEX promotions_by_alias ON promotions (model, alias, created_at DESC, id DESC)",
    "CREATE INDEX promotions_by_state ON promotions (state, updated_at)",
    "CREATE INDEX promotions_by_requester ON promotions (requested_by, created_at DESC, id DESC)",
    "CREATE INDEX promotions_by_artifacts ON promotions (lower(artifact_root) text_pattern_ops)",
    "CREATE INDEX promotions_by_run ON promotions (run_id)",
    """
    CREATE TABLE decisions (
        promotion_id text NOT NULL REFERENCES promotions,
        principal_id text NOT NULL,
        principal_name text NOT NULL,
        outcome text NOT NULL CHECK (outcome IN ('approve', 'reject')),
        reason text NOT NULL,
        decided_at timestamptz NOT NULL,
        groups text[] NOT NULL,
        roles text[] NOT NULL,
        is_service boolean NOT NULL,
        PRIMARY KEY (promotion_id, principal_id)
    )
    """,
    """
    CREATE TABLE alias_holders (
        model text NOT NULL,
        alias text NOT NULL,
        version text NOT NULL,
        promotion_id text NOT NULL REFERENCES promotions,
        since timestamptz NOT NULL,
        PRIMARY KEY (model, alias)
    )
    """,
    "CREATE INDEX alias_holders_by_promotion ON alias_holders (promotion_id)",
    """
    CREATE TABLE deployments (
        id text PRIMARY KEY,
        target text NOT NULL REFERENCES targets,
        model text NOT NULL,
        generation integer NOT NULL CHECK (generation > 0),
        version text NOT NULL,
        uri text NOT NULL,
        digest text NOT NULL,
        promotion_id text NOT NULL REFERENCES promotions,
        phase text NOT NULL
            CHECK (phase IN ('Requested', 'Accepted', 'Progressing', 'Ready', 'Failed', 'Superseded')),
        reason text NOT NULL,
        message text NOT NULL,
        observed_generation integer NOT NULL,
        sequence bigint NOT NULL,
        requested_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        UNIQUE (target, model)
    )
    """,
    "CREATE INDEX deployments_by_promotion ON deployments (promotion_id)",
    """
    CREATE TABLE deliveries (
        id text PRIMARY KEY,
        target text NOT NULL REFERENCES targets,
        event_type text NOT NULL,
        subject text NOT NULL,
        generation integer NOT NULL,
        payload jsonb NOT NULL,
        state text NOT NULL CHECK (state IN ('pending', 'delivered', 'superseded', 'dead')),
        attempts integer NOT NULL,
        created_at timestamptz NOT NULL,
        next_attempt_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX deliveries_by_time ON deliveries (created_at DESC, id DESC)",
    "CREATE INDEX deliveries_pending ON deliveries (next_attempt_at) WHERE state = 'pending'",
    """
    CREATE TABLE delivery_attempts (
        delivery_id text NOT NULL REFERENCES deliveries,
        number integer NOT NULL,
        started_at timestamptz NOT NULL,
        duration_ms integer NOT NULL,
        status integer,
        error text,
        response text NOT NULL,
        PRIMARY KEY (delivery_id, number)
    )
    """,
    """
    CREATE TABLE audit_entries (
        sequence bigint PRIMARY KEY CHECK (sequence > 0),
        entry jsonb NOT NULL,
        previous_hash text NOT NULL,
        hash text NOT NULL UNIQUE
    )
    """,
    "CREATE INDEX audit_entries_by_object ON audit_entries ((entry ->> 'object'), sequence)",
]

GUARDS = [
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE =
        'integrity_constraint_violation';
    END $$
    """,
    *(
        f"""
        CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
        for table in ("audit_entries", "policy_revisions", "decisions")
    ),
    """
    CREATE TRIGGER promotions_are_kept BEFORE DELETE OR TRUNCATE ON promotions
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE FUNCTION guard_promotion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (NEW.id, NEW.kind, NEW.model, NEW.alias, NEW.to_version, NEW.from_version, NEW.model_created_at, NEW.run_id,
            NEW.source_uri, NEW.artifact_root, NEW.uri, NEW.digest, NEW.policy_name, NEW.policy_revision,
            NEW.requested_by, NEW.requested_by_name, NEW.reason, NEW.created_at, NEW.rolls_back)
            IS DISTINCT FROM
           (OLD.id, OLD.kind, OLD.model, OLD.alias, OLD.to_version, OLD.from_version, OLD.model_created_at, OLD.run_id,
            OLD.source_uri, OLD.artifact_root, OLD.uri, OLD.digest, OLD.policy_name, OLD.policy_revision,
            OLD.requested_by, OLD.requested_by_name, OLD.reason, OLD.created_at, OLD.rolls_back)
        THEN
            RAISE EXCEPTION 'what promotion % pins cannot change', OLD.id USING ERRCODE =
            'integrity_constraint_violation';
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
    "CREATE TRIGGER promotions_guard BEFORE UPDATE ON promotions FOR EACH ROW EXECUTE FUNCTION guard_promotion()",
]


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    for state in STATES:
        op.execute(f"INSERT INTO promotion_states VALUES ('{state}')")
    for before, afters in MOVES.items():
        for after in afters.split():
            op.execute(f"INSERT INTO promotion_moves VALUES ('{before}', '{after}')")
    for statement in GUARDS:
        op.execute(statement)
    _install_queue()


def _install_queue() -> None:
    """Many statements in one text: only the driver's simple protocol takes them."""
    schema = SchemaManager.get_schema()
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None  # the migration runs on it
    connection.run_async(lambda driver: driver.execute(schema))

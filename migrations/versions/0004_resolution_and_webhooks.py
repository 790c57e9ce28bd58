"""Where the bytes are, and the word that goes out: manifests, verifications, endpoints, deliveries in lanes.

The events that are there already are not sent to anybody: endpoints hear what happens after they are made.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

TARGETS = [
    """
    ALTER TABLE targets
        ADD COLUMN secrets text[],
        ADD COLUMN callback_secrets text[],
        ADD COLUMN allowed_networks text[],
        ADD COLUMN state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'disabled')),
        ADD COLUMN state_reason text,
        ADD COLUMN failing_since timestamptz
    """,
    """
    UPDATE targets SET secrets = ARRAY[secret], callback_secrets = ARRAY[callback_secret],
        allowed_networks = CASE WHEN allow_private_network THEN ARRAY['private'] ELSE ARRAY[]::text[] END
    """,
    """
    ALTER TABLE targets
        ALTER COLUMN secrets SET NOT NULL,
        ALTER COLUMN callback_secrets SET NOT NULL,
        ALTER COLUMN allowed_networks SET NOT NULL,
        DROP COLUMN secret,
        DROP COLUMN callback_secret,
        DROP COLUMN allow_private_network
    """,
]

ENDPOINTS = [
    """
    CREATE TABLE endpoints (
        name text PRIMARY KEY,
        document jsonb NOT NULL,
        revision integer NOT NULL CHECK (revision > 0),
        -- The sequence of the last event before it was made, or made anew: it hears those after it.
        hears_after bigint NOT NULL,
        state text NOT NULL CHECK (state IN ('active', 'disabled')),
        state_reason text,
        failing_since timestamptz,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        updated_by text NOT NULL
    )
    """,
]

DELIVERIES = [
    "DROP INDEX deliveries_pending",
    """
    ALTER TABLE deliveries
        ADD COLUMN sequence bigint GENERATED ALWAYS AS IDENTITY,
        ADD COLUMN receiver text,
        ADD COLUMN message_id text,
        ADD COLUMN lane text,
        ADD COLUMN body text,
        ADD COLUMN cause text CHECK (cause IN ('event', 'deployment', 'replay', 'ping')),
        ADD COLUMN event_sequence bigint,
        ADD COLUMN replays text,
        ADD COLUMN deployment_id text,
        ADD COLUMN settled_at timestamptz,
        ALTER COLUMN generation DROP NOT NULL,
        ALTER COLUMN next_attempt_at DROP NOT NULL
    """,
    """
    UPDATE deliveries SET receiver = 'target:' || target, message_id = id, body = payload::text, cause = 'deployment',
        lane = substr(subject, strpos(subject, '/') + 1), deployment_id = payload #>> '{data,deployment_id}',
        settled_at = CASE WHEN state = 'pending' THEN NULL ELSE next_attempt_at END,
        next_attempt_at = CASE WHEN state = 'pending' THEN next_attempt_at END
    """,
    """
    ALTER TABLE deliveries
        ALTER COLUMN receiver SET NOT NULL,
        ALTER COLUMN message_id SET NOT NULL,
        ALTER COLUMN lane SET NOT NULL,
        ALTER COLUMN body SET NOT NULL,
        ALTER COLUMN cause SET NOT NULL,
        DROP COLUMN target,
        DROP COLUMN payload,
        ADD CONSTRAINT deliveries_wait_or_are_settled CHECK ((state = 'pending') = (settled_at IS NULL))
    """,
    # What is next in a lane.
    "CREATE INDEX deliveries_in_lane ON deliveries (receiver, lane, sequence) WHERE state = 'pending'",
    # Each event goes out to each receiver once, whatever dies meanwhile.
    "CREATE UNIQUE INDEX deliveries_once ON deliveries (receiver, event_sequence) WHERE cause = 'event'",
    "CREATE INDEX deliveries_of_receiver ON deliveries (receiver, created_at DESC, id DESC)",
    "CREATE INDEX deliveries_of_lane ON deliveries (lane, created_at DESC, id DESC)",
    # Those that somebody looks for by their state; nearly all others are delivered.
    """
    CREATE INDEX deliveries_of_state ON deliveries (state, created_at DESC, id DESC)
        WHERE state IN ('pending', 'dead')
    """,
    "CREATE INDEX deliveries_of_message ON deliveries (message_id)",
    """
    CREATE TABLE delivery_lanes (
        receiver text NOT NULL,
        lane text NOT NULL,
        due_at timestamptz NOT NULL,
        -- Who sends from it now: the number of a lock that ends with its connection.
        held_by integer,
        PRIMARY KEY (receiver, lane)
    -- Every row is written again and again: what is dead of it must go soon.
    ) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0)
    """,
    "CREATE INDEX delivery_lanes_due ON delivery_lanes (receiver, due_at) WHERE held_by IS NULL",
    "CREATE INDEX delivery_lanes_held ON delivery_lanes (held_by) WHERE held_by IS NOT NULL",
    """
    INSERT INTO delivery_lanes SELECT receiver, lane, min(next_attempt_at), NULL FROM deliveries
        WHERE state = 'pending' GROUP BY receiver, lane
    """,
    # What was queued for each of them: whoever sends looks at the lanes.
    "DELETE FROM procrastinate_jobs WHERE task_name = 'deliver'",
    "CREATE TABLE fanned_out (sequence bigint NOT NULL)",
    "INSERT INTO fanned_out SELECT coalesce(max(sequence), 0) FROM events",
    """
    ALTER TABLE delivery_attempts
        ADD COLUMN address text,
        ADD COLUMN request_headers jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN response_headers jsonb NOT NULL DEFAULT '{}'
    """,
]

RESOLUTION = [
    # What a digest is of: the same digest, the same files. ``description`` is what MLmodel says.
    """
    CREATE TABLE manifests (
        digest text PRIMARY KEY,
        files jsonb NOT NULL,
        size bigint NOT NULL,
        file_count integer NOT NULL,
        description jsonb NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    # Whether what lies there is what was approved. One row for each version that holds a protected alias, or did.
    """
    CREATE TABLE verifications (
        workspace text NOT NULL,
        model text NOT NULL,
        model_created_at bigint NOT NULL,
        version text NOT NULL,
        version_created_at bigint NOT NULL,
        uri text NOT NULL,
        digest text NOT NULL,
        promotion_id text NOT NULL REFERENCES promotions,
        state text NOT NULL CHECK (state IN ('as_approved', 'changed', 'gone')),
        message text,
        -- Each file as it was read last, with what the store said of it: who finds that again need not read it.
        stamps jsonb,
        looked_at timestamptz,
        read_at timestamptz,
        obstacle text,
        -- What must be read before more can be said, if it is much.
        unread_bytes bigint,
        due_at timestamptz NOT NULL,
        -- Counts what was concluded; who looked meanwhile has looked in vain. To be asked for another look is nothing.
        writes bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (workspace, model, model_created_at, version, version_created_at)
    )
    """,
    "CREATE INDEX verifications_due ON verifications (due_at)",
    "CREATE INDEX verifications_by_uri ON verifications (uri)",
    "CREATE INDEX verifications_unread ON verifications (due_at) WHERE unread_bytes IS NOT NULL",
    """
    CREATE INDEX verifications_not_as_approved ON verifications (workspace, model, version)
        WHERE state <> 'as_approved'
    """,
    "CREATE TABLE resolution_epoch (value bigint NOT NULL)",
    "INSERT INTO resolution_epoch VALUES (0)",
    # The gateways that answer from memory, and up to where each has forgotten what changed.
    """
    CREATE UNLOGGED TABLE resolvers (
        id text PRIMARY KEY,
        seen bigint NOT NULL,
        alive_until timestamptz NOT NULL
    )
    """,
]

EVENTS = [
    # Of which models and aliases there are events, however many there are of each: those that a reader may see are
    # looked up one by one.
    "CREATE TABLE event_keys (workspace text, model text, alias text, PRIMARY KEY (model, alias, workspace))",
    "INSERT INTO event_keys SELECT DISTINCT workspace, model, alias FROM events",
    """
    CREATE FUNCTION note_key_of_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO event_keys VALUES (NEW.workspace, NEW.model, NEW.alias) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER note_key AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION note_key_of_event()",
    # The versions that were said to be registered, for as long as MLflow may list them as new; and how far each
    # workspace was looked at: the time, by MLflow's clock and in ms since the epoch, of the newest one.
    """
    CREATE TABLE noticed_versions (
        workspace text NOT NULL,
        created_at bigint NOT NULL,
        model text NOT NULL,
        version text NOT NULL,
        PRIMARY KEY (workspace, created_at, model, version)
    )
    """,
    "CREATE TABLE noticed_until (workspace text PRIMARY KEY, created_at bigint NOT NULL)",
]


def upgrade() -> None:
    for statement in [*TARGETS, *ENDPOINTS, *DELIVERIES, *RESOLUTION, *EVENTS]:
        op.execute(statement)

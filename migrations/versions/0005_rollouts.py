"""The hand that deploys: what each generation was, what runs, and rollouts step by step."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

MOVES = [
    # Where the alias moves only after every target is ready.
    ("approved", "rolling_out"),
    ("rolling_out", "applying"),
    ("rolling_out", "stale"),
    ("applied", "live"),
]

TARGETS = [
    """
    ALTER TABLE targets
        ADD COLUMN options jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN metrics jsonb
    """,
]

DEPLOYMENTS = [
    """
    ALTER TABLE deployments
        DROP CONSTRAINT deployments_phase_check,
        ADD CHECK (phase IN ('Requested', 'Accepted', 'Progressing', 'Ready', 'Failed', 'Errored', 'Superseded')),
        ADD COLUMN action text NOT NULL DEFAULT 'apply' CHECK (action IN ('apply', 'remove')),
        -- Of the requests, the percentage that the version gets; the rest is for the stable one.
        ADD COLUMN weight integer NOT NULL DEFAULT 100 CHECK (weight BETWEEN 0 AND 100),
        ADD COLUMN stable jsonb,
        -- What the target said last that it serves, and when it was heard of last.
        ADD COLUMN serving jsonb NOT NULL DEFAULT '[]',
        ADD COLUMN heard_at timestamptz,
        -- What it last served alone: version, generation, promotion, and since when.
        ADD COLUMN served jsonb,
        -- When it was first ready with its present generation.
        ADD COLUMN ready_at timestamptz,
        -- When the target was asked last, and why that told nothing.
        ADD COLUMN looked_at timestamptz,
        ADD COLUMN obstacle text,
        ADD COLUMN drift text,
        ADD COLUMN drifted_since timestamptz,
        -- The `data` of the call of the present generation, as it was made: who pulls what is desired gets the same.
        ADD COLUMN call jsonb
    """,
    "UPDATE deployments SET ready_at = updated_at WHERE phase = 'Ready'",
    """
    UPDATE deployments SET served = jsonb_build_object(
        'version', version, 'generation', generation, 'promotion_id', promotion_id, 'since', to_json(updated_at))
    WHERE phase = 'Ready'
    """,
    """
    UPDATE deployments SET call = (
        SELECT d.body::jsonb -> 'data' FROM deliveries d
        WHERE d.deployment_id = deployments.id AND d.generation = deployments.generation
        ORDER BY d.created_at DESC LIMIT 1)
    """,
    """
    CREATE TABLE deployment_generations (
        deployment_id text NOT NULL REFERENCES deployments,
        generation integer NOT NULL CHECK (generation > 0),
        action text NOT NULL,
        version text NOT NULL,
        uri text NOT NULL,
        digest text NOT NULL,
        weight integer NOT NULL,
        stable jsonb,
        promotion_id text NOT NULL REFERENCES promotions,
        phase text NOT NULL,
        reason text NOT NULL,
        message text NOT NULL,
        requested_at timestamptz NOT NULL,
        ready_at timestamptz,
        updated_at timestamptz NOT NULL,
        PRIMARY KEY (deployment_id, generation)
    )
    """,
    """
    CREATE INDEX deployments_unsettled ON deployments (requested_at)
        WHERE phase IN ('Accepted', 'Progressing', 'Requested')
    """,
    # Asked whenever a version is resolved.
    "CREATE INDEX deployments_by_model ON deployments (model, workspace)",
    """
    INSERT INTO deployment_generations
    SELECT id, generation, action, version, uri, digest, weight, stable, promotion_id, phase, reason, message,
           requested_at, CASE WHEN phase = 'Ready' THEN updated_at END, updated_at
    FROM deployments
    """,
]

ROLLOUTS = [
    """
    CREATE TABLE rollouts (
        promotion_id text PRIMARY KEY REFERENCES promotions,
        state text NOT NULL CHECK (state IN ('moving', 'holding', 'paused', 'going_back', 'done', 'undone', 'failed')),
        step integer NOT NULL CHECK (step >= 0),
        -- When this step was begun, and when every target had its weight in effect.
        step_began_at timestamptz NOT NULL,
        held_since timestamptz,
        due_at timestamptz,
        reason text NOT NULL,
        -- Of each gate, by name: consecutive failures, passes, when it was measured last.
        gates jsonb NOT NULL DEFAULT '{}',
        -- By target: what it is proven to serve without this rollout, null for nothing.
        formers jsonb NOT NULL,
        updated_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX rollouts_due ON rollouts (due_at) WHERE due_at IS NOT NULL",
    """
    CREATE INDEX rollouts_open ON rollouts (promotion_id)
        WHERE state IN ('moving', 'holding', 'paused', 'going_back')
    """,
    """
    CREATE TABLE rollout_steps (
        promotion_id text NOT NULL REFERENCES rollouts,
        number integer NOT NULL,
        weight integer NOT NULL CHECK (weight BETWEEN 0 AND 100),
        -- For how many seconds it is held; null: until a person says so.
        hold_s integer,
        gates jsonb NOT NULL,
        keeps_stable boolean NOT NULL,
        message text NOT NULL,
        began_at timestamptz,
        held_since timestamptz,
        ended_at timestamptz,
        outcome text,
        PRIMARY KEY (promotion_id, number)
    )
    """,
    """
    CREATE TABLE gate_measurements (
        promotion_id text NOT NULL REFERENCES rollouts,
        step integer NOT NULL,
        target text NOT NULL,
        gate text NOT NULL,
        at timestamptz NOT NULL,
        value double precision,
        verdict text NOT NULL,
        message text NOT NULL,
        PRIMARY KEY (promotion_id, step, target, gate, at)
    )
    """,
    "CREATE INDEX gate_measurements_by_time ON gate_measurements (at)",
]


def upgrade() -> None:
    for before, after in MOVES:
        op.execute(f"INSERT INTO promotion_moves VALUES ('{before}', '{after}')")
    for statement in [*TARGETS, *DEPLOYMENTS, *ROLLOUTS]:
        op.execute(statement)

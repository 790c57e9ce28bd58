"""The unit of work: one transaction, its repositories, and what goes out with it.

::

    async with database.unit_of_work() as work:
        ...
        await work.commit()

leaves nothing behind unless ``commit`` was reached. State, audit entries, jobs and wake-ups are written in one
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.adapters.postgres.aliases import AliasHolders
from app.adapters.postgres.audit import AuditLog
from app.adapters.postgres.checks import PostedChecks
from app.adapters.postgres.comments import Comments
from app.adapters.postgres.contributions import Contributions
from app.adapters.postgres.delegations import Delegations
from app.adapters.postgres.deliveries import Deliveries
from app.adapters.postgres.delivery_lanes import DeliveryLanes
from app.adapters.postgres.deployments import Deployments
from app.adapters.postgres.drifts import Drifts
from app.adapters.postgres.endpoints import Endpoints
from app.adapters.postgres.engine import create_engine, translated_failures
from app.adapters.postgres.events import Events
from app.adapters.postgres.evidence import EvidenceLog
from app.adapters.postgres.gate_measurements import GateMeasurements
from app.adapters.postgres.grants import Grants
from app.adapters.postgres.history import AliasHistory
from app.adapters.postgres.jobs import Jobs
from app.adapters.postgres.logins import Logins
from app.adapters.postgres.manifests import Manifests
from app.adapters.postgres.measurements import Measurements
from app.adapters.postgres.noticed import NoticedVersions
from app.adapters.postgres.owners import Owners
from app.adapters.postgres.policies import Policies
from app.adapters.postgres.principals import Principals
from app.adapters.postgres.promotions import Promotions
from app.adapters.postgres.resolutions import Resolutions
from app.adapters.postgres.reviews import Reviews
from app.adapters.postgres.rollouts import Rollouts
from app.adapters.postgres.sessions import Sessions
from app.adapters.postgres.targets import Targets
from app.adapters.postgres.tokens import Tokens
from app.adapters.postgres.verifications import Verifications
from app.domain.audit import Entry
from app.domain.events import Event

CHANGES_CHANNEL = "countersign_changes"
IDENTITY_CHANGED = "identity"
"""The topic that is announced when what was remembered of callers must be forgotten."""
DELIVERIES_ADDED = "deliveries"
"""The topic that is announced when there is something to send."""
RESOLUTION_CHANGED = "resolution"
"""What the topic begins with that says what must be forgotten of where bytes are: ``resolution:<number>[:<model>]``."""

_RAISE = text("UPDATE resolution_epoch SET value = value + 1 RETURNING value")
_NOTIFY = text("SELECT pg_notify(:channel, topic) FROM unnest(CAST(:topics AS text[])) AS topic")


class UnitOfWork:
    """See the module. Not to be shared between tasks."""

    promotions: Promotions
    policies: Policies
    targets: Targets
    aliases: AliasHolders
    history: AliasHistory
    drifts: Drifts
    evidence: EvidenceLog
    checks: PostedChecks
    comments: Comments
    delegations: Delegations
    reviews: Reviews
    events: Events
    deployments: Deployments
    rollouts: Rollouts
    gate_measurements: GateMeasurements
    deliveries: Deliveries
    delivery_lanes: DeliveryLanes
    endpoints: Endpoints
    principals: Principals
    sessions: Sessions
    tokens: Tokens
    logins: Logins
    grants: Grants
    owners: Owners
    contributions: Contributions
    noticed: NoticedVersions
    audit: AuditLog
    jobs: Jobs
    measurements: Measurements
    resolutions: Resolutions
    manifests: Manifests
    verifications: Verifications

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._stack = AsyncExitStack()
        self._connection: AsyncConnection | None = None
        self._entries: list[Entry] = []
        self._events: list[Event] = []
        self._topics: set[str] = set()
        self._forgets = False
        self._moved: set[str] = set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # When this fails, __aexit__ is not called: the failure must be translated here.
            await stack.enter_async_context(translated_failures())
            connection = await stack.enter_async_context(self._engine.connect())
            self._stack = stack.pop_all()
        self._connection = connection
        self.promotions = Promotions(connection)
        self.policies = Policies(connection)
        self.targets = Targets(connection)
        self.aliases = AliasHolders(connection)
        self.history = AliasHistory(connection)
        self.drifts = Drifts(connection)
        self.evidence = EvidenceLog(connection)
        self.checks = PostedChecks(connection)
        self.comments = Comments(connection)
        self.delegations = Delegations(connection)
        self.reviews = Reviews(connection)
        self.events = Events(connection)
        self.deployments = Deployments(connection)
        self.rollouts = Rollouts(connection)
        self.gate_measurements = GateMeasurements(connection)
        self.deliveries = Deliveries(connection)
        self.delivery_lanes = DeliveryLanes(connection)
        self.endpoints = Endpoints(connection)
        self.principals = Principals(connection)
        self.sessions = Sessions(connection)
        self.tokens = Tokens(connection)
        self.logins = Logins(connection)
        self.grants = Grants(connection)
        self.owners = Owners(connection)
        self.contributions = Contributions(connection)
        self.noticed = NoticedVersions(connection)
        self.audit = AuditLog(connection)
        self.jobs = Jobs(connection)
        self.measurements = Measurements(connection)
        self.resolutions = Resolutions(connection)
        self.manifests = Manifests(connection)
        self.verifications = Verifications(connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # Closing the connection rolls back what was not committed.
        return await self._stack.__aexit__(kind, error, trace)

    def record(self, entry: Entry) -> None:
        """Add an audit entry to this transaction."""
        self._entries.append(entry)

    def emit(self, event: Event) -> None:
        """Add an event to this transaction."""
        self._events.append(event)

    def announce(self, topic: str) -> None:
        """Wake whoever waits for ``topic``, on any process, when this transaction is committed."""
        self._topics.add(topic)

    def forget_callers(self) -> None:
        """Have every process forget, within a second of the commit, what it remembers of callers and grants.

        To be called wherever something is taken away: a session or token ended, a grant changed, somebody disabled.
        """
        self._forgets = True
        self.announce(IDENTITY_CHANGED)

    def forget_resolutions(self, *, workspace: str = "", model: str = "") -> None:
        """Have every gateway forget what it remembers of where bytes are: of one model, or of all if none is named.

        To be called wherever something changes what resolves. Who must know that it is forgotten waits
        (``app.ports.ResolversForgotten``).
        """
        self._moved.add(f":{workspace}/{model}" if model else "")

    async def commit(self) -> None:
        """Write the audit entries, announce, commit. The last line of a use case.

        Events and the chain of the audit log have one end each, so their locks come last and are held for the shortest
        time.
        """
        if self._connection is None:
            raise RuntimeError("the unit of work was not entered")
        if self._forgets:
            # The row is locked until the commit: what is read as the newest value was committed before.
            await self._connection.execute(text("UPDATE identity_epoch SET value = value + 1"))
        if self._moved:
            number = await self._connection.scalar(_RAISE)
            about = next(iter(self._moved)) if len(self._moved) == 1 else ""
            self.announce(f"{RESOLUTION_CHANGED}:{number}{about}")
        if self.deliveries.has_new:
            self.announce(DELIVERIES_ADDED)
            self.deliveries.has_new = False
        if self._topics:
            await self._connection.execute(_NOTIFY, {"channel": CHANGES_CHANNEL, "topics": sorted(self._topics)})
        await self.events.append(self._events)
        await self.audit.append(self._entries)
        await self._connection.commit()
        self._entries, self._events, self._topics, self._forgets, self._moved = [], [], set(), False, set()


class Database:
    """Our PostgreSQL."""

    def __init__(self, database_url: str, settings: Mapping[str, str] | None = None) -> None:
        """Args: settings: of PostgreSQL, for each connection."""
        self._engine = create_engine(database_url, settings)

    def unit_of_work(self) -> UnitOfWork:
        return UnitOfWork(self._engine)

    async def check_alive(self) -> None:
        """Return when the database answers and has our tables.

        Raises:
            Unavailable: it does not.
        """
        async with translated_failures(), self._engine.connect() as connection:
            await connection.execute(text("SELECT value FROM identity_epoch"))

    async def close(self) -> None:
        await self._engine.dispose()

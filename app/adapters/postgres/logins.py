"""Clients that people signed in to, device and code authorizations, and their refresh tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Row, Select, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_unless
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import (
    authorization_codes,
    device_authorizations,
    logins,
    principals,
    used_refresh_tokens,
)
from app.domain.identity import Scope
from app.domain.logins import AuthorizationCode, DeviceAuthorization, Login

KEPT = timedelta(days=30)
"""A login that is over is shown that long, and as long its used refresh tokens are known for what they are."""
KEPT_CODES = timedelta(days=1)
"""So that a code which is shown again ends the login that it began."""


class Logins:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, login: Login, *, refresh_digest: bytes) -> None:
        await self._connection.execute(
            insert(logins).values(
                id=login.id,
                principal_id=login.principal_id,
                client=login.client,
                scopes=sorted(login.scopes),
                refresh_digest=refresh_digest,
                authenticated_at=login.authenticated_at,
                acr=login.acr,
                created_at=login.created_at,
                refreshed_at=login.refreshed_at,
                expires_at=login.expires_at,
                address=login.address,
                user_agent=login.user_agent,
            )
        )

    async def of_refresh_token(self, digest: bytes) -> Login | None:
        """The login whose newest refresh token this is, locked.

        Who comes second waits for the first, and finds none: the token is no longer the newest.
        """
        return await self._one(_logins().where(logins.c.refresh_digest == digest).with_for_update(of=logins))

    async def of_used_refresh_token(self, digest: bytes) -> Login | None:
        """The login whose refresh token this was once, locked."""
        used = select(used_refresh_tokens.c.login_id).where(used_refresh_tokens.c.digest == digest)
        return await self._one(_logins().where(logins.c.id.in_(used)).with_for_update(of=logins))

    async def rotate(self, login_id: str, *, used: bytes, new: bytes, at: datetime) -> None:
        """Put a new refresh token in the place of a used one, which stays known as used."""
        await self._connection.execute(insert(used_refresh_tokens).values(digest=used, login_id=login_id, used_at=at))
        await self._connection.execute(
            update(logins).where(logins.c.id == login_id).values(refresh_digest=new, refreshed_at=at)
        )

    async def get(self, login_id: str) -> Login | None:
        """One login, locked."""
        return await self._one(_logins().where(logins.c.id == login_id).with_for_update(of=logins))

    async def page(
        self, principal_id: str, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Login]:
        """Somebody's logins, newest first, those before the key (created_at, id) of the last one seen."""
        query = (
            _logins()
            .where(logins.c.principal_id == principal_id)
            .order_by(logins.c.created_at.desc(), logins.c.id.desc())
            .limit(limit)
        )
        if before:
            query = query.where(tuple_(logins.c.created_at, logins.c.id) < tuple_(*before))
        return [_login(row) for row in await self._connection.execute(query)]

    async def end(self, login_id: str, *, at: datetime, by: str, reason: str) -> bool:
        """End a login, and with it every token of it; whether it had not ended before."""
        ended = await self._connection.execute(
            update(logins)
            .where(logins.c.id == login_id, logins.c.ended_at.is_(None))
            .values(ended_at=at, ended_by=by, end_reason=reason, refresh_digest=None)
        )
        return ended.rowcount == 1

    async def add_device(self, asked: DeviceAuthorization, *, device_digest: bytes) -> bool:
        """Keep a device that asks; false if its user code is taken."""
        added = await self._connection.execute(
            insert_unless(device_authorizations)
            .values(
                device_digest=device_digest,
                user_code=asked.user_code,
                client=asked.client,
                scopes=sorted(asked.scopes),
                state=asked.state,
                created_at=asked.created_at,
                expires_at=asked.expires_at,
                interval_s=asked.interval_s,
                address=asked.address,
            )
            .on_conflict_do_nothing(index_elements=["user_code"])
        )
        return added.rowcount == 1

    async def device_of_user_code(self, user_code: str, *, to_decide: bool = False) -> DeviceAuthorization | None:
        """The device that shows a code; locked if it is ``to_decide``."""
        query = select(device_authorizations).where(device_authorizations.c.user_code == user_code)
        row = (await self._connection.execute(query.with_for_update() if to_decide else query)).first()
        return _device(row) if row else None

    async def device(self, device_digest: bytes) -> DeviceAuthorization | None:
        """The device of a device code, locked."""
        query = select(device_authorizations).where(device_authorizations.c.device_digest == device_digest)
        row = (await self._connection.execute(query.with_for_update())).first()
        return _device(row) if row else None

    async def decide_device(
        self, user_code: str, *, state: str, principal_id: str, authenticated_at: datetime | None, acr: str | None
    ) -> None:
        await self._connection.execute(
            update(device_authorizations)
            .where(device_authorizations.c.user_code == user_code)
            .values(state=state, principal_id=principal_id, authenticated_at=authenticated_at, acr=acr)
        )

    async def polled(self, device_digest: bytes, *, at: datetime, interval_s: int) -> None:
        await self._connection.execute(
            update(device_authorizations)
            .where(device_authorizations.c.device_digest == device_digest)
            .values(polled_at=at, interval_s=interval_s)
        )

    async def remove_device(self, device_digest: bytes) -> None:
        await self._connection.execute(
            delete(device_authorizations).where(device_authorizations.c.device_digest == device_digest)
        )

    async def add_code(self, code: AuthorizationCode, *, digest: bytes) -> None:
        await self._connection.execute(
            insert(authorization_codes).values(
                digest=digest,
                client=code.client,
                redirect_uri=code.redirect_uri,
                challenge=code.challenge,
                scopes=sorted(code.scopes),
                principal_id=code.principal_id,
                authenticated_at=code.authenticated_at,
                acr=code.acr,
                created_at=code.created_at,
                expires_at=code.expires_at,
            )
        )

    async def code(self, digest: bytes) -> AuthorizationCode | None:
        """A code, used or not, locked."""
        query = select(authorization_codes).where(authorization_codes.c.digest == digest).with_for_update()
        row = (await self._connection.execute(query)).first()
        return _code(row) if row else None

    async def use_code(self, digest: bytes, *, login_id: str) -> None:
        await self._connection.execute(
            update(authorization_codes).where(authorization_codes.c.digest == digest).values(login_id=login_id)
        )

    async def remove_code(self, digest: bytes) -> None:
        await self._connection.execute(delete(authorization_codes).where(authorization_codes.c.digest == digest))

    async def sweep(self, now: datetime) -> int:
        """Remove what ended a while ago; how many logins and authorizations."""
        over = func.least(logins.c.expires_at, logins.c.ended_at) < now - KEPT
        removed = [
            await self._connection.execute(delete(logins).where(over)),
            await self._connection.execute(
                delete(device_authorizations).where(device_authorizations.c.expires_at < now - KEPT_CODES)
            ),
            await self._connection.execute(
                delete(authorization_codes).where(authorization_codes.c.expires_at < now - KEPT_CODES)
            ),
        ]
        return sum(result.rowcount for result in removed)

    async def _one(self, query: Select[tuple[object, ...]]) -> Login | None:
        row = (await self._connection.execute(query)).first()
        return _login(row) if row else None


def _logins() -> Select[tuple[object, ...]]:
    return select(logins, principals.c.name.label("principal_name"), principals.c.disabled_at).join(
        principals, principals.c.id == logins.c.principal_id
    )


def _scopes(values: Iterable[str]) -> frozenset[Scope]:
    return frozenset(Scope(value) for value in values)


def _login(row: Row[tuple[object, ...]]) -> Login:
    return Login(
        id=row.id,
        principal_id=row.principal_id,
        client=row.client,
        scopes=_scopes(row.scopes),
        authenticated_at=row.authenticated_at,
        acr=row.acr,
        created_at=row.created_at,
        refreshed_at=row.refreshed_at,
        expires_at=row.expires_at,
        address=row.address,
        user_agent=row.user_agent,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        principal_name=row.principal_name,
        disabled_at=row.disabled_at,
    )


def _device(row: Row[tuple[object, ...]]) -> DeviceAuthorization:
    return DeviceAuthorization(
        user_code=row.user_code,
        client=row.client,
        scopes=_scopes(row.scopes),
        state=row.state,
        created_at=row.created_at,
        expires_at=row.expires_at,
        interval_s=row.interval_s,
        address=row.address,
        polled_at=row.polled_at,
        principal_id=row.principal_id,
        authenticated_at=row.authenticated_at,
        acr=row.acr,
    )


def _code(row: Row[tuple[object, ...]]) -> AuthorizationCode:
    return AuthorizationCode(
        client=row.client,
        redirect_uri=row.redirect_uri,
        challenge=row.challenge,
        scopes=_scopes(row.scopes),
        principal_id=row.principal_id,
        authenticated_at=row.authenticated_at,
        acr=row.acr,
        created_at=row.created_at,
        expires_at=row.expires_at,
        login_id=row.login_id,
    )

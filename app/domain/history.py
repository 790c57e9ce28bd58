"""Who held an alias: a log of which each row holds from its ``since`` until the next row's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from app.domain.drifts import Sight
from app.domain.promotions import AliasKey


@dataclass(frozen=True, slots=True)
class Held:
    """From ``since`` on, ``version`` held the alias (none: nobody did).

    ``cause`` is *promotion*, *direct* (an alias that no policy protected), *companion* (it moved with another alias),
    *drift* (moved past the gateway), *restored* (Countersign took it away from who should not hold it) or
    *unattributed* (it was so when Countersign first looked). ``until`` is when the next row begins, where that is read.
    """

    key: AliasKey
    version: str | None
    since: datetime
    cause: str
    model_created_at: int
    promotion_id: str | None = None
    principal_id: str | None = None
    principal_name: str | None = None
    sequence: int = 0
    until: datetime | None = None

    @property
    def sight(self) -> Sight:
        return Sight(self.version, self.model_created_at)

    def by(self, principal_id: str, principal_name: str) -> Held:
        """The same, with who had it moved."""
        return replace(self, principal_id=principal_id, principal_name=principal_name)

    def tells_more_than(self, last: Held) -> bool:
        """Whether it is worth a row behind ``last``: another holder, or somebody answers for it who did not before."""
        return (
            not self.sight.is_as(last.sight)
            or (self.promotion_id is not None and self.promotion_id != last.promotion_id)
            or (self.principal_id is not None and last.principal_id is None)
        )

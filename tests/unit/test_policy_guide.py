"""Every policy in docs/guides/policies-and-targets.md can be applied as it stands there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.adapters.calendar import RecurrenceCalendar
from app.adapters.clock import SystemClock
from app.adapters.expressions import CelExpressions
from app.adapters.strict_yaml import load_documents
from app.domain.policies import Policy, document_of, policy_from_document
from app.domain.policies.documents import short_document_of
from app.domain.policies.revisions import policy_or_retirement
from app.domain.policies.satisfying import contradictions, entanglements, never_opens

GUIDE = (Path(__file__).parents[2] / "docs/guides/policies-and-targets.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
WHOLE = {"kind": "Policy", "name": "p", "models": "*", "alias": "a"}


def policies_in(block: str) -> list[Policy]:
    """Those of a block; one that shows some fields stands for a policy that has them."""
    found = []
    for source in load_documents(block, file="guide"):
        document = source.document
        assert isinstance(document, Mapping)
        if "kind" not in document:
            document = {**WHOLE, "approvals": [{"name": "r", "roles": ["approver"]}], **document}
        if document["kind"] == "Policy":
            policy = policy_or_retirement(document)
            found += [policy] if isinstance(policy, Policy) else []
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n", 2)[1].strip("# ")[:40] or "block")
def test_what_the_guide_shows_is_taken(block: str) -> None:
    clock = SystemClock()
    calendar = RecurrenceCalendar(clock)
    policies = policies_in(block)
    assert entanglements(policies, {policy.name for policy in policies}) == {}
    for policy in policies:
        assert contradictions(policy) == []
        assert never_opens(policy, clock.now(), calendar) == []
        for window in policy.windows:
            calendar.check(window)
        for check in policy.checks:
            assert not check.expression or CelExpressions().check(check.expression, field=check.name)


def test_the_guide_tells_of_every_field_and_its_default() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \|(?: `(.*?)`| none|) \|", GUIDE, re.MULTILINE))
    least = policy_from_document({**WHOLE, "approvals": [{"name": "r", "roles": ["approver"]}]}, revision=1)
    assert set(told) == (set(document_of(least)) | {"soak"}) - {"kind", "name"}
    said = {name: default for name, default in told.items() if default}
    [read] = policies_in("\n".join(f"{name}: {default}" for name, default in said.items() if name != "autoApprove"))
    assert set(short_document_of(read)) == {"kind", "name", "models", "alias", "approvals"}

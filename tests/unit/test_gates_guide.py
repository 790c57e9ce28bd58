"""Every query in docs/guides/gates.md can be asked, and every placeholder is told of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from app.adapters.promql import PromqlParser
from app.domain.gate_queries import PLACEHOLDERS, sample_of
from app.domain.policies import policy_from_document
from app.domain.policies.satisfying import contradictions
from app.domain.targets import target_from_document

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/gates.md").read_text()
README = (ROOT / "README.md").read_text()
STEPS = [{"weight": 10, "hold": "10m"}]
LEAST = {
    "name": "p",
    "models": "*",
    "alias": "a",
    "targets": ["t"],
    "approvals": [{"name": "r", "roles": ["approver"]}],
}


def gates() -> list[dict[str, object]]:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    found = [gate for block in blocks for gate in (block.get("rollout") or block)["gates"]]
    queries = re.findall(r"```promql\n(.*?)```", GUIDE, re.DOTALL)
    return [*found, *({"name": f"query {n}", "query": query, "pass": "< 1"} for n, query in enumerate(queries))]


@pytest.mark.parametrize("gate", gates(), ids=lambda gate: str(gate["name"]))
def test_what_the_guide_shows_is_taken(gate: dict[str, object]) -> None:
    rollout = {"strategy": "canary", "steps": STEPS, "gates": [gate]}
    policy = policy_from_document({**LEAST, "rollout": rollout}, revision=1)
    assert contradictions(policy) == []
    PromqlParser().check(sample_of(policy.rollout.gates[0].query), field="query")


def test_what_the_readme_shows_is_taken() -> None:
    (block,) = re.findall(r"```yaml\n(kind: Target.*?)```", README, re.DOTALL)
    target, policy = yaml.safe_load_all(block)
    assert target_from_document(target).metrics
    taken = policy_from_document({**policy, "approvals": LEAST["approvals"]}, revision=1)
    assert contradictions(taken) == []
    PromqlParser().check(sample_of(taken.rollout.gates[0].query), field="query")


def test_the_guide_tells_of_every_placeholder() -> None:
    assert set(re.findall(r"\{\{(\w+)\}\}", GUIDE)) == set(PLACEHOLDERS)

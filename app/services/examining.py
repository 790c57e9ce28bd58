"""Examines a candidate: gathers the facts that policies speak of, and lets the policy's own checks judge them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.adapters.postgres.evidence import Taken
from app.domain.assessing import CheckResult
from app.domain.digests import FileDigest
from app.domain.errors import CountersignError, Unavailable
from app.domain.policies import Check, CheckKind
from app.domain.promotions import Kind, Promotion
from app.domain.signatures import MOST_BYTES
from app.domain.verdicts import Deny
from app.ports import Clock, Expressions, ObjectStore, SignatureChecker
from app.services.evidence import Asked, Evidence, Known
from app.services.recording import UnitOfWorkFactory

SHOWN = frozenset({"candidate.run", "candidate.has_pickle", "difference.metrics"})
"""What is looked up of every candidate, whatever the policy's checks read: approvers are shown it, and whom MLflow
names as the run's user does not approve."""


MOST_KEPT = 200
"""Items of a list of facts that are kept with a promotion; ``file_count`` says how many files there are."""


@dataclass(frozen=True, slots=True)
class Examining:
    """See the module."""

    unit_of_work: UnitOfWorkFactory
    facts: Evidence
    expressions: Expressions
    signatures: SignatureChecker
    store: ObjectStore
    clock: Clock

    async def examine(
        self, promotion: Promotion, *, before: Taken | None = None, files: Sequence[FileDigest] | None = None
    ) -> Taken:
        """Look at a promotion's candidate now. No transaction is open meanwhile.

        Args:
            promotion: its digest is known.
            before: what was found last: who signed these bytes is not asked twice.
            files: of the candidate, if they were just read.

        Raises:
            Unavailable: MLflow or the store does not answer.
        """
        now = self.clock.now()
        facts = await self._facts(promotion, files or ())
        kept = _kept(facts)
        if promotion.kind is not Kind.PROMOTION:
            return Taken(now, kept)
        known = {result.name: result for result in (before.results if before else ())}
        results = []
        for check in promotion.policy.checks:
            if check.kind is CheckKind.EXPRESSION:
                results.append(await asyncio.to_thread(self._expression, check, facts))
            elif check.kind is CheckKind.SIGNATURE:
                made = known.get(check.name)
                is_final = made is not None and made.outcome != "missing"
                results.append(made if made and is_final else await self._signature(check, promotion, files))
        reads = {path: value for result in results for path, value in result.reads.items()}
        return Taken(now, kept, reads, tuple(results))

    async def _facts(self, promotion: Promotion, files: Sequence[FileDigest]) -> Mapping[str, object]:
        expressions = [check.expression for check in promotion.policy.checks if check.kind is CheckKind.EXPRESSION]
        asked = Asked(
            promotion.key,
            promotion.to_version,
            promotion.from_version,
            promotion.created_at,
            requested_by=promotion.requested_by_name,
            reason=promotion.reason,
            candidate_known=Known(promotion.digest, files=files),
            holder_known=await self._holder(promotion),
        )
        try:
            wanted = SHOWN | {path for each in expressions for path in self.expressions.check(each, field="expression")}
            return await self.facts.of(asked, wanted=wanted)
        except Unavailable:
            raise
        except CountersignError as error:
            # A version whose run is gone, say: what is not there is absent, and a check that asks for it fails.
            return {"error": error.message}

    async def _holder(self, promotion: Promotion) -> Known:
        """The bytes of the version that holds the alias, as they were when a promotion of ours put it there."""
        async with self.unit_of_work() as work:
            holder = await work.aliases.get(promotion.key)
            if holder is None or holder.version != promotion.from_version:
                return Known()
            by = await work.promotions.get(holder.promotion_id)
        return Known(by.digest, by.version_created_at)

    def _expression(self, check: Check, facts: Mapping[str, object]) -> CheckResult:
        found = self.expressions.evaluate(check.expression, facts)
        failing = [clause.message for clause in found.clauses if not clause.holds]
        if found.holds:
            message = "It holds."
        else:
            message = ". ".join([*([check.message.rstrip(".")] if check.message else []), "; ".join(failing)])
        return CheckResult(check.name, "pass" if found.holds else "fail", message, reads=dict(found.reads))

    async def _signature(self, check: Check, promotion: Promotion, files: Sequence[FileDigest] | None) -> CheckResult:
        signed_by = check.signed_by
        if signed_by is None or files is None:
            return CheckResult(check.name, "missing", "The signature has not been verified yet.")
        if not any(file.path == signed_by.file for file in files):
            return CheckResult(check.name, "fail", f"There is no signature {signed_by.file} among the artifacts.")
        try:
            signature = await self.store.read(promotion.uri, signed_by.file, limit=MOST_BYTES)
            verdict = await self.signatures.check(signature, files, signed_by)
        except Unavailable:
            raise
        except CountersignError as error:
            return CheckResult(check.name, "fail", error.message)
        if isinstance(verdict, Deny):
            return CheckResult(check.name, "fail", f"Not signed by {signed_by.who}: {verdict.reason}.")
        return CheckResult(check.name, "pass", f"Signed by {signed_by.who}.")


def _kept(facts: Mapping[str, object]) -> Mapping[str, object]:
    """The facts without what is too long to be kept and shown: a version may have 50,000 files."""
    return {name: _shortened(value) for name, value in facts.items()}


def _shortened(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value[:MOST_KEPT]]
    return value


def needs_files(promotion: Promotion, taken: Taken | None) -> bool:
    """Whether a check of the policy can only be made with all digests of the candidate at hand."""
    made = {result.name for result in (taken.results if taken else ()) if result.outcome != "missing"}
    return any(check.kind is CheckKind.SIGNATURE and check.name not in made for check in promotion.policy.checks)


def looks_at_facts(promotion: Promotion) -> bool:
    """Whether facts matter to whether it may be applied."""
    return promotion.kind is Kind.PROMOTION and any(
        check.kind is CheckKind.EXPRESSION for check in promotion.policy.checks
    )

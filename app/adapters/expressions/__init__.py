"""The checks' language: CEL over the facts of the domain, evaluated by a library (ADR 0021).

``parsing`` and ``checking`` read an expression before there are facts, ``costing`` tells what it would take,
``admitting`` hands over the facts that it reads, ``library`` evaluates, and ``evaluating`` answers.
"""

from app.adapters.expressions.evaluating import CelExpressions

__all__ = ["CelExpressions"]

"""The checks' language: the part of CEL that docs/guides/checks.md names (ADR 0021), over the facts of the domain.

``parsing`` reads a text into a tree, ``compiling`` gives every part a type and refuses what has none, ``operations``
holds the operators and functions, ``evaluating`` answers.
"""

from app.adapters.expressions.evaluating import CelExpressions

__all__ = ["CelExpressions"]

"""Reads PromQL before anybody is asked: a gate that could never measure anything is refused with its policy."""

from __future__ import annotations

import promql_parser as promql

from app.domain.errors import InvalidInput

_LONGEST_REASON = 300
_EXPECTED = "expected a query that gives a number now"
_NO_NUMBER = {
    "MatrixSelector": "of a range, take a rate or a sum, as in sum(rate(x[2m]))",
    "SubqueryExpr": "of a range, take a rate or a sum, as in max_over_time(x[5m:1m])",
    "StringLiteral": "this is a text",
}


class PromqlParser:
    """See ``app.ports.QueryLanguage``. It knows the language and its functions, and no metric."""

    def check(self, query: str, *, field: str) -> None:
        try:
            expression = promql.parse(query)
        except ValueError as error:
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            raise InvalidInput(field, f"{_EXPECTED} in PromQL: {reason}") from None
        while isinstance(expression, promql.ParenExpr):
            expression = expression.expr
        if kind := _NO_NUMBER.get(type(expression).__name__):
            raise InvalidInput(field, f"{_EXPECTED}: {kind}")

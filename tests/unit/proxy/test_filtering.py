"""Pages of filtered lists: nothing lost, nothing twice, in order, whatever is hidden, however large the pages."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.clock import SystemClock
from app.adapters.sealing import AesSealer
from app.domain.access import Principal
from app.domain.errors import InvalidInput
from app.domain.grants import Access, Grant, Subject
from app.domain.grants import Reach as On
from app.domain.identity import Identity
from app.domain.roles import Role
from app.domain.routes import ROUTES
from app.domain.routes.resources import Named, rule_of
from app.proxy.capturing import Captured
from app.proxy.filtering import MOST_PAGES, Lists, token_at
from app.proxy.limiting import Asked, Limits, Phantoms
from app.services.reach import Reach

ROUTE = next(route for route in ROUTES if route.template == "/api/2.0/mlflow/registered-models/search")
SEALER = AesSealer("a secret of the installation")


class OwnsNothing(Reach):
    """The rules of what is visible, for somebody who has created nothing."""

    def __init__(self) -> None:
        super().__init__(None, None, SystemClock(), artifacts_destination="/")  # type: ignore[arg-type]  # nobody is asked

    async def owned_by(self, principal: Principal, kind: Named, workspace: str) -> frozenset[str]:
        return frozenset()


class Upstream:
    """MLflow's list of models, as it pages it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.pages: list[int] = []

    async def __call__(self, asked: Asked) -> Captured:
        query = {pair[0]: pair[1] for pair in asked.query}
        size = int(query.get("max_results", "100"))
        assert 1 <= size <= 1000
        token = query.get("page_token")
        offset = json.loads(b64decode(token))["offset"] if token else 0
        names = self.names
        if clause := query.get("filter"):
            names = [name for name in names if found_by(clause, name)]
        page = names[offset : offset + size]
        self.pages.append(len(page))
        document: dict[str, object] = {"registered_models": [{"name": name} for name in page]} if page else {}
        if offset + size < len(names):
            document["next_page_token"] = token_at(offset + size)
        captured = Captured()
        captured.status = 200
        captured.hold(json.dumps(document).encode())
        return captured


def found_by(clause: str, name: str) -> bool:
    """MLflow's filters, as far as they are used."""
    if clause.startswith("name LIKE "):
        return fnmatchcase(name, clause.removeprefix("name LIKE ").strip("'").replace("%", "*").replace("_", "?"))
    return name in clause.removeprefix("name IN (").removesuffix(")").replace("'", "").split(",")


def limits_for(*patterns: str) -> Limits:
    grants = [Grant(f"g{index}", Role.VIEWER, Subject(group="*"), On(model=on)) for index, on in enumerate(patterns)]
    principal = Principal(Identity("https://issuer.example", "somebody", "somebody"), Access(grants))
    return Limits(OwnsNothing(), ROUTE, rule_of(ROUTE), principal)


def pages_of(limits: Limits, upstream: Upstream, size: int, *, most: int = 10_000) -> list[list[str]]:
    async def walk() -> list[list[str]]:
        pages: list[list[str]] = []
        token: str | None = None
        while len(pages) < most:
            query = [["max_results", str(size)], *([["page_token", token]] if token else [])]
            captured = await Lists(SEALER).answer(limits, Asked({}, query), upstream)
            document = json.loads(captured.body)
            pages.append([item["name"] for item in document.get("registered_models", [])])
            if not (token := document.get("next_page_token")):
                break
        return pages

    return asyncio.run(walk())


NAMES = st.lists(st.text("ab-", min_size=1, max_size=6), unique=True, max_size=60).map(sorted)
PATTERNS = st.lists(st.text("ab-*?", min_size=1, max_size=5), min_size=1, max_size=6)


@given(names=NAMES, patterns=PATTERNS, size=st.integers(1, 12), is_walked=st.booleans())
def test_nothing_is_lost_nothing_comes_twice_and_the_order_is_kept(
    names: list[str], patterns: list[str], size: int, *, is_walked: bool
) -> None:
    # A pattern with a class of characters cannot be asked for: the list is walked.
    walked = ["[!ab-]"] if is_walked else []
    pages = pages_of(limits_for(*patterns, *walked), Upstream(names), size)
    visible = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    assert [name for page in pages for name in page] == visible
    assert all(len(page) <= size for page in pages)
    assert all(len(page) == size for page in pages[:-1])


def test_a_page_costs_a_bounded_number_of_mlflows() -> None:
    names = [f"m{index:05d}" for index in range(40_000)]
    upstream = Upstream(names)
    limits = limits_for("[m]39999")
    (first,) = pages_of(limits, upstream, 10, most=1)
    assert first == []
    assert len(upstream.pages) == MOST_PAGES
    assert [name for page in pages_of(limits, Upstream(names), 10) for name in page] == ["m39999"]


def test_a_page_with_nothing_hidden_asks_mlflow_once() -> None:
    names = [f"m{index:03d}" for index in range(300)]
    upstream = Upstream(names)
    (first,) = pages_of(limits_for("[m]*"), upstream, 100, most=1)
    assert (first, upstream.pages) == (names[:100], [101])


def test_what_is_known_by_name_or_pattern_is_asked_for_alone() -> None:
    names = [f"m{index:04d}" for index in range(5000)]
    for patterns, visible in ((names[::50], names[::50]), (["m*99", "n*"], names[99::100])):
        upstream = Upstream(names)
        (first,) = pages_of(limits_for(*patterns), upstream, 20, most=1)
        assert first == visible[:20]
        assert len(upstream.pages) == 1
        assert upstream.pages[0] <= 21


@pytest.mark.parametrize("token", ["x", "eyJvZmZzZXQiOiAxfQ==", "é", "A" * 200])
def test_a_token_that_is_not_ours_is_refused_in_mlflows_words(token: str) -> None:
    asked = Asked({}, [["page_token", token]])
    with pytest.raises(InvalidInput, match="could not base64-decode"):
        asyncio.run(Lists(SEALER).answer(limits_for("m*"), asked, Upstream(["m"])))


def test_the_length_of_a_token_says_nothing_of_where_it_leads() -> None:
    lengths = {len(SEALER.seal(json.dumps({"offset": 10**power}), context="")) for power in range(12)}
    assert len(lengths) == 1


def test_what_mlflow_refuses_is_passed_on() -> None:
    async def refuse(_: Asked) -> Captured:
        captured = Captured()
        captured.status = 400
        captured.hold(b"why")
        return captured

    asked = Asked({}, [["max_results", "-1"]])
    answer = asyncio.run(Lists(SEALER).answer(limits_for("m*"), asked, refuse))
    assert (answer.status, answer.body) == (400, b"why")


def test_a_phantom_is_replaced_by_what_the_caller_said_and_nothing_else_is() -> None:
    phantoms = Phantoms()
    phantom = phantoms.of(Named.MODEL, 'a "model"')
    assert phantoms.of(Named.MODEL, 'a "model"') == phantom
    number = phantoms.of(Named.EXPERIMENT, "7")
    body = json.dumps({"message": f"no {phantom}", "other": f"x{number}", "id": number}).encode()
    assert json.loads(phantoms.restore(body)) == {"message": 'no a "model"', "other": f"x{number}", "id": "7"}

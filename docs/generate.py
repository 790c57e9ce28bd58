"""Writes the reference pages from the code: ``make docs``. A test fails while they differ."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

from pydantic_core import PydanticUndefined

from app.domain.facts import FACTS
from app.domain.facts import rows as facts_in
from app.domain.formats import FORMATS
from app.domain.problems import PROBLEMS
from app.domain.routes import NEVER, OPENINGS, ROUTES, Route
from app.settings import Settings

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py (`make docs`); do not edit. -->\n\n"


def settings() -> str:
    """Every variable, with its default."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "**required**" if field.default is PydanticUndefined else f"`{_shown(field.default)}`"
        choices = get_args(field.annotation)
        among = (
            f" One of {', '.join(f'`{item}`' for item in choices)}." if all(isinstance(i, str) for i in choices) else ""
        )
        rows.append(f"| `COUNTERSIGN_{name.upper()}` | {default} | {field.description}{among if choices else ''} |")
    return (
        f"# Settings\n\n{NOTE}Read once at the start, from the environment. All mistakes are reported together. Lists are "
        "comma-separated.\n`migrate`, `apply` and `audit` need `COUNTERSIGN_DATABASE_URL` alone, which may be in a file\nthat `COUNTERSIGN_DATABASE_URL_FILE` names; so may `COUNTERSIGN_ASSERTION_SECRET`.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def problems() -> str:
    """Every problem type, with its status on our API and its code on MLflow's paths."""
    rows = ["| `type` | status | title | on MLflow's paths | when |", "|---|---|---|---|---|"]
    for error, row in PROBLEMS.items():
        when = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        rows.append(
            f"| `urn:countersign:problem:{row.slug}` | {row.status} | {row.title} | `{row.mlflow_code}` | {when} |"
        )
    return (
        f"# Problems\n\n{NOTE}`/control/v1` answers errors as RFC 9457 `application/problem+json`; MLflow's own paths answer "
        'in MLflow\'s shape,\n`{"error_code", "message"}`, so that its client understands them. `detail` (or `message`) says in '
        "words what was refused.\n\n" + "\n".join(rows) + "\n"
    )


def routes() -> str:
    """MLflow's routes and what the door does with each."""
    counts = Counter(route.decision.value for route in ROUTES)
    rows = ["| method | path | class | permission | decision | opened by | reason |", "|---|---|---|---|---|---|---|"]
    for route in sorted(ROUTES, key=lambda route: (route.template, route.method)):
        permission = f"`{route.permission}`" if route.permission else "-"
        rows.append(
            f"| {route.method} | `{route.template}` | {route.route_class} | {permission} | **{route.decision}** | {_opened_by(route)} | {route.reason} |"
        )
    total = ", ".join(f"{count} {decision}" for decision, count in sorted(counts.items()))
    openings = ["| name | permission | once open |", "|---|---|---|"]
    openings += [f"| `{name}` | `{each.permission}` | {each.reason} |" for name, each in OPENINGS.items()]
    never = ["| name | why |", "|---|---|", *(f"| `{name}` | {why} |" for name, why in NEVER.items())]
    return (
        f"# MLflow's routes\n\n{NOTE}{ROUTES_INTRODUCTION}\n## Closed, and can be opened\n\n"
        "`COUNTERSIGN_OPEN_ROUTES` takes these names, separated by commas. The permission is then needed to use them.\n\n"
        + "\n".join(openings)
        + "\n\n## Closed for good\n\nNaming one of these in `COUNTERSIGN_OPEN_ROUTES` is an error.\n\n"
        + "\n".join(never)
        + f"\n\n## The table\n\n{len(ROUTES)} rows: {total}.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def facts() -> str:
    """Every fact that a check can look at, and every format of a file."""
    versions = {
        "candidate": "`candidate` and `holder`: a version",
        "difference": "`difference`",
        "promotion": "`promotion`",
    }
    parts = []
    for name, title in versions.items():
        root = FACTS.fields[name]
        rows = [
            f"## {title}",
            "",
            f"{root.meaning[:1].upper()}{root.meaning[1:]}.",
            "",
            "| fact | type | meaning | from | example |",
            "|---|---|---|---|---|",
        ]
        for path, fact in facts_in(root):
            meaning = fact.meaning or "-"
            rows.append(
                f"| `{path}` | {fact.type.label} | {meaning} | {fact.source or '-'} | {f'`{fact.example}`' if fact.example else '-'} |"
            )
        parts.append("\n".join(rows))
    formats = ["| format | |", "|---|---|", *(f"| `{name}` | {what or '-'} |" for name, what in FORMATS.items())]
    return (
        f"# Facts\n\n{NOTE}What the checks of a policy can look at; [how to write them](../guides/checks.md). Any fact may be absent. "
        "Names below `[]` are of a list's items.\n\n" + "\n\n".join(parts) + "\n\n## Formats of files\n\n"
        "By the first bytes of a file, and by its name where that says more: what is called `.pkl` is a pickle, and so is a pickle that is called `model.bin`.\n\n"
        + "\n".join(formats)
        + "\n"
    )


ROUTES_INTRODUCTION = """\
What the door does with every route of MLflow 3.17, those of its `basic-auth` app included; `countersign routes [--json]` prints it as
`COUNTERSIGN_OPEN_ROUTES` has opened it, with the rows of HEAD and OPTIONS that are left out here. What is not listed is unknown: 404 `ENDPOINT_NOT_FOUND`, and logged. So is a route that another
version of MLflow adds; the tests walk the minor version before and the newest version too, and report what they add.

- **HEAD** is listed where MLflow answers it without reading a body. Elsewhere MLflow reads its parameters from the body of a HEAD, so it is
  unknown.
- **OPTIONS** is unknown everywhere, though MLflow answers it on every path: it serves pages of other origins, and there are none here.
- **GET** has no body here, for the same reason as HEAD.
- **POST /graphql** is parsed. Every operation must be a `query`, or a `mutation` of fields that only read; each root field needs its permission,
  and fields that cross to the registry need `registry:read`. Introspection (`__schema`, `__type`) is refused.
"""


def _opened_by(route: Route) -> str:
    if route.opened_by:
        return f"`{route.opened_by}`"
    return "never" if route.closed_as else "-"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value) or "(none)"
    return "(none)" if value is None or value == {} else str(value)


PAGES = {"settings.md": settings, "problems.md": problems, "routes.md": routes, "facts.md": facts}


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write())


if __name__ == "__main__":
    main()

"""Writes the reference pages from the code: ``make docs``. A test fails while they differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from pydantic_core import PydanticUndefined

from app.domain.events import CATALOGUE, Event, EventType, StoredEvent, cloud_event
from app.domain.events.catalogue import Schema
from app.domain.facts import FACTS
from app.domain.facts import rows as facts_in
from app.domain.formats import FORMATS
from app.domain.problems import PROBLEMS
from app.domain.promotions import AliasKey
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
        "comma-separated.\n`migrate`, `apply` and `audit` need `COUNTERSIGN_DATABASE_URL` alone, which may be in a file\nthat `COUNTERSIGN_DATABASE_URL_FILE` names; so may the other secrets.\n\n"
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


EXAMPLE = StoredEvent(
    1042,
    Event(
        id="evn_01k9z4v3m8x2",
        type=EventType.ALIAS_MOVED,
        subject="iris@production",
        at=datetime(2026, 10, 1, 6, 0, 3, 120_000, tzinfo=UTC),
        key=AliasKey("default", "iris", "production"),
        data={
            "workspace": "default",
            "model": "iris",
            "alias": "production",
            "from_version": "6",
            "version": "7",
            "cause": "promotion",
            "kind": "promotion",
            "promotion": "prm_01k9z4v3m8x1",
            "uri": "s3://models/1/models/m-0c1d/artifacts/",
            "digest": f"sha256:{'5e' * 32}",
            "run_id": "8f3f4c1e0d3a4b6f9f0e1d2c3b4a5968",
            "by": "Ann",
        },
    ),
)
"""An event as it is shown in the documentation."""


def events() -> str:
    """Every type of event, with what it says."""
    overview = ["| type | alarm | meaning |", "|---|---|---|"]
    overview += [f"| `{kind}` | {'yes' if row.is_alarm else '-'} | {row.meaning} |" for kind, row in CATALOGUE.items()]
    parts = []
    for group in dict.fromkeys(kind.partition(".")[0] for kind in CATALOGUE):
        rows = {kind: row.data for kind, row in CATALOGUE.items() if kind.startswith(f"{group}.")}
        first, *others = rows.values()
        common = {name: schema for name, schema in first.items() if all(other.get(name) == schema for other in others)}
        parts += [f"## `{group}.*`", "", "All of them say:" if others else "It says:", "", *_members(common)]
        for kind, members in rows.items():
            if more := {name: schema for name, schema in members.items() if name not in common}:
                parts += ["", f"`{kind}` says too:", "", *_members(more)]
        parts.append("")
    shown = json.dumps(cloud_event(EXAMPLE, source="https://mlflow.example.com"), indent=2)
    return f"# Events\n\n{NOTE}{EVENTS_INTRODUCTION}\n```json\n{shown}\n```\n\n## The catalogue\n\n" + "\n".join(
        [*overview, "", *parts]
    )


def _members(members: Mapping[str, Schema]) -> list[str]:
    rows = ["| member | type | meaning |", "|---|---|---|"]
    for name, schema in members.items():
        among = [f"`{each}`" for each in cast("list[object]", schema.get("enum", ())) if each is not None]
        said = f"{schema['description']}" + (f" One of {', '.join(among)}." if among else "")
        rows.append(f"| `{name}` | {_type_of(schema)} | {said} |")
    return rows


def _type_of(schema: Schema) -> str:
    found = schema["type"]
    kinds = [str(each) for each in found] if isinstance(found, list) else [str(found)]
    return " or ".join("time" if each == "string" and schema.get("format") == "date-time" else each for each in kinds)


EVENTS_INTRODUCTION = """\
What Countersign tells of what happened: to endpoints (webhooks), on `GET /control/v1/events` and on `GET /control/v1/events/stream`
(server-sent events). Each is written in the transaction that makes it true, and none is lost. Webhooks and the stream carry CloudEvents 1.0
as JSON:

- `type` is `countersign.<type>.v1`, with the types below. A later version of one only adds members to `data`: ignore those that you do not
  know. `dataschema` is the address of its JSON Schema (2020-12), which anybody may read; `GET /control/v1/events/schemas` lists them.
- `id` is the same however often an event is sent: who has seen it has seen it. It is the `webhook-id` of a delivery.
- `sequence` counts up, in the order of the transactions; as text it sorts as the numbers do (CloudEvents' extension *sequence*). Numbers
  may be left out.
- `source` is the gateway's public URL, `subject` what it happened to, `time` when.
- `data` says what is in the tables below. What is of a promotion has `console` too: the page where people see it. Texts that people wrote
  are cut after 1,000 characters. There are no metrics, no secrets and no e-mail addresses in it but where a name is one.
"""

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


PAGES = {"settings.md": settings, "problems.md": problems, "routes.md": routes, "facts.md": facts, "events.md": events}


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write())


if __name__ == "__main__":
    main()

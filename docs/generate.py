"""Writes the reference pages from the code: ``make docs``. A test fails while they differ."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

from pydantic_core import PydanticUndefined

from app.domain.problems import PROBLEMS
from app.domain.routes import ROUTES
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
        "comma-separated.\n`migrate`, `apply` and `audit` need `COUNTERSIGN_DATABASE_URL` alone, which `COUNTERSIGN_DATABASE_URL_FILE` may\nreplace.\n\n"
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
    rows = ["| method | path | class | permission | decision | reason |", "|---|---|---|---|---|---|"]
    for route in sorted(ROUTES, key=lambda route: (route.template, route.method)):
        permission = f"`{route.permission}`" if route.permission else "-"
        rows.append(
            f"| {route.method} | `{route.template}` | {route.route_class} | {permission} | **{route.decision}** | {route.reason} |"
        )
    total = ", ".join(f"{count} {decision}" for decision, count in sorted(counts.items()))
    return (
        f"# MLflow's routes\n\n{NOTE}What is not listed is refused with 404 `ENDPOINT_NOT_FOUND`. {len(ROUTES)} rows: {total}.\n"
        "The same as `countersign routes`.\n\n" + "\n".join(rows) + "\n"
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value) or "(none)"
    return "(none)" if value is None or value == {} else str(value)


PAGES = {"settings.md": settings, "problems.md": problems, "routes.md": routes}


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write())


if __name__ == "__main__":
    main()

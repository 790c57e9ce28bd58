"""What a person may do after the story: which pages to open, as whom, and the same again by hand with another model."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx

from demo.platform import Connection, countersign
from demo.screen import Screen

OWN_MODEL = "my-model"
RAY = "Ray"


def tell(connection: Connection, folder: Path, screen: Screen) -> None:
    """Everything that is still running, and how to use it."""
    file = folder / "connection.json"
    screen.say("Everything is still running.", style="bold")
    screen.line()
    screen.say("Pages to open:")
    for name, url in _pages(connection).items():
        screen.fact(name, f"{url}  (asks for the token in {folder / 'secrets' / 'ray.token'})" if name == RAY else url)
    screen.line()
    screen.say(f"People: {', '.join(connection.tokens)}. Their passwords and access tokens are in {file}.")
    screen.say(f"Data and logs are in {folder}; `make demo CLEAN=1` begins from nothing.")
    screen.line()
    screen.say("The same by hand with another model, in a second terminal:")
    screen.line()
    for line in _commands(connection, file):
        screen.line(line)
    screen.line()
    screen.say("Ctrl-C stops everything.", style="bold")


def _pages(connection: Connection) -> dict[str, str]:
    """The pages that a browser gets without a token; one that only leads to another is left out."""
    candidates = {
        "API docs": f"{connection.gateway}/control/docs",
        "console": connection.console,
        "identity": connection.issuer,
        RAY: connection.ray_dashboard,
    }
    pages: dict[str, str] = {}
    for name, url in candidates.items():
        if (page := _page(url)) and page not in pages:
            pages[page] = name
    return {name: candidates[name] for name in pages.values()}


def _page(url: str) -> str | None:
    """The address of the page that a browser ends at, if there is one."""
    try:
        answer = httpx.get(url, headers={"Accept": "text/html"}, follow_redirects=True, timeout=10, trust_env=False)
    except httpx.HTTPError:
        return None
    is_page = answer.status_code == 200 and answer.headers.get("content-type", "").startswith("text/html")
    return str(answer.url) if is_page else None


def _commands(connection: Connection, file: Path) -> list[str]:
    python, command = _relative(Path(sys.executable)), _relative(Path(countersign()))
    read = f"import json, sys; print(json.load(open('{file}'))[sys.argv[1]]['access_token'])"
    ask = f"from mlflow import MlflowClient as C; C().set_registered_model_alias('{OWN_MODEL}', 'production', 1)"
    resolve = f"{connection.control}/resolve?uri=models:/{OWN_MODEL}@production"
    return [
        f'token() {{ {python} -c "{read}" "$1"; }}',
        f"export MLFLOW_TRACKING_URI={connection.gateway}",
        'export MLFLOW_TRACKING_TOKEN="$(token scientist)"',
        f"{python} deploy/mlflow/example/train.py --model {OWN_MODEL} --alpha 0.3",
        f'{python} -c "{ask}"',
        "",
        "# It was refused, and the message ends with a link. Approve that as somebody else:",
        'curl -X POST -H "Authorization: Bearer $(token approver)" LINK/approve',
        "",
        "# Where it is, and whether it is served yet (POST rows for predictions):",
        f'curl -H "Authorization: Bearer $(token serving)" "{resolve}"',
        f"curl {connection.serve}/{OWN_MODEL}",
        "",
        "# Or as a side-car follows it, until Ctrl-C:",
        f'COUNTERSIGN_TOKEN="$(token serving)" {command} resolve models:/{OWN_MODEL}@production --watch',
    ]


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

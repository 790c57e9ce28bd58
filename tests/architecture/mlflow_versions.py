"""What single versions of MLflow serve, each walked by ``mlflow_walk.py`` in an environment of its own, and how two
versions differ where the table of routes decides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.routes import ROUTES, Decision, match
from app.domain.routes.graphql import INNER_FIELDS, ROOT_FIELDS
from app.domain.routes.matching import parameter_names

ROOT = Path(__file__).parents[2]
WALK = Path(__file__).with_name("mlflow_walk.py")
ENVIRONMENTS = ROOT / ".mlflow_cache"
ARTIFACT_PATHS = [
    "1/models/m-0123456789abcdef0123456789abcdef/artifacts/MLmodel",
    "a b/c+d=e,(1)~@.txt",
    "größe/図/表.png",
    "x[1]{2}!$&'*",
    "~/.hidden",
    "a@b/c",
    "$HOME/a",
    "&a=b",
]
OPEN = {Decision.PUBLIC, Decision.FORWARD, Decision.GUARD}

Walked = dict[str, Any]
Pairs = set[tuple[str, str]]

DIFFERENCES = "differences of MLflow "
"""How the property of a test is named whose value is a list of findings; the version follows."""


def walk(python: Path, folder: Path) -> Walked:
    """What the MLflow of the interpreter ``python`` answers to, found by loading it in a process of its own."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))},
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-walk",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "nobody-logs-in-to-this-walk",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [str(python), "-W", "ignore", str(WALK), json.dumps(ARTIFACT_PATHS)]
    found: Walked = json.loads(_run(command, cwd=folder, env=environment).splitlines()[-1])
    return found


def environment_of(requirement: str, *, python: str) -> Path:
    """The interpreter of an environment with the newest MLflow that ``requirement`` allows.

    MLflow 3.18.0 was published without the ``mlflow-skinny`` it asks for, whose modules it holds itself: so any version
    of that package does, and MLflow's own files are laid over it in the end.
    """
    folder = ENVIRONMENTS / "".join(letter if letter.isalnum() or letter == "." else "-" for letter in requirement)
    interpreter = folder / "bin" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    any_version = folder / "any-version.txt"
    any_version.write_text("mlflow-skinny\nmlflow-tracing\n")
    uv = _uv()
    if not interpreter.exists():
        _run([uv, "venv", "--quiet", "--allow-existing", "--python", python, str(folder)])
    # Not compiled: the walk imports a small part of what is installed, and compiles that by itself.
    install = [uv, "pip", "install", "--python", str(interpreter)]
    wanted = ["--upgrade", "--override", str(any_version), requirement.replace("mlflow", "mlflow[auth]", 1)]
    whole = folder / "whole"
    if not whole.exists() or "Would make no changes" not in _run([*install, "--dry-run", *wanted]):
        whole.unlink(missing_ok=True)
        _run([*install, *wanted])
        _run([*install, "--no-deps", "--reinstall-package", "mlflow", requirement])
        whole.touch()
    return interpreter


def _uv() -> str:
    """The uv that ``make`` uses."""
    found = shutil.which("uv")
    works = found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0
    return found if found and works else str(ROOT / ".uv" / "bin" / "uv")


def _run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command[:4])} … failed:\n{done.stderr}"
    return done.stdout or done.stderr  # where uv speaks


def pairs(listed: list[list[str]]) -> Pairs:
    """Methods and paths, as the walk lists them."""
    return {(method, path) for method, path in listed}


def tabled() -> Pairs:
    """The methods and paths of the table, HEAD aside, as the walk spells them."""
    return {(route.method, route.template.replace("<path:", "<")) for route in ROUTES if route.method != "HEAD"}


@dataclass(frozen=True)
class Difference:
    """What a version of MLflow does otherwise than the one that the table describes.

    What is ``news`` is safe: unknown routes, fields and root fields are refused, and a field that is gone is ignored.
    What is ``unsafe`` is forwarded though it means something else there.
    """

    version: str
    news: list[str]
    unsafe: list[str]


def difference(described: Walked, other: Walked) -> Difference:
    """Compare ``other`` with the version that the table describes."""
    news, unsafe = [], []
    for safe, finding in (*_routes(described, other), *_messages(described, other), *_graphql(other)):
        (news if safe else unsafe).append(finding)
    return Difference(other["version"], sorted(news), sorted(unsafe))


Finding = tuple[bool, str]
"""Whether it is safe, and what it is."""


def _routes(described: Walked, other: Walked) -> Iterator[Finding]:
    now = pairs(other["native"]) | pairs(other["flask"]) | pairs(other["auth"])
    for method, path in now - tabled():
        sample = path
        for name in parameter_names(path):
            sample = sample.replace(f"<{name}>", "sample")
        taken = match(method, sample)
        if taken and taken.route.decision in OPEN:
            yield False, f"{method} {path} is new, and is forwarded as {taken.route.template}"
        else:
            yield True, f"{method} {path} is new"
    for method, path in tabled() - now:
        yield True, f"{method} {path} is not there"
    for route in ROUTES:
        name = f"{route.method} {route.template.replace('<path:', '<')}"
        before, after = described["handlers"].get(name), other["handlers"].get(name)
        if route.decision not in OPEN or before == after or before is None or after is None:
            continue
        judged = route.guard is not None or route.message is not None
        yield _plain(before) == _plain(after) and not judged, f"{name} was {before}, is {after}"


def _plain(handler: str) -> str:
    """``flask _get_server_info`` and ``fastapi Get Server Info`` as ``getserverinfo``."""
    return "".join(letter for letter in handler.partition(" ")[2].lower() if letter.isalnum())


def _messages(described: Walked, other: Walked) -> Iterator[Finding]:
    judged = {f"{route.method} {route.template}" for route in ROUTES if route.message}
    for name in described["messages"].keys() & other["messages"].keys():
        before, after = described["messages"][name], other["messages"][name]
        if before["name"] != after["name"]:
            yield name not in judged, f"{name} took {before['name']}, takes {after['name']}"
        for field in before["fields"].keys() | after["fields"].keys():
            was, now = before["fields"].get(field), after["fields"].get(field)
            if was != now:
                safe = name not in judged or was is None or now is None
                kind = "new" if was is None else "not there" if now is None else f"another: was {was}, is {now}"
                yield safe, f"{name}: the field {field} is {kind}"


def _graphql(other: Walked) -> Iterator[Finding]:
    for operation, field in root_fields(other) - ROOT_FIELDS.keys():
        yield True, f"GraphQL {operation} {field} is new"
    for field in fetching_fields(other) - INNER_FIELDS.keys():
        yield False, f"GraphQL fetches something for the field {field}, which is new"


def root_fields(walked: Walked) -> set[tuple[str, str]]:
    """Operation and name of each root field of the GraphQL schema."""
    kinds = walked["graphql"]
    return {(operation, field) for operation in kinds if operation != "fetching" for field in kinds[operation]}


def fetching_fields(walked: Walked) -> set[str]:
    """The names of the other fields that fetch something by themselves."""
    return {field.partition(".")[2] for field in walked["graphql"]["fetching"]}

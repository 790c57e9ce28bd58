"""What is to be trained: the three aligned lists, and the MLflow project behind each model."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countersign_client.bootstrapping.problems import Problem, Stopped
from countersign_client.digests import tree_digest
from countersign_client.following import Exit
from countersign_client.wire import plain

NAMES, PATHS, PORTS, PARAMETERS = "MODEL_NAMES", "MODEL_PATHS", "MODEL_PORTS", "MODEL_PARAMS"
MANAGERS = ("local", "virtualenv", "uv", "conda")
AUTO = "auto"
MAIN = "main"
_PROJECT_FILE = "MLproject"
_LONGEST_NAME = 256
_PORTS = range(1, 65_536)
_MANAGER_OF = {"conda_env": "conda", "python_env": "uv"}
_NOT_SOURCE = frozenset({"__pycache__", "mlruns", "mlartifacts"})


@dataclass(frozen=True, slots=True)
class Project:
    """One model: where its MLflow project is, and at which port it answers."""

    name: str
    path: Path
    port: int
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Environment:
    """How a project gets its packages: the ``--env-manager`` of `mlflow run`, and what there is to say of it."""

    manager: str
    said: str = ""


def read(names: str, paths: str, ports: str, parameters: str = "") -> tuple[list[Project], list[Problem]]:
    """The projects of comma-separated lists, and everything that is wrong with those; with problems, no projects."""
    given = {NAMES: _items(names), PATHS: _items(paths), PORTS: _items(ports)}
    problems = list(_of_alignment(given, _items(parameters)))
    for setting, check in ((NAMES, _of_name), (PATHS, _of_path), (PORTS, _of_port)):
        for number, value in enumerate(given[setting], start=1):
            if what := check(value) if value else f"entry {number} is empty":
                problems.append(Problem(setting, what))
        problems += [Problem(setting, f"{plain(each)} is there twice") for each in _twice(setting, given[setting])]
    found: list[dict[str, str]] = []
    for number, text in enumerate(_items(parameters), start=1):
        values, what = _parameters(text)
        found.append(values)
        if what:
            problems.append(Problem(PARAMETERS, f"entry {number}: {what}"))
    if problems:
        return [], problems
    each = zip(given[NAMES], given[PATHS], given[PORTS], found or [{}] * len(given[NAMES]), strict=True)
    return [Project(name, Path(path).resolve(), int(port), values) for name, path, port, values in each], []


def environment_of(
    project: Project, wanted: str, *, which: Callable[[str], str | None] = shutil.which
) -> tuple[Environment, list[Problem]]:
    """How a project gets its packages, and what is wrong with its ``MLproject`` file.

    ``auto`` is what the project names, where this machine has it, and the packages that are here where not.
    """
    document, problems = _document(project)
    if problems:
        return Environment("local"), problems
    problems = list(_of_document(project, document))
    named = next((kind for kind in _MANAGER_OF if kind in document), None)
    has_conda = which(_conda()) is not None
    if wanted == "conda" and named == "python_env":
        problems.append(Problem(project.name, "it has a python_env, which conda does not read; choose another manager"))
    elif wanted == "conda" and not has_conda:
        problems.append(
            Problem(project.name, "conda is not installed here; choose --env-manager local, uv or virtualenv")
        )
    if wanted != AUTO or named is None:
        return Environment("local" if wanted == AUTO else wanted), problems
    manager = _MANAGER_OF[named]
    if has_conda if manager == "conda" else which(manager) is not None:
        return Environment(manager), problems
    file = document[named]
    said = f"{manager} is not installed here: {file} is not read, and the packages that are here are used"
    return Environment("local", said), problems


def fingerprint(project: Project) -> str:
    """What a project is now: its files and parameters. Changed, it is trained again.

    Raises:
        Stopped: it cannot be read.
    """
    try:
        files = {f"project/{_name_below(project.path, path)}": _sha256(path) for path in _sources(project.path)}
    except OSError as error:
        where = plain(str(error.filename or project.path))
        raise Stopped(f"{project.name}: {where} cannot be read: {error.strerror}.", Exit.FAILED) from None
    parameters = "\n".join(f"{name}={value}" for name, value in sorted(project.parameters.items()))
    return tree_digest({**files, "parameters": hashlib.sha256(_utf8(parameters)).hexdigest()})


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text.strip() else []


def _of_alignment(given: Mapping[str, Sequence[str]], parameters: Sequence[str]) -> Iterator[Problem]:
    yield from (Problem(setting, "it is not set") for setting, items in given.items() if not items)
    lengths = {setting: len(items) for setting, items in given.items() if items}
    if parameters:
        lengths[PARAMETERS] = len(parameters)
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{setting} has {length}" for setting, length in lengths.items())
        yield Problem(", ".join(lengths), f"the lists are not aligned, as each model needs one of each: {counted}")


def _of_name(name: str) -> str:
    if len(name) > _LONGEST_NAME or any(letter in "/:" or not letter.isprintable() for letter in name):
        return f"{plain(name)}: expected at most {_LONGEST_NAME} characters without `/`, `:` and control characters"
    if name in {"-", ".", ".."}:
        return f"{name}: it is no name of a model: it could not be in an address"
    return ""


def _of_path(text: str) -> str:
    path = Path(text)
    if not path.is_dir():
        return f"{plain(text)}: there is no such folder" if not path.exists() else f"{plain(text)} is no folder"
    if not (path / _PROJECT_FILE).is_file():
        return f"{plain(text)}: there is no file {_PROJECT_FILE} in it, so it is no MLflow project"
    return ""


def _of_port(text: str) -> str:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_PORTS.stop))
    if not is_number or int(text) not in _PORTS:
        return f"{plain(text)}: expected a whole number from {_PORTS.start} to {_PORTS.stop - 1}"
    return ""


def _twice(setting: str, items: Sequence[str]) -> list[str]:
    if setting == PATHS:  # one project may make several models
        return []
    known = [str(int(item)) if setting == PORTS and not _of_port(item) else item for item in items if item]
    return sorted({item for item in known if known.count(item) > 1})


def _parameters(text: str) -> tuple[dict[str, str], str]:
    """``alpha=0.1;seed=7``, and what is wrong with it."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            return {}, f"{plain(pair)}: expected name=value;name=value"
        if name.strip() in found:
            return {}, f"{plain(name)} is there twice"
        found[name.strip()] = value.strip()
    return found, ""


def _document(project: Project) -> tuple[Mapping[str, object], list[Problem]]:
    import yaml  # noqa: PLC0415  # MLflow's, and there if MLflow is

    where = f"{project.name}: {_PROJECT_FILE}"
    try:
        document = yaml.safe_load((project.path / _PROJECT_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [Problem(where, f"it cannot be read: {error.strerror}")]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        return {}, [Problem(where, f"it is not YAML{place}")]
    if not isinstance(document, Mapping):
        return {}, [Problem(where, "expected a document with entry_points")]
    return document, []


def _of_document(project: Project, document: Mapping[str, object]) -> Iterator[Problem]:
    where = f"{project.name}: {_PROJECT_FILE}"
    if "docker_env" in document:
        yield Problem(where, "docker_env: a project runs beside this command; name a conda_env or python_env")
    for kind in _MANAGER_OF:
        file = document.get(kind)
        if file is not None and not (isinstance(file, str) and (project.path / file).is_file()):
            yield Problem(where, f"{kind}: there is no file {plain(str(file))} beside it")
    entry_points = document.get("entry_points")
    if not isinstance(entry_points, Mapping) or MAIN not in entry_points:
        yield Problem(where, f"expected an entry point `{MAIN}`")


def _conda() -> str:
    """As MLflow looks for it: ``MLFLOW_CONDA_HOME``, ``CONDA_EXE``, or the path."""
    if home := os.environ.get("MLFLOW_CONDA_HOME"):
        return str(Path(home) / "bin" / "conda")
    return os.environ.get("CONDA_EXE") or "conda"


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part in _NOT_SOURCE or part.startswith(".") for part in parts):
            yield path


def _name_below(folder: Path, path: Path) -> str:
    return _utf8(path.relative_to(folder).as_posix()).decode()


def _utf8(text: str) -> bytes:
    """What is not UTF-8 (names of files, and what the environment has) is written with backslashes."""
    return text.encode(errors="backslashreplace")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

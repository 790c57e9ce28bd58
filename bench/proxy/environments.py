"""The Python environments of what we are compared with, made once with uv and kept: our lock knows none of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.proxy.parts import PartFailed


def mlflow_environment() -> Path:
    """The interpreter of an MLflow of the version we are tested with, its auth app, and a PostgreSQL driver."""
    return _environment("mlflow", _common(), python=sys.executable)


def oidc_auth_environment() -> Path:
    """The same with mlflow-oidc-auth 11, which does not import on Python 3.11, though it says that it does."""
    requirements = [*_common(), "mlflow-oidc-auth>=11,<12"]
    return _environment("mlflow-oidc-auth", requirements, python=">=3.12,<3.14")


def pyjwt_environment() -> Path:
    """PyJWT on the Python that we run on."""
    return _environment("pyjwt", ["pyjwt[crypto]>=2.10"], python=sys.executable)


def _common() -> list[str]:
    return [f"mlflow[auth]=={importlib.metadata.version('mlflow')}", "psycopg2-binary>=2.9"]


def _environment(name: str, requirements: Sequence[str], *, python: str) -> Path:
    """A virtual environment whose folder is named after what is in it: another version is another folder.

    Raises:
        PartFailed: uv is missing or could not install.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "countersign-bench"
    made_of = hashlib.sha256("\n".join([sys.version, python, *requirements]).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{made_of}"
    interpreter, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return interpreter
    uv = shutil.which("uv")
    if uv is None:
        raise PartFailed("uv is missing: it makes the environments of MLflow and mlflow-oidc-auth")
    print(f"making an environment of {', '.join(requirements)} in {folder}", flush=True)
    for command in (
        [uv, "venv", "--clear", "--python", python, str(folder)],
        [uv, "pip", "install", "--python", str(interpreter), "--compile-bytecode", *requirements],
    ):
        done = subprocess.run(  # noqa: S603  # ours
            command, env=_with_pythons_of_pyenv(), check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise PartFailed(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}")
    complete.touch()
    return interpreter


def _with_pythons_of_pyenv() -> dict[str, str]:
    """This environment, in whose PATH uv looks for an interpreter before it downloads one."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return {**os.environ, "PATH": os.pathsep.join([*map(str, versions.glob("*/bin")), os.environ["PATH"]])}

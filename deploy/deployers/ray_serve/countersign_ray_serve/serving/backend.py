"""The backend of one model version: loads it once, answers the router. Runs inside Ray."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import Model
from mlflow.pyfunc import FLAVOR_NAME, PY_VERSION, PyFuncModel
from ray import serve
from ray.serve import Application

from countersign_ray_serve.serving.artifacts import fetched
from countersign_ray_serve.serving.failures import DependencyMissing, of_import, refuse_other_python
from countersign_ray_serve.serving.predictor import Predictor

MODELS_OWN = "model"
"""In a list of packages: those that the model itself asks for, in its ``requirements.txt``."""
_BY_NAME = re.compile(r"(?!.*\s--)[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]@/]*\])?\s*([<>=!~(;][^@]*)?$")
"""As ``pandas[excel]>=2,<3; python_version < "3.13"``: no options (``--index-url``), no ``name @ URL``, no path."""


class Backend:
    """One replica of one version."""

    def __init__(self, uri: str, version: str, digest: str, any_python: bool) -> None:
        self._version = version
        self._files = ExitStack()
        with ExitStack() as loading:
            folder = loading.enter_context(fetched(uri, digest))
            self._predictor = Predictor(load(folder, any_python=any_python))
            # A model may open its files as late as in a prediction.
            self._files = loading.pop_all()

    def __del__(self) -> None:
        """Serve calls it when the replica's last request has ended."""
        self._files.close()

    async def ready(self) -> str:
        """The version that this replica has loaded."""
        return self._version

    async def predict(self, body: bytes) -> tuple[int, str, str]:
        """Status, JSON text and version; on a thread, so that health checks are answered meanwhile."""
        status, text = await asyncio.to_thread(self._predictor.predict, body)
        return status, text, self._version


def load(folder: Path, *, any_python: bool = False) -> PyFuncModel:
    """The model of a folder whose bytes are proven. Nothing of it is unpickled before its Python is known to be ours.

    Raises:
        NotServable: another Python, or a package that is missing.
    """
    if not any_python:
        flavour = Model.load(str(folder)).flavors.get(FLAVOR_NAME, {})
        refuse_other_python(flavour.get(PY_VERSION))
    try:
        model: PyFuncModel = mlflow.pyfunc.load_model(str(folder))
    except ImportError as error:
        raise of_import(error) from None
    return model


def build_backend(args: dict[str, Any]) -> Application:
    """What Serve calls with the application's ``args``, in a task of its own before any replica starts."""
    deployment = serve.deployment(name="Backend")(Backend)
    if MODELS_OWN in args.get("packages", ()):
        # Only here is the store at hand. The list is read from the approved bytes alone: it says what is installed.
        with fetched(args["uri"], args["digest"]) as folder:
            asked = _lines(folder / "requirements.txt")
        packages = [each for each in args["packages"] if each != MODELS_OWN] + asked
        environment = {args["installer"]: packages} if packages else {}
        deployment = deployment.options(ray_actor_options={**args["actor"], "runtime_env": environment})
    return deployment.bind(args["uri"], args["version"], args["digest"], bool(args.get("any_python")))


def _lines(file: Path) -> list[str]:
    """The packages by name, which come from where the cluster's installer has them from, and from nowhere else.

    Raises:
        DependencyMissing: the list names another place, or has options of pip's.
    """
    if not file.is_file():
        return []
    lines = (line.partition(" #")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        if not _BY_NAME.match(line):
            raise DependencyMissing(f"The model's requirements.txt has more than packages by name: {line[:100]!r}.")
    return found

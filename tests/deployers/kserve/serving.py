"""A Python with what serves models in KServe, apart from ours: MLServer wants another FastAPI than the gateway.

It has what our runtime's image has (``deploy/deployers/kserve/runtime/requirements.txt``), and KServe's own packages.
Made with uv when a test first needs it, and kept in ``.venvs`` until one of the versions changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
RUNTIME = ROOT / "deploy/deployers/kserve/runtime/requirements.txt"
KSERVE = ("kserve==0.21.0", "kserve-storage==0.21.0", "kubernetes==37.0.2")
"""Without what they ask for: of KServe only the models and the download from S3 are used, which need no more."""
_OLDEST_WITHOUT_MLSERVER = (3, 13)


@cache
def serving_python() -> Path:
    """The interpreter; made if it is not there."""
    version = "3.12" if sys.version_info >= _OLDEST_WITHOUT_MLSERVER else f"{sys.version_info[0]}.{sys.version_info[1]}"
    said = "\n".join([RUNTIME.read_text(), *KSERVE, version, sys.platform])
    folder = ROOT / ".venvs" / f"kserve-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    python, done = folder / "bin/python", folder / "made"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
            # Any Python of that version which is there; one is downloaded only if none is.
            interpreter = sys.executable if version != "3.12" else version
            _run([uv, "venv", "--quiet", "--clear", "--python", interpreter, str(folder)])
            install = [uv, "pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--python", str(python)]
            _run([*install, "--requirement", str(RUNTIME), *KSERVE])
            done.touch()
    return python


def run_serving(*arguments: str, **environment: str) -> str:
    """What a Python program prints there."""
    return _run([str(serving_python()), *arguments], environment)


@cache
def kserve_schema(kind: str) -> dict[str, Any]:
    """The structural schema of ``V1beta1InferenceService`` and such, as KServe's models say; kept for the next run."""
    kept = serving_python().parents[1] / f"{kind}.schema.{_digest_of_script()}.json"
    if not kept.exists():
        new = kept.with_suffix(f".{hashlib.sha256(kind.encode()).hexdigest()[:6]}.new")
        new.write_text(run_serving(str(HERE / "kserve_models.py"), kind))
        new.replace(kept)
    schema: dict[str, Any] = json.loads(kept.read_text())
    return schema


def _digest_of_script() -> str:
    return hashlib.sha256((HERE / "kserve_models.py").read_bytes()).hexdigest()[:8]


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout

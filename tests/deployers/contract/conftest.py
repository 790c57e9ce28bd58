"""What these tests share: a model, and the deployers of the guide, running as they are shown or with a defect."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from countersign_deployer.conformance import Artifacts, Bounds, PlayedGateway, Subject
from countersign_deployer.deployer import create_app, settings_of
from countersign_deployer.digests import tree_digest
from countersign_deployer.settings import load_settings

from tests.deployers.contract.third import CALLS, QUICK, REPORTS, TARGET, Third


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("models") / "iris"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "data" / "Größe.txt").write_text("1\n")
    return Artifacts(f"{folder.as_uri()}/", tree_digest(folder))


@pytest.fixture
def run_third(model: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Third]]:
    """Runs a source in this process, so that the libraries are imported once."""
    stack = ExitStack()

    def run(source: str, bounds: Bounds = QUICK) -> Third:
        gateway = stack.enter_context(PlayedGateway(TARGET, webhook_secret=CALLS, callback_secret=REPORTS))
        files = model.uri.removesuffix("iris/")
        own = {"GATEWAY": gateway.url, "TARGET": TARGET, "CALLS": CALLS, "REPORTS": REPORTS, "FILES": files}
        package = {
            "GATEWAY_URL": gateway.url,
            "TARGET": TARGET,
            "WEBHOOK_SECRET": CALLS,
            "CALLBACK_SECRET": REPORTS,
            "ALLOWED_URI_PREFIXES": files,
            "STATE_DIR": str(tmp_path / "state"),
            "ROOT": str(tmp_path),
            "PULL_S": "0.03",
        }
        for name, value in {**own, "PULL_S": "0.03", **{f"FOLDERS_{n}": value for n, value in package.items()}}.items():
            monkeypatch.setenv(name, value)
        module: Any = ModuleType("third")
        exec(compile(source, "the guide", "exec", dont_inherit=True), module.__dict__)
        if "Folders" in vars(module):
            app = create_app(load_settings(settings_of("FOLDERS_")), module.Folders(tmp_path))
        else:
            app = module.app
        port = stack.enter_context(_served(app))
        url = f"http://127.0.0.1:{port}/v1/deployments"
        return Third(Subject(url, TARGET, CALLS, REPORTS, model, bounds=bounds), gateway)

    with stack:
        yield run


@contextmanager
def _served(app: Any) -> Iterator[int]:
    # uvloop leaves a connection open that is cancelled while it is made, as that of who pulls may be when this ends.
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, loop="asyncio")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()

"""A real Prometheus of a test's own, on loopback: the machine's, or that of Debian's package without installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, start_http_server

from tests.platform import free_port

_STARTS_WITHIN_S = 60
_SCRAPE = "100ms"


def prometheus() -> str:
    """The path of a Prometheus. Unpacking a package starts no service and needs no rights."""
    found = os.environ.get("PROMETHEUS") or shutil.which("prometheus") or _unpacked()
    assert found, "These tests need Prometheus: run `apt-get install prometheus`, or name one in PROMETHEUS."
    return found


def _unpacked() -> str | None:
    folder = Path(tempfile.gettempdir()) / f"countersign-prometheus-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.geteuid(), f"{folder} is another user's: whose programs would be run?"
    binary = folder / "usr/bin/prometheus"
    if binary.exists():
        return str(binary)
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return None
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        download = ["apt-get", "download", "prometheus"]
        if subprocess.run(download, cwd=scratch, check=False, capture_output=True).returncode:
            subprocess.run(["apt-get", "update"], check=False, capture_output=True)
            subprocess.run(download, cwd=scratch, check=False, capture_output=True)
        for package in Path(scratch).glob("prometheus_*.deb"):
            unpacked = Path(scratch) / "unpacked"
            subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True, capture_output=True)
            with suppress(OSError):  # another run was faster
                (unpacked / "usr").rename(folder / "usr")
    return str(binary) if binary.exists() else None


@dataclass(frozen=True, slots=True)
class Scraping:
    """A Prometheus that scrapes every 100 ms. It takes five seconds until it begins, whatever one tells it."""

    url: str
    log: Path

    def settle(self, query: str, *, within_s: float = _STARTS_WITHIN_S) -> None:
        """Wait until a query gives something above zero."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            with suppress(httpx.HTTPError, IndexError):
                found = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()["data"]["result"]
                if float(found[0]["value"][1]) > 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"Prometheus never knew {query}. It says: {self.log.read_text()[-2000:]}")


@contextmanager
def running_prometheus(folder: Path, registry: CollectorRegistry) -> Iterator[Scraping]:
    """One that scrapes ``registry``. It is not waited for: see ``Scraping.settle``."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        f"global: {{scrape_interval: {_SCRAPE}, scrape_timeout: {_SCRAPE}}}\n"
        f"scrape_configs: [{{job_name: models, static_configs: [{{targets: ['127.0.0.1:{server.server_port}']}}]}}]\n"
    )
    port = free_port()
    command = [prometheus(), f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    # By default, what is to be scraped is looked for every five seconds.
    command += [
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
        "--scrape.discovery-reload-interval=50ms",
    ]
    written = folder / "prometheus.log"
    with written.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Scraping(f"http://127.0.0.1:{port}", written)
    finally:
        process.kill()  # there is nothing to be kept
        process.wait()
        server.shutdown()
        server.server_close()
        thread.join()

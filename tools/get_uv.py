"""Installs uv where Python has neither pip nor venv, as on a bare Debian: ``python3 tools/get_uv.py FOLDER``.

pip's wheel runs without being installed, so it is fetched, checked against PyPI's digest, and asked to do the rest.
Standard library only: this runs before anything else is there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

INDEX = "https://pypi.org/pypi/pip/json"
TIMEOUT_S = 60


def fetch(url: str) -> bytes:
    """The content of an https URL."""
    if not url.startswith("https://"):
        raise ValueError(f"not https: {url}")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310  # checked right above
        content: bytes = answer.read()
    return content


def main(folder: Path) -> None:
    """Install uv so that ``folder/bin/uv`` runs."""
    files = json.loads(fetch(INDEX))["urls"]
    wheel = next(file for file in files if file["packagetype"] == "bdist_wheel")
    content = fetch(urljoin(INDEX, wheel["url"]))
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        sys.exit(f"{wheel['filename']} is not what PyPI says it is")
    with tempfile.TemporaryDirectory() as temporary:
        pip = Path(temporary) / wheel["filename"]
        pip.write_bytes(content)
        command = [sys.executable, f"{pip}/pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
        subprocess.run([*command, str(folder), "uv"], check=True)  # noqa: S603  # our own command


if __name__ == "__main__":
    main(Path(sys.argv[1]))

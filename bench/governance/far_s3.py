"""An S3 that is far away: ``python bench/governance/far_s3.py PORT FOLDER``.

It lists and gives the files of a folder, and as the real one makes each request wait and each connection have only so
much: 20 ms until the first byte, 60 MiB a second after it.
"""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

FIRST_BYTE_S = 0.02
RATE = 60 * 1024 * 1024
_PIECE = 512 * 1024


class Far(BaseHTTPRequestHandler):
    """Answers ``ListObjectsV2`` and ``GetObject`` of one bucket."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        time.sleep(FIRST_BYTE_S)
        key = unquote(parts.path).strip("/").partition("/")[2]
        if "versioning" in parts.query:
            self._answer(200, b"<VersioningConfiguration/>")
        elif not key:
            rows = (
                f"<Contents><Key>{file.name}</Key><Size>{file.stat().st_size}</Size><ETag>&quot;1&quot;</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for file in sorted(self.folder.iterdir())
            )
            self._answer(
                200, f"<ListBucketResult>{''.join(rows)}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
            )
        else:
            self._give(self.folder / key)

    def _give(self, file: Path) -> None:
        wanted, size = self.headers["Range"], file.stat().st_size
        with file.open("rb") as opened:
            if not wanted:
                self._answer(200, opened.read())
                return
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            opened.seek(first)
            self._answer(206, opened.read(last + 1 - first), ("Content-Range", f"bytes {first}-{last}/{size}"))

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), ("ETag", '"1"'), *headers):
            self.send_header(name, value)
        self.end_headers()
        began = time.monotonic()
        view = memoryview(body)
        for at in range(0, len(body), _PIECE):
            self.wfile.write(view[at : at + _PIECE])
            time.sleep(max(0.0, began + at / RATE - time.monotonic()))

    def log_message(self, *_: Any) -> None:  # noqa: ANN401  # of the library
        """Say nothing."""


if __name__ == "__main__":
    Far.folder = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Far).serve_forever()

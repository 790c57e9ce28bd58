"""How fast a model's digest is taken: ``python -m bench.governance.digests``.

On a local disk beside ``sha256sum``, over the same files, which all lie in the page cache: one process of it, and as
many as there are cores (``xargs -P``), over one large file and over several; and beside ``openssl``, which uses the
same instructions of the processor as Python does. From an S3 that is far away (``far_s3.py``), beside a loop over the
objects. Contenders take turns in each round, so that what else the machine does meets all alike; what is compared is
the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from rich.console import Console
from rich.table import Table

from app.adapters.object_store import ObjectStores
from app.domain.digests import FileDigest, tree_digest
from app.embedded.ports import LOOPBACK
from bench.proxy.parts import answers, free_port, running

TARGET = 0.9
CORES = len(os.sched_getaffinity(0))
OURS, ALONE, TOGETHER, OPENSSL = "countersign", "sha256sum", f"sha256sum, {CORES} at once", "openssl"
IN_TURN = "one object after another"
LISTED = r"find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n'"
COMMANDS = {
    ALONE: f"{LISTED} sha256sum | sha256sum",
    TOGETHER: rf"{LISTED} -n 1 -P {CORES} sha256sum | LC_ALL=C sort -k 2 | sha256sum",
    OPENSSL: rf"{LISTED} openssl dgst -sha256 -r | sed 's/ \*/  /' | sha256sum",
}
TARGETS = {("one large file", ALONE), ("several files", ALONE), ("several files", TOGETHER)}
"""Where our throughput is to be ``TARGET`` of theirs, at least."""
BUCKET = "models"
Figures = dict[tuple[str, str], list[float]]
"""MiB a second by case and contender, one for each round."""
Contender = Callable[[], str]
"""Takes the digest once, and tells it."""


def main() -> int:
    """Run; 0 if every target is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.governance.digests", description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024, help="of artifacts in each case (default: 1024)")
    parser.add_argument("--s3-mib", type=int, default=256, help="of artifacts in S3 (default: 256)")
    parser.add_argument("--files", type=int, default=16, help="of the case of several (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="in which all contenders take turns (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figure of every round there")
    options = parser.parse_args()
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="cs-digests-") as name:
        one, several = Path(name) / "one", Path(name) / "several"
        _fill(one, 1, options.mib)
        _fill(several, options.files, options.mib)
        for case, folder in (("one large file", one), ("several files", several)):
            contenders = {what: _command(line, folder) for what, line in COMMANDS.items()}
            contenders[OURS] = _ours(f"{folder.as_uri()}/")
            _compare(case, contenders, figures, mib=options.mib, rounds=options.rounds)
        for case, files in (("S3, one large object", 1), ("S3, several objects", options.files)):
            folder = Path(name) / f"s3-{files}"
            _fill(folder, files, options.s3_mib)
            with _s3(Path(name), folder) as client:
                contenders = {IN_TURN: partial(_in_turn, client), OURS: _ours(f"s3://{BUCKET}/")}
                _compare(case, contenders, figures, mib=options.s3_mib, rounds=options.rounds)
    if options.json:
        options.json.write_text(json.dumps({"/".join(key): values for key, values in figures.items()}, indent=2) + "\n")
    return _print(figures, options)


def _fill(folder: Path, files: int, mib: int) -> None:
    """So many files of the same size, each of its own bytes."""
    folder.mkdir()
    block = os.urandom(1024 * 1024)
    for number in range(files):
        with (folder / f"part-{number:05}.bin").open("wb") as opened:
            opened.write(number.to_bytes(8, "big") + block[8:])
            for _ in range(max(1, mib // files) - 1):
                opened.write(block)


def _command(line: str, folder: Path) -> Contender:
    def take() -> str:
        done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S602  # ours
        return f"sha256:{done.stdout.split()[0]}"

    return take


def _ours(uri: str) -> Contender:
    store = ObjectStores()

    def take() -> str:
        return tree_digest(asyncio.run(store.files(uri)))

    return take


def _in_turn(client: Any) -> str:  # noqa: ANN401  # boto3 makes its classes at run time
    found = []
    for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
        hashed = hashlib.sha256()
        for piece in client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].iter_chunks(1024 * 1024):
            hashed.update(piece)
        found.append(FileDigest(item["Key"], item["Size"], hashed.hexdigest()))
    return tree_digest(found)


def _compare(case: str, contenders: Mapping[str, Contender], figures: Figures, *, mib: int, rounds: int) -> None:
    for number in range(rounds + 1):  # the first warms up
        digests = set()
        for what, take in contenders.items():
            began = time.perf_counter()
            digests.add(take())
            if number:
                figures[case, what].append(mib / (time.perf_counter() - began))
        assert len(digests) == 1, (case, digests)


@contextmanager
def _s3(folder: Path, files: Path) -> Iterator[Any]:
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("far_s3.py")), str(port), str(files)]
    with running("far-s3", command, answers(port, f"/{BUCKET}?list-type=2"), folder=folder):
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{port}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        client = boto3.client("s3")
        yield client
        client.close()


def _print(figures: Figures, options: argparse.Namespace) -> int:
    """The table; 1 if a target is missed."""
    console = Console(width=150)
    console.print(
        f"{options.mib} MiB of files, {options.s3_mib} in S3 · {CORES} cores · load average {os.getloadavg()[0]:.1f} · "
        f"Python {sys.version.split()[0]} · {options.rounds} rounds"
    )
    table = Table("artifacts", "contender", "MiB/s", "±", "countersign / it", "target")
    for column in (2, 3, 4):
        table.columns[column].justify = "right"
    missed, last = 0, ""
    for (case, what), values in figures.items():
        if case != last and last:
            table.add_section()
        last, middle = case, statistics.median(values)
        ratio = statistics.median(figures[case, OURS]) / middle
        verdict = ""
        if (case, what) in TARGETS:
            verdict = f"{'reached' if ratio >= TARGET else 'missed'} ≥ {TARGET:g}"
            missed += ratio < TARGET
        spread = (max(values) - min(values)) / middle
        table.add_row(case, what, f"{middle:,.0f}", f"{spread:.0%}", "" if what == OURS else f"{ratio:.2f}", verdict)
    console.print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line: how many tokens, in how many rounds, and the table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.identity.ours import ours
from bench.identity.tokens import AUDIENCE, Issuer, running_issuer
from bench.proxy.environments import oidc_auth_environment, pyjwt_environment
from bench.proxy.parts import PartFailed

US, NEW, SEEN = "countersign: verify", "countersign: new request", "countersign: seen request"
TARGETS_US = {US: 150.0, NEW: 150.0, SEEN: 5.0}
"""Microseconds of processor, at most."""
PEERS = {"pyjwt": pyjwt_environment, "mlflow-oidc-auth": oidc_auth_environment}
Figures = dict[tuple[str, str], list[float]]
"""Microseconds by algorithm and contender, one for each round."""


class Peer:
    """A peer's process, which waits for tokens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, tokens: Sequence[str]) -> float:
        """Microseconds of processor for each token.

        Raises:
            PartFailed: the peer ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise PartFailed("no pipe to the peer")
        try:
            print(json.dumps(tokens), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PartFailed("the peer ended") from None
        answer = self._process.stdout.readline()
        if not answer:
            raise PartFailed("the peer refused a token or ended")
        return float(answer)


def main() -> int:
    """Run; 0 if every target is reached and every peer ran."""
    options = _options()
    began = time.monotonic()
    figures: Figures = defaultdict(list)
    failures: list[str] = []
    with running_issuer() as issuer, ExitStack() as stack:
        contender = stack.enter_context(ours(issuer.url))
        peers = _peers(options.peers, issuer, stack, failures)
        tokens = {algorithm: issuer.tokens(algorithm, options.tokens) for algorithm in issuer.keys}
        for number in range(options.rounds + 1):  # the first warms up
            for algorithm, given in tokens.items():
                found = {US: contender.verify(given)}
                found[NEW], found[SEEN] = contender.authenticate(given)
                for name, peer in list(peers.items()):
                    try:
                        found[name] = peer.measure(given)
                    except PartFailed as error:
                        failures.append(f"{name}: {error}")
                        del peers[name]
                for name, microseconds in found.items() if number else ():
                    figures[algorithm, name].append(microseconds)
    missed = _print(figures, options)
    if options.json:
        options.json.write_text(json.dumps({"/".join(key): values for key, values in figures.items()}, indent=2) + "\n")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"{missed or 'no'} targets missed; {time.monotonic() - began:.0f} s")
    return 1 if missed or failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.identity", description="What it costs to know who is calling."
    )
    parser.add_argument("--tokens", type=int, default=300, help="of each algorithm in each round (default: 300)")
    parser.add_argument("--rounds", type=int, default=7, help="in which all contenders take turns (default: 7)")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="whom to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figure of every round there")
    return parser.parse_args()


def _peers(names: Sequence[str], issuer: Issuer, stack: ExitStack, failures: list[str]) -> dict[str, Peer]:
    known = {
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "keys": [issuer.jwk(algorithm) for algorithm in issuer.keys],
    }
    started: dict[str, Peer] = {}
    for name in names:
        try:
            started[name] = stack.enter_context(_running(name, PEERS[name](), known))
        except PartFailed as error:
            failures.append(f"{name}: {error}")
    return started


@contextmanager
def _running(name: str, interpreter: Path, known: Mapping[str, object]) -> Iterator[Peer]:
    command = [str(interpreter), "-W", "ignore", str(Path(__file__).with_name("peer.py")), name]
    with subprocess.Popen(  # noqa: S603  # ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            if process.stdin:
                print(json.dumps(known), file=process.stdin, flush=True)
            yield Peer(process)
        finally:
            process.kill()


def _print(figures: Figures, options: argparse.Namespace) -> int:
    """The table; how many targets are missed."""
    console = Console(width=150)
    console.print(
        f"processor time for each token · {os.cpu_count()} cores · load average {os.getloadavg()[0]:.1f} · "
        f"Python {sys.version.split()[0]} · {options.rounds} rounds of {options.tokens} tokens"
    )
    table = Table("token", "contender", "µs", "±", "ratio", "target")
    for column in (2, 3, 4):
        table.columns[column].justify = "right"
    missed, last = 0, ""
    for (algorithm, name), values in sorted(figures.items(), key=lambda item: item[0][0]):
        middle = statistics.median(values)
        base = statistics.median(figures[algorithm, US])
        bound = TARGETS_US.get(name)
        missed += bound is not None and middle > bound
        verdict = "" if bound is None else f"{'reached' if middle <= bound else 'missed'} ≤ {bound:g}"
        if algorithm != last and last:
            table.add_section()
        last = algorithm
        spread = (max(values) - min(values)) / middle
        table.add_row(algorithm, name, f"{middle:,.1f}", f"{spread:.0%}", f"{middle / base:.2f}", verdict)
    console.print(table)
    return missed


if __name__ == "__main__":
    sys.exit(main())

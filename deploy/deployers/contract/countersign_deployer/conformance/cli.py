"""The command ``countersign-deployer-conformance``."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from countersign_deployer.conformance.checks import CHECKS, Outcome, Result, examine
from countersign_deployer.conformance.gateway import PlayedGateway
from countersign_deployer.conformance.play import Artifacts, Bounds, Subject, Unreachable
from countersign_deployer.digests import tree_digest
from countersign_deployer.settings import is_secret

CONFORMS, DOES_NOT, NOT_EXAMINED = 0, 1, 2
PROGRAM = "countersign-deployer-conformance"


class _Unusable(Exception):
    """The examination cannot begin; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine a deployer. Exit codes: 0 it conforms, 1 it does not, 2 it could not be examined."""
    options = _parser().parse_args(arguments)
    try:
        subject = _subject(options)
        with _gateway(options, subject) as gateway:
            begun = time.monotonic()
            outcomes = []
            for outcome in examine(subject, gateway, skip=options.skip):
                outcomes.append(outcome)
                if not options.json:
                    print(_lines(outcome), flush=True)
            took = time.monotonic() - begun
    except (_Unusable, Unreachable) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return NOT_EXAMINED
    counts = {result.value: sum(each.result is result for each in outcomes) for result in Result}
    if options.json:
        summary = {"url": subject.url, "target": subject.target, **counts, "outcomes": [asdict(o) for o in outcomes]}
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        print(f"\n{', '.join(f'{count} {result}' for result, count in counts.items())} in {took:.1f} s")
    return DOES_NOT if counts[Result.FAILED] else CONFORMS


def _lines(outcome: Outcome) -> str:
    result = outcome.result.upper() if outcome.result is Result.FAILED else outcome.result.value
    line = f"{result:<8} {outcome.check:<32} {outcome.expected}"
    indented = outcome.seen.replace("\n", f"\n{'':<48}")
    return f"{line}\n{'':<42}seen: {indented}" if outcome.seen else line


def _subject(options: argparse.Namespace) -> Subject:
    second = _artifacts("second", options.second_uri, options.second_digest) if options.second_uri else None
    if _secret(options.secret_file) == _secret(options.callback_secret_file):
        raise _Unusable("--secret-file and --callback-secret-file hold the same secret: each direction has its own")
    return Subject(
        url=options.url.rstrip("/"),
        target=options.target,
        webhook_secret=_secret(options.secret_file),
        callback_secret=_secret(options.callback_secret_file),
        model=_artifacts("model", options.model_uri, options.model_digest),
        second=second,
        bad_uri=options.bad_uri,
        resource=options.resource,
        restart=_restarter(options) if options.restart_command else None,
        bounds=Bounds(start_s=options.start_s, end_s=options.end_s, retry_s=options.retry_s, pull_s=options.pull_s),
    )


def _gateway(options: argparse.Namespace, subject: Subject) -> PlayedGateway:
    host, _, port = options.listen.rpartition(":")
    try:
        return PlayedGateway(
            subject.target,
            webhook_secret=subject.webhook_secret,
            callback_secret=subject.callback_secret,
            listen=(host, int(port)),
            url=options.gateway_url,
        )
    except (OSError, ValueError) as error:
        raise _Unusable(f"cannot listen on {options.listen}: {error}") from None


def _artifacts(option: str, uri: str, digest: str | None) -> Artifacts:
    """The files, with their digest if it was given, or if they are on this machine, too."""
    parts = urlsplit(uri)
    if not parts.scheme:
        raise _Unusable(f"--{option}-uri is {uri}, expected a URI such as file:///srv/models/iris/")
    if digest is None and parts.scheme == "file":
        try:
            digest = tree_digest(Path(url2pathname(parts.path)))
        except OSError as error:
            raise _Unusable(f"--{option}-uri: {error}; if they are on another machine, say --{option}-digest") from None
    if digest is None or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise _Unusable(f"--{option}-digest is {digest or 'missing'}, expected sha256: and 64 hexadecimal digits")
    return Artifacts(uri.rstrip("/") + "/", digest)


def _secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _Unusable(f"{path} cannot be read ({type(error).__name__})") from None
    if not is_secret(secret):
        raise _Unusable(f"{path} is not one secret: expected whsec_ and base64 of 24 to 64 random bytes")
    return secret


def _restarter(options: argparse.Namespace) -> Callable[[], None]:
    command = shlex.split(options.restart_command)

    def restart() -> None:
        try:
            subprocess.run(command, check=True, stdout=sys.stderr, timeout=options.end_s)  # noqa: S603  # the caller's own command
        except (OSError, subprocess.SubprocessError) as error:
            raise _Unusable(f"--restart-command: {error}") from None

    return restart


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Plays the gateway against a deployer and says what it does otherwise than the contract. Start the "
        "deployer with the address of --listen (or --gateway-url) as its gateway.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, names = parser.add_argument, [check.name for check in CHECKS]
    add("--url", required=True, help="the target's url: http://…/v1/deployments")
    add("--target", required=True, help="the target's name")
    add("--secret-file", required=True, type=Path, help="file of the secret that signs calls (whsec_…)")
    add("--callback-secret-file", required=True, type=Path, help="file of the secret that signs reports (whsec_…)")
    add("--model-uri", required=True, help="files of a model that the deployer can load")
    add("--model-digest", help="their digest, sha256:… (default, of file:// only: that of the files on this machine)")
    add("--second-uri", help="files of another version (default: those of the first)")
    add("--second-digest", help="their digest, likewise")
    add("--bad-uri", help="where there is no model, yet the deployer may load from (default: below --model-uri)")
    add("--resource", default="conformance", help="what the model is called (default: %(default)s)")
    add("--listen", default="127.0.0.1:8099", help="address and port of the gateway that is played (%(default)s)")
    add("--gateway-url", help="how the deployer reaches it, if not by that address")
    add(
        "--restart-command",
        help="restarts the deployer and returns when it listens (default: its interval is awaited)",
    )
    add("--start-s", type=float, default=30, help="seconds until the deployer answers at all (default: %(default)g)")
    add("--end-s", type=float, default=300, help="seconds a generation may take to end (default: %(default)g)")
    add("--retry-s", type=float, default=90, help="seconds until a report comes again (default: %(default)g)")
    add("--pull-s", type=float, default=90, help="seconds until it is asked what is desired (default: %(default)g)")
    add(
        "--skip", action="append", default=[], choices=names, metavar="CHECK", help="leave a check out; may be repeated"
    )
    add("--json", action="store_true", help="the outcome as JSON")
    return parser


def _epilog() -> str:
    return "checks:\n" + "\n".join(f"  {check.name:<32} {check.expected}" for check in CHECKS)


if __name__ == "__main__":
    sys.exit(main())

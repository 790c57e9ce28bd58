"""The deployers that the guide shows conform, and the conformance test finds what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from countersign_deployer.conformance import CHECKS, Result, Subject, examine
from countersign_deployer.conformance.cli import CONFORMS, DOES_NOT, NOT_EXAMINED, main

from tests.deployers.contract.third import BARE, CALLS, QUICK, REPORTS, TARGET, WITH_PACKAGE, Third

RunThird = Callable[..., Third]


@pytest.mark.parametrize("source", [WITH_PACKAGE, BARE], ids=["with our package", "without it"])
def test_a_deployer_written_from_the_guide_conforms(run_third: RunThird, source: str) -> None:
    third = run_third(source)
    outcomes = list(examine(third.subject, third.gateway))
    assert [outcome for outcome in outcomes if outcome.result is not Result.PASSED] == []
    assert [outcome.check for outcome in outcomes] == [check.name for check in CHECKS]


CHECKS_SIGNATURE = "    except (WebhookVerificationError, ValueError):\n        return False\n"
REPORTS_SIGNED = 'headers = signed(event["id"], body) |'
BEGINS = "async def deploy(call):\n"
STOPS_TIME = "    global time; time = type('Stopped', (), {'time_ns': lambda: 1000})\n"
REPORTS_PROGRESS = '    await report(call["callback"]["url"], status_of(call, "Progressing"))\n'
REPORTS_END = '    await report(call["callback"]["url"], status_of(call, phase, reason))\n'

DEFECTS: dict[str, tuple[str, str, str]] = {
    "takes what is not signed": ("unsigned", CHECKS_SIGNATURE, CHECKS_SIGNATURE.replace("False", "True")),
    "fails at what is not JSON": (
        "not JSON",
        "except ValueError:\n        return refusal(400)",
        "except KeyError:\n        0",
    ),
    "takes the calls of others": ("unknown target", 'if call.get("target") == TARGET', "if True"),
    "takes a lower generation": ("late call", 'if generation < known["generation"]', "if False"),
    "takes other content for the same": ("conflict", "if any(call.get(n) != known.get(n)", "if any(False"),
    "works before it answers": ("accepted", '    status_of(call, "Accepted")\n', "    time.sleep(0.6)\n"),
    "does not send a report again": ("retry", "if code < 500 and", "if True or"),
    "tells everybody": ("private status", '    if not is_signed(request.headers, f"GET', '    if not len(f"GET'),
    "does not sign its status": ("signed status", 'headers=signed(request.headers["webhook-id"], body), ', ""),
    "answers 404 without a problem": ("unknown status", "return refusal(404)", "return Response(status_code=404)"),
    "has a reason of its own": ("bad model", '"ArtifactNotFound"', '"NoSuchFile"'),
    "forgets what served when something fails": ("bad model", '    if phase == "Ready":\n', "    if True:\n"),
    "reports wherever it is told to": (
        "foreign callback",
        'if not call["callback"]["url"].startswith(f"{GATEWAY}/")',
        "if False",
    ),
    "reports to what begins like its gateway": ("foreign callback", 'startswith(f"{GATEWAY}/")', "startswith(GATEWAY)"),
    "loads from anywhere": ("foreign files", 'not v["uri"].startswith(FILES) or ".." in v["uri"]', "False"),
    "loads from above where it may": ("foreign files", ' or ".." in v["uri"]', ""),
    "loads the stable version from anywhere": (
        "foreign files",
        'for v in versions):\n        return "data.model.uri"',
        'for v in versions[:1]):\n        return "data.model.uri"',
    ),
    "does not look at the stable version's digest": (
        "other stable bytes",
        "await asyncio.to_thread(load, version)",
        'await asyncio.to_thread(load, version) if version is call["model"] else 0',
    ),
    "believes whoever answers what is desired": (
        "forged desired",
        " or not is_signed(page.headers, page.content)",
        "",
    ),
    "believes an answer to another question": (
        "forged desired",
        'page.headers.get("webhook-id") != message_id',
        "False",
    ),
    "does not look at the digest": ("other bytes", 'or version["digest"] != f"sha256', 'or "" == f"sha256'),
    "says that a version serves before it was asked for": ("weights", '"weight": weight,', '"weight": 100,'),
    "does not turn the page": ("desired", 'after = page.json()["next_after"]', "after = None"),
    "forgets what was removed": (
        "removed",
        '    last[call["resource"]] = call\n',
        '    last[call["resource"]] = call if call["action"] == "apply" else call | {"generation": 0}\n',
    ),
    "does not sign its reports": ("signed reports", REPORTS_SIGNED, 'headers = {"webhook-id": event["id"]} |'),
    "gives an event another id": (
        "valid reports",
        "body = json.dumps(event |",
        'body = json.dumps(event | {"id": "x"} |',
    ),
    "counts no sequence": ("sequence", BEGINS, f"{BEGINS}{STOPS_TIME}{REPORTS_PROGRESS}"),
    "goes back": ("phases", REPORTS_END, REPORTS_END + REPORTS_PROGRESS.replace("Progressing", "Accepted")),
}


@pytest.mark.parametrize(("check", "right", "wrong"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_found_by_the_check_for_it(run_third: RunThird, check: str, right: str, wrong: str) -> None:
    assert BARE.count(right) == 1
    waited_in_vain = {"accepted": {"answer_s": 0.3}, "retry": {"retry_s": 0.3}, "desired": {"pull_s": 0.3}}
    bounds = replace(QUICK, **waited_in_vain.get(check, {}))
    third = run_third(BARE.replace(right, wrong), bounds)
    with closing(examine(third.subject, third.gateway)) as outcomes:
        found = next(outcome for outcome in outcomes if outcome.result is Result.FAILED)
    assert found.check == check
    assert found.seen
    if check == "desired":
        assert "next_after=" in found.seen


def run_command(third: Third, tmp_path: Path, *more: str) -> int:
    for name, secret in (("calls", CALLS), ("reports", REPORTS)):
        (tmp_path / name).write_text(f"{secret}\n")
    subject = third.subject
    named = {
        "--url": subject.url,
        "--target": TARGET,
        "--secret-file": str(tmp_path / "calls"),
        "--callback-secret-file": str(tmp_path / "reports"),
        "--model-uri": subject.model.uri,
        "--model-digest": subject.model.digest,
        "--listen": "127.0.0.1:0",
    }
    return main([part for option in named.items() if option[1] for part in option] + list(more))


def test_the_command_tells_machines_what_it_saw(
    run_third: RunThird, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = run_third(BARE)
    # It plays a gateway of its own, which this deployer does not know: nothing can be accepted.
    skipped = [part for check in CHECKS if check.needs for part in ("--skip", check.name)]
    options = ["--json", "--gateway-url", third.gateway.url, "--skip", "accepted", *skipped]
    assert run_command(third, tmp_path, *options) == CONFORMS
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["failed"], told["target"]) == (0, TARGET)
    assert {outcome["result"] for outcome in told["outcomes"]} == {"passed", "skipped"}


def test_the_command_tells_people_what_was_expected_and_what_was_seen(
    run_third: RunThird, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = run_third(BARE)
    skipped = [part for check in CHECKS if check.needs for part in ("--skip", check.name)]
    assert run_command(third, tmp_path, *skipped) == DOES_NOT
    told = capsys.readouterr().out
    assert "FAILED   accepted" in told
    assert "seen: 422" in told
    assert "data.callback.url" in told


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "nobody answers"),
        ({"--secret-file": "nowhere"}, "nowhere cannot be read"),
        ({"--secret-file": "nonsense"}, "nonsense is not one secret"),
        ({"--secret-file": "reports"}, "hold the same secret"),
        ({"--model-uri": "/srv/models/iris"}, "expected a URI such as file:///"),
        ({"--model-digest": "sha256:0"}, "--model-digest is sha256:0, expected"),
        ({"--model-uri": "s3://models/iris/", "--model-digest": None}, "--model-digest is missing"),
        ({"--model-digest": None}, "there are no files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_command_says_why_it_cannot_examine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, str | None], said: str
) -> None:
    for name, content in (("calls", CALLS), ("reports", REPORTS), ("nonsense", "hello")):
        (tmp_path / name).write_text(content)
    options: dict[str, str | None] = {
        "--url": "http://127.0.0.1:9/v1/deployments",
        "--target": TARGET,
        "--model-uri": (tmp_path / "empty").as_uri(),
        "--model-digest": f"sha256:{'0' * 64}",
        "--listen": "127.0.0.1:0",
        "--start-s": "0",
        "--secret-file": "calls",
        "--callback-secret-file": "reports",
        **wrong,
    }
    for name in ("--secret-file", "--callback-secret-file"):
        options[name] = str(tmp_path / str(options[name]))
    (tmp_path / "empty").mkdir()
    assert (
        main([part for option in options.items() if option[1] is not None for part in option if part]) == NOT_EXAMINED
    )
    assert said in capsys.readouterr().err


def test_the_digest_of_files_that_are_here_need_not_be_said(
    run_third: RunThird, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = run_third(BARE)
    bad = replace(third.subject, model=replace(third.subject.model, digest=""))
    skipped = [part for check in CHECKS if check.name != "accepted" for part in ("--skip", check.name)]
    options = ["--gateway-url", third.gateway.url, *skipped]
    assert run_command(replace(third, subject=bad), tmp_path, *options) == CONFORMS
    assert "1 passed" in capsys.readouterr().out


def test_what_is_usually_amiss_is_said(run_third: RunThird) -> None:
    third = run_third(BARE)
    elsewhere = replace(third.subject, url=third.subject.url.removesuffix("/deployments"))
    assert f"is {elsewhere.url} where it takes calls?" in seen_of(elsewhere, third, "unsigned")
    swapped = replace(third.subject, webhook_secret=REPORTS)
    assert "is --secret-file what the deployer verifies calls with" in seen_of(swapped, third, "accepted")
    moved = replace(third.subject, model=replace(third.subject.model, uri="file:///elsewhere/"))
    assert "let the deployer load from file:///elsewhere/" in seen_of(moved, third, "accepted")


def test_who_knows_no_options_may_say_so_before_it_looks_at_the_generation(run_third: RunThird) -> None:
    right = "    if generation == known["
    assert BARE.count(right) == 1
    third = run_third(
        BARE.replace(right, f'    if call["config"]:\n        return refusal(422, "data.config")\n{right}')
    )
    skip = [check.name for check in CHECKS if check.name not in {"accepted", "ready", "conflict"}]
    outcomes = examine(third.subject, third.gateway, skip=skip)
    assert [each.check for each in outcomes if each.result is Result.PASSED] == ["accepted", "ready", "conflict"]


def seen_of(subject: Subject, third: Third, check: str) -> str:
    skip = [each.name for each in CHECKS if each.name != check]
    return next(each.seen for each in examine(subject, third.gateway, skip=skip) if each.check == check)

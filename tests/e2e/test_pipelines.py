"""The pipelines that we show to people, run as they are against a real gateway, worker and MLflow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.client.standin import Standin, running_standin
from tests.platform import Countersign, MlflowServer, until

HERE = Path(__file__).parents[2]
GITHUB, GITLAB = HERE / "examples" / "github-action", HERE / "examples" / "gitlab" / "countersign.gitlab-ci.yml"
GUIDE = HERE / "docs" / "guides" / "ci.md"


@pytest.fixture
def model(service: Countersign, mlflow_server: MlflowServer, model_name: str) -> str:
    """One version of it, under a policy that asks for a check of CI and a person."""
    mlflow_server.register(model_name)
    policy = {
        "models": model_name,
        "alias": "production",
        "checks": [{"name": "validation", "posted": {"validFor": "24h", "by": {"groups": ["services"]}}}],
        "approvals": [{"name": "a second person", "roles": ["approver"]}],
    }
    written = service.call("administrator", "PUT", f"/policies/{model_name}", json=policy)
    assert written.status_code == 201, written.text
    return model_name


@pytest.fixture
def identity(service: Countersign) -> str:
    """What the platform of a pipeline says that it is."""
    return service.issuer.token("pipeline", groups=["scientists", "services"])


@pytest.fixture
def github(identity: str) -> Iterator[Standin]:
    """Where a job of GitHub Actions gets its identity token."""
    with running_standin() as github:
        github.answers["/idtoken"] = lambda _: (200, {"value": identity})
        yield github


def shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a runner does, with nothing of this process's credentials."""
    folder.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    more = {"PATH": path, "COUNTERSIGN_CREDENTIALS_FILE": str(folder / "none.json")}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        check=False,
        env={**kept, **more, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def approving(service: Countersign, model: str) -> threading.Thread:
    """Somebody who approves as soon as a promotion of the model waits."""

    def approve() -> None:
        def waits() -> Any:
            return service.call("approver", "GET", "/promotions", params={"model": model}).json()["items"]

        found = until(waits, "a promotion of the pipeline")
        assert service.approve(found[0]["id"]).status_code == 200

    thread = threading.Thread(target=approve)
    thread.start()
    return thread


def on_github(service: Countersign, github: Standin, folder: Path, model: str) -> dict[str, str]:
    return {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{github.url}/idtoken?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-job",
        "GITHUB_ACTION_PATH": str(GITHUB),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "acme/iris",
        "GITHUB_RUN_ID": "1",
        "GITHUB_SHA": "abc",
        "COUNTERSIGN_URL": service.url,
        "MODEL": model,
        "VERSION": "1",
        "ALIAS": "production",
        "RUN": "https://github.example/acme/iris/actions/runs/1",
    }


def test_the_github_action_posts_a_check_and_promotes(
    service: Countersign, mlflow_server: MlflowServer, model: str, github: Standin, tmp_path: Path
) -> None:
    workflow = yaml.safe_load((GITHUB / "workflow.yml").read_text())
    checks = [step for step in workflow["jobs"]["validate"]["steps"] if "check post" in step.get("run", "")]
    [action_step] = yaml.safe_load((GITHUB / "action.yml").read_text())["runs"]["steps"]
    variables = on_github(service, github, tmp_path, model)
    for step in checks:
        done = shell(step["run"], tmp_path, **variables, OUTCOME="pass")
        assert done.returncode == 0, done.stderr
    somebody = approving(service, model)
    done = shell(action_step["run"], tmp_path, **variables, REASON="", TIMEOUT="60s")
    somebody.join()
    assert done.returncode == 0, done.stderr
    assert mlflow_server.holder(model) == "1"
    output = dict(line.split("=") for line in (tmp_path / "output").read_text().splitlines())
    assert (output["state"], output["status"]) == ("applied", "0")
    promotion = service.call("viewer", "GET", f"/promotions/{output['promotion']}").json()
    assert promotion["requested_by"]["name"] == "pipeline"
    assert promotion["reason"] == "abc, https://github.example/acme/iris/actions/runs/1"
    [check] = service.call("viewer", "GET", f"/promotions/{promotion['id']}/checks").json()["items"]
    assert (check["name"], check["outcome"], check["link"]) == ("validation", "pass", variables["RUN"])
    assert (check["posted_by"]["name"], check["digest"]) == ("pipeline", promotion["digest"])
    assert "approvals by role approver" in (tmp_path / "summary.md").read_text()
    said = done.stdout + done.stderr + (tmp_path / "summary.md").read_text()
    assert "cs_" not in said
    assert "eyJ" not in said


def test_a_check_that_fails_ends_the_github_action_as_blocked(
    service: Countersign, mlflow_server: MlflowServer, model: str, github: Standin, tmp_path: Path
) -> None:
    variables = on_github(service, github, tmp_path, model)
    post = f"countersign check post validation -m {model} -v 1 -o fail --message 'parity 0.4'"
    done = shell(f'{post} && bash "$GITHUB_ACTION_PATH/promote.sh"', tmp_path, **variables, TIMEOUT="60s")
    assert done.returncode == 6, done.stderr
    assert "parity 0.4" in done.stderr
    assert "status=6\n" in (tmp_path / "output").read_text()
    assert mlflow_server.holder(model) is None


def test_the_gitlab_jobs_post_a_check_and_promote(
    service: Countersign, mlflow_server: MlflowServer, model: str, identity: str, tmp_path: Path
) -> None:
    jobs = yaml.safe_load(GITLAB.read_text())
    assert jobs[".countersign"]["id_tokens"] == {"COUNTERSIGN_ID_TOKEN": {"aud": "countersign"}}
    assert {"validate", "promote", "policies"} <= set(jobs)
    script = [*jobs[".countersign"]["before_script"], *jobs["validate"]["script"], *jobs["promote"]["script"]]
    somebody = approving(service, model)
    done = shell(
        "\n".join(script),
        tmp_path,
        COUNTERSIGN_ID_TOKEN=identity,
        COUNTERSIGN_URL=service.url,
        VALIDATE="echo validated",
        CI_JOB_URL="https://gitlab.example/acme/iris/-/jobs/1",
        CI_PIPELINE_URL="https://gitlab.example/acme/iris/-/pipelines/1",
        CI_COMMIT_SHORT_SHA="abc",
        MODEL=model,
        VERSION="1",
        ALIAS="production",
    )
    somebody.join()
    assert done.returncode == 0, done.stderr
    assert mlflow_server.holder(model) == "1"


def test_the_guides_curl_does_the_same(
    service: Countersign, mlflow_server: MlflowServer, model: str, identity: str, tmp_path: Path
) -> None:
    [script] = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    somebody = approving(service, model)
    done = shell(
        script, tmp_path, COUNTERSIGN_URL=service.url, ID_TOKEN=identity, MODEL=model, VERSION="1", ALIAS="production"
    )
    somebody.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert mlflow_server.holder(model) == "1"
    assert "satisfied: validation: pipeline: passed" in done.stdout
    assert "waiting: a second person: 0 of 1 approvals by role approver" in done.stdout


def test_the_workflows_are_well_formed_and_hold_no_secret() -> None:
    for path in sorted(GITHUB.glob("*.yml")):
        text = path.read_text()
        document = yaml.safe_load(text)
        assert document["name"]
        assert "secrets." not in text
        for job in document.get("jobs", {}).values():
            # An input inside of a script would be run as part of it.
            assert not any("${{" in step.get("run", "") for step in job["steps"])

"""The deployer's settings and its command line."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from countersign_deployer.settings import InvalidConfiguration, load_settings
from countersign_ray_serve.settings import Settings

SECRET = "whsec_" + base64.b64encode(b"x" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"y" * 32).decode()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    values = {
        "GATEWAY_URL": "https://gateway.test",
        "WEBHOOK_SECRET": SECRET,
        "CALLBACK_SECRET": OTHER,
        "ALLOWED_URI_PREFIXES": "s3://models",
        "STATE_DIR": str(tmp_path / "state"),
    }
    for name, value in values.items():
        monkeypatch.setenv(f"COUNTERSIGN_RAY_{name}", value)
    return monkeypatch


def mistakes() -> str:
    with pytest.raises(InvalidConfiguration) as refused:
        load_settings(Settings)
    return str(refused.value)


def test_all_mistakes_are_reported_together_each_with_its_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("COUNTERSIGN_RAY_GATEWAY_URL")
    environment.setenv("COUNTERSIGN_RAY_PORT", "http")
    environment.setenv("COUNTERSIGN_RAY_CALLBACK_SECRET", "hunter2")
    environment.setenv("COUNTERSIGN_RAY_DASHBOARD_TOKEN_FILE", "/does/not/exist")
    text = mistakes()
    for name in ("GATEWAY_URL", "PORT", "CALLBACK_SECRET", "DASHBOARD_TOKEN_FILE"):
        assert f"COUNTERSIGN_RAY_{name}: " in text
    assert "hunter2" not in text


def test_a_secret_can_be_read_from_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("ray-token\n")
    environment.setenv("COUNTERSIGN_RAY_DASHBOARD_TOKEN_FILE", str(tmp_path / "token"))
    token = load_settings(Settings).dashboard_token
    assert token is not None
    assert token.get_secret_value() == "ray-token"


def test_a_secret_given_twice_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    environment.setenv("COUNTERSIGN_RAY_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    assert "WEBHOOK_SECRET_FILE; set one" in mistakes()


def test_both_directions_must_not_share_a_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COUNTERSIGN_RAY_WEBHOOK_SECRET", f"{SECRET},{OTHER}")
    assert "each direction has its own secret" in mistakes()


@pytest.mark.parametrize("secret", ["whsec_", "whsec_c2hvcnQ=", "plain", "whsec_!!!"])
def test_a_weak_or_malformed_secret_is_refused(environment: pytest.MonkeyPatch, secret: str) -> None:
    environment.setenv("COUNTERSIGN_RAY_WEBHOOK_SECRET", secret)
    assert "COUNTERSIGN_RAY_WEBHOOK_SECRET: expected whsec_" in mistakes()


def test_environment_variables_for_replicas_are_json(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COUNTERSIGN_RAY_RUNTIME_ENV_VARS", "AWS_ENDPOINT_URL=http://minio")
    assert "COUNTERSIGN_RAY_RUNTIME_ENV_VARS: expected a JSON object" in mistakes()
    environment.setenv("COUNTERSIGN_RAY_RUNTIME_ENV_VARS", '{"AWS_ENDPOINT_URL": "http://minio"}')
    assert load_settings(Settings).runtime_env_vars == {"AWS_ENDPOINT_URL": "http://minio"}


def test_commas_inside_a_requirement_do_not_separate(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COUNTERSIGN_RAY_RUNTIME_PIP", "pandas[excel,plot]>=2,<4, skops==0.16.0,boto3")
    assert load_settings(Settings).runtime_pip == ["pandas[excel,plot]>=2,<4", "skops==0.16.0", "boto3"]


def test_some_settings_are_read_by_their_plain_names_too(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RAY_RUNTIME_PIP", "model, boto3")
    environment.setenv("SERVE_WAIT_TIMEOUT", "120")
    environment.setenv("SERVE_RESET_ON_START", "true")
    settings = load_settings(Settings)
    assert settings.runtime_pip == ["model", "boto3"]
    assert (settings.serve_wait_timeout, settings.serve_reset_on_start) == (120, True)
    environment.setenv("COUNTERSIGN_RAY_SERVE_WAIT_TIMEOUT", "60")
    environment.setenv("COUNTERSIGN_RAY_RUNTIME_PIP", "none")
    assert (load_settings(Settings).serve_wait_timeout, load_settings(Settings).runtime_pip) == (60, [])


def test_every_setting_is_documented_in_the_readme() -> None:
    import countersign_ray_serve

    readme = (Path(countersign_ray_serve.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{name.upper()}`" not in readme] == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "countersign_ray_serve.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ),
    )


def test_the_command_explains_itself_without_any_configuration() -> None:
    answer = run("--help")
    assert answer.returncode == 0
    assert "COUNTERSIGN_RAY_WEBHOOK_SECRET[_FILE]" in answer.stdout


def test_the_command_refuses_a_wrong_configuration_without_a_traceback() -> None:
    answer = run()
    assert answer.returncode == 2
    assert "COUNTERSIGN_RAY_GATEWAY_URL: is not set" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_port_in_use_is_one_line(environment: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment.setenv("COUNTERSIGN_RAY_PORT", str(taken.getsockname()[1]))
        answer = run()
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1
    assert "cannot listen on 127.0.0.1" in answer.stderr


def test_the_command_checks_a_configuration_without_starting(environment: pytest.MonkeyPatch) -> None:
    answer = run("--check")
    assert (answer.returncode, answer.stdout) == (0, "The configuration is right.\n")

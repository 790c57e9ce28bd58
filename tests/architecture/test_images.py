"""The images and the compose file agree with the code they run. No engine is needed: the files are read as they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from countersign_deployer.settings import DeployerSettings
from countersign_kserve.settings import Settings as KServeSettings
from countersign_ray_serve.settings import Settings as RaySettings

from app.cli import cli
from app.embedded.mlflow_server import HARDENING
from app.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
PREFIX = "COUNTERSIGN_"
FIELDS = {PREFIX + name.upper() for name in Settings.model_fields}
REQUIRED = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if field.is_required()}
OURS = "countersign:local"
CLIENT = {"clients/python/README.md", "clients/python/countersign_client"}
"""The member of the workspace that the gateway's package depends on; `COPY . .` takes it along."""
ANSWERS = {
    "COUNTERSIGN_OIDC_ISSUER": "https://login.example.com/realms/one",
    "COUNTERSIGN_OIDC_AUDIENCE": "countersign",
    "COUNTERSIGN_ROLES": '{"approver": ["ml-leads"], "viewer": ["*"]}',
    "POSTGRES_PASSWORD": "one",
    "GATEWAY_DATABASE_PASSWORD": "two",
    "MLFLOW_DATABASE_PASSWORD": "three",
    "COUNTERSIGN_ASSERTION_SECRET": "four, which is of 32 bytes or more",
}
"""What a user has to write into ``.env``, and nothing else."""

Instruction = tuple[str, str]


def instructions(dockerfile: str) -> list[Instruction]:
    """Each instruction's name and arguments, with comments and line breaks gone."""
    lines = (ROOT / dockerfile).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined if line.strip())]


def stages(dockerfile: str) -> list[list[Instruction]]:
    """The instructions of each stage, from its FROM on."""
    found: list[list[Instruction]] = []
    for name, rest in instructions(dockerfile):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def values(parts: list[Instruction], name: str) -> list[str]:
    return [rest for each, rest in parts if each == name]


def environment(parts: list[Instruction]) -> dict[str, str]:
    pairs = [pair.partition("=") for rest in values(parts, "ENV") for pair in shlex.split(rest)]
    return {name: value for name, _, value in pairs}


def variables(text: str) -> set[str]:
    """The variables a compose file asks for."""
    return set(re.findall(r"\$\{(\w+)", text))


def interpolated(value: Any, given: dict[str, str]) -> Any:
    """As Compose does: ``${NAME:-default}`` and ``${NAME:?message}``."""

    def one(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if given.get(name):
            return given[name]
        assert kind == ":-", f"{name}: {rest}"
        return str(rest)

    if isinstance(value, dict):
        return {key: interpolated(each, given) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, given) for each in value]
    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", one, value) if isinstance(value, str) else value


COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = interpolated(yaml.safe_load(COMPOSE_TEXT), ANSWERS)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")
)
GATEWAY_IMAGE, MLFLOW_IMAGE = "Dockerfile", "deploy/mlflow-server/Dockerfile"
IMAGES = [GATEWAY_IMAGE, MLFLOW_IMAGE]
KSERVE_IMAGE = "deploy/deployers/kserve/Dockerfile"
RAY_IMAGE = "deploy/deployers/ray_serve/Dockerfile"
STORAGE_IMAGE = "deploy/deployers/kserve/storage/Dockerfile"
ALL_IMAGES = [*IMAGES, KSERVE_IMAGE, RAY_IMAGE, STORAGE_IMAGE]
"""With those that the compose file does not run."""


def test_every_service_runs_an_image_that_is_built_here_or_named_with_its_version() -> None:
    assert set(SERVICES) == {"postgres", "mlflow", "migrate", "gateway", "worker"}
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.fullmatch(r"[a-z]+:\d+", service["image"]), name
            continue
        build = service["build"] if isinstance(service["build"], dict) else {"context": service["build"]}
        assert build["context"] == ".", name
        assert (ROOT / build.get("dockerfile", "Dockerfile")).is_file(), name


def test_every_command_of_our_image_is_one_that_countersign_has() -> None:
    commands = set(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]
    ran = {name: service["command"] for name, service in SERVICES.items() if service["image"] == OURS}
    assert ran == {"migrate": ["migrate"], "gateway": ["gateway"], "worker": ["worker"]}
    assert {command for each in ran.values() for command in each} <= commands
    final = stages(GATEWAY_IMAGE)[-1]
    assert values(final, "ENTRYPOINT") == ['["countersign"]']
    assert values(final, "CMD") == ['["gateway"]']


def test_nothing_but_the_gateway_is_published_and_that_on_loopback_until_somebody_says_otherwise() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "gateway": ["127.0.0.1:8080:8080"]
    }
    assert not any("network_mode" in service for service in SERVICES.values())


def test_mlflow_and_postgresql_are_on_internal_networks_only() -> None:
    internal = {name for name, network in COMPOSE["networks"].items() if (network or {}).get("internal")}
    for name in ("mlflow", "postgres", "migrate"):
        assert set(SERVICES[name]["networks"]) <= internal, name
    for name in ("gateway", "worker"):
        assert set(SERVICES["mlflow"]["networks"]) <= set(SERVICES[name]["networks"]), name


def test_every_service_is_hardened() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name
        assert not {"privileged", "cap_add", "pid", "ipc"} & set(service), name


def test_every_service_that_stays_is_restarted_and_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        image = {OURS: GATEWAY_IMAGE, "countersign-mlflow:local": MLFLOW_IMAGE}.get(service["image"])
        assert service.get("healthcheck") or (image and values(stages(image)[-1], "HEALTHCHECK")), name
    # The image's check asks the gateway's port, on which a worker does not listen.
    port = SERVICES["worker"]["environment"]["COUNTERSIGN_WORKER_METRICS_PORT"]
    assert port in SERVICES["worker"]["healthcheck"]["test"][-1]


def test_gateway_and_worker_start_on_a_migrated_database() -> None:
    for name in ("gateway", "worker"):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name


def test_every_variable_of_ours_is_a_setting() -> None:
    named = set(re.findall(rf"\b{PREFIX}\w+", COMPOSE_TEXT + (ROOT / ".env.example").read_text()))
    for image in IMAGES:
        named |= {name for name in environment(stages(image)[-1]) if name.startswith(PREFIX)}
    assert named
    assert named <= FIELDS


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_service_gets_settings_that_are_complete_and_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    assert set(given) >= REQUIRED
    for variable in [variable for variable in os.environ if variable.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for variable, value in {**environment(stages(GATEWAY_IMAGE)[-1]), **given}.items():
        if variable.startswith(PREFIX):
            monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.host == "0.0.0.0"
    assert str(settings.port) in values(stages(GATEWAY_IMAGE)[-1], "EXPOSE")
    assert urlsplit(settings.database_url.get_secret_value()).hostname == "postgres"


def test_the_example_names_exactly_what_the_compose_file_asks_for() -> None:
    assert set(EXAMPLE) == variables(COMPOSE_TEXT)


def test_what_nobody_can_guess_has_no_default_and_is_empty_in_the_example() -> None:
    assert set(re.findall(r"\$\{(\w+):\?", COMPOSE_TEXT)) == set(ANSWERS)
    assert {name for name in ANSWERS if EXAMPLE[name]} == set()
    passwords = {name for name in variables(COMPOSE_TEXT) if "PASSWORD" in name}
    assert passwords <= set(ANSWERS)


def test_the_compose_file_holds_no_secret() -> None:
    raw = yaml.safe_load(COMPOSE_TEXT)["services"]
    pairs = [pair for service in raw.values() for pair in service.get("environment", {}).items()]
    secrets = [value for name, value in pairs if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]
    secrets += [password for _, value in pairs for password in re.findall(r"://\w+:(.*?)@", value)]
    assert len(secrets) >= 6
    assert all(re.fullmatch(r"\$\{\w+:(?:\?[^}]+|-)\}", secret) for secret in secrets)


def test_artifacts_are_at_one_path_and_only_mlflow_writes_them() -> None:
    command = SERVICES["mlflow"]["command"]
    path = command[command.index("--artifacts-destination") + 1]
    assert SERVICES["mlflow"]["volumes"] == [f"artifacts:{path}"]
    for name in ("gateway", "worker"):
        assert SERVICES[name]["environment"]["COUNTERSIGN_ARTIFACTS_DESTINATION"] == path
        assert SERVICES[name]["volumes"] == [f"artifacts:{path}:ro"], name
    for image in IMAGES:
        folders = [rest for rest in values(stages(image)[-1], "RUN") if "install --directory" in rest]
        assert folders, image
        assert path in folders[0], image


def test_mlflow_answers_to_the_name_the_gateway_calls_it_by_and_to_no_other() -> None:
    command = SERVICES["mlflow"]["command"]
    allowed = command[command.index("--allowed-hosts") + 1]
    upstream = urlsplit(SERVICES["gateway"]["environment"]["COUNTERSIGN_UPSTREAM_URLS"])
    assert allowed == upstream.netloc == "mlflow:5000"
    assert environment(stages(MLFLOW_IMAGE)[-1])["MLFLOW_PORT"] == str(upstream.port)
    assert SERVICES["worker"]["environment"]["COUNTERSIGN_UPSTREAM_URLS"] == upstream.geturl()


def test_mlflow_listens_to_who_has_the_secret_that_gateway_and_worker_have() -> None:
    assert " ".join(SERVICES["mlflow"]["command"]).startswith("server --app-name countersign ")
    assert '"--app-name", "countersign"' in values(stages(MLFLOW_IMAGE)[-1], "CMD")[0]
    (install,) = [rest for rest in values(stages(MLFLOW_IMAGE)[0], "RUN") if "pip install --python" in rest]
    assert "./deploy/mlflow" in install.split()
    secrets = {
        SERVICES[name]["environment"]["COUNTERSIGN_ASSERTION_SECRET"] for name in ("mlflow", "gateway", "worker")
    }
    assert secrets == {ANSWERS["COUNTERSIGN_ASSERTION_SECRET"]}


def test_mlflow_and_the_gateway_have_a_database_each_that_the_script_creates() -> None:
    script = ROOT / "deploy" / "postgres" / "create-databases.sh"
    assert os.access(script, os.X_OK)
    mounted = f"./{script.relative_to(ROOT)}:/docker-entrypoint-initdb.d/{script.name}:ro"
    assert mounted in SERVICES["postgres"]["volumes"]
    created = set(re.findall(r"^create (\w+) ", script.read_text(), re.MULTILINE))
    urls = [
        SERVICES["gateway"]["environment"]["COUNTERSIGN_DATABASE_URL"],
        SERVICES["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"],
    ]
    assert {urlsplit(url).username for url in urls} == {urlsplit(url).path[1:] for url in urls} == created
    assert SERVICES["migrate"]["environment"] == {"COUNTERSIGN_DATABASE_URL": urls[0]}
    assert len({urlsplit(url).password for url in urls}) == 2


def test_the_address_of_mlflows_database_names_the_driver_that_its_image_has() -> None:
    uri = SERVICES["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert urlsplit(uri).scheme == "postgresql+psycopg2"
    assert any("psycopg2-binary==" in rest for rest in values(stages(MLFLOW_IMAGE)[0], "RUN"))


def test_the_mlflow_image_turns_off_what_the_embedded_server_turns_off() -> None:
    assert environment(stages(MLFLOW_IMAGE)[-1]).items() >= HARDENING.items()


def test_the_gateways_image_is_installed_from_the_lock_without_extras_and_without_tests() -> None:
    syncs = [rest for rest in values(stages(GATEWAY_IMAGE)[0], "RUN") if "uv sync" in rest]
    assert syncs
    for sync in syncs:
        arguments = set(shlex.split(sync))
        assert arguments >= {"--locked", "--no-dev"}, sync
        assert not {"--extra", "--all-extras", "--group", "--upgrade"} & arguments, sync
    assert "--no-editable" in syncs[-1]


def test_mlflows_image_takes_its_versions_from_the_lock() -> None:
    (install,) = [rest for rest in values(stages(MLFLOW_IMAGE)[0], "RUN") if "pip install --python" in rest]
    assert "uv export --locked" in install
    assert "--constraints /tmp/locked.txt" in install
    assert re.search(r"\smlflow\s", install)  # no version of its own


@pytest.mark.parametrize(
    ("image", "package", "kind"),
    [
        (KSERVE_IMAGE, "countersign-kserve", KServeSettings),
        (RAY_IMAGE, "countersign-ray-serve", RaySettings),
    ],
)
def test_the_image_of_a_deployer_holds_that_package_alone_from_the_lock_and_knows_its_settings(
    image: str, package: str, kind: type[DeployerSettings]
) -> None:
    first, final = stages(image)
    syncs = [rest for rest in values(first, "RUN") if "uv sync" in rest]
    assert syncs
    for sync in syncs:
        arguments = shlex.split(sync)
        assert {"--locked", "--no-dev"} <= set(arguments), sync
        assert arguments[arguments.index("--package") + 1] == package, sync
    assert "--no-editable" in syncs[-1]
    fields = {kind.variable(name): field for name, field in kind.model_fields.items()}
    given = {name: value for name, value in environment(final).items() if name.startswith(PREFIX)}
    assert given.keys() <= fields.keys()
    assert given[kind.variable("host")] == "0.0.0.0"
    assert values(final, "EXPOSE") == [given[kind.variable("port")]]
    assert str(fields[kind.variable("state_dir")].default) in " ".join(values(final, "RUN"))
    project = tomllib.loads((ROOT / image).with_name("pyproject.toml").read_text())
    assert values(final, "ENTRYPOINT") == [f'["{next(iter(project["project"]["scripts"]))}"]']


@pytest.mark.parametrize("image", ALL_IMAGES)
def test_an_image_runs_as_a_numbered_user_and_holds_no_build_stage(image: str) -> None:
    first, final = stages(image)
    assert values(final, "USER") == ["10001:10001"]
    assert environment(final)["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment(first)["UV_COMPILE_BYTECODE"] == "1"
    assert all(rest.startswith("--from=build /opt/") for rest in values(final, "COPY"))
    assert not any("uv" in shlex.split(rest) or "pip" in rest or "apt" in rest for rest in values(final, "RUN"))


def test_all_images_have_the_same_base_and_the_same_uv() -> None:
    pinned = [
        [rest for rest in values(instructions(image), "ARG") if rest.startswith(("BASE", "UV_"))]
        for image in ALL_IMAGES
    ]
    assert all(each == pinned[0] for each in pinned)
    assert [name.partition("=")[0] for name in pinned[0]] == ["BASE", "UV_VERSION"]


def _ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_a_builder_is_sent_only_what_is_named() -> None:
    first, *rest = _ignored()
    assert first == "*"
    let_through = {line.removeprefix("!") for line in rest if line.startswith("!")}
    copied = {
        source
        for image in ALL_IMAGES
        for arguments in values(stages(image)[0], "COPY")
        for source in arguments.split()[:-1]
        if source != "."
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = copied | {*packages, project["project"]["readme"], *CLIENT}
    assert needed <= let_through <= needed | {"LICENSE"}


def test_every_member_of_the_workspace_is_copied_for_the_lock_to_hold() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for image in ALL_IMAGES:
        copied = " ".join(values(stages(image)[0], "COPY"))
        for member in project["tool"]["uv"]["workspace"]["members"]:
            assert f"{member}/pyproject.toml" in copied, image


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    folder = tmp_path_factory.mktemp("wheel")
    command = [uv, "build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_that_the_image_installs_holds_every_migration_where_the_code_looks_for_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    migrations = {str(file.relative_to(ROOT)) for file in (ROOT / "migrations").rglob("*.py")}
    assert "migrations/versions/0001_foundation.py" in migrations
    assert migrations <= names
    # `app/adapters/postgres/schema.py` looks three folders up.
    assert "app/adapters/postgres/schema.py" in names


def test_the_wheel_holds_all_of_the_application_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "app").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert code <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"app", "migrations"}

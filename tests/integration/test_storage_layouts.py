"""Every way in which a version can be registered, on every way in which MLflow can store: what resolves is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.models import Model
from moto.server import ThreadedMotoServer

from app.adapters.object_store import ObjectStores
from app.domain.errors import Unresolvable
from app.domain.names import parse_models_uri
from app.domain.promotions import State
from app.domain.resolutions import Remember, Resolution
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer, running_mlflow

BUCKETS = ("served", "direct", "elsewhere")
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "local": (),
    "served from S3": ("--artifacts-destination", "s3://served/prefix"),
    "direct on S3": ("--no-serve-artifacts", "--default-artifact-root", "s3://direct/root"),
}
"""Options of the server, beside those of the first."""
ROOTS = {"served from S3": "s3://served/prefix/", "direct on S3": "s3://direct/root/"}
ELSEWHERE = "s3://elsewhere/model"
STORED = (
    "logged and registered",
    "registered from a logged model",
    "registered from a run that has a logged model",
    "registered from the artifacts of a run",
    "copied",
    "created of an address",
)
LOOKED_UP = ("looked up in a run", "looked up in a run that has a logged model")


@dataclass
class Layout:
    """A server, the services before it, and a version of each kind."""

    name: str
    court: Court
    folder: Path
    versions: Mapping[str, str]
    """As ``models:/<name>/<version>``, by how it was made."""
    model_id: str

    @property
    def root(self) -> str:
        return ROOTS.get(self.name, f"{self.court.mlflow.artifacts.as_uri()}/")

    async def resolve(self, uri: str) -> Resolution:
        return await self.court.gateway.services.resolver.resolve(self.court.ada, uri)


@pytest.fixture(scope="module")
def buckets() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")  # or the lock file of this project is logged as part of a model
        client = boto3.client("s3")
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket="elsewhere", Key="model/MLmodel", Body=b"flavors: {}\n")
        client.put_object(Bucket="elsewhere", Key="model-old/MLmodel", Body=b"a sibling")
        yield client
        client.close()
    server.stop()


@pytest.fixture(scope="module", params=LAYOUTS)
async def layout(  # of fixtures
    request: pytest.FixtureRequest,
    buckets: object,  # to be there
    mlflow_server: MlflowServer,
    postgres: Callable[[str], str],
    template_database: str,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Layout]:
    folder, options = tmp_path_factory.mktemp("model"), LAYOUTS[request.param]
    with ExitStack() as stack:
        server = stack.enter_context(running_mlflow(*options)) if options else mlflow_server
        url = stack.enter_context(database_of(postgres, template_database))
        destination = "s3://served/prefix" if request.param == "served from S3" else str(server.artifacts)
        settings = {
            "COUNTERSIGN_ARTIFACTS_DESTINATION": destination,
            "COUNTERSIGN_ARTIFACT_ROOTS": "s3://direct/root, s3://elsewhere",
        }
        model_id, versions = _register(server.url, request.param.replace(" ", "-"), folder / "saved")
        async with open_court(url, server, issuer, **settings) as court:
            yield Layout(request.param, court, folder, versions, model_id)


def _register(url: str, name: str, folder: Path) -> tuple[str, Mapping[str, str]]:
    """A version of each kind, as MLflow's client makes it."""
    mlflow.set_tracking_uri(url)
    try:
        client = MlflowClient(url)
        run = mlflow.start_run(experiment_id=client.create_experiment(name))
        logged = Model.log(None, _Flavor, name="model", registered_model_name=name)
        _Flavor.save_model(folder, Model())
        client.log_artifacts(run.info.run_id, str(folder), "old")
        mlflow.end_run()
        of_run = f"runs:/{run.info.run_id}"
        for source in (f"models:/{logged.model_id}", f"{of_run}/model", f"{of_run}/old"):
            mlflow.register_model(source, name)
        for source in (f"{of_run}/old", f"{of_run}/model"):
            client.create_model_version(name, source, run.info.run_id)
        client.create_model_version(name, ELSEWHERE)
        copied = client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
        numbers = dict(zip((*STORED[:4], *LOOKED_UP, STORED[5]), map(str, range(1, 8)), strict=True))
        versions = {kind: f"models:/{name}/{number}" for kind, number in numbers.items()}
        return logged.model_id, {**versions, STORED[4]: f"models:/{copied.name}/{copied.version}"}
    finally:
        mlflow.set_tracking_uri(None)


class _Flavor:
    """As little as a flavour needs."""

    @staticmethod
    def save_model(path: str | Path, mlflow_model: Model) -> None:
        Path(path).mkdir()
        (Path(path) / "weights.bin").write_bytes(b"weights")
        mlflow_model.add_flavor("counting", data="weights.bin")
        mlflow_model.save(str(Path(path) / "MLmodel"))


async def is_there(resolution: Resolution) -> bool:
    """Whether the bytes of a model lie where it says."""
    return b"flavors:" in await ObjectStores().read(resolution.uri, "MLmodel", limit=100_000)


@pytest.mark.parametrize("kind", [*STORED, *LOOKED_UP])
async def test_a_version_resolves_to_where_its_bytes_are(layout: Layout, kind: str) -> None:
    found = await layout.resolve(layout.versions[kind])
    assert found.uri.endswith("/")
    assert found.uri.startswith(f"{ELSEWHERE}/" if kind == "created of an address" else layout.root)
    assert await is_there(found)
    assert (found.digest, found.promotion_id, found.flavors, found.size) == (None, None, None, None)
    assert ("models/m-" in found.uri) is (kind not in {STORED[3], STORED[5], LOOKED_UP[0]})


async def test_a_logged_model_resolves_by_its_id(layout: Layout) -> None:
    found = await layout.resolve(f"models:/{layout.model_id}")
    assert (found.model_id, found.model, found.version) == (layout.model_id, "", "")
    assert found.uri == (await layout.resolve(layout.versions["copied"])).uri


async def test_what_was_promoted_resolves_with_what_was_approved_and_nothing_of_it_moves_by_itself(
    layout: Layout,
) -> None:
    court, look_up = layout.court, layout.court.gateway.services.resolver.look_up
    for kind in ("registered from the artifacts of a run", "copied", "created of an address"):
        _, _, rest = layout.versions[kind].partition("/")
        model, _, version = rest.partition("/")
        before = await layout.resolve(layout.versions[kind])
        await court.policy(models=model)
        promotion = await court.promoted(model, version)
        found = await look_up(parse_models_uri(f"models:/{model}@production"), "default")
        assert found.remember is Remember.UNTIL_CHANGED
        resolution = found.resolution
        assert (resolution.uri, resolution.version) == (before.uri, version)
        assert (resolution.digest, resolution.promotion_id) == (promotion.digest, promotion.id)
        if kind != "created of an address":
            assert resolution.flavors == ("counting",)
        files = await ObjectStores().files(resolution.uri)
        assert resolution.size == sum(file.size for file in files)
        assert resolution.file_count == len(files)
    for kind in LOOKED_UP:
        with pytest.raises(Unresolvable, match="governed by policy"):
            await layout.resolve(layout.versions[kind])
    model = layout.versions[STORED[0]].split("/")[1]
    for end in ("/latest", "@latest", "/None"):
        with pytest.raises(Unresolvable, match="governed by policy"):
            await layout.resolve(f"models:/{model}{end}")
    with pytest.raises(Unresolvable, match="register the model again"):
        await court.ask(model, layout.versions[LOOKED_UP[0]].split("/")[2])


async def test_the_bytes_of_a_promotion_are_guarded_wherever_they_are(layout: Layout) -> None:
    model = layout.versions[STORED[0]].split("/")[1]
    await layout.court.policy(models=model)
    promotion = await layout.court.ask(model, "1")
    async with layout.court.database.unit_of_work() as work:
        governing = await work.aliases.governing_logged_model(layout.model_id)
        of_run = await work.aliases.governing_run(promotion.run_id or "")
    assert governing is not None
    assert of_run is not None
    assert promotion.state is State.PENDING
    await layout.court.promotions.withdraw(layout.court.ada, promotion.id)

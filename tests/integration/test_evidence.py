"""Facts are what a real MLflow and real files say; what is missing or broken is absent, and no check on it holds."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app.adapters.expressions import CelExpressions
from app.adapters.lenient_yaml import load_or_nothing
from app.adapters.mlflow_registry import MlflowRegistry
from app.adapters.object_store import ObjectStores
from app.domain.access import Principal
from app.domain.errors import NotFound, Unresolvable
from app.domain.facts import FACTS
from app.domain.promotions import AliasKey
from app.domain.storage import Storage
from app.ports import Judged
from app.services.evidence import Asked, Evidence, Known
from tests.facts import is_of
from tests.platform import MlflowServer

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
MLMODEL = """\
flavors:
  python_function: {code: code, python_version: 3.11.7}
  sklearn: {pickled_model: model.bin}
mlflow_version: 3.17.2
saved_input_example_info: {artifact_path: input_example.json}
signature:
  inputs: '[{"type": "double", "name": "age", "required": true}]'
  outputs: '[{"type": "long", "required": true}]'
"""
FILES = {
    "MLmodel": MLMODEL.encode(),
    "python_env.yaml": b"python: 3.12.1\n",
    "requirements.txt": b"# needed\nscikit-learn==1.7.2\n",
    "input_example.json": b"{}",
    "code/train.py": b"import os\n",
    "model.bin": pickle.dumps({"a": 1}),
}


class NoAssertion:
    """The tests' MLflow asks for none."""

    def headers(self, principal: Principal | None, judged: Judged | None = None) -> Sequence[tuple[str, str]]:
        return ()


@pytest.fixture
async def evidence(mlflow_server: MlflowServer) -> AsyncIterator[Evidence]:
    registry = MlflowRegistry([mlflow_server.url], NoAssertion())
    yield Evidence(registry, ObjectStores(), load_or_nothing, storage=Storage(str(mlflow_server.artifacts)))
    await registry.close()


class Lab:
    """Somebody who trains versions of one model."""

    def __init__(self, server: MlflowServer, model: str) -> None:
        self.server, self.model = server, model
        server.call("POST", "registered-models/create", {"name": model})
        self.experiment = server.call("POST", "experiments/create", {"name": f"of {model}"})["experiment_id"]

    def run(self, **data: object) -> str:
        """A run that has ended, with ``tags``, ``params`` and ``metrics``."""
        begun = self.server.call(
            "POST", "runs/create", {"experiment_id": self.experiment, "start_time": 1_000, "run_name": "a run"}
        )["run"]["info"]
        self.server.call("POST", "runs/log-batch", {"run_id": begun["run_id"], **data})
        self.server.call(
            "POST", "runs/update", {"run_id": begun["run_id"], "status": "FINISHED", "end_time": 1_790_000_000_000}
        )
        return str(begun["run_id"])

    def version(self, run_id: str, files: Mapping[str, bytes], **fields: object) -> str:
        """A version of a logged model, as MLflow 3 registers it."""
        info = self.server.call(
            "POST",
            "logged-models",
            {"experiment_id": self.experiment, "name": "model", "source_run_id": run_id, "params": []},
        )["model"]["info"]
        self.logged_model = info["model_id"]
        for path, content in files.items():
            file = self.server.artifacts / info["artifact_uri"].removeprefix("mlflow-artifacts:/") / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        made = self.server.call(
            "POST",
            "model-versions/create",
            {
                "name": self.model,
                "source": f"models:/{self.logged_model}",
                "run_id": run_id,
                "model_id": self.logged_model,
                **fields,
            },
        )
        return str(made["model_version"]["version"])

    def asked(self, version: str, holder: str | None = None, **more: Any) -> Asked:
        return Asked(AliasKey("default", self.model, "production"), version, holder, AT, "p_1", "because", **more)


@pytest.fixture
def lab(mlflow_server: MlflowServer, model_name: str) -> Lab:
    return Lab(mlflow_server, model_name)


def metric(name: str, value: float | str, step: int = 0) -> dict[str, object]:
    return {"key": name, "value": value, "timestamp": 1_000 + step, "step": step}


def pairs(**values: str) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


async def test_the_facts_of_a_version_are_what_mlflow_and_its_files_say(evidence: Evidence, lab: Lab) -> None:
    run = lab.run(
        metrics=[metric("accuracy", 0.7), metric("accuracy", 0.9, step=2), metric("broken", "NaN")],
        params=pairs(lr="0.01"),
        tags=[*pairs(team="risk"), {"key": "mlflow.source.git.commit", "value": "9c1e"}],
    )
    dataset = {"name": "churn", "digest": "8c1f", "source_type": "s3", "source": "{}"}
    context = [{"key": "mlflow.data.context", "value": "training"}]
    inputs = {"run_id": run, "datasets": [{"dataset": dataset, "tags": context}]}
    lab.server.call("POST", "runs/log-inputs", inputs)
    version = lab.version(run, FILES, description="the first", tags=pairs(dvc_data_md5="3863"))
    lab.server.call("POST", "registered-models/alias", {"name": lab.model, "alias": "staging", "version": version})

    facts = await evidence.of(lab.asked(version))

    json.dumps(facts, allow_nan=False)
    assert is_of(facts, FACTS)
    candidate: Any = facts["candidate"]
    assert candidate["created_at"].startswith("20")
    assert candidate["created_at"].endswith("Z")
    assert candidate["run"]["tags"]["team"] == "risk"
    expected = {
        "exists": True,
        "version": version,
        "description": "the first",
        "tags": {"dvc_data_md5": "3863"},
        "aliases": ["staging"],
        "has_run": True,
        "metrics": {"accuracy": 0.9, "broken": "NaN"},
        "params": {"lr": "0.01"},
        "datasets": [{"name": "churn", "digest": "8c1f", "context": "training", "source_type": "s3", "source": "{}"}],
        "dvc_hash": "3863",
        "git_commit": "9c1e",
        "flavors": ["python_function", "sklearn"],
        "has_signature": True,
        "has_input_example": True,
        "has_code": True,
        "environment": {"python": "3.12.1", "mlflow_version": "3.17.2", "requirements": ["scikit-learn==1.7.2"]},
        "file_count": 6,
        "size": sum(map(len, FILES.values())),
        "formats": ["json", "pickle", "python", "text", "yaml"],
        "has_pickle": True,
    }
    assert {name: candidate[name] for name in expected} == expected
    started_and_ended = ("1970-01-01T00:00:01Z", "2026-09-21T14:13:20Z")
    assert (candidate["run"]["started_at"], candidate["run"]["ended_at"]) == started_and_ended
    assert candidate["run"]["status"] == "FINISHED"
    assert candidate["run"]["experiment"] == f"of {lab.model}"
    assert {"path": "model.bin", "size": len(FILES["model.bin"]), "format": "pickle"} in candidate["files"]
    assert facts["holder"] == {"exists": False}
    assert facts["difference"] == {}
    assert facts["promotion"] == {
        "model": lab.model,
        "alias": "production",
        "workspace": "default",
        "reason": "because",
        "requested_by": "p_1",
        "requested_at": "2026-11-20T12:00:00Z",
    }


async def test_the_difference_is_that_between_candidate_and_holder(evidence: Evidence, lab: Lab) -> None:
    before = lab.version(
        lab.run(metrics=[metric("accuracy", 0.75), metric("old", 1)], params=pairs(lr="0.01", depth="3")), FILES
    )
    files = {**FILES, "model.bin": b"\x00\x01", "new.txt": b"a", "requirements.txt": b"scikit-learn==1.8.0\n"}
    del files["code/train.py"]
    after = lab.version(lab.run(metrics=[metric("accuracy", 0.875)], params=pairs(lr="0.02", depth="3")), files)

    asked = lab.asked(after, before, candidate_known=Known("sha256:1"), holder_known=Known("sha256:0"))
    facts = await evidence.of(asked)

    assert is_of(facts, FACTS)
    size = sum(map(len, files.values())) - sum(map(len, FILES.values()))
    assert facts["difference"] == {
        "metrics": {"accuracy": 0.125},
        "same_bytes": False,
        "added_files": ["new.txt"],
        "removed_files": ["code/train.py"],
        "size": size,
        "flavors_changed": False,
        "signature_changed": False,
        "params_changed": ["lr"],
        "requirements_added": ["scikit-learn==1.8.0"],
        "requirements_removed": ["scikit-learn==1.7.2"],
    }
    candidate: Any = facts["candidate"]
    assert candidate["digest"] == "sha256:1"
    # The number is that of another version now than of the one that was promoted with this digest.
    other = lab.asked(after, before, candidate_known=Known("sha256:1"), holder_known=Known("sha256:1", 1))
    again: Any = await evidence.of(other)
    assert "digest" not in again["holder"]
    assert "same_bytes" not in again["difference"]
    found = CelExpressions().evaluate("candidate.metrics.accuracy >= holder.metrics.accuracy", facts)
    assert found.reads == {"candidate.metrics.accuracy": "0.875", "holder.metrics.accuracy": "0.75"}


async def test_what_another_run_measured_of_the_model_adds_to_what_its_own_run_says(
    evidence: Evidence, lab: Lab
) -> None:
    version = lab.version(lab.run(metrics=[metric("accuracy", 0.9)]), FILES)
    measured = [
        {**metric("accuracy", 1.0, step=9), "model_id": lab.logged_model},
        {**metric("fairness", "NaN"), "model_id": lab.logged_model},
        metric("of no model", 1.0),
    ]
    lab.run(metrics=measured)
    candidate: Any = (await evidence.of(lab.asked(version)))["candidate"]
    assert candidate["metrics"] == {"accuracy": 0.9, "fairness": "NaN"}


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("candidate.metrics.accuracy > 0.8", True),
        ("candidate.file_count == 6 && candidate.has_signature", True),
        ('candidate.files.exists(f, f.format == "pickle")', True),
        ("difference.metrics.accuracy > 0 && difference.added_files.size() == 0", True),
        ("holder.exists && !has(holder.description)", True),
        ("holder.has_pickle && holder.run.status == 'FINISHED' && has(promotion.reason)", True),
        ("candidate.tags == holder.tags && candidate.created_at > holder.created_at", True),
        ("candidate == holder", False),
    ],
)
async def test_asking_only_for_what_is_wanted_gives_the_same_answer(
    evidence: Evidence, pair: Asked, expression: str, holds: bool
) -> None:
    expressions = CelExpressions()
    everything = await evidence.of(pair)
    little = await evidence.of(pair, wanted=expressions.check(expression, field="check"))
    found = expressions.evaluate(expression, little)
    assert found == expressions.evaluate(expression, everything)
    assert found.holds is holds, found.message


@pytest.fixture
def pair(lab: Lab) -> Asked:
    """A candidate that is a little better than the holder."""
    holder = lab.version(lab.run(metrics=[metric("accuracy", 0.8)]), FILES)
    time.sleep(0.002)  # MLflow counts milliseconds
    return lab.asked(lab.version(lab.run(metrics=[metric("accuracy", 0.9)]), FILES), holder)


async def test_what_no_check_wants_is_not_asked_for(evidence: Evidence, lab: Lab) -> None:
    version = lab.version(lab.run(), FILES)
    without: Any = await evidence.of(lab.asked(version, version), wanted={"candidate.metrics.accuracy"})
    assert without["candidate"].keys().isdisjoint({"files", "formats", "has_pickle", "size", "flavors"})
    assert without["holder"] == {"exists": True}
    listed: Any = await evidence.of(lab.asked(version), wanted={"candidate.size", "holder.files"})
    assert listed["candidate"].keys().isdisjoint({"files", "formats", "has_pickle", "run"})
    assert listed["candidate"]["file_count"] == 6
    for wanted in ("candidate.files", "candidate.has_pickle", "candidate.formats", "candidate"):
        facts: Any = await evidence.of(lab.asked(version), wanted={wanted})
        assert facts["candidate"]["has_pickle"] is True


async def test_without_files_nothing_is_said_of_them(evidence: Evidence, lab: Lab) -> None:
    version = lab.version(lab.run(metrics=[metric("accuracy", 0.9)]), {})
    candidate: Any = (await evidence.of(lab.asked(version)))["candidate"]
    assert candidate["metrics"] == {"accuracy": 0.9}
    assert candidate.keys().isdisjoint({"files", "size", "flavors", "has_signature", "has_pickle", "digest"})


async def test_a_broken_or_huge_mlmodel_says_nothing(evidence: Evidence, lab: Lab) -> None:
    for content in (b"[" * 1000, b"\xff\xfe", b"#" * 300_000, b"flavors: 3"):
        version = lab.version(lab.run(), {**FILES, "MLmodel": content})
        candidate: Any = (await evidence.of(lab.asked(version)))["candidate"]
        assert candidate["file_count"] == 6
        assert not candidate.get("has_signature", False)
        assert not candidate.get("flavors", [])


async def test_a_file_that_is_not_the_one_that_was_digested_is_not_believed(evidence: Evidence, lab: Lab) -> None:
    version = lab.version(lab.run(), FILES)
    folder = lab.server.folder_of(lab.model, version)
    known = Known(files=await ObjectStores().files(folder.as_uri() + "/"))
    (folder / "MLmodel").write_text(MLMODEL.replace("sklearn", "xgboost"))
    candidate: Any = (await evidence.of(lab.asked(version, candidate_known=known)))["candidate"]
    assert candidate.keys().isdisjoint({"flavors", "files"})


async def test_texts_that_no_database_keeps_are_mended(evidence: Evidence, lab: Lab) -> None:
    requirements = b"pandas\x00==2\nnumpy\xff\n"
    version = lab.version(lab.run(), {**FILES, "requirements.txt": requirements}, tags=pairs(long="x" * 5000))
    facts = await evidence.of(lab.asked(version))
    assert "\\u0000" not in json.dumps(facts)
    candidate: Any = facts["candidate"]
    assert candidate["environment"]["requirements"] == ["pandas\ufffd==2", "numpy\ufffd"]


async def test_a_candidate_that_is_not_there_is_not_found_and_a_holder_that_is_gone_does_not_exist(
    evidence: Evidence, lab: Lab
) -> None:
    version = lab.version(lab.run(), FILES)
    gone = lab.version(lab.run(), FILES)
    lab.server.call("DELETE", "model-versions/delete", {"name": lab.model, "version": gone})
    with pytest.raises(NotFound):
        await evidence.of(lab.asked(gone))
    assert (await evidence.of(lab.asked(version, gone)))["holder"] == {"exists": False}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket=f"starts-{time.monotonic_ns()}")
    yield client
    server.stop()


async def test_the_first_bytes_of_files_are_read_from_s3_and_from_a_folder(s3: Any, tmp_path: Path) -> None:
    bucket = s3.list_buckets()["Buckets"][0]["Name"]
    contents = {"a": b"x" * 5000, "b": b"short", "c": b""}
    for name, content in contents.items():
        s3.put_object(Bucket=bucket, Key=f"root/{name}", Body=content)
        (tmp_path / name).write_bytes(content)
    store = ObjectStores()
    for uri in (f"s3://{bucket}/root/", f"{tmp_path.as_uri()}/"):
        files = await store.stored(uri)
        assert await store.starts(uri, files, length=1024) == {"a": b"x" * 1024, "b": b"short", "c": b""}
        if uri.startswith("s3"):
            s3.put_object(Bucket=bucket, Key="root/a", Body=b"y" * 5000)
        else:
            (tmp_path / "a").write_bytes(b"y" * 5000)
        with pytest.raises(Unresolvable, match="a changed while it was read"):
            await store.starts(uri, files, length=1024)

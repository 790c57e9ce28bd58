"""Everything that MLflow's own client offers to somebody who trains models, chapter by chapter; prints what came of it
as JSON, in terms that do not change from one run to the next.

Run by ``test_the_client_in_full`` in processes of their own, with ``MLFLOW_TRACKING_URI`` set to the gateway and to
MLflow itself: what is told must be the same. The first argument goes before every name, because both use one MLflow;
the others name chapters.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import wave
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import requests
from click.testing import CliRunner
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.entities import AssessmentSource, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.genai import datasets, scorer
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

Told = dict[str, Any]
PREFIX = sys.argv[1]
FEATURES = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
TARGET = np.array([2.0, 4.0, 6.0])

client = MlflowClient()


def own(name: str) -> str:
    return f"{PREFIX}-{name}"


def plain(text: str) -> str:
    """Without what differs from run to run: our names, identifiers, milliseconds."""
    return re.sub(r"[0-9a-f]{32}|[0-9]{13}", "…", text.replace(PREFIX, "…"))


def experiment(name: str) -> str:
    """A new experiment, which is the active one from now on."""
    created: str = mlflow.create_experiment(own(name))
    mlflow.set_experiment(experiment_id=created)
    return created


def experiments() -> Told:
    for number in range(5):
        mlflow.create_experiment(own(f"paged-{number}"), tags={"team": PREFIX, "number": str(number)})
    query = {"filter_string": f"tags.team = '{PREFIX}'", "order_by": ["name ASC"]}
    found = mlflow.search_experiments(**query)
    first = client.search_experiments(**query, max_results=2)
    second = client.search_experiments(**query, max_results=2, page_token=first.token)
    one = found[0].experiment_id
    client.rename_experiment(one, own("renamed"))
    client.set_experiment_tag(one, "note", "ü & more = 'quoted'")
    client.delete_experiment_tag(one, "number")
    client.delete_experiment(one)
    gone = [each.experiment_id for each in client.search_experiments(view_type=ViewType.DELETED_ONLY)]
    client.restore_experiment(one)
    again = client.get_experiment(one)
    return {
        "found": [plain(each.name) for each in found],
        "pages": [[plain(each.name) for each in page] for page in (first, second)],
        "was deleted": one in gone,
        "restored": [plain(again.name), again.lifecycle_stage, again.tags["note"], "number" in again.tags],
        "by name": plain(client.get_experiment_by_name(own("renamed")).name),
        "none by name": client.get_experiment_by_name(own("never")),
    }


def tracking() -> Told:
    where = experiment("tracking")
    with mlflow.start_run(run_name="parent", tags={"kind": "parent"}, description="words", log_system_metrics=False):
        parent = mlflow.active_run()
        mlflow.log_params({f"p{number}": number for number in range(150)})
        mlflow.log_metrics({"rmse": 0.5, "r2": 0.1}, step=1)
        mlflow.log_metric("rmse", 0.25, step=2, synchronous=False).wait()
        mlflow.set_tags({"one": "1", "two": "ü/&?=#%"})
        mlflow.delete_tag("one")
        mlflow.log_input(mlflow.data.from_pandas(FEATURES, name="points"), context="training", tags={"a": "b"})
        for number in range(3):
            with mlflow.start_run(run_name=f"child {number}", nested=True):
                mlflow.log_metric("score", number)
    metrics = [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in range(2_500)]
    for at in range(0, len(metrics), 1000):
        client.log_batch(parent.info.run_id, metrics=metrics[at : at + 1000])
    client.log_batch(parent.info.run_id, params=[Param("late", "yes")], tags=[RunTag("late", "yes")])
    client.update_run(parent.info.run_id, name="renamed")
    run = client.get_run(parent.info.run_id)
    history = client.get_metric_history(run.info.run_id, "loss")
    children = mlflow.search_runs(
        [where],
        f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and metrics.score > 0",
        order_by=["metrics.score DESC"],
    )
    first = client.search_runs([where], order_by=["attributes.start_time ASC"], max_results=3)
    second = client.search_runs([where], order_by=["attributes.start_time ASC"], max_results=3, page_token=first.token)
    client.delete_run(run.info.run_id)
    alive = len(client.search_runs([where]))
    client.restore_run(run.info.run_id)
    unfinished = client.create_run(where, run_name="by hand")
    client.log_param(unfinished.info.run_id, "p", "v")
    client.set_terminated(unfinished.info.run_id, "FAILED")
    return {
        "params": len(run.data.params),
        "metrics": run.data.metrics,
        "history": [len(history), history[-1].step, history[-1].value],
        "tags": {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
        "name": run.info.run_name,
        "note": run.data.tags["mlflow.note.content"],
        "inputs": [each.dataset.name for each in run.inputs.dataset_inputs],
        "children": [list(children["tags.mlflow.runName"]), list(children["metrics.score"])],
        "pages": [[each.info.run_name for each in page] for page in (first, second)],
        "alive": alive,
        "status": client.get_run(unfinished.info.run_id).info.status,
        "parent": client.get_parent_run(children.run_id[0]).info.run_name,
    }


def artifacts() -> Told:
    experiment("artifacts")
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as folder:
        mlflow.log_text("words: ü", "texts/größe 1+2 (a)@b=c,d~e.txt")
        mlflow.log_dict({"a": [1, 2]}, "dict.json")
        mlflow.log_figure(figure, "plots/figure.png")
        mlflow.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "image.png")
        mlflow.log_image(np.zeros((8, 8, 3), dtype=np.uint8), key="steps", step=1)
        mlflow.log_table(pd.DataFrame({"q": ["a"], "a": ["b"]}), "table.json")
        mlflow.log_table(pd.DataFrame({"q": ["c"], "a": ["d"]}), "table.json")
        Path(folder, "deep", "er").mkdir(parents=True)
        Path(folder, "deep", "er", "empty").touch()
        Path(folder, "deep", "one.bin").write_bytes(bytes(range(256)) * 4096)
        mlflow.log_artifacts(folder, "tree")
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        got = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="tree", dst_path=folder))
        files = {str(each.relative_to(got)): each.stat().st_size for each in sorted(got.rglob("*")) if each.is_file()}
        same = (got / "deep" / "one.bin").read_bytes() == bytes(range(256)) * 4096
    told = {
        "listed": [item.path for item in client.list_artifacts(run_id)],
        "texts": [[item.path, item.file_size] for item in client.list_artifacts(run_id, "texts")],
        "text": mlflow.artifacts.load_text(f"runs:/{run_id}/texts/größe 1+2 (a)@b=c,d~e.txt"),
        "dict": mlflow.artifacts.load_dict(f"runs:/{run_id}/dict.json"),
        "image": mlflow.artifacts.load_image(f"runs:/{run_id}/image.png").size,
        "table": mlflow.load_table("table.json", run_ids=[run_id])["q"].to_list(),
        "files": files,
        "same bytes": same,
    }
    repository = mlflow.store.artifact.artifact_repository_registry.get_artifact_repository(run.info.artifact_uri)
    repository.delete_artifacts("dict.json")
    repository.delete_artifacts("tree")
    return told | {"left": [item.path for item in client.list_artifacts(run_id)]}


def commands() -> Told:
    """The `mlflow` command."""
    where = experiment("commands")
    with mlflow.start_run(run_name="from the command line") as run:
        mlflow.log_text("words", "folder/words.txt")

    def call(*words: str) -> str:
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "more.txt").write_text("more")
        call("artifacts", "log-artifact", "--local-file", f"{folder}/more.txt", "--run-id", run_id)
        call("artifacts", "download", "--run-id", run_id, "--artifact-path", "folder", "--dst-path", folder)
        downloaded = Path(folder, "folder", "words.txt").read_text()
    told = {
        "experiments": own("commands") in call("experiments", "search"),
        "runs": "from the command line" in call("runs", "list", "--experiment-id", where),
        "described": json.loads(call("runs", "describe", "--run-id", run_id))["info"]["run_name"],
        "artifacts": [item["path"] for item in json.loads(call("artifacts", "list", "--run-id", run_id))],
        "downloaded": downloaded,
    }
    call("runs", "delete", "--run-id", run_id)
    call("experiments", "delete", "--experiment-id", where)
    return told | {"gone": client.get_experiment(where).lifecycle_stage}


@mlflow.trace(name="answering", span_type="CHAIN")
def answer(question: str) -> str:
    with mlflow.start_span("thinking") as span:
        span.set_inputs({"question": question})
        span.set_outputs({"thought": "hm"})
    if question == "fail":
        raise ValueError("asked to fail")
    return f"{question}!"


def traces() -> Told:
    where = experiment("traces")
    for number in range(4):
        answer(f"question {number}")
    with suppress(ValueError):
        answer("fail")
    mlflow.flush_trace_async_logging()
    found = mlflow.search_traces(locations=[where], return_type="list", order_by=["timestamp_ms ASC"])
    ids = {each.data.spans[0].inputs["question"]: each.info.trace_id for each in found}
    one, other = ids["question 0"], ids["question 1"]
    first = client.search_traces(locations=[where], max_results=2)
    second = client.search_traces(locations=[where], max_results=2, page_token=first.token)
    mlflow.set_trace_tag(one, "good", "yes")
    human = AssessmentSource(source_type="HUMAN", source_id="somebody")
    feedback = mlflow.log_feedback(trace_id=one, name="helpful", value=True, rationale="it is", source=human)
    mlflow.override_feedback(trace_id=one, assessment_id=feedback.assessment_id, value=False, rationale="it is not")
    expected = mlflow.log_expectation(trace_id=one, name="answer", value="question 0!", source=human)
    mlflow.update_assessment(one, expected.assessment_id, mlflow.entities.Expectation(name="answer", value="other"))
    mlflow.delete_assessment(trace_id=one, assessment_id=feedback.assessment_id)
    trace = mlflow.get_trace(one)
    tagged = mlflow.search_traces(locations=[where], filter_string="tags.good = 'yes'")
    failed = mlflow.search_traces(locations=[where], filter_string="trace.status = 'ERROR'", return_type="list")
    mlflow.delete_trace_tag(one, "good")
    deleted = client.delete_traces(experiment_id=where, trace_ids=[other])
    return {
        "found": len(found),
        "pages": [len(first), len(second)],
        "spans": [[each.name, each.span_type, each.inputs, each.outputs] for each in trace.data.spans],
        "assessments": sorted([each.name, each.value] for each in trace.info.assessments),
        "tagged": len(tagged),
        "failed": [each.data.spans[0].status.status_code for each in failed],
        "untagged": "good" not in mlflow.get_trace(one).info.tags,
        "deleted": deleted,
        "left": len(mlflow.search_traces(locations=[where], return_type="list")),
    }


def open_telemetry() -> Told:
    """Spans of another tracer, sent as OTLP over HTTP."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    where = experiment("otlp")
    message = ExportTraceServiceRequest()
    span = message.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = os.urandom(16), os.urandom(8), "elsewhere"
    span.start_time_unix_nano, span.end_time_unix_nano = 1_700_000_000_000_000_000, 1_700_000_001_000_000_000
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    headers = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": where}
    if token:
        headers["authorization"] = f"Bearer {token}"
    sent = requests.post(
        f"{mlflow.get_tracking_uri()}/v1/traces", data=message.SerializeToString(), headers=headers, timeout=30
    )
    found = mlflow.search_traces(locations=[where], return_type="list")
    return {"status": sent.status_code, "spans": [each.name for trace in found for each in trace.data.spans]}


def evaluation() -> Told:
    """Evaluation datasets, and `mlflow.genai.evaluate` with a scorer of one's own."""
    where = experiment("evaluation")
    dataset = datasets.create_dataset(name=own("questions"), experiment_id=where, tags={"kind": "test"})
    dataset = dataset.merge_records(
        [{"inputs": {"question": f"q{number}"}, "expectations": {"answer": f"q{number}!"}} for number in range(3)]
    )
    found = datasets.search_datasets(experiment_ids=where, filter_string="tags.kind = 'test'")
    datasets.set_dataset_tags(dataset_id=dataset.dataset_id, tags={"more": "yes"})

    @scorer
    def exact(outputs: str, expectations: dict[str, str]) -> bool:
        return outputs == expectations["answer"]

    result = mlflow.genai.evaluate(
        data=datasets.get_dataset(dataset_id=dataset.dataset_id), predict_fn=answer, scorers=[exact]
    )
    told = {
        "found": [plain(each.name) for each in found],
        "records": len(dataset.to_df()),
        "tags": datasets.get_dataset(dataset_id=dataset.dataset_id).tags["more"],
        "evaluated": result.metrics,
        "assessed": len(mlflow.search_traces(run_id=result.run_id, return_type="list")),
    }
    datasets.delete_dataset(dataset_id=dataset.dataset_id)
    return told | {"left": len(datasets.search_datasets(experiment_ids=where))}


def prompts() -> Told:
    name = own("prompt")
    mlflow.genai.register_prompt(name=name, template="Hello {{name}}", commit_message="one", tags={"a": "b"})
    mlflow.genai.register_prompt(
        name=name, template=[{"role": "user", "content": "Bye {{name}}"}], response_format={"type": "object"}
    )
    mlflow.genai.set_prompt_alias(name, alias="candidate", version=1)
    mlflow.genai.set_prompt_tag(name, "owner", "one")
    mlflow.genai.set_prompt_version_tag(name, 1, "checked", "yes")
    loaded = mlflow.genai.load_prompt(f"prompts:/{name}@candidate")
    mlflow.genai.set_prompt_alias(name, alias="candidate", version=2)
    mlflow.genai.delete_prompt_version_tag(name, 1, "checked")
    moved = client.get_prompt_version_by_alias(name, "candidate").version
    mlflow.genai.delete_prompt_alias(name, "candidate")
    return {
        "loaded": [loaded.template, loaded.version, loaded.format(name="you"), loaded.commit_message],
        "chat": mlflow.genai.load_prompt(f"prompts:/{name}/2").format(name="you"),
        "moved": moved,
        "found": [plain(each.name) for each in mlflow.genai.search_prompts(filter_string=f"name = '{name}'")],
        "versions": sorted(each.version for each in client.search_prompt_versions(name)),
    }


def registry() -> Told:
    where = experiment("registry")
    name = own("model")
    regression = LinearRegression().fit(FEATURES, TARGET)
    options: Told = {
        "signature": infer_signature(FEATURES, regression.predict(FEATURES)),
        "input_example": FEATURES.head(1),
        "pip_requirements": ["scikit-learn"],
    }
    with mlflow.start_run() as run:
        first = mlflow.sklearn.log_model(
            regression, name="line", registered_model_name=name, params={"depth": 1}, tags={"a": "b"}, **options
        )
        mlflow.log_metric("rmse", 0.25, model_id=first.model_id)
    second = mlflow.register_model(f"runs:/{run.info.run_id}/line", name, tags={"b": "c"})
    client.update_registered_model(name, "about the model")
    client.set_registered_model_tag(name, "owner", "one")
    client.set_registered_model_tag(name, "gone", "one")
    client.delete_registered_model_tag(name, "gone")
    client.update_model_version(name, second.version, "the second")
    client.set_model_version_tag(name, "1", "checked", "yes")
    client.set_model_version_tag(name, "1", "gone", "yes")
    client.delete_model_version_tag(name, "1", "gone")
    client.set_registered_model_alias(name, "candidate", "1")
    client.set_registered_model_alias(name, "candidate", "2")
    client.set_registered_model_alias(name, "other", "1")
    client.delete_registered_model_alias(name, "other")
    copied = client.copy_model_version(f"models:/{name}@candidate", own("copy"))
    model = client.get_registered_model(name)
    told = {
        "model": [plain(model.name), model.description, model.tags, model.aliases],
        "versions": [
            [each.version, each.description, each.tags, each.status]
            for each in client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
        ],
        "pages": [
            len(client.search_model_versions(f"name = '{name}'", max_results=1)),
            len(client.search_registered_models(f"name LIKE '{PREFIX}%'", max_results=1)),
        ],
        "mlflow.search": [
            [
                plain(each.name)
                for each in mlflow.search_registered_models(filter_string=f"name LIKE '{PREFIX}-model%'")
            ],
            sorted(each.version for each in mlflow.search_model_versions(filter_string=f"name = '{name}'")),
            list(mlflow.search_logged_models([where], "metrics.rmse < 1 and params.depth = '1'")["name"]),
        ],
        "latest": [each.version for each in client.get_latest_versions(name)],
        "copied": [plain(copied.name), copied.version],
        "loaded": {
            uri: mlflow.pyfunc.load_model(uri.format(name)).predict(FEATURES).round(6).tolist()
            for uri in ("models:/{}@candidate", "models:/{}/1", "models:/{}/latest")
        },
        "flavour": float(mlflow.sklearn.load_model(f"models:/{first.model_id}").predict(FEATURES)[0].round(6)),
        "signature": str(mlflow.models.get_model_info(f"models:/{name}/1").signature),
        "input example": mlflow.models.Model.load(f"models:/{name}/1").load_input_example().to_dict(),
    }
    client.rename_registered_model(own("copy"), own("renamed"))
    client.delete_model_version(own("renamed"), "1")
    client.delete_registered_model(own("renamed"))
    logged = mlflow.initialize_logged_model(name="by hand", tags={"a": "b"})
    mlflow.set_logged_model_tags(logged.model_id, {"c": "d"})
    mlflow.delete_logged_model_tag(logged.model_id, "a")
    logged = mlflow.finalize_logged_model(logged.model_id, "READY")
    tags = {key: value for key, value in logged.tags.items() if not key.startswith("mlflow.")}
    client.delete_logged_model(logged.model_id)
    return told | {
        "left": [plain(each.name) for each in client.search_registered_models(f"name LIKE '{PREFIX}-renamed%'")],
        "by hand": [str(logged.status), tags],
    }


def autologging() -> Told:
    where = experiment("autologging")
    mlflow.sklearn.autolog(log_datasets=True, log_input_examples=True)
    with mlflow.start_run() as run:
        LinearRegression().fit(FEATURES, TARGET)
    mlflow.sklearn.autolog(disable=True)
    found = client.get_run(run.info.run_id)
    return {
        "params": found.data.params,
        "metrics": sorted(found.data.metrics),
        "models": [each.name for each in mlflow.search_logged_models([where], output_format="list")],
        "datasets": [each.dataset.name for each in found.inputs.dataset_inputs],
        "artifacts": [item.path for item in client.list_artifacts(run.info.run_id)],
    }


def mistakes() -> Told:
    """What the client raises, by what was done wrong."""
    where, name = experiment("mistakes"), own("mistaken")
    client.create_registered_model(name)
    run_id = client.create_run(where).info.run_id
    client.log_param(run_id, "p", "1")
    missing = "0" * 32
    table: dict[str, Callable[[], object]] = {
        "a run that is not there": lambda: client.get_run(missing),
        "an experiment that is not there": lambda: client.get_experiment("987654321"),
        "a metric of a run that is not there": lambda: client.log_metric(missing, "m", 1),
        "an experiment that is there": lambda: client.create_experiment(own("mistakes")),
        "a filter that cannot be read": lambda: client.search_runs([where], "metrics.x >>> 1"),
        "an order that cannot be read": lambda: client.search_runs([where], order_by=["nonsense"]),
        "a page token that is none": lambda: client.search_experiments(page_token="nonsense"),
        "a parameter that has another value": lambda: client.log_param(run_id, "p", "2"),
        "too many results": lambda: client.search_experiments(max_results=1_000_000),
        "a model that is there": lambda: client.create_registered_model(name),
        "a model that is not there": lambda: client.get_registered_model(own("never")),
        "a version that is not there": lambda: client.get_model_version(name, "7"),
        "a version that is no number": lambda: client.get_model_version(name, "seven"),
        "an alias that is not there": lambda: client.get_model_version_by_alias(name, "never"),
        "an alias for a version that is not there": lambda: client.set_registered_model_alias(name, "candidate", "7"),
        "an alias that is reserved": lambda: client.set_registered_model_alias(name, "latest", "1"),
        "a version of a model that is not there": lambda: client.create_model_version(own("never"), "models:/m-1"),
        "a version at a place that is not allowed": lambda: client.create_model_version(name, "/etc"),
        "a model renamed to itself": lambda: client.rename_registered_model(own("never"), own("ever")),
        "a logged model that is not there": lambda: client.get_logged_model("m-" + missing),
        "a trace that is not there": lambda: client.get_trace("tr-" + missing),
        "a prompt that is not there": lambda: mlflow.genai.load_prompt(f"prompts:/{own('never')}/1"),
        "a dataset that is not there": lambda: datasets.get_dataset(dataset_id="d-" + missing),
        "an artifact that is not there": lambda: mlflow.artifacts.load_text(f"runs:/{run_id}/never.txt"),
        "a model to load that is not there": lambda: mlflow.pyfunc.load_model(f"models:/{own('never')}@never"),
        "a run that was deleted": lambda: (client.delete_run(run_id), client.log_metric(run_id, "m", 1)),
    }
    return {what: told_of(do) for what, do in table.items()}


def told_of(do: Callable[[], object]) -> list[object]:
    try:
        return ["returned", plain(str(do()))]
    except (MlflowException, requests.RequestException) as error:
        return [type(error).__name__, getattr(error, "error_code", None), plain(str(error))]


def refusal() -> Told:
    """Ask for what needs a second signature: a model's and a prompt's protected alias."""
    name, prompt = own("governed"), own("governed-prompt")
    experiment("refusal")
    regression = LinearRegression().fit(FEATURES, TARGET)
    mlflow.sklearn.log_model(regression, name="line", registered_model_name=name, pip_requirements=["scikit-learn"])
    mlflow.genai.register_prompt(name=prompt, template="Hello")
    told: Told = {"model": name}
    for what, do in {
        "alias": lambda: client.set_registered_model_alias(name, "production", "1"),
        "prompt": lambda: mlflow.genai.set_prompt_alias(prompt, alias="production", version=1),
        "stage": lambda: client.transition_model_version_stage(name, "1", "Production"),
        "webhook": lambda: client.create_webhook("hook", "https://example.com", []),
    }.items():
        try:
            do()
        except MlflowException as error:
            told[what] = {"code": error.error_code, "message": error.message, **getattr(error, "json", {})}
    return told


def serving() -> Told:
    """Use what was approved."""
    name = own("governed")
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@production")
    kept = {
        "version": told_of(lambda: client.delete_model_version(name, "1"))[:2],
        "alias": told_of(lambda: client.delete_registered_model_alias(name, "production"))[:2],
        "model": told_of(lambda: client.delete_registered_model(name))[:2],
    }
    return {"predicted": loaded.predict(FEATURES).round(6).tolist(), "kept": kept}


def exhibition() -> Told:
    """Something of each kind for the web interface to show."""
    where, name = experiment("exhibition"), own("exhibit")
    page = "<!doctype html><h1>an exhibited page</h1><p id=out>no script ran</p>"
    page += "<script>document.getElementById('out').textContent = 'a script ran'</script>"
    regression = LinearRegression().fit(FEATURES, TARGET)
    runs = []
    for number in range(2):
        with mlflow.start_run(run_name=f"exhibited run {number}") as run, tempfile.TemporaryDirectory() as folder:
            runs.append(run.info.run_id)
            with wave.open(f"{folder}/recording.wav", "wb") as recording:
                recording.setparams((1, 2, 8000, 8000, "NONE", ""))
                recording.writeframes(bytes(16_000))
            mlflow.log_artifact(f"{folder}/recording.wav")
            mlflow.log_params({"depth": number, "kind": "linear"})
            for step in range(20):
                mlflow.log_metrics({"loss": 1 / (step + 1), "accuracy": 1 - 1 / (step + 2 + number)}, step=step)
            mlflow.log_text(page, "report.html")
            mlflow.log_text("some exhibited words", "words.txt")
            mlflow.log_dict({"exhibited": [1, 2]}, "values.json")
            mlflow.log_text("a,b\n1,2\n", "rows.csv")
            mlflow.log_image(np.zeros((64, 64, 3), dtype=np.uint8), "image.png")
            mlflow.log_table(pd.DataFrame({"q": ["a"], "a": ["b"]}), "table.json")
            mlflow.log_input(mlflow.data.from_pandas(FEATURES, name="points"), context="training")
            answer(f"exhibited question {number}")
    mlflow.sklearn.log_model(
        regression,
        name="line",
        registered_model_name=name,
        pip_requirements=["scikit-learn"],
        signature=infer_signature(FEATURES, regression.predict(FEATURES)),
    )
    client.update_registered_model(name, "an exhibited **model**")
    client.set_registered_model_alias(name, "candidate", "1")
    mlflow.genai.register_prompt(name=own("exhibited-prompt"), template="Hello {{name}}")
    mlflow.flush_trace_async_logging()
    return {"experiment": where, "runs": runs, "model": name, "prompt": own("exhibited-prompt")}


CHAPTERS: dict[str, Callable[[], Told]] = {
    each.__name__: each
    for each in (
        experiments,
        tracking,
        artifacts,
        commands,
        traces,
        open_telemetry,
        evaluation,
        prompts,
        registry,
        autologging,
        mistakes,
        refusal,
        serving,
        exhibition,
    )
}

if __name__ == "__main__":
    json.dump({name: CHAPTERS[name]() for name in sys.argv[2:]}, sys.stdout)

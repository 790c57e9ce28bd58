"""Every way known to move an alias, or to change what it means, tried on the real MLflow through the real gateway.

The vectors and the spellings were measured on MLflow 3.17: there, each of them works. What they tried to change is
read from MLflow itself, past the gateway. Each vector is also sent, in the same plain form, at a model that nothing
governs: there it must work, else its refusal would prove nothing.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from tests.platform import Countersign, MlflowServer
from tests.proxying import Answer, exchange, request

API, AJAX = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
JSON = {"content-type": "application/json"}
POLICY = "policy 'production'"


@dataclass(frozen=True)
class Subject:
    """A model with a version behind ``production``, another on its way there, and a third that nobody promotes."""

    model: str
    runs: tuple[dict[str, str], ...]
    promotions: tuple[str, ...]

    def folder(self, version: int) -> str:
        """Of the bytes of a version, below the artifacts destination."""
        return self.runs[version - 1]["artifact_uri"].removeprefix("mlflow-artifacts:/") + "/model"


@dataclass(frozen=True)
class Sent:
    """One request. ``fields`` is its JSON message, ``body`` its bytes if it has none."""

    method: str
    path: str
    fields: Mapping[str, Any] | None = None
    body: bytes = b""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def raw(self, token: str) -> bytes:
        body, headers = self.body, dict(self.headers)
        if self.fields is not None:
            body, headers = body or json.dumps(self.fields).encode(), JSON | headers
        headers = {name: value for name, value in headers.items() if value}
        return request(self.method, self.path + self.query, headers=headers, body=body, token=token)


@dataclass
class Site:
    service: Countersign
    mlflow: MlflowServer
    governed: Subject
    token: str
    seen: object = None
    """The state when it was last looked at: nobody else changes it."""

    def send(self, sent: Sent) -> Answer:
        return exchange(self.service.url, sent.raw(self.token))

    def state(self) -> object:
        """All that must not change, as MLflow and its disk have it."""
        subject, ask = self.governed, self.mlflow.call
        model = ask("GET", "registered-models/get", {"name": subject.model})["registered_model"]
        versions = ask("GET", "model-versions/search", {"filter": f"name = '{subject.model}'"})["model_versions"]
        number = subject.runs[0]["experiment_id"]
        runs = ask("POST", "runs/search", {"experiment_ids": [number]})["runs"]
        experiment = ask("GET", "experiments/get", {"experiment_id": number})["experiment"]
        return (
            {name: model.get(name) for name in ("name", "aliases", "tags", "creation_timestamp")},
            [{name: each.get(name) for name in ("version", "source", "tags", "current_stage")} for each in versions],
            sorted(run["info"]["run_id"] for run in runs),
            experiment["lifecycle_stage"],
            [self.bytes_of(version) for version in (1, 2)],
        )

    def bytes_of(self, version: int) -> list[tuple[str, bytes]]:
        root = self.mlflow.artifacts / self.governed.folder(version)
        return sorted((str(file.relative_to(root)), file.read_bytes()) for file in root.rglob("*") if file.is_file())

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that all is afterwards as it was."""
        before = self.seen or self.state()
        yield
        self.seen = self.state()
        assert self.seen == before

    def refuses(self, sent: Sent, *why: object) -> dict[str, Any]:
        """Assert a refusal that MLflow's client can read."""
        answer = self.send(sent)
        assert 400 <= answer.status < 500 or answer.status == 501, (why, sent, answer)
        assert dict(answer.headers)["content-type"] == "application/json", (why, answer)
        document: dict[str, Any] = answer.json()
        assert {type(document["error_code"]), type(document["message"])} == {str}
        assert document["message"]
        return document | {"status": answer.status, "why": why}


def subject(service: Countersign, mlflow: MlflowServer, model: str, *, governed: bool) -> Subject:
    mlflow.register(model, versions=3)
    runs = []
    for version in (1, 2, 3):
        found = mlflow.call("GET", "model-versions/get", {"name": model, "version": version})["model_version"]
        runs.append(mlflow.call("GET", "runs/get", {"run_id": found["run_id"]})["run"]["info"])
    if not governed:
        return Subject(model, tuple(runs), ())
    held = service.ask(model, "1")["id"]
    service.approve(held)
    service.follow(held, "applied")
    return Subject(model, tuple(runs), (held, service.ask(model, "2")["id"]))


@pytest.fixture(scope="module")
def site(service: Countersign, mlflow_server: MlflowServer) -> Iterator[Site]:
    model = f"battery-{os.getpid()}"
    found = subject(service, mlflow_server, model, governed=True)
    yield Site(service, mlflow_server, found, service.issuer.token("all", groups=["scientists", "administrators"]))
    holders = [mlflow_server.holder(model), mlflow_server.holder(model, "PRODUCTION")]
    assert holders == ["1", None]


# Every way an alias can change, or come to mean something else.

Vector = Callable[[Subject], Sent]


def _alias(subject: Subject, alias: str, version: str) -> dict[str, str]:
    return {"name": subject.model, "alias": alias, "version": version}


VECTORS: dict[str, Vector] = {
    "move the alias": lambda it: Sent("POST", f"{API}/registered-models/alias", _alias(it, "production", "2")),
    "delete the alias": lambda it: Sent(
        "DELETE", f"{API}/registered-models/alias", {"name": it.model, "alias": "production"}
    ),
    "delete the version": lambda it: Sent("DELETE", f"{API}/model-versions/delete", {"name": it.model, "version": "1"}),
    "delete the version on its way": lambda it: Sent(
        "DELETE", f"{API}/model-versions/delete", {"name": it.model, "version": "2"}
    ),
    "change the text of a prompt": lambda it: Sent(
        "POST",
        f"{API}/model-versions/set-tag",
        {"name": it.model, "version": "1", "key": "mlflow.prompt.text", "value": "evil"},
    ),
    "change the format of a prompt": lambda it: Sent(
        "POST",
        f"{API}/model-versions/set-tag",
        {"name": it.model, "version": "1", "key": "_mlflow_prompt_response_format", "value": "evil"},
    ),
    "delete the text of a prompt": lambda it: Sent(
        "DELETE", f"{API}/model-versions/delete-tag", {"name": it.model, "version": "1", "key": "mlflow.prompt.text"}
    ),
    "transition the stage": lambda it: Sent(
        "POST",
        f"{API}/model-versions/transition-stage",
        {"name": it.model, "version": "3", "stage": "Production", "archive_existing_versions": True},
    ),
    "overwrite a file": lambda it: Sent("PUT", f"{FILES}/{it.folder(1)}/MLmodel", body=b"evil"),
    "overwrite a file of the version on its way": lambda it: Sent("PUT", f"{FILES}/{it.folder(2)}/MLmodel", body=b"e"),
    "add a file": lambda it: Sent("PUT", f"{FILES}/{it.folder(1)}/deep/er/file", body=b"evil"),
    "upload to the run": lambda it: Sent(
        "POST",
        "/ajax-api/2.0/mlflow/upload-artifact",
        body=b"evil",
        query=f"?run_uuid={it.runs[0]['run_id']}&path=model/MLmodel",
    ),
    "delete a file": lambda it: Sent("DELETE", f"{FILES}/{it.folder(1)}/weights"),
    "delete the folder": lambda it: Sent("DELETE", f"{FILES}/{it.folder(1)}"),
    "delete a folder above": lambda it: Sent("DELETE", f"{FILES}/{it.folder(1).rpartition('/')[0]}"),
    "delete the run": lambda it: Sent("POST", f"{API}/runs/delete", {"run_id": it.runs[0]["run_id"]}),
    "make it a prompt": lambda it: Sent(
        "POST",
        f"{API}/registered-models/set-tag",
        {"name": it.model, "key": "mlflow.prompt.is_prompt", "value": "true"},
    ),
    "lay an experiment over the bytes": lambda it: Sent(
        "POST",
        f"{API}/experiments/create",
        {"name": f"{it.model}-over", "artifact_location": f"mlflow-artifacts:/{it.folder(1)}"},
    ),
    "delete the experiment": lambda it: Sent(
        "POST", f"{API}/experiments/delete", {"experiment_id": it.runs[0]["experiment_id"]}
    ),
    "rename the model": lambda it: Sent(
        "POST", f"{API}/registered-models/rename", {"name": it.model, "new_name": f"{it.model}-b"}
    ),
    "delete the model": lambda it: Sent("DELETE", f"{API}/registered-models/delete", {"name": it.model}),
}
BY_POLICY_ALONE = {"transition the stage"}
"""Refused whatever holds the alias, so no promotion is named."""
ALWAYS_PROTECTED = {"move the alias", "delete the alias", "transition the stage"}


@pytest.mark.parametrize("vector", VECTORS)
def test_nothing_moves_or_hollows_out_a_protected_alias(site: Site, vector: str) -> None:
    plain = VECTORS[vector](site.governed)
    for prefix in ("/api/", "/ajax-api/"):
        with site.unchanged():
            document = site.refuses(Sent(plain.method, at(plain.path, prefix), plain.fields, plain.body, plain.query))
        assert (document["status"], document["error_code"]) == (403, "PERMISSION_DENIED")
        assert POLICY in document["message"]
        if vector not in BY_POLICY_ALONE:
            assert document["promotion"] in site.governed.promotions
            assert document["promotion"] in document["message"]


def at(path: str, prefix: str) -> str:
    if path.startswith("/ajax-api/2.0/mlflow/upload-artifact"):
        return path
    return prefix + path.split("/", 2)[2]


def test_the_same_requests_work_where_nothing_is_governed(site: Site) -> None:
    """One after the other, in an order in which each still finds what it destroys."""
    control = subject(site.service, site.mlflow, f"{site.governed.model}-control", governed=False)
    for name, vector in VECTORS.items():
        if name not in ALWAYS_PROTECTED:
            if name == "delete the version":
                continue  # last of all but one, for the others need it
            sent = vector(Subject(f"{control.model}-b", control.runs, ()) if name == "delete the model" else control)
            answer = site.send(sent)
            assert answer.status == 200, (name, answer)
    for alias in ("staging", "champion"):
        other = subject(site.service, site.mlflow, f"{site.governed.model}-{alias}", governed=False)
        path = f"{API}/registered-models/alias"
        assert site.send(Sent("POST", path, _alias(other, alias, "3"))).status == 200
        assert site.mlflow.holder(other.model, alias) == "3"
        assert site.send(Sent("DELETE", path, {"name": other.model, "alias": alias})).status == 200
        assert site.mlflow.holder(other.model, alias) is None
        deleted = site.send(Sent("DELETE", f"{API}/model-versions/delete", {"name": other.model, "version": "1"}))
        assert deleted.status == 200


CLOSED: dict[str, Sent] = {
    "demo data with aliases": Sent("POST", "/ajax-api/3.0/mlflow/demo/generate"),
    "demo data as text": Sent(
        "POST", "/ajax-api/3.0/mlflow/demo/generate", body=b"x", headers={"content-type": "text/plain"}
    ),
    "demo data away": Sent("POST", "/ajax-api/3.0/mlflow/demo/delete"),
    "a workspace away": Sent("DELETE", "/api/3.0/mlflow/workspaces/default", query="?mode=CASCADE"),
    "a workspace into the default one": Sent("DELETE", "/ajax-api/3.0/mlflow/workspaces/a", query="?mode=SET_DEFAULT"),
    "a job": Sent("POST", "/ajax-api/3.0/jobs/", {"job_name": "optimize_prompts", "params": {}}),
    "a prompt optimisation": Sent("POST", "/api/3.0/mlflow/prompt-optimization/jobs", {}),
    "an evaluation": Sent("POST", "/ajax-api/3.0/mlflow/genai/evaluate/invoke", {}),
    "a prompt-lab run": Sent("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run", {}),
    "the assistant": Sent("POST", "/ajax-api/3.0/mlflow/assistant/message", {}),
    "a webhook": Sent("POST", "/api/2.0/mlflow/webhooks", {}),
    "the alias of an MCP server": Sent("POST", "/api/3.0/mlflow/mcp-servers/a/aliases", {}),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_would_act_inside_the_server_is_closed(site: Site, name: str) -> None:
    with site.unchanged():
        document = site.refuses(CLOSED[name])
    assert (document["status"], document["error_code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("prefix", ["/api/", "/ajax-api/"])
def test_no_trace_says_where_mlflow_shall_delete(site: Site, prefix: str) -> None:
    """A trace that is deleted has MLflow delete ``traces.pb`` where it says that it is archived."""
    folder = site.mlflow.artifacts / site.governed.folder(1)
    experiment = site.governed.runs[0]["experiment_id"]
    for spelled in ("trace_info", "traceInfo"):
        for location in (str(folder), f"http://127.0.0.1:{site.mlflow.port}{FILES}/{site.governed.folder(1)}/MLmodel?"):
            tags = {"mlflow.trace.spansLocation": "ARCHIVE_REPO", "mlflow.trace.archiveLocation": location}
            info = {
                "trace_id": f"tr-{os.urandom(16).hex()}",
                "trace_location": {
                    "type": "MLFLOW_EXPERIMENT",
                    "mlflow_experiment": {"experiment_id": experiment},
                },
                "request_time": "2026-01-01T00:00:00Z",
                "state": "OK",
                "tags": tags,
            }
            with site.unchanged():
                document = site.refuses(Sent("POST", f"{prefix}3.0/mlflow/traces", {"trace": {spelled: info}}))
                site.send(
                    Sent(
                        "POST",
                        f"{prefix}3.0/mlflow/traces/delete-traces",
                        {"experiment_id": experiment, "request_ids": [info["trace_id"]]},
                    )
                )
            assert document["status"] == 400
            plain = {**info, "tags": {"mine": "yes"}, "request_preview": "caf\u00e9 \ud83d\ude00"}
            assert site.send(Sent("POST", f"{prefix}3.0/mlflow/traces", {"trace": {"trace_info": plain}})).status == 200


@pytest.mark.parametrize("prefix", ["/api/", "/ajax-api/"])
@pytest.mark.parametrize("step", ["create", "complete", "abort"])
def test_no_url_that_writes_past_the_door_is_given(site: Site, prefix: str, step: str) -> None:
    upload = {"path": "/evil/../MLmodel", "num_parts": 1, "upload_id": "1", "parts": []}
    presigned = {"run_id": site.governed.runs[0]["run_id"], "path": "model/MLmodel"}
    for sent in (
        Sent("POST", f"{prefix}2.0/mlflow-artifacts/mpu/{step}/{site.governed.folder(1)}", upload),
        Sent("POST", f"{prefix}2.0/mlflow/artifacts/presigned-upload-url", presigned),
    ):
        with site.unchanged():
            document = site.refuses(sent)
        assert (document["status"], document["error_code"]) == (501, "NOT_IMPLEMENTED")


# One path.

_ANY_RUN = {"run_id": "r", "artifact_uri": "mlflow-artifacts:/1/r/artifacts", "experiment_id": "1"}
JUDGED = [name for name, vector in VECTORS.items() if vector(Subject("m", (_ANY_RUN,) * 3, ())).fields is not None]
"""Those that are a JSON message."""

SAME_PATH: dict[str, Callable[[str], str]] = {
    "a letter encoded": lambda path: path.replace("pi/", "%70i/", 1),
    "every letter encoded": lambda path: "".join(f"%{byte:02x}" if byte != 0x2F else "/" for byte in path.encode()),
    "a dot encoded": lambda path: path.replace("2.0", "2%2e0", 1),
    "a fragment": lambda path: f"{path}#fragment",
    "absolute form": lambda path: f"http://evil.example{path}",
}
OTHER_PATH: dict[str, Callable[[str], str]] = {
    "two leading slashes": lambda path: f"/{path}",
    "three leading slashes": lambda path: f"//{path}",
    "two slashes within": lambda path: path.replace("/mlflow", "//mlflow", 1),
    "an encoded slash": lambda path: "%2f".join(path.rsplit("/", 1)),
    "a slash encoded twice": lambda path: "%252F".join(path.rsplit("/", 1)),
    "a backslash": lambda path: "\\".join(path.rsplit("/", 1)),
    "an encoded backslash": lambda path: "%5C".join(path.rsplit("/", 1)),
    "a dot segment": lambda path: path.replace("/mlflow", "/./mlflow", 1),
    "two dot segments": lambda path: path.replace("/mlflow", "/x/../mlflow", 1),
    "encoded dot segments": lambda path: path.replace("/mlflow", "/x/%2e%2E/mlflow", 1),
    "a trailing slash": lambda path: f"{path}/",
    "parameters": lambda path: f"{path};a=b",
    "capitals": str.upper,
    "a NUL": lambda path: f"{path}%00",
    "a newline": lambda path: f"{path}%0a",
    "a space": lambda path: f"{path}%20",
    "another version of the API": lambda path: path.replace("2.0", "3.0", 1),
    "a fullwidth letter": lambda path: path.replace("api", quote("\uff41pi"), 1),
    "an overlong slash": lambda path: "%c0%af".join(path.rsplit("/", 1)),
}


@pytest.mark.parametrize("vector", JUDGED)
def test_another_spelling_of_the_path_is_judged_alike(site: Site, vector: str) -> None:
    plain = VECTORS[vector](site.governed)
    with site.unchanged():
        for spelling, respelled in SAME_PATH.items():
            document = site.refuses(Sent(plain.method, respelled(plain.path), plain.fields), spelling)
            assert document["status"] == 403, document
            assert POLICY in document["message"], document


@pytest.mark.parametrize("vector", JUDGED)
def test_a_path_that_could_be_read_in_two_ways_leads_nowhere(site: Site, vector: str) -> None:
    plain = VECTORS[vector](site.governed)
    with site.unchanged():
        for spelling, respelled in OTHER_PATH.items():
            document = site.refuses(Sent(plain.method, respelled(plain.path), plain.fields), spelling)
            assert document["status"] in {400, 404}, document


# One body.


def text(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields)


def escaped(fields: Mapping[str, Any]) -> bytes:
    def spelled(value: str) -> str:
        return '"' + "".join(f"\\u{ord(character):04x}" for character in value) + '"'

    pairs = (
        f"{spelled(name)}:{spelled(value) if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.items()
    )
    return ("{" + ",".join(pairs) + "}").encode()


def twice(fields: Mapping[str, Any], *, harmless_first: bool) -> bytes:
    """The last string field, sent with another value before or after it."""
    name = [key for key, value in fields.items() if isinstance(value, str)][-1]
    meant, harmless = f"{json.dumps(name)}: {json.dumps(fields[name])}", f'{json.dumps(name)}: "harmless"'
    rest = text({key: value for key, value in fields.items() if key != name})[1:-1]
    last = (harmless, meant) if harmless_first else (meant, harmless)
    return ("{" + ", ".join(part for part in (rest, *last) if part) + "}").encode()


SAME_BODY: dict[str, Callable[[Mapping[str, Any]], tuple[bytes, Mapping[str, str]]]] = {
    "escapes": lambda fields: (escaped(fields), {}),
    "white space": lambda fields: (f" \n\t\r{json.dumps(fields, indent=4)}\n ".encode(), {}),
    "another order": lambda fields: (text(dict(reversed(fields.items()))).encode(), {}),
    "charset": lambda fields: (text(fields).encode(), {"content-type": "application/json; charset=utf-8"}),
    "chunks": lambda fields: (chunked(text(fields).encode()), {"transfer-encoding": "chunked"}),
    "a workspace": lambda fields: (text(fields).encode(), {"x-mlflow-workspace": "other"}),
    "a method override": lambda fields: (text(fields).encode(), {"x-http-method-override": "GET"}),
    "an inner name": lambda fields: (text(fields).encode(), {"x-remote-user": "admin", "x-countersign-user": "admin"}),
}
OTHER_BODY: dict[str, Callable[[Mapping[str, Any]], tuple[bytes, Mapping[str, str]]]] = {
    "a key twice, the harmless value first": lambda fields: (twice(fields, harmless_first=True), {}),
    "a key twice, the harmless value last": lambda fields: (twice(fields, harmless_first=False), {}),
    "an unknown field": lambda fields: (text({**fields, "unknown": "x"}).encode(), {}),
    "NaN": lambda fields: (text(fields).replace("}", ', "nan": NaN}').encode(), {}),
    "an extension key first": lambda fields: (text({"[a.b]": 1, **fields}).encode(), {}),
    "an extension key last": lambda fields: (text({**fields, "[a.b]": 1}).encode(), {}),
    "a byte order mark": lambda fields: (b"\xef\xbb\xbf" + text(fields).encode(), {}),
    "UTF-16": lambda fields: (text(fields).encode("utf-16"), {}),
    "UTF-16 without mark": lambda fields: (text(fields).encode("utf-16-be"), {}),
    "UTF-32": lambda fields: (text(fields).encode("utf-32"), {}),
    "UTF-16 on the label": lambda fields: (
        text(fields).encode(),
        {"content-type": "application/json; charset=utf-16"},
    ),
    "UTF-7": lambda fields: (text(fields).encode("utf-7"), {"content-type": "application/json; charset=utf-7"}),
    "JSON in a string": lambda fields: (json.dumps(text(fields)).encode(), {}),
    "JSON in a string in a string": lambda fields: (json.dumps(json.dumps(text(fields))).encode(), {}),
    "in a list": lambda fields: (f"[{text(fields)}]".encode(), {}),
    "two objects": lambda fields: (b"{}" + text(fields).encode(), {}),
    "gzip": lambda fields: (gzip.compress(text(fields).encode()), {"content-encoding": "gzip"}),
    "gzip on the label": lambda fields: (text(fields).encode(), {"content-encoding": "gzip"}),
    "text": lambda fields: (text(fields).encode(), {"content-type": "text/plain"}),
    "a form": lambda fields: (
        "&".join(f"{name}={quote(str(value))}" for name, value in fields.items()).encode(),
        {"content-type": "application/x-www-form-urlencoded"},
    ),
    "no type": lambda fields: (text(fields).encode(), {"content-type": ""}),
    "capitals": lambda fields: (text({name.title(): value for name, value in fields.items()}).encode(), {}),
    "a name in fullwidth letters": lambda fields: (
        text({f"{name[:-1]}{chr(ord(name[-1]) + 0xFEE0)}": value for name, value in fields.items()}).encode(),
        {},
    ),
    "no body": lambda fields: (b"", {}),
    "null": lambda fields: (b"null", {}),
    "lists": lambda fields: (text({name: [value] for name, value in fields.items()}).encode(), {}),
    "a lone surrogate": lambda fields: (text(fields).replace('": "', '": "\\ud800', 1).encode(), {}),
    "a NUL": lambda fields: (text(fields).replace('": "', '": "\\u0000', 1).encode(), {}),
}


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("vector", JUDGED)
def test_another_spelling_of_the_body_is_judged_alike(site: Site, vector: str) -> None:
    plain = VECTORS[vector](site.governed)
    with site.unchanged():
        for spelling, respelled in SAME_BODY.items():
            body, headers = respelled(plain.fields or {})
            document = site.refuses(Sent(plain.method, plain.path, plain.fields, body, headers=headers), spelling)
            assert document["status"] == 403, document
            assert POLICY in document["message"], document


@pytest.mark.parametrize("vector", JUDGED)
def test_a_body_that_could_be_read_in_two_ways_leads_nowhere(site: Site, vector: str) -> None:
    plain = VECTORS[vector](site.governed)
    with site.unchanged():
        for spelling, respelled in OTHER_BODY.items():
            body, headers = respelled(plain.fields or {})
            sent = Sent(plain.method, plain.path, plain.fields, body, headers=headers)
            document = site.refuses(sent if body else Sent(plain.method, plain.path), spelling)
            assert (document["status"], document["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), document


@pytest.mark.parametrize("vector", JUDGED)
def test_parameters_in_the_query_beside_the_body_lead_nowhere(site: Site, vector: str) -> None:
    plain = VECTORS[vector](site.governed)
    query = "?" + "&".join(f"{name}=harmless" for name in plain.fields or {})
    with site.unchanged():
        assert site.refuses(Sent(plain.method, plain.path, plain.fields, query=query))["status"] == 400
        assert site.refuses(Sent(plain.method, plain.path, query=query))["status"] == 400


VALUES = [
    *(("version", value) for value in (" 3 ", "03", "+3", "0_3", "٣", "3.0", "3\n", "-3", "", "3e0")),
    *(
        ("alias", value)
        for value in (
            "production\n",
            " production",
            "production ",
            "\uff50roduction",
            "\u0440roduction",
            "prod\u0075ction\u0000",
            "pro\u00adduction",
            "produc\u0442ion",
            "latest",
            "v3",
            "",
        )
    ),
]


def test_a_name_that_mlflow_would_take_in_another_spelling_leads_nowhere(site: Site) -> None:
    with site.unchanged():
        for name, value in VALUES:
            fields = _alias(site.governed, "production", "3") | {name: value}
            document = site.refuses(Sent("POST", f"{API}/registered-models/alias", fields), name, value)
            assert document["status"] == 400, document


@pytest.mark.parametrize("alias", ["PRODUCTION", "Production", "pRODUCTION"])
def test_an_alias_that_some_databases_hold_to_be_the_same_is_protected(site: Site, alias: str) -> None:
    fields = _alias(site.governed, alias, "3")
    with site.unchanged():
        for sent in (
            Sent("POST", f"{API}/registered-models/alias", fields),
            Sent("DELETE", f"{API}/registered-models/alias", {"name": fields["name"], "alias": alias}),
        ):
            document = site.refuses(sent)
            assert document["status"] == 403
            assert POLICY in document["message"]


@pytest.mark.parametrize("change", [str.upper, "{} ".format, " {}".format])
@pytest.mark.parametrize("vector", ["delete the version", "delete the model", "change the text of a prompt"])
def test_a_model_that_some_databases_hold_to_be_the_same_is_protected(
    site: Site, vector: str, change: Callable[[str], str]
) -> None:
    plain = VECTORS[vector](site.governed)
    fields = {**(plain.fields or {}), "name": change(site.governed.model)}
    with site.unchanged():
        document = site.refuses(Sent(plain.method, plain.path, fields))
    assert document["status"] == 403
    assert document["promotion"] in site.governed.promotions


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_has_no_body_from_which_mlflow_could_take_its_parameters(site: Site, method: str) -> None:
    sent = Sent(method, f"{API}/registered-models/alias", _alias(site.governed, "production", "3"))
    answer = site.send(sent)
    assert answer.status in {400, 404}


def test_another_method_is_not_the_one_it_says_it_is(site: Site) -> None:
    fields = _alias(site.governed, "production", "3")
    for method in ("PUT", "PATCH", "OPTIONS", "QUERY", "post"):
        answer = site.send(Sent(method, f"{API}/registered-models/alias", fields))
        assert 400 <= answer.status < 500
    assert site.mlflow.holder(site.governed.model) == "1"


# One file.

FILE: dict[str, Callable[[str], str]] = {
    "a space before": lambda path: f"%20{path}",
    "control characters before": lambda path: f"%01%1f{path}",
    "a tab within": lambda path: path.replace("/", "%09/", 1),
    "a question mark": lambda path: f"{path}%3F",
    "a number sign": lambda path: f"{path}%23",
    "a number sign encoded twice": lambda path: f"{path}%2523",
    "a semicolon": lambda path: f"{path};",
    "two slashes": lambda path: path.replace("/", "//", 1),
    "an encoded slash": lambda path: path.replace("/", "%2F", 1),
    "a slash encoded twice": lambda path: path.replace("/", "%252F", 1),
    "a letter encoded twice": lambda path: path.replace("MLmodel", "MLmo%2564el").replace("weights", "w%2565ights"),
    "a letter encoded three times": lambda path: path.replace("m", "%25256d", 1),
    "an encoded percent sign": lambda path: path.replace("l", "%25%36%63", 1),
    "dots": lambda path: path.replace("/", "/x/../", 1),
    "encoded dots": lambda path: path.replace("/", "/x/%2e%2e/", 1),
    "a dot": lambda path: path.replace("/", "/./", 1),
    "a backslash": lambda path: path.replace("/", "%5c", 1),
    "a scheme": lambda path: f"file:{path}",
    "a scheme with slashes": lambda path: f"mlflow-artifacts:/{path}",
    "from the root": lambda path: f"%2f{path}",
    "a NUL": lambda path: f"{path}%00",
    "a slash after": lambda path: f"{path}/",
    "a fullwidth letter": lambda path: path.replace("m", quote("\uff4d"), 1),
    "a dot after a folder": lambda path: path.replace("/", "./", 1),
    "a space after a folder": lambda path: path.replace("/", "%20/", 1),
}


@pytest.mark.parametrize("prefix", ["/api/", "/ajax-api/"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_another_spelling_of_a_file_leads_nowhere(site: Site, method: str, prefix: str) -> None:
    folder = f"{prefix}2.0/mlflow-artifacts/artifacts"
    before = set(site.mlflow.artifacts.rglob("*"))
    with site.unchanged():
        for spelling, respelled in FILE.items():
            path = respelled(f"{site.governed.folder(1)}/MLmodel")
            document = site.refuses(Sent(method, f"{folder}/{path}", body=b"evil"), spelling)
            assert document["status"] in {400, 404}, document
    assert set(site.mlflow.artifacts.rglob("*")) == before


@pytest.mark.parametrize("change", [str.upper, lambda path: path.replace("model", "%6dodel", 1)])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_file_that_some_disks_hold_to_be_the_same_is_protected(
    site: Site, method: str, change: Callable[[str], str]
) -> None:
    path = change(f"{site.governed.folder(1)}/MLmodel")
    with site.unchanged():
        document = site.refuses(Sent(method, f"{FILES}/{path}", body=b"evil" if method == "PUT" else b""))
    assert document["status"] == 403
    assert document["promotion"] == site.governed.promotions[0]


UPLOADS = [
    "?run_uuid={run}&path=model/MLmodel&path=other",
    "?path=other&run_uuid={other}&run_uuid={run}",
    "?run_uuid={run}&run_id={other}&path=model/MLmodel",
    "?run_uuid={other}&path=../../{run}/artifacts/model/MLmodel",
    "?run_uuid={other}&path=%252e%252e/%252e%252e/{run}/artifacts/model/MLmodel",
    "?run_uuid={other}&path=a%2523/../b",
    "?run_uuid={run}%20&path=model/MLmodel",
    "?run_uuid=%20{run}&path=model/MLmodel",
    "?run_uuid={run}%00&path=model/MLmodel",
    "?run_uuid={upper}&path=model/MLmodel",
]


@pytest.mark.parametrize("query", UPLOADS)
def test_an_upload_to_a_run_reaches_no_governed_file(site: Site, query: str) -> None:
    run, other = site.governed.runs[0]["run_id"], site.governed.runs[2]["run_id"]
    query = query.format(run=run, other=other, upper=run.upper())
    with site.unchanged():
        site.refuses(Sent("POST", "/ajax-api/2.0/mlflow/upload-artifact", body=b"evil", query=query))

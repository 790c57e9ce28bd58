"""MLflow's REST API behind the gateway, as far as it is needed to find what a run made, and to register it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from countersign_client.bootstrapping.problems import Stopped
from countersign_client.bootstrapping.training import SCOPES
from countersign_client.calls import items
from countersign_client.credentials import token_for
from countersign_client.errors import NotSignedIn, Refused
from countersign_client.following import Exit
from countersign_client.wire import Json, Reply, plain, send

_UNAUTHORIZED = 401
_REFUSED = 400
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True, slots=True)
class Found:
    """A run that is there, by the ids of its experiment and its own."""

    experiment_id: str
    run_id: str
    is_finished: bool
    """With success, as MLflow says."""


class Registry:
    """Runs, logged models and registered models. Every call raises as ``calls.ask``."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    def run_named(self, experiment: str, name: str) -> Found | None:
        """The run of that name; none if there is no such run."""
        found = self._read("experiments/get-by-name", experiment_name=experiment).get("experiment")
        experiment_id = plain(found.get("experiment_id")) if isinstance(found, Mapping) else ""
        if not experiment_id:
            return None
        answer = self._write(
            "runs/search",
            {"experiment_ids": [experiment_id], "filter": f"attributes.run_name = '{name}'", "max_results": 1},
        )
        for run in items(answer.get("runs")):
            info = run.get("info")
            if isinstance(info, Mapping) and (run_id := plain(info.get("run_id"))):
                return Found(experiment_id, run_id, is_finished=info.get("status") == "FINISHED")
        return None

    def version_of(self, model: str, run_id: str) -> str | None:
        """The newest version of a model that a run registered itself."""
        answer = self._read("model-versions/search", filter=f"run_id = '{run_id}'", max_results="100")
        versions = [
            plain(each.get("version")) for each in items(answer.get("model_versions")) if each.get("name") == model
        ]
        return max(versions, key=int) if versions else None

    def logged_model(self, experiment_id: str, run_id: str, model: str) -> str:
        """The id of the logged model that a run made: its only one, or the one of that name, or named `model`.

        Raises:
            Stopped: there is none, or several and none of those names.
        """
        answer = self._write(
            "logged-models/search", {"experiment_ids": [experiment_id], "filter": f"source_run_id = '{run_id}'"}
        )
        known: dict[str, str] = {}
        for each in items(answer.get("models")):
            info = each.get("info")
            if isinstance(info, Mapping):
                known.setdefault(plain(info.get("name")), plain(info.get("model_id")))
        if not known:
            raise Stopped(f"{model}: run {run_id} logged no model (mlflow.<flavor>.log_model).", Exit.FAILED)
        for name in (model, "model", *(known if len(known) == 1 else ())):
            if name in known:
                return known[name]
        raise Stopped(
            f"{model}: run {run_id} logged several models ({', '.join(sorted(known))}); name the one to register "
            f"`{model}` or `model`, or have the project register it (registered_model_name).",
            Exit.FAILED,
        )

    def register(self, model: str, model_id: str, run_id: str) -> str:
        """A new version of a model, which is made if it is not there."""
        self._write("registered-models/create", {"name": model}, harmless=_EXISTS)
        document: dict[str, Json] = {
            "name": model,
            "source": f"models:/{model_id}",
            "run_id": run_id,
            "model_id": model_id,
        }
        made = self._write("model-versions/create", document).get("model_version")
        version = plain(str(made.get("version"))) if isinstance(made, Mapping) else ""
        if not version:
            raise Refused(f"{self._gateway} registered {model} without a version; is it a Countersign gateway?")
        return version

    def has(self, model: str, version: str, run_id: str) -> bool:
        """Whether a version is there, and is that of the run (or says of none)."""
        found = self._read("model-versions/get", name=model, version=version).get("model_version")
        return isinstance(found, Mapping) and plain(found.get("run_id")) in {"", run_id}

    def _read(self, path: str, **query: str) -> Mapping[str, object]:
        return self._asked("GET", path, _NOT_THERE, query=query)

    def _write(self, path: str, document: Mapping[str, Json], *, harmless: str = "") -> Mapping[str, object]:
        return self._asked("POST", path, harmless, document=document)

    def _asked(
        self,
        method: str,
        path: str,
        harmless: str,
        *,
        query: Mapping[str, str] | None = None,
        document: Mapping[str, Json] | None = None,
    ) -> Mapping[str, object]:
        url = f"{self._gateway}/api/2.0/mlflow/{path}"

        def answer(token: str) -> Reply:
            return send(method, url, token=token, query=query, document=document)

        token = token_for(self._gateway, scopes=SCOPES)
        reply = answer(token)
        if reply.status == _UNAUTHORIZED:
            reply = answer(token_for(self._gateway, scopes=SCOPES, refused=token))
        said = plain(reply.document.get("message"))
        if reply.status == _UNAUTHORIZED:
            raise NotSignedIn(self._gateway, said)
        if reply.status >= _REFUSED:
            if harmless and reply.document.get("error_code") == harmless:
                return {}
            raise Refused(said or f"{self._gateway} refused {path} ({reply.status}).", status=reply.status)
        return reply.document

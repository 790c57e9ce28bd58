"""What ``mlflow deployments -t countersign:/<target>`` finds: it asks for promotions, and follows them.

Nothing is deployed past the gateway: to create or to update is to ask for a promotion, under the policy that names the
target, and to wait until the target answers with the version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import mlflow
import requests
import urllib3.exceptions
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.utils.proto_json_utils import NumpyEncoder, dump_input_data

from countersign_client.addresses import gateway_address
from countersign_client.cli.options import say, seconds
from countersign_client.deploying import (
    NotDeployed,
    alias_for,
    ask_for,
    deployment_of,
    deployments_on,
    follow_until_done,
    follow_until_live,
    holder_of,
    redeploy,
    remove,
    require_known,
    url_of,
)
from countersign_client.errors import ClientError, InvalidUsage, NotSignedIn, Refused, Unreachable
from countersign_client.following import Exit
from countersign_client.resolving import gateway_of_environment
from countersign_client.wire import NO_PROXY, plain

FLAVOR = "python_function"
"""What every target serves: the model as MLflow's own scoring server would load it."""
_HELP = """\
countersign:/<target> is a target of a Countersign gateway: a place where models are deployed.

The gateway is that of COUNTERSIGN_URL, else of MLFLOW_TRACKING_URI; you are who `countersign login` made you, or whose
token is in COUNTERSIGN_TOKEN or MLFLOW_TRACKING_TOKEN.

A deployment has the name of its model (or <workspace>/<model>). A model is deployed to a target when a version of it
is promoted to an alias whose policy names the target: so `create` and `update` ask for a promotion and follow it until
the version answers. Who must approve, approves meanwhile. The model is models:/<name>/<version>, or
models:/<name>@<alias>.

  mlflow deployments create -t countersign:/ray --name iris -m models:/iris/7
  mlflow deployments update -t countersign:/ray --name iris -m models:/iris/8 -C reason="r2 0.52 on holdout"
  mlflow deployments predict -t countersign:/ray --name iris -I rows.json
  mlflow deployments delete -t countersign:/ray --name iris

Configuration, as -C name=value:
  alias      the alias to promote to; without it, the only one whose policy deploys the model to the target
  reason     why; others read it, and it is kept
  timeout    for how long to wait, as 90s, 30m, 2h (30m)
  wait       false: return as soon as it is asked for (true)

Asking again for the same changes nothing. Other frameworks' flavors, endpoints and explanations are not supported.
"""
_SETTINGS = frozenset({"alias", "reason", "timeout", "wait"})
_SHAPES = frozenset({"inputs", "instances", "dataframe_split", "dataframe_records"})
_LONGEST_ANSWER = 64 * 1024 * 1024
_TIMEOUT_S = (5, 120)
_CODES = {
    400: databricks_pb2.INVALID_PARAMETER_VALUE,
    401: databricks_pb2.UNAUTHENTICATED,
    403: databricks_pb2.PERMISSION_DENIED,
    404: databricks_pb2.RESOURCE_DOES_NOT_EXIST,
    409: databricks_pb2.RESOURCE_CONFLICT,
    412: databricks_pb2.RESOURCE_CONFLICT,
    422: databricks_pb2.INVALID_PARAMETER_VALUE,
}


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, str] | None = None) -> None:
    """Nothing runs locally: a target of the gateway is where models run."""
    del name, flavor, config
    raise MlflowException(
        "A target of a Countersign gateway runs nothing on this machine. To try a model here: "
        f"mlflow models serve -m {model_uri}",
        databricks_pb2.NOT_IMPLEMENTED,
    )


def target_help() -> str:
    """What ``mlflow deployments help -t countersign`` prints."""
    return _HELP


class CountersignDeploymentClient(BaseDeploymentClient):
    """The deployments of one target. Every error is an ``MlflowException``, in the gateway's words."""

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)  # type: ignore[no-untyped-call]  # MLflow's has no types
        with _as_mlflow_says():
            self._target = _target_of(target_uri)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Have a version promoted that the target then serves. The same again changes nothing; another version of what
        is deployed already is an update.
        """
        with _as_mlflow_says():
            asked = self._asked(name, model_uri, flavor, config, endpoint)
            there = deployment_of(self._gateway, self._target, name)
            if there is not None and str(there.get("version")) != asked.version:
                raise MlflowException(
                    f"{name} is deployed to {self._target} already, as version {plain(there.get('version'))}: "
                    "update it.",
                    databricks_pb2.RESOURCE_ALREADY_EXISTS,
                )
            return self._promote(name, asked)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Have another version promoted in its place."""
        with _as_mlflow_says():
            if model_uri is None:
                raise InvalidUsage("Which version? Name it with -m models:/<name>/<version>.")
            asked = self._asked(name, model_uri, flavor, config, endpoint)
            self._deployment(name)
            return self._promote(name, asked)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Have the target serve nothing of the model. The alias stays where it is; the next promotion deploys again.

        What is not deployed is deleted already, if there are such a target and such a model.
        """
        with _as_mlflow_says():
            settings = _settings(config, endpoint)
            there = deployment_of(self._gateway, self._target, name)
            if there is None:
                if deployment_of(self._gateway, self._target, name, removed=True) is None:
                    require_known(self._gateway, self._target, name)
                return
            line = say()
            remove(self._gateway, there, reason=settings.reason or "mlflow deployments delete", say=line)
            if settings.wait:
                follow_until_done(self._gateway, there, timeout_s=settings.timeout_s, say=line)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """What the target is to serve, of what you may read."""
        with _as_mlflow_says():
            _no_endpoint(endpoint)
            return [_described(each) for each in deployments_on(self._gateway, self._target)]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        with _as_mlflow_says():
            _no_endpoint(endpoint)
            return _described(self._deployment(name))

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,  # noqa: ANN401  # as MLflow's
        endpoint: str | None = None,
    ) -> PredictionsResponse:
        """What the served version says, asked at its own address: the gateway is not in the way of predictions.

        Args:
            deployment_name: which model.
            inputs: rows (pandas), an array, a list, or a document in one of MLflow's shapes.
            endpoint: there are none.
        """
        with _as_mlflow_says():
            _no_endpoint(endpoint)
            if not deployment_name:
                raise InvalidUsage("Which deployment? Name it.")
            url = url_of(self._deployment(deployment_name))
            if not url:
                raise Unreachable(f"{self._target} has not said yet where {deployment_name} answers.")
            return _predictions(url, inputs)

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> NoReturn:  # noqa: ANN401  # as MLflow's
        del deployment_name, df, endpoint
        raise MlflowException(
            "Explanations are not supported: a target answers with predictions alone.", databricks_pb2.NOT_IMPLEMENTED
        )

    @property
    def _gateway(self) -> str:
        tracking = mlflow.get_tracking_uri()
        if not os.environ.get("COUNTERSIGN_URL", "").strip() and tracking.startswith(("https://", "http://")):
            return gateway_address(tracking)
        return gateway_address(gateway_of_environment())

    def _deployment(self, name: str) -> Mapping[str, object]:
        found = deployment_of(self._gateway, self._target, name)
        if found is None:
            raise Refused(f"{name} is not deployed to {self._target}.", status=404)
        return found

    def _asked(
        self, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any] | None, endpoint: str | None
    ) -> _Asked:
        settings = _settings(config, endpoint)
        if flavor not in {None, FLAVOR}:
            raise InvalidUsage(
                f"Expected no flavor, or {FLAVOR}: a target serves a model as MLflow's scoring server does."
            )
        model, version, alias = _named(model_uri)
        workspace, _, named = name.rpartition("/")
        if named != model:
            raise InvalidUsage(
                f"A deployment has the name of its model: name it {plain(model)}, or <workspace>/<model>."
            )
        if alias:
            # Asked where it is promoted, and in that workspace: MLflow's own client may mean another server.
            version = holder_of(self._gateway, model, alias, workspace=workspace or None)
            if not version:
                raise Refused(f"No version of {plain(model)} holds alias {plain(alias)}.", status=404)
        return _Asked(workspace or None, model, version, settings)

    def _promote(self, name: str, asked: _Asked) -> dict[str, Any]:
        gateway, line, settings = self._gateway, say(), asked.settings
        protection = alias_for(gateway, asked.model, self._target, alias=settings.alias, workspace=asked.workspace)
        promotion = ask_for(
            gateway,
            asked.model,
            asked.version,
            protection.alias,
            reason=settings.reason,
            workspace=asked.workspace,
            say=line,
        )
        promotion_id = plain(promotion.get("id"))
        line(f"{promotion_id}: version {asked.version} of {asked.model} to {protection.alias}")
        if page := plain(promotion.get("console")):
            line(f"  for people: {page}")
        if not settings.wait:
            line(f"  asked for; not deployed yet: `countersign promotions show {promotion_id} --wait` follows it")
            about = {"version": asked.version, "state": plain(promotion.get("state"))}
            return {"name": name, "flavor": FLAVOR, "promotion": promotion_id, **about}
        follow_until_live(gateway, promotion_id, timeout_s=settings.timeout_s, say=line)
        there = deployment_of(gateway, self._target, name)
        removed = None if there else deployment_of(gateway, self._target, name, removed=True)
        if removed is not None and str(removed.get("version")) == asked.version:
            line(f"{name} was removed from {self._target}: it is deployed there again")
            redeploy(gateway, removed, reason=settings.reason or "mlflow deployments create", say=line)
            there = follow_until_done(gateway, removed, timeout_s=settings.timeout_s, say=line)
        if there is None or str(there.get("version")) != asked.version:
            raise Refused(
                f"Promotion {promotion_id} is done, but {self._target} is not to serve version {asked.version} of "
                f"{name}: the policy did not name the target then. Promote another version.",
                status=409,
            )
        return {**_described(there), "promotion": promotion_id}


@dataclass(frozen=True, slots=True)
class _Settings:
    """What ``-C`` said."""

    alias: str | None
    reason: str
    timeout_s: int
    wait: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which version is to be served."""

    workspace: str | None
    model: str
    version: str
    settings: _Settings


def _target_of(uri: str) -> str:
    parts = urlsplit(uri)
    target = unquote(f"{parts.netloc}{parts.path}".strip("/"))
    if parts.scheme != "countersign" or not target or "/" in target or parts.query or parts.fragment:
        raise InvalidUsage("Which target of the gateway? Name it as in countersign:/ray.")
    return target


def _named(model_uri: str) -> tuple[str, str, str]:
    """Model, version and alias of a ``models:/`` URI; one of the last two is empty."""
    rest = model_uri.removeprefix("models:/")
    model, slash, version = rest.rpartition("/")
    alias = ""
    if not slash:
        model, _, alias = rest.rpartition("@")
    is_version = version.isascii() and version.isdigit()
    if rest == model_uri or not model or "/" in model or not (alias or (slash and is_version)):
        raise InvalidUsage(
            f"{plain(model_uri)}: expected models:/<name>/<version> or models:/<name>@<alias>. What is not registered "
            "is registered first (mlflow.register_model): only a version can be promoted."
        )
    return unquote(model), version if slash else "", alias


def _settings(config: Mapping[str, Any] | None, endpoint: str | None) -> _Settings:
    _no_endpoint(endpoint)
    given = {name: str(value) for name, value in (config or {}).items()}
    if unknown := sorted(given.keys() - _SETTINGS):
        raise InvalidUsage(f"-C {plain(unknown[0])}: expected one of {', '.join(sorted(_SETTINGS))}.")
    wait = given.get("wait", "true").lower()
    if wait not in {"true", "false"}:
        raise InvalidUsage("-C wait: expected true or false.")
    return _Settings(
        alias=given.get("alias"),
        reason=given.get("reason", ""),
        timeout_s=seconds(given.get("timeout", "30m"), "-C timeout"),
        wait=wait == "true",
    )


def _no_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        raise InvalidUsage("A target has no endpoints: name the deployment.")


def _described(deployment: Mapping[str, object]) -> dict[str, Any]:
    return {
        "name": deployment.get("resource"),
        "flavor": FLAVOR,
        **{
            name: deployment.get(name)
            for name in ("id", "target", "version", "generation", "phase", "reason", "message")
        },
        "digest": deployment.get("digest"),
        "promotion": deployment.get("promotion_id"),
        "url": url_of(deployment),
        "serving": deployment.get("serving") or [],
    }


def _predictions(url: str, inputs: Any) -> PredictionsResponse:  # noqa: ANN401  # rows in any shape
    asked = {"inputs": inputs} if isinstance(inputs, dict) and not _SHAPES & inputs.keys() else inputs
    # MLflow's own function does not write dictionaries (3.17).
    payload = json.dumps(asked, cls=NumpyEncoder) if isinstance(asked, dict) else dump_input_data(asked)
    try:
        with requests.post(
            url,
            data=payload.encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            auth=lambda request: request,  # what ~/.netrc has is not for it
            proxies=NO_PROXY if urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"} else None,
            timeout=_TIMEOUT_S,
            allow_redirects=False,
            stream=True,
        ) as answer:
            body = answer.raw.read(_LONGEST_ANSWER + 1, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError):
        raise Unreachable(f"{url} does not answer.") from None
    if len(body) > _LONGEST_ANSWER:
        raise Refused(f"{url} answered with more than {_LONGEST_ANSWER} bytes.")
    text = body.decode(errors="replace")
    if answer.status_code != requests.codes.ok:
        raise Refused(f"{url} answered {answer.status_code}: {plain(text)}", status=answer.status_code)
    found: PredictionsResponse = PredictionsResponse.from_json(text)  # type: ignore[no-untyped-call]  # MLflow's has no types
    return found


@contextmanager
def _as_mlflow_says() -> Iterator[None]:
    """What goes wrong, as MLflow's callers expect it; in the same words."""
    try:
        yield
    except NotDeployed as error:
        code = databricks_pb2.DEADLINE_EXCEEDED if error.exit is Exit.TIMED_OUT else databricks_pb2.INVALID_STATE
        raise MlflowException(str(error), code) from None
    except Refused as error:
        raise MlflowException(str(error), _CODES.get(error.status, databricks_pb2.INVALID_STATE)) from None
    except Unreachable as error:
        raise MlflowException(str(error), databricks_pb2.TEMPORARILY_UNAVAILABLE) from None
    except NotSignedIn as error:
        raise MlflowException(str(error), databricks_pb2.UNAUTHENTICATED) from None
    except ClientError as error:
        raise MlflowException(str(error), databricks_pb2.INVALID_PARAMETER_VALUE) from None

"""The one speaker to the cluster: the few requests we need of the Kubernetes API, and what its refusals mean.

lightkube reads how to sign in (kubeconfig, or the token of a pod, which the kubelet renews), and with which
certificates. The requests are ours: its client knows neither ``fieldValidation`` nor what a deletion may be bound to.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, Self

import httpx2
from countersign_deployer.masking import tail
from countersign_deployer.phases import Reason
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ConfigError

from countersign_kserve import names
from countersign_kserve.manifest import API_VERSION
from countersign_kserve.settings import Settings

Json = dict[str, Any]

SERVICES = f"/apis/{API_VERSION}/namespaces/{{namespace}}/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{namespace}/deployments"
PODS = "/api/v1/namespaces/{namespace}/pods"
REVISIONS = "/apis/serving.knative.dev/v1/namespaces/{namespace}/revisions"
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"
SCHEMA = f"/openapi/v3/apis/{API_VERSION}"

APPLY = "application/apply-patch+yaml"  # JSON is YAML
WATCH_S = 300
_WATCH_PAUSE_S = 1
"""Between watches: what ends each at once must not be asked as fast as it answers."""
_GONE = HTTPStatus.GONE
_AGAIN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_WEBHOOK = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request')
_OTHER_MANAGER = re.compile(r'conflicts? with "(?P<manager>[^"]+)"')


class CannotConnect(Exception):
    """How to reach the cluster is not known; the message says what is missing."""


@dataclass(eq=False)
class Trouble(Exception):
    """The cluster did not do it. ``reason`` and ``message`` are for people, on the promotion."""

    reason: Reason
    message: str

    def __str__(self) -> str:
        return self.message


class Raced(Exception):
    """Somebody changed the object at the same time: look again."""


class Watched(Exception):
    """The watch has ended, and what happened since is unknown: look again."""


class Cluster(Protocol):
    """What we ask of a cluster. Everything may raise ``Trouble``."""

    async def get(self, collection: str, namespace: str, name: str) -> Json | None:
        """One object, if there is one."""

    async def find(self, collection: str, namespace: str, labels: Mapping[str, str]) -> list[Json] | None:
        """The objects with these labels; none if we may not read them, or the cluster does not know their kind."""

    async def apply(self, manifest: Json, *, dry_run: bool) -> Json:
        """Server-side apply of an InferenceService; it as it is then.

        Raises:
            Raced: it has changed, or came to be, since it was looked at.
        """

    async def delete(self, namespace: str, name: str, *, uid: str) -> None:
        """Delete this very InferenceService.

        Raises:
            Raced: it is another one by now.
        """

    def watch(self, namespace: str) -> AsyncIterator[str]:
        """The names of our InferenceServices in a namespace, as they change.

        Raises:
            Watched: it has ended; begin anew after a look.
        """

    async def schema(self) -> Json | None:
        """The OpenAPI schema of KServe's API; none if it cannot be read."""


class ApiServer:
    """A Kubernetes API server, over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Read how to connect; nothing is sent yet.

        Raises:
            CannotConnect: the configuration is missing or wrong.
        """
        self._force = settings.force
        self._watch_timeout = httpx2.Timeout(settings.cluster_timeout_s, read=WATCH_S + 30)
        try:
            config = _config(settings)
            parameters = client_adapter.ConnectionParams(
                timeout=httpx2.Timeout(settings.cluster_timeout_s), trust_env=False
            )
            self._client = client_adapter.AsyncClient(config, parameters)
        except (ConfigError, OSError, KeyError, ValueError) as error:
            raise CannotConnect(f"how to reach the cluster is not known: {error}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, collection: str, namespace: str, name: str) -> Json | None:
        """See ``Cluster``."""
        answer = await self._send("GET", f"{collection.format(namespace=namespace)}/{name}")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        return _read(answer)

    async def find(self, collection: str, namespace: str, labels: Mapping[str, str]) -> list[Json] | None:
        """See ``Cluster``."""
        answer = await self._send("GET", collection.format(namespace=namespace), {"labelSelector": _selector(labels)})
        if answer.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
            return None
        items: list[Json] = _read(answer).get("items") or []
        return items

    async def apply(self, manifest: Json, *, dry_run: bool) -> Json:
        """See ``Cluster``."""
        metadata = manifest["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER, "fieldValidation": "Strict", "force": str(self._force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        path = f"{SERVICES.format(namespace=metadata['namespace'])}/{metadata['name']}"
        return _read(await self._send("PATCH", path, query, manifest, APPLY))

    async def delete(self, namespace: str, name: str, *, uid: str) -> None:
        """See ``Cluster``."""
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Foreground",
        }
        path = f"{SERVICES.format(namespace=namespace)}/{name}"
        answer = await self._send("DELETE", path, {}, body, "application/json")
        if answer.status_code != HTTPStatus.NOT_FOUND:
            _read(answer)

    async def watch(self, namespace: str) -> AsyncIterator[str]:
        """See ``Cluster``. It goes on from where it was when the server ends it; after 410 nobody knows where."""
        path = SERVICES.format(namespace=namespace)
        query = {"labelSelector": _selector(dict([names.MANAGED_BY]))}
        version = str(_read(await self._send("GET", path, {**query, "limit": "1"}))["metadata"]["resourceVersion"])
        query |= {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
        while True:
            try:
                request = self._client.build_request(
                    "GET", path, params={**query, "resourceVersion": version}, timeout=self._watch_timeout
                )
                answer = await self._client.send(request, stream=True)
                try:
                    if answer.status_code == _GONE:
                        raise Watched
                    if answer.status_code != HTTPStatus.OK:
                        await answer.aread()
                        _read(answer)
                    async for line in answer.aiter_lines():
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise Watched
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            yield event["object"]["metadata"]["name"]
                finally:
                    await answer.aclose()
                await asyncio.sleep(_WATCH_PAUSE_S)
            except (httpx2.HTTPError, ConfigError, ValueError, KeyError) as error:
                raise Watched from error

    async def schema(self) -> Json | None:
        """See ``Cluster``."""
        answer = await self._send("GET", SCHEMA)
        if answer.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
            return None
        return _read(answer)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        kind: str | None = None,
    ) -> httpx2.Response:
        try:
            return await self._client.request(
                method,
                path,
                params=dict(query or {}),
                content=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": kind} if kind else None,
            )
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            why = str(error) or type(error).__name__
            raise Trouble(Reason.UNREACHABLE, f"The cluster's API server did not answer: {tail(why)}") from None


def _config(settings: Settings) -> Any:
    if settings.kubeconfig is not None:
        return KubeConfig.from_file(settings.kubeconfig).get(context_name=settings.context)
    try:
        return KubeConfig.from_service_account().get()
    except ConfigError:
        variable = settings.variable("kubeconfig")
        raise ConfigError(f"this is no pod with a service account, and {variable} is not set") from None


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _read(answer: httpx2.Response) -> Json:
    """What the API server answered.

    Raises:
        Trouble: it refused, or could not.
        Raced: somebody was quicker.
    """
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return body
    said = body if isinstance(body, dict) else {}
    details = said.get("details") or {}
    causes = [cause for cause in details.get("causes") or [] if isinstance(cause, dict)]
    message = str(said.get("message") or answer.reason_phrase or answer.status_code)
    if answer.status_code == HTTPStatus.CONFLICT:
        raise _conflict(message, causes)
    raise Trouble(_reason(answer.status_code, message), tail(_with_causes(message, causes)))


def _conflict(message: str, causes: list[Json]) -> Exception:
    """Of fields, with other managers; or of versions, which a second look solves."""
    fields = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
    if not fields:
        return Raced(message)
    found = [_OTHER_MANAGER.search(str(cause.get("message", ""))) for cause in fields]
    managers = sorted({match["manager"] for match in found if match}) or ["somebody else"]
    named = ", ".join(str(cause.get("field", "")).lstrip(".") for cause in fields)
    return Trouble(
        Reason.FIELD_MANAGER_CONFLICT,
        tail(f"{' and '.join(managers)} manages {named} of the InferenceService, and holds another value."),
    )


def _reason(status: int, message: str) -> Reason:
    if "field not declared in schema" in message:  # an apply of an unknown field is a 500 (kubernetes#122480)
        return Reason.CONFIG_REFUSED
    if status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Reason.UNREACHABLE
    if webhook := _WEBHOOK.search(message):
        # KServe's own says that the object is wrong; any other, that a rule of the cluster forbids it.
        return Reason.CONFIG_REFUSED if "kserve" in webhook["name"] else Reason.POLICY_DENIED
    if status == HTTPStatus.FORBIDDEN:
        return Reason.NO_CAPACITY if "exceeded quota" in message else Reason.POLICY_DENIED
    return Reason.CONFIG_REFUSED


def _with_causes(message: str, causes: list[Json]) -> str:
    """The message; and the fields that are wrong, unless it names them."""
    more = [f"{cause.get('field')}: {cause.get('message')}" for cause in causes if cause.get("field")]
    unsaid = [each for each in more if str(each.partition(": ")[0]) not in message]
    return f"{message} ({'; '.join(unsaid)})" if unsaid else message

"""KubeRay: a ``RayService`` is told what to serve, and its operator tells Ray.

What is put to the dashboard behind the operator's back lasts until it puts its own again (kuberay#5325), so it is never
called. ``resourceVersion`` goes with each patch: what changed since we looked is looked at again, not overwritten.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, NoReturn, Self

import httpx2
import yaml
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import PatchType

from countersign_ray_serve.serve_api import Json, RayRefused, RayUnreachable
from countersign_ray_serve.settings import Settings

_Resource = create_namespaced_resource("ray.io", "v1", "RayService", "rayservices")
FIELD_MANAGER = "countersign-ray-serve"
MOST_TRIES = 5


class RayService:
    """One ``RayService``. It has the shape of Serve's own API for who asks it."""

    def __init__(self, settings: Settings) -> None:
        self._namespace, _, self._name = settings.rayservice.partition("/")
        self._seen: str | None = None
        try:
            found = (
                KubeConfig.from_file(settings.kubeconfig) if settings.kubeconfig else KubeConfig.from_service_account()
            )
            self._client = AsyncClient(
                found.get(),
                field_manager=FIELD_MANAGER,
                timeout=httpx2.Timeout(settings.dashboard_timeout_s),
                trust_env=False,
            )
        except (ConfigError, OSError) as error:
            raise RayUnreachable(f"How to reach the cluster is not known: {error}") from None

    async def version(self) -> str:
        """What the resource says of its cluster."""
        spec = (await self._get()).get("spec") or {}
        return str((spec.get("rayClusterConfig") or {}).get("rayVersion") or "of no version that rayVersion would tell")

    async def details(self) -> Json:
        """The applications that are declared, as the operator saw them last."""
        found = await self._get()
        self._seen = _declared(found)
        status = found.get("status") or {}
        generation = (found.get("metadata") or {}).get("generation")
        # Before the operator has read the newest list, what it tells is about an older one.
        is_current = status.get("observedGeneration", generation) == generation
        told = (status.get("activeServiceStatus") or {}).get("applicationStatuses") or {}
        coming = (status.get("pendingServiceStatus") or {}).get("applicationStatuses") or {}
        specs = {str(spec.get("name")): spec for spec in _parsed(self._seen).get("applications") or []}
        return {
            "applications": {
                name: _application(spec, told.get(name) or coming.get(name) or {}, is_current=is_current)
                for name, spec in specs.items()
            }
        }

    async def apply(self, config: Json) -> None:
        """Patch ``spec.serveConfigV2``, if nobody else has since we looked."""
        text = json.dumps({"applications": config["applications"]}, indent=1)  # JSON is YAML
        for _ in range(MOST_TRIES):
            found = await self._get()
            if _declared(found) != self._seen:
                raise RayUnreachable("Somebody else changed what the RayService is to serve; it is looked at again.")
            patch = {
                "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
                "spec": {"serveConfigV2": text},
            }
            try:
                await self._client.patch(
                    _Resource, self._name, patch, namespace=self._namespace, patch_type=PatchType.MERGE
                )
            except ApiError as error:
                if error.status.code == 409:
                    continue  # something else of it has changed: its status, say
                _explain(error)
            except httpx2.HTTPError as error:
                raise RayUnreachable(f"The Kubernetes API does not answer: {type(error).__name__}") from None
            self._seen = text
            return
        raise RayUnreachable("The RayService changes all the time; it is tried again.")

    async def has_package(self, uri: str) -> bool:
        """Nothing is uploaded in this mode: the image has it."""
        return bool(uri)

    async def put_package(self, uri: str, content: bytes) -> None:
        raise NotImplementedError

    async def _get(self) -> Json:
        try:
            found = await self._client.get(_Resource, self._name, namespace=self._namespace)
        except ApiError as error:
            _explain(error)
        except httpx2.HTTPError as error:
            raise RayUnreachable(f"The Kubernetes API does not answer: {type(error).__name__}") from None
        document: Json = found.to_dict()  # type: ignore[no-untyped-call]  # lightkube has no types here
        return document

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()


def _application(spec: Json, status: Json, *, is_current: bool) -> Json:
    deployments: dict[str, Json] = status.get("serveDeploymentStatuses") or {}
    return {
        # What the operator has not seen yet is not running, whatever an application of its name was before.
        "status": str(status.get("status") or "NOT_STARTED") if is_current else "DEPLOYING",
        "message": str(status.get("message") or ""),
        "source": "declarative",
        "deployed_app_config": spec,
        "deployments": {name: {"message": str(each.get("message") or "")} for name, each in deployments.items()},
    }


def _declared(found: Json) -> str:
    return str((found.get("spec") or {}).get("serveConfigV2") or "")


def _parsed(text: str) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RayUnreachable("The RayService's spec.serveConfigV2 is not YAML; correct it.") from None
    return parsed if isinstance(parsed, dict) else {}


def _explain(error: ApiError) -> NoReturn:
    message = f"The Kubernetes API says: {error.status.message}"
    if error.status.code in {400, 422}:
        raise RayRefused(message) from None
    raise RayUnreachable(message) from None

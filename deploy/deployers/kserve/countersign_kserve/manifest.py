"""The InferenceService that a plan comes to, as small as it can be: what is not in it, others may own. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from countersign_kserve import names
from countersign_kserve.options import Options
from countersign_kserve.settings import Settings
from countersign_kserve.state import Plan, Version

Json = dict[str, Any]

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
CONTAINER = "kserve-container"
"""The full CRD asks for a name in ``canary[].predictor.model``, and the webhook refuses one in ``predictor.model``."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a plan's versions go on the object, at one moment of a rollout.

    ``main`` gets what ``canary`` does not. Standard mode: each has a slot, the name of its predictor. Knative mode:
    there is one predictor, the newest, and ``percent`` is its ``canaryTrafficPercent``.
    """

    main: Version
    slot: str = ""
    canary: Version | None = None
    canary_slot: str = ""
    percent: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Whose object it is, and where it lives."""

    resource: str
    namespace: str
    name: str


def place_of(resource: str, settings: Settings) -> Place:
    """Where a model's object is.

    Raises:
        KeyError: no namespace is given for the model's workspace.
    """
    namespace = settings.namespaces[names.split_resource(resource)[0]]
    return Place(resource, namespace, names.service_name(resource, namespace))


def predictor(settings: Settings, resource: str, options: Options, version: Version) -> Json:
    """The pods of a version. Their annotation ``template`` is of all that makes them what they are."""
    resources = _resources(settings, options)
    spec: Json = {
        "annotations": {
            names.REGISTERED_MODEL: resource,
            names.MODEL_VERSION: version.version,
            names.DIGEST: version.digest,
        },
        "model": {
            "modelFormat": {"name": settings.model_format},
            "runtime": options.runtime or settings.runtime,
            "protocolVersion": "v2",
            "storageUri": _address(settings, resource, version),
            **({"resources": resources} if resources else {}),
        },
    }
    if account := options.service_account or settings.service_account:
        spec["serviceAccountName"] = account
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    if options.timeout_s:
        spec["timeout"] = options.timeout_s
    spec["annotations"][names.TEMPLATE] = _hash(spec)
    return spec


def template_of(settings: Settings, resource: str, options: Options, version: Version) -> str:
    """What pods of a version are told by."""
    annotations: Mapping[str, str] = predictor(settings, resource, options, version)["annotations"]
    return annotations[names.TEMPLATE]


def inference_service(
    settings: Settings, place: Place, plan: Plan, layout: Layout, *, stop: bool = False, now: Json | None = None
) -> Json:
    """The object to apply.

    Args:
        settings: the deployer's.
        place: where it is.
        plan: what it is to be.
        layout: how far that is.
        stop: nothing is to run; the object stays.
        now: the object as it is, if it is; the answer is refused if it has changed since.
    """
    options = Options.model_validate(plan.options)
    least, most = replicas(settings, options)
    newest = layout.canary if settings.is_knative and layout.canary is not None else layout.main
    main = predictor(settings, place.resource, options, newest)
    main |= {"minReplicas": least, "maxReplicas": most}
    annotations = {
        names.DEPLOYMENT_MODE: settings.mode_in_cluster,
        names.TARGET: settings.target,
        names.RESOURCE: place.resource,
        names.GENERATION: str(plan.generation),
        **plan.notes,
    }
    if not settings.is_knative:
        # An autoscaler that has nothing to choose is left out; it would be another owner of the number of replicas.
        annotations[names.AUTOSCALER] = "none" if least == most else "hpa"
    if stop:
        annotations[names.STOP] = "true"
    spec: Json = {"predictor": main}
    if settings.is_knative:
        if layout.percent is not None:
            main["canaryTrafficPercent"] = layout.percent
    else:
        if layout.slot:
            main["name"] = layout.slot
        if layout.canary is not None:
            beside = predictor(settings, place.resource, options, layout.canary)
            # Fixed, and not more than beside it: KServe scales no canary, and refuses one with more replicas.
            beside |= {"name": layout.canary_slot, "minReplicas": least}
            # KServe takes the canary's off the stable ones, as if the number were of both (kserve#5672).
            main |= {"minReplicas": least + least, "maxReplicas": max(most, least + least)}
            beside["model"] = {"name": CONTAINER, **beside["model"]}
            spec["canary"] = [{"predictor": beside, "trafficPercent": layout.percent or 0}]
    metadata: Json = {
        "name": place.name,
        "namespace": place.namespace,
        "labels": dict([names.MANAGED_BY]),
        "annotations": annotations,
    }
    if now is not None:
        metadata["resourceVersion"] = now["metadata"]["resourceVersion"]
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def replicas(settings: Settings, options: Options) -> tuple[int, int]:
    """How many pods a version has, at least and at most."""
    least = options.min_replicas or settings.min_replicas
    return least, options.max_replicas or max(settings.max_replicas, least)


def _address(settings: Settings, resource: str, version: Version) -> str:
    """Where the pods load from. Never an alias: it moves, and pods that start later would serve something else."""
    if settings.storage == "countersign":
        workspace, model = names.split_resource(resource)
        parts = (
            [model, version.version] if workspace == names.DEFAULT_WORKSPACE else [workspace, model, version.version]
        )
        return "countersign://" + "/".join(quote(part, safe="") for part in parts)
    # Without the slash, KServe's storage initializer downloads `…/artifacts-old` along with `…/artifacts`.
    return version.uri.rstrip("/") + "/"


def _resources(settings: Settings, options: Options) -> Json:
    """Requests and limits: the options' as a whole, or the settings'."""
    if options.resources is not None:
        given = {"requests": dict(options.resources.requests), "limits": dict(options.resources.limits)}
    else:
        given = {
            "requests": {"cpu": settings.cpu_request, "memory": settings.memory_request},
            "limits": {"cpu": settings.cpu_limit, "memory": settings.memory_limit},
        }
    kept = {kind: {name: value for name, value in each.items() if value} for kind, each in given.items()}
    return {kind: each for kind, each in kept.items() if each}


def _hash(spec: Json) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]

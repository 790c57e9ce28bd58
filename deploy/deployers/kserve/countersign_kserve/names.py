"""What things are called in the cluster: namespaces, objects, and the annotations that say where a model came from."""

from __future__ import annotations

import hashlib
import re
import unicodedata

DEFAULT_WORKSPACE = "default"

FIELD_MANAGER = "countersign-kserve"
MANAGED_BY = ("app.kubernetes.io/managed-by", "countersign")

# Of the object: they change with each call.
TARGET = "countersign/target"
RESOURCE = "countersign/resource"
GENERATION = "countersign/generation"
DEPLOYMENT_ID = "countersign/deployment-id"
PROMOTION_ID = "countersign/promotion-id"
APPROVED_BY = "countersign/approved-by"
ALIAS = "countersign/alias"
RUN_ID = "countersign/run-id"
MODEL_ID = "countersign/model-id"
CHANGING = (GENERATION, DEPLOYMENT_ID, PROMOTION_ID, APPROVED_BY, ALIAS, RUN_ID, MODEL_ID)
"""KServe copies an object's annotations to its pods, and pods with other annotations are other pods: a cluster should
list these in ``serviceAnnotationDisallowedList`` of its ``inferenceservice-config``, so that a change of weights does
not restart anything."""

# Of the pods: they change exactly when the pods must.
REGISTERED_MODEL = "countersign/registered-model"
MODEL_VERSION = "countersign/model-version"
DIGEST = "countersign/artifact-digest"
TEMPLATE = "countersign/template"

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
STOP = "serving.kserve.io/stop"
OF_SERVICE = "serving.kserve.io/inferenceservice"
"""The label of everything that KServe makes for an InferenceService."""

SLOTS = ("green", "blue")
"""Names of predictors beside the first one, which has none. What is promoted keeps its name: the next needs another."""

LONGEST_NAME = 40
"""KServe's own names are longer, and their limit is 63: the label ``isvc.<name>-green-predictor`` among them."""
_MADE_BY_KSERVE = re.compile(r"-(green|blue|predictor|transformer|explainer)$")
"""Ends of the names that KServe gives what it makes: a model ``iris-green`` would have the canary of ``iris``."""
LONGEST_HOST = 62
"""Of ``<name>-<namespace>``, the first label of the host name that KServe gives a model by default."""


def split_resource(resource: str) -> tuple[str, str]:
    """The workspace and the model of a resource: ``iris`` or ``team-a/iris``."""
    workspace, slash, model = resource.rpartition("/")
    return (workspace, model) if slash else (DEFAULT_WORKSPACE, resource)


def service_name(resource: str, namespace: str) -> str:
    """What the InferenceService of a model is called: as the model, if that can be; else nearly so, with a hash.

    The hash is of the workspace and the name, so that two models never share an object, however alike their names are.
    """
    workspace, model = split_resource(resource)
    longest = max(12, min(LONGEST_NAME, LONGEST_HOST - len(namespace)))
    is_free = workspace == DEFAULT_WORKSPACE and len(model) <= longest and not _MADE_BY_KSERVE.search(model)
    if is_free and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", model):
        return model
    ascii_name = unicodedata.normalize("NFKD", model).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")
    slug = slug if slug[:1].isalpha() else f"m-{slug}"
    digest = hashlib.sha256(f"{workspace}\0{model}".encode()).hexdigest()[:8]
    return f"{slug[: longest - 9].strip('-')}-{digest}"


def deployment_name(service: str, slot: str) -> str:
    """The Deployment, and the Service, that KServe makes for a predictor."""
    return f"{service}-{slot}-predictor" if slot else f"{service}-predictor"

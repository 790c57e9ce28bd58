"""What the cluster says of one model, read: the object, the Deployments or Revisions that KServe made of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from countersign_kserve import names
from countersign_kserve.quantities import amount, is_quantity
from countersign_kserve.state import Version

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """One look. ``service`` is the InferenceService; Deployments and Revisions are by name. What we may not read is
    none: ``pods`` and ``route``, the weights by backend of KServe's HTTPRoute.
    """

    service: Json | None
    deployments: Mapping[str, Json] = field(default_factory=dict)
    revisions: Mapping[str, Json] = field(default_factory=dict)
    pods: Sequence[Json] | None = None
    route: Mapping[str, int] | None = None

    @property
    def status(self) -> Json:
        return (self.service or {}).get("status") or {}

    def condition(self, kind: str) -> Json:
        """A condition of the InferenceService; empty if there is none."""
        return condition(self.status, kind)

    @property
    def predictor_status(self) -> Json:
        """Of Knative mode: the revisions, and the traffic they get."""
        found: Json = (self.status.get("components") or {}).get("predictor") or {}
        return found


def condition(status: Json, kind: str) -> Json:
    """A condition by its type; empty if there is none."""
    return next((each for each in status.get("conditions") or [] if each.get("type") == kind), {})


def annotations_of(thing: Json | None) -> Mapping[str, str]:
    """Those of an object's metadata."""
    found: Mapping[str, str] = ((thing or {}).get("metadata") or {}).get("annotations") or {}
    return found


def labels_of(thing: Json | None) -> Mapping[str, str]:
    """Those of an object's metadata."""
    found: Mapping[str, str] = ((thing or {}).get("metadata") or {}).get("labels") or {}
    return found


def generation_of(service: Json | None) -> int:
    """The gateway's generation that the object is of; 0 if it says none that is a number."""
    text = annotations_of(service).get(names.GENERATION, "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def is_ours(service: Json) -> bool:
    """Whether a deployer of ours made it. Whose it is in particular, its annotations say."""
    key, value = names.MANAGED_BY
    return labels_of(service).get(key) == value


def is_stopped(service: Json | None) -> bool:
    return annotations_of(service).get(names.STOP) == "true"


def template(pods_of: Json | None) -> str:
    """Of ``spec.predictor`` or ``spec.canary[].predictor``: what its pods are told by; empty if it is not ours."""
    return str(((pods_of or {}).get("annotations") or {}).get(names.TEMPLATE, ""))


def predictor(service: Json | None) -> Json:
    found: Json = ((service or {}).get("spec") or {}).get("predictor") or {}
    return found


def canaries(service: Json | None) -> dict[str, Json]:
    """The entries of ``spec.canary``, by the names of their predictors."""
    entries = ((service or {}).get("spec") or {}).get("canary") or []
    return {str((entry.get("predictor") or {}).get("name", "")): entry for entry in entries}


def version_on(pods_of: Json) -> Version | None:
    """The version that ``spec.predictor`` says it is of."""
    said = pods_of.get("annotations") or {}
    uri = (pods_of.get("model") or {}).get("storageUri")
    if not (uri and names.MODEL_VERSION in said and names.DIGEST in said):
        return None
    return Version(version=said[names.MODEL_VERSION], uri=uri, digest=said[names.DIGEST])


def served_by(found: Found) -> Version | None:
    """The version that an object of ours serves by itself, if it does: what there is to go back to.

    *Ready* is not enough: a roll may be keeping the pods of another version.
    """
    service, serves = found.service, predictor(found.service)
    if service is None or is_stopped(service) or "canaryTrafficPercent" in serves:
        return None
    if found.condition("Ready").get("status") != "True":
        return None
    name = names.deployment_name(service["metadata"]["name"], str(serves.get("name") or ""))
    if found.deployments and not is_rolled_out(found.deployments.get(name), template(serves), 1):
        return None
    return version_on(serves)


def is_rolled_out(deployment: Json | None, template_hash: str, least: int) -> bool:
    """Whether all pods of a Deployment are of a template, and at least so many of them are available.

    The number that it wants at the moment is not the measure: an autoscaler raises it above what there is room for, and
    KServe lowers it beside a canary. The InferenceService's own *Ready* stays true during a roll, and its
    ``observedGeneration`` is that of the Deployment: neither says anything of the new version.
    """
    if deployment is None or pod_annotations(deployment).get(names.TEMPLATE, "") != template_hash:
        return False
    status = deployment.get("status") or {}
    is_alone = status.get("replicas", 0) == status.get("updatedReplicas", 0)
    return is_observed(deployment) and is_alone and is_available(deployment, least)


def is_available(deployment: Json | None, least: int) -> bool:
    """Whether at least so many pods can answer, of whichever template."""
    return bool(((deployment or {}).get("status") or {}).get("availableReplicas", 0) >= least)


def is_calm(found: Found) -> bool:
    """Whether all pods that should be there are: then none of them has anything to tell."""
    said = found.predictor_status
    newest = found.revisions.get(said.get("latestCreatedRevision") or "")
    if found.revisions and condition((newest or {}).get("status") or {}, "Ready").get("status") != "True":
        return False
    return all(is_observed(each) and _is_complete(each) for each in found.deployments.values())


def _is_complete(deployment: Json) -> bool:
    status, wanted = deployment.get("status") or {}, (deployment.get("spec") or {}).get("replicas", 1)
    return {status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")} == {wanted}


def is_observed(deployment: Json) -> bool:
    """Whether the status of a Deployment is about its present spec."""
    status = deployment.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0))


def pod_annotations(deployment: Json | None) -> Mapping[str, str]:
    """What the pods of a Deployment are annotated with."""
    return annotations_of(((deployment or {}).get("spec") or {}).get("template"))


def is_gone_over(deployment: Json | None) -> bool:
    """Whether Kubernetes says that the present roll of a Deployment has made no progress in its time."""
    return (
        deployment is not None
        and is_observed(deployment)
        and condition(deployment.get("status") or {}, "Progressing").get("reason") == "ProgressDeadlineExceeded"
    )


def is_ready_revision(revision: Json | None, template_hash: str) -> bool:
    return (
        revision is not None
        and annotations_of(revision).get(names.TEMPLATE) == template_hash
        and condition(revision.get("status") or {}, "Ready").get("status") == "True"
    )


def covers(thing: Any, wanted: Any) -> bool:
    """Whether an object has all that is wanted. A list is one value, as far as we send any.

    KServe's webhook writes quantities as it likes: ``1024Mi`` comes back as ``1Gi``.
    """
    if isinstance(wanted, dict):
        return isinstance(thing, dict) and all(
            key in thing and (_same_amounts(thing[key], value) if key in _AMOUNTS else covers(thing[key], value))
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(thing, list)
            and len(thing) == len(wanted)
            and all(covers(one, other) for one, other in zip(thing, wanted, strict=True))
        )
    return bool(thing == wanted)


_AMOUNTS = {"requests", "limits"}


def _same_amounts(thing: Any, wanted: Any) -> bool:
    """Of ``resources``: the same quantities, however they are written."""
    if not (isinstance(thing, dict) and isinstance(wanted, dict)):
        return bool(thing == wanted)
    return all(
        name in thing and is_quantity(str(thing[name])) and amount(str(thing[name])) == amount(str(value))
        for name, value in wanted.items()
    )


def is_as_applied(service: Json | None, manifest: Json) -> bool:
    """Whether applying a manifest would change nothing: all of it is there, and nothing of ours is left over."""
    if service is None:
        return False
    wanted = {**manifest, "metadata": {k: v for k, v in manifest["metadata"].items() if k != "resourceVersion"}}
    return covers(service, wanted) and not any(
        _has(owned, path) and not _has(manifest, path) for owned in _owned(service) for path in _COME_AND_GO
    )


_COME_AND_GO = (
    ("spec", "canary"),
    ("spec", "predictor", "canaryTrafficPercent"),
    *(("metadata", "annotations", name) for name in (names.STOP, names.AUTOSCALER, *names.CHANGING)),
)
"""What is on the object at one time and not at another, without the pods' template telling. Not all that we own: what
KServe's webhook fills in may be counted as ours."""


def _owned(service: Json) -> list[Json]:
    """The fields that were applied by us, as a tree of names."""

    def named(fields: Json) -> Json:
        return {key.removeprefix("f:"): named(below) for key, below in fields.items() if key.startswith("f:")}

    return [
        named(entry.get("fieldsV1") or {})
        for entry in service["metadata"].get("managedFields") or []
        if entry.get("manager") == names.FIELD_MANAGER and entry.get("operation") == "Apply"
    ]


def _has(tree: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True

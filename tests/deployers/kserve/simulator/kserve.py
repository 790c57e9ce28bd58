"""A fake KServe, with the Deployments, Pods and Revisions below it: the traps of the real one, a step at a time.

It moves what is in a ``Cluster`` by one stage in each ``step``: the controller sees an InferenceService, then the
Deployment (or Knative's Revision) is observed, its pods start, and they end as ``outcomes`` says of their storageUri.
``following`` takes the steps by itself, as soon as something was written.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from tests.deployers.kserve.simulator.api import Cluster, Refusal
from tests.deployers.kserve.simulator.objects import Object, Resource

SERVING: Final = "serving.kserve.io"
MODE: Final = f"{SERVING}/deploymentMode"
INFERENCE_SERVICES = Resource(SERVING, "v1beta1", "inferenceservices", "InferenceService", short_names=("isvc",))
SERVING_RUNTIMES = Resource(SERVING, "v1alpha1", "servingruntimes", "ServingRuntime")
STORAGE_CONTAINERS = Resource(
    SERVING, "v1alpha1", "clusterstoragecontainers", "ClusterStorageContainer", namespaced=False, has_status=False
)
REVISIONS = Resource("serving.knative.dev", "v1", "revisions", "Revision")
KNATIVE_SERVICES = Resource("serving.knative.dev", "v1", "services", "Service")
RAY_SERVICES = Resource("ray.io", "v1", "rayservices", "RayService")
HTTP_ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", is_custom=False)
PODS = Resource("", "v1", "pods", "Pod", is_custom=False)
EVENTS = Resource("", "v1", "events", "Event", is_custom=False, has_status=False)
RESOURCES: Final = (
    *(INFERENCE_SERVICES, SERVING_RUNTIMES, STORAGE_CONTAINERS, REVISIONS, KNATIVE_SERVICES, RAY_SERVICES),
    *(HTTP_ROUTES, DEPLOYMENTS, PODS, EVENTS),
)
"""What a cluster with KServe, Knative and KubeRay has, as far as deployers look."""

_MANAGER: Final = "kserve-controller-manager"
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NOT_PASSED_ON = ("kubectl.kubernetes.io/", "autoscaling.knative.dev/", "internal.serving.kserve.io/")


class Place(StrEnum):
    """Where a pod that does not serve hangs."""

    SCHEDULING = "scheduling"
    DOWNLOAD = "storage-initializer"
    RUNTIME = "kserve-container"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a pod. ``reason`` is the one of the terminated container, or of the one that waits.

    ``exit_code`` none: the container waits (``ImagePullBackOff``, or still ``PodInitializing``).
    """

    place: Place
    reason: str = "Error"
    message: str = ""
    exit_code: int | None = 1


UNSCHEDULABLE = Outcome(Place.SCHEDULING, "Unschedulable", "0/3 nodes are available: 3 Insufficient memory.", None)
LOADING = Outcome(Place.RUNTIME, "ContainerCreating", "", None)
"""It loads, until the test says something else."""
NOT_PULLED = Outcome(Place.RUNTIME, "ImagePullBackOff", 'Back-off pulling image "registry.example/runtime"', None)
OUT_OF_MEMORY = Outcome(Place.RUNTIME, "OOMKilled", "", 137)


def not_downloaded(message: str) -> Outcome:
    return Outcome(Place.DOWNLOAD, message=message)


def not_loaded(message: str) -> Outcome:
    return Outcome(Place.RUNTIME, message=message)


@dataclass(slots=True)
class KServe:
    """KServe in a cluster. ``outcomes``: by storageUri, or by the digest that pods are annotated with, what becomes of
    them; others serve.
    """

    cluster: Cluster
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    default_mode: str = "Standard"
    knows_canary: bool = True
    """Since 0.20, in Standard mode."""
    waits_for_canaries: bool = False
    """Since kserve#5984: only a canary that is ready takes pods from the stable predictor, and is in the route."""
    disallowed: set[str] = field(default_factory=set)
    """``serviceAnnotationDisallowedList``: annotations of an InferenceService that its pods do not get."""
    has_gateway: bool = True
    """Standard mode routes by the Gateway API: an HTTPRoute has the weights."""
    is_paused: bool = False
    """Nothing happens by itself; ``step`` does."""

    def __post_init__(self) -> None:
        self.cluster.webhooks.append(self._admit)

    # What tests say

    def pass_deadlines(self) -> None:
        """``progressDeadlineSeconds`` have passed: what still rolls has failed by that."""
        for each in self.cluster.list("deployments"):
            if not _is_complete(each) or each["status"].get("observedGeneration") != each["metadata"]["generation"]:
                message = f'ReplicaSet "{each["metadata"]["name"]}-{_hash(each)}" has timed out progressing.'
                self._status_of(DEPLOYMENTS, each, _deployment_status(each, message_of_deadline=message))
        for each in self.cluster.list("revisions"):
            if _condition(each, "Ready").get("status") == "Unknown":
                message = "Initial scale was never achieved"
                self._status_of(REVISIONS, each, _ready("False", "ProgressDeadlineExceeded", message))
        self.settle()

    def lose_pods(self, name: str, namespace: str) -> None:
        """The pods of an InferenceService are gone, as with their node; none comes back until the next ``step``."""
        for pod in self._pods(namespace, name):
            self.cluster.remove("pods", pod["metadata"]["name"], namespace)
        for each in self.cluster.list("deployments", namespace):
            if each["metadata"]["labels"].get(f"{SERVING}/inferenceservice") == name:
                self._status_of(DEPLOYMENTS, each, _deployment_status(each))
        for each in self.cluster.list("inferenceservices", namespace):
            self._report(each)

    def settle(self) -> None:
        """Step until nothing moves any more."""
        while self.step():
            pass

    def step(self) -> bool:
        """Everything one stage further; whether something moved."""
        before = self.cluster.objects.revision
        for pod in self.cluster.list("pods"):
            self._run(pod)
        for deployment in self.cluster.list("deployments"):
            self._roll(deployment)
        for revision in self.cluster.list("revisions"):
            self._start(revision)
        for each in self.cluster.list("inferenceservices"):
            if not each["metadata"].get("deletionTimestamp"):
                self._reconcile(each)
        return self.cluster.objects.revision != before

    @asynccontextmanager
    async def following(self, lag_s: float = 0.005) -> AsyncIterator[KServe]:
        """Step by itself, each ``lag_s`` after something was written."""

        async def follow(after: int) -> None:
            while True:
                await self.cluster.objects.beyond(after)
                after = self.cluster.objects.revision
                await asyncio.sleep(lag_s)
                while not self.is_paused and self.step():  # noqa: ASYNC110  # a step has no event to wait for
                    await asyncio.sleep(lag_s)

        task = asyncio.create_task(follow(self.cluster.objects.revision))
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # The webhook

    def _admit(self, operation: str, resource: Resource, new: Object, old: Object | None) -> Object:
        """KServe's defaulting and validation. A denial is a 403, as of RBAC, but for its words."""
        if resource != INFERENCE_SERVICES:
            return new
        _keep_mode(old, _mode(new))
        if old and old["spec"] == new.get("spec") and _mode(old) == _mode(new):
            return new
        spec, name = new.get("spec", {}), new["metadata"]["name"]
        predictor, canaries = spec.get("predictor", {}), spec.get("canary", [])
        if not _NAME.fullmatch(name):
            _deny(f'the InferenceService "{name}" is invalid: a InferenceService name must consist of lower case')
        if predictor.get("minReplicas", 0) > predictor.get("maxReplicas", predictor.get("minReplicas", 0)) > 0:
            _deny("MinReplicas cannot be greater than MaxReplicas")
        if sum(each.get("trafficPercent", 0) for each in canaries) > 100:
            _deny("the sum of the canaries' trafficPercent must not be greater than 100")
        if canaries and self._mode(new) != "Standard":
            _deny("spec.canary is only supported in Standard deployment mode")
        for each in canaries:
            if not each["predictor"].get("name") or each["predictor"]["name"] == predictor.get("name"):
                _deny("a canary's predictor needs a name of its own")
            if each["predictor"].get("minReplicas", 1) > predictor.get("minReplicas", 1):
                _deny("a canary's minReplicas must not be greater than that of the stable predictor")
        return new

    # The controller

    def _mode(self, service: Object) -> str:
        names = {"RawDeployment": "Standard", "Serverless": "Knative"}
        said = _mode(service) or self.default_mode
        return names.get(said, said)

    def _reconcile(self, service: Object) -> None:
        if service["metadata"].get("annotations", {}).get(f"{SERVING}/stop") == "true":
            self._stop(service)
            return
        runtime = service["spec"]["predictor"].get("model", {}).get("runtime")
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        if runtime and not self.cluster.get("servingruntimes", runtime, namespace):
            message = f"specified runtime {runtime} is not supported or does not exist"
            self._report(service, {"reason": "RuntimeNotRecognized", "message": message})
            return
        if self._mode(service) == "Standard":
            wanted = dict(_predictors(service, with_canaries=self.knows_canary))
            for each in self.cluster.list("deployments", namespace):
                of = each["metadata"]["labels"].get(f"{SERVING}/inferenceservice")
                if of == name and each["metadata"]["name"] not in wanted:
                    self.cluster.remove("deployments", each["metadata"]["name"], namespace)
            (stable, predictor), *canaries = wanted.items()
            for child, canary in canaries:
                self._deploy(service, child, canary, _canary_pods(service, canary["name"]))
            counted = [each["name"] for child, each in canaries if self._counts(child, namespace)]
            beside = sum(_canary_pods(service, each) for each in counted)
            least = predictor.get("minReplicas", 1)
            self._deploy(service, stable, predictor, max(least - beside, 1) if canaries else least)
            if self.has_gateway:
                self._route(service, stable, counted)
        else:
            self._revise(service)
        self._report(service)

    def _stop(self, service: Object) -> None:
        """What was made for it goes; it stays (KServe 0.16)."""
        for plural in ("deployments", "revisions", "services.serving.knative.dev"):
            for each in self.cluster.list(plural, service["metadata"]["namespace"]):
                owners = each["metadata"].get("ownerReferences", [])
                if service["metadata"]["uid"] in {owner["uid"] for owner in owners}:
                    self.cluster.remove(plural, each["metadata"]["name"], service["metadata"]["namespace"])
        stopped = {"type": "Ready", "status": "False", "reason": "Stopped"}
        self._status_of(INFERENCE_SERVICES, service, {"conditions": [stopped], "deploymentMode": self._mode(service)})

    def _counts(self, child: str, namespace: str) -> bool:
        """Whether a canary takes pods from the stable predictor, and is in the route."""
        found = self.cluster.get("deployments", child, namespace)
        return not self.waits_for_canaries or bool(found and found.get("status", {}).get("availableReplicas"))

    def _deploy(self, service: Object, name: str, predictor: Object, least: int) -> None:
        """``least``: as predictor.go adjusts minReplicas, which it reads as the number of stable and canaries."""
        namespace, labels = service["metadata"]["namespace"], _labels(service, name)
        there = self.cluster.get("deployments", name, namespace)
        if there and service["metadata"].get("annotations", {}).get(f"{SERVING}/autoscalerClass") == "hpa":
            # The number is the autoscaler's, which keeps it between its bounds.
            least = max(least, min(there["spec"]["replicas"], predictor.get("maxReplicas", least)))
        spec = {
            "replicas": least,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": f"isvc.{name}"}},
            "template": _template(service, predictor, labels, self.disallowed),
        }
        metadata = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [_owner(service)]}
        if there is None:
            self.cluster.put("deployments", {"metadata": metadata, "spec": spec}, manager=_MANAGER)
        elif there["spec"] != spec:
            self.cluster.put("deployments", {**there, "spec": spec}, manager=_MANAGER)

    def _route(self, service: Object, stable: str, canaries: list[str]) -> None:
        """What each predictor gets of the requests; the stable one gets the rest."""
        of, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        shares = {
            f"{of}-{each['predictor']['name']}-predictor": each.get("trafficPercent", 0)
            for each in service["spec"].get("canary", [])
            if each["predictor"]["name"] in canaries
        }
        shares = {stable: 100 - sum(shares.values()), **shares}
        name = f"{of}-predictor"
        backends = [{"name": child, "port": 80, "weight": share} for child, share in shares.items()]
        spec = {"rules": [{"backendRefs": backends}]}
        there = self.cluster.get("httproutes", name, namespace)
        if there is None or there["spec"] != spec:
            metadata = {"name": name, "namespace": namespace, "ownerReferences": [_owner(service)]}
            self.cluster.put("httproutes", {"metadata": metadata, "spec": spec}, manager=_MANAGER)

    def _revise(self, service: Object) -> None:
        """One Revision for each template, and Knative's Service of them."""
        namespace, name = service["metadata"]["namespace"], f"{service['metadata']['name']}-predictor"
        predictor, labels = service["spec"]["predictor"], _labels(service, name)
        template = _template(service, predictor, labels, self.disallowed)
        mine = [each for each in self.cluster.list("revisions", namespace) if each["metadata"]["name"].startswith(name)]
        if mine and mine[-1]["spec"]["template"] == template:
            return
        metadata = {"name": f"{name}-{len(mine) + 1:05d}", "namespace": namespace, "labels": labels}
        metadata |= {"annotations": template["metadata"]["annotations"], "ownerReferences": [_owner(service)]}
        revision = {"metadata": metadata, "spec": {"template": template}}
        made = self.cluster.put("revisions", revision, manager="controller")
        self._status_of(REVISIONS, made, _ready("Unknown", "Deploying", ""))
        self.cluster.put("services.serving.knative.dev", {"metadata": {"name": name, "namespace": namespace}})

    def _report(self, service: Object, failure: Object | None = None) -> None:
        """The status of an InferenceService, out of what is below it."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        service = self.cluster.get("inferenceservices", name, namespace) or service
        status: Object = copy.deepcopy(service.get("status", {}))
        if failure is not None:
            status["modelStatus"] = {
                "transitionStatus": "InvalidSpec",
                "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
                "lastFailureInfo": failure,
            }
            status["conditions"] = [{"type": "Ready", "status": "False", "reason": failure["reason"]}]
        elif self._mode(service) == "Standard":
            self._report_deployments(service, status)
        else:
            self._report_revisions(service, status)
        status["deploymentMode"] = self._mode(service)
        self._status_of(INFERENCE_SERVICES, service, status)

    def _report_deployments(self, service: Object, status: Object) -> None:
        namespace = service["metadata"]["namespace"]
        (name, _), *canaries = _predictors(service, with_canaries=self.knows_canary)
        deployment = self.cluster.get("deployments", name, namespace)
        if deployment is None:
            return
        below = deployment.get("status", {})
        # The trap of kserve#6081: the child's, not its own.
        status["observedGeneration"] = below.get("observedGeneration", 0)
        # And that of kserve#4626: Available while the old pods serve, whatever becomes of the new ones.
        is_ready = bool(below.get("availableReplicas"))
        told = "True" if is_ready else "False"
        status["conditions"] = [{"type": kind, "status": told} for kind in ("IngressReady", "PredictorReady", "Ready")]
        status["modelStatus"] = self._model_status(status.get("modelStatus", {}), name, namespace, is_ready=is_ready)
        host = f"{service['metadata']['name']}-{namespace}.example.com"
        status |= {"url": f"http://{host}", "components": {"predictor": {"url": f"http://{name}.{namespace}"}}}
        before = {
            f"{service['metadata']['name']}-{each['name']}-predictor": each["modelStatus"]
            for each in status.pop("canaryStatuses", [])
        }
        if canaries:
            percents = [each.get("trafficPercent", 0) for each in service["spec"]["canary"]]
            found = [self.cluster.get("deployments", each, namespace) for each, _ in canaries]
            are_ready = [bool(each and each.get("status", {}).get("availableReplicas")) for each in found]
            status["canaryStatuses"] = [
                {
                    "name": predictor["name"],
                    "ready": ready,
                    "trafficPercent": percent,
                    "modelStatus": self._model_status(before.get(child, {}), child, namespace, is_ready=ready),
                }
                for (child, predictor), ready, percent in zip(canaries, are_ready, percents, strict=True)
            ]
            told = "True" if all(are_ready) else "False"
            status["conditions"].insert(0, {"type": "CanaryPredictorReady", "status": told})

    def _report_revisions(self, service: Object, status: Object) -> None:
        namespace, name = service["metadata"]["namespace"], f"{service['metadata']['name']}-predictor"
        mine = [each for each in self.cluster.list("revisions", namespace) if each["metadata"]["name"].startswith(name)]
        if not mine:
            return
        ready = [each["metadata"]["name"] for each in mine if _condition(each, "Ready").get("status") == "True"]
        latest = mine[-1]["metadata"]["name"]
        condition = _condition(mine[-1], "Ready")
        part = dict(status.get("components", {}).get("predictor", {}))
        part |= {"latestCreatedRevision": latest} | ({"latestReadyRevision": ready[-1]} if ready else {})
        percent = service["spec"]["predictor"].get("canaryTrafficPercent", 100)
        rolled_out = part.get("latestRolledoutRevision")
        if ready:
            rest = rolled_out if rolled_out not in {None, ready[-1]} and percent < 100 else None
            part["traffic"] = [{"revisionName": ready[-1], "latestRevision": True, "percent": percent if rest else 100}]
            if rest:
                part["traffic"].append({"revisionName": rest, "latestRevision": False, "percent": 100 - percent})
            elif rolled_out != ready[-1]:
                part["latestRolledoutRevision"] = ready[-1]
                part |= {"previousRolledoutRevision": rolled_out} if rolled_out else {}
        # kserve#5443: Unknown while the old revision serves.
        told = {"type": "Ready", "status": condition["status"]}
        told |= {key: condition[key] for key in ("reason", "message") if condition.get(key)}
        status["conditions"] = [{**told, "type": "PredictorReady"}, told]
        status["components"] = {"predictor": part}
        status["observedGeneration"] = len(mine)
        before = status.get("modelStatus", {})
        status["modelStatus"] = self._model_status(before, latest, namespace, is_ready=condition["status"] == "True")

    def _model_status(self, before: Object, child: str, namespace: str, *, is_ready: bool) -> Object:
        """As PropagateModelStatus (inference_service_status.go): of the newest pod alone, and what failed once stays.

        A download that failed is told at any time; a runtime that failed only while the service is not ready.
        """
        pods = [
            each
            for each in self.cluster.list("pods", namespace)
            if each["metadata"]["labels"]["app"] == f"isvc.{child}"
        ]
        newest = max(pods, key=lambda each: int(each["metadata"]["name"][-5:]), default=None)
        states = {key: value for key, value in before.get("states", {}).items() if key == "activeModelState"}
        last = {"lastFailureInfo": before["lastFailureInfo"]} if "lastFailureInfo" in before else {}
        failed = _failure_of(newest, is_ready=is_ready) if newest else None
        if failed:
            states["targetModelState"] = "FailedToLoad"
            return {"transitionStatus": "BlockedByFailedLoad", "states": states, "lastFailureInfo": failed}
        if is_ready:
            states = {"activeModelState": "Loaded", "targetModelState": "Loaded"}
            return {"transitionStatus": "UpToDate", "states": states, "copies": {"totalCopies": len(pods)}, **last}
        return {"transitionStatus": "InProgress", "states": {**states, "targetModelState": "Pending"}, **last}

    # What is below KServe

    def _roll(self, deployment: Object) -> None:
        """The Deployment controller: a new pod beside the old ones, which go when it is ready (25 % / 25 %)."""
        name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        pods = [
            each for each in self.cluster.list("pods", namespace) if each["metadata"]["labels"]["app"] == f"isvc.{name}"
        ]
        new = [each for each in pods if each["metadata"]["labels"]["pod-template-hash"] == _hash(deployment)]
        old = [each for each in pods if each not in new]
        if deployment.get("status", {}).get("observedGeneration") != deployment["metadata"]["generation"]:
            self._status_of(DEPLOYMENTS, deployment, _deployment_status(deployment, old=old, new=new))
            return
        wanted = deployment["spec"]["replicas"]
        for _ in range(wanted - len(new)):
            self._create_pod(
                deployment, f"{name}-{_hash(deployment)}-", deployment["spec"]["template"], _hash(deployment)
            )
        for pod in new[wanted:]:
            self.cluster.remove("pods", pod["metadata"]["name"], namespace)
        if len(new) >= wanted and all(_is_ready(pod) for pod in new):
            for pod in old:
                self.cluster.remove("pods", pod["metadata"]["name"], namespace)
        pods = [
            each for each in self.cluster.list("pods", namespace) if each["metadata"]["labels"]["app"] == f"isvc.{name}"
        ]
        new = [each for each in pods if each["metadata"]["labels"]["pod-template-hash"] == _hash(deployment)]
        old = [each for each in pods if each not in new]
        self._status_of(DEPLOYMENTS, deployment, _deployment_status(deployment, old=old, new=new))

    def _start(self, revision: Object) -> None:
        """Knative: one pod of a Revision, until it is ready once; then it scales as it likes."""
        name, namespace = revision["metadata"]["name"], revision["metadata"]["namespace"]
        pods = [
            each for each in self.cluster.list("pods", namespace) if each["metadata"]["labels"]["app"] == f"isvc.{name}"
        ]
        if not pods:
            template = copy.deepcopy(revision["spec"]["template"])
            template["metadata"]["labels"]["app"] = f"isvc.{name}"
            self._create_pod(revision, f"{name}-deployment-", template, "")
        elif _condition(revision, "Ready").get("status") == "Unknown" and any(map(_is_ready, pods)):
            self._status_of(REVISIONS, revision, _ready("True", "", ""))

    def _create_pod(self, owner: Object, prefix: str, template: Object, template_hash: str) -> None:
        metadata = {**copy.deepcopy(template["metadata"]), "name": self.cluster.generated(prefix)}
        metadata |= {"namespace": owner["metadata"]["namespace"], "ownerReferences": [_owner(owner)]}
        metadata["labels"]["pod-template-hash"] = template_hash
        pod = {"metadata": metadata, "spec": copy.deepcopy(template["spec"]), "status": {"phase": "Pending"}}
        self.cluster.put("pods", pod, manager="kube-controller-manager")

    def _run(self, pod: Object) -> None:
        """Scheduler and kubelet."""
        digest = (pod["metadata"].get("annotations") or {}).get("countersign/artifact-digest", "")
        outcome = self.outcomes.get(_uri(pod)) or self.outcomes.get(digest)
        if outcome is None:
            status = _pod_serves()
        elif outcome.place is Place.SCHEDULING:
            scheduled = {
                "type": "PodScheduled",
                "status": "False",
                "reason": outcome.reason,
                "message": outcome.message,
            }
            status = {"phase": "Pending", "conditions": [scheduled]}
        else:
            status = _pod_fails(outcome)
        self._status_of(PODS, pod, status)
        if outcome and outcome.message:
            self._tell(pod, outcome)

    def _tell(self, pod: Object, outcome: Outcome) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        reason = {Place.SCHEDULING: "FailedScheduling"}.get(outcome.place, "BackOff")
        if self.cluster.get("events", f"{name}.{reason.lower()}", namespace):
            return
        event = {
            "metadata": {"name": f"{name}.{reason.lower()}", "namespace": namespace},
            "involvedObject": {"kind": "Pod", "name": name, "namespace": namespace, "uid": pod["metadata"]["uid"]},
            "type": "Warning",
            "reason": reason,
            "message": outcome.message,
        }
        self.cluster.put("events", event, manager="kubelet")

    def _pods(self, namespace: str, service: str) -> list[Object]:
        label = f"{SERVING}/inferenceservice"
        return [
            each for each in self.cluster.list("pods", namespace) if each["metadata"]["labels"].get(label) == service
        ]

    def _status_of(self, resource: Resource, document: Object, status: Mapping[str, Any]) -> None:
        if document.get("status") != status:
            self.cluster.put(resource.full_name, {**document, "status": status}, manager=_MANAGER, subresource="status")


def _deny(why: str) -> None:
    webhook = "inferenceservice.kserve-webhook-server.validator"
    raise Refusal(403, f'admission webhook "{webhook}" denied the request: {why}')


def _keep_mode(old: Object | None, said: str) -> None:
    """As validateDeploymentMode: letter by letter, and KServe writes today's names into the status (kserve#5885)."""
    mode = (old or {}).get("status", {}).get("deploymentMode")
    if mode and said and said != mode:
        _deny(f"update rejected: deploymentMode cannot be changed from '{mode}' to '{said}'")


def _mode(service: Object) -> str:
    return str(service["metadata"].get("annotations", {}).get(MODE, ""))


def _predictors(service: Object, *, with_canaries: bool) -> Iterator[tuple[str, Object]]:
    """Each with the name of its Deployment: the stable one first."""
    canaries = service["spec"].get("canary", []) if with_canaries else []
    for predictor in (service["spec"]["predictor"], *(each["predictor"] for each in canaries)):
        middle = f"-{predictor['name']}" if predictor.get("name") else ""
        yield f"{service['metadata']['name']}{middle}-predictor", predictor


def _canary_pods(service: Object, name: str) -> int:
    """As canaryReplicaCount (predictor.go): what it says, or its share of the stable ones."""
    canary = next(each for each in service["spec"]["canary"] if each["predictor"]["name"] == name)
    share = math.ceil(service["spec"]["predictor"].get("minReplicas", 1) * canary.get("trafficPercent", 0) / 100)
    return int(canary["predictor"].get("minReplicas", share))


def _labels(service: Object, child: str) -> dict[str, str]:
    of = {f"{SERVING}/inferenceservice": service["metadata"]["name"], "component": "predictor"}
    return {"app": f"isvc.{child}", **of}


def _template(service: Object, predictor: Object, labels: Mapping[str, str], disallowed: set[str]) -> Object:
    """Annotations and labels of the service and of the predictor reach the pods: each change of one rolls them."""

    def passed(of: Mapping[str, str] | None) -> dict[str, str]:
        kept = ((key, value) for key, value in (of or {}).items() if key not in disallowed)
        return {key: value for key, value in kept if not key.startswith(_NOT_PASSED_ON)}

    metadata, model = service["metadata"], predictor.get("model", {})
    annotations = passed(metadata.get("annotations")) | passed(predictor.get("annotations"))
    more = passed(metadata.get("labels")) | passed(predictor.get("labels"))
    initializer = {"name": Place.DOWNLOAD.value, "args": [model.get("storageUri", ""), "/mnt/models"]}
    container = {"name": Place.RUNTIME.value, "resources": model.get("resources", {}), "env": model.get("env", [])}
    spec = {"initContainers": [initializer], "containers": [container]}
    account = predictor.get("serviceAccountName")
    return {
        "metadata": {"annotations": annotations, "labels": {**more, **labels}},
        "spec": {**spec, **({"serviceAccountName": account} if account else {})},
    }


def _uri(pod: Object) -> str:
    return str(pod["spec"]["initContainers"][0]["args"][0])


def _hash(deployment: Object) -> str:
    return hashlib.sha256(json.dumps(deployment["spec"]["template"], sort_keys=True).encode()).hexdigest()[:9]


def _owner(document: Object) -> Object:
    said = {"apiVersion": document["apiVersion"], "kind": document["kind"], "controller": True}
    return {**said, "name": document["metadata"]["name"], "uid": document["metadata"]["uid"]}


def _condition(document: Object, kind: str) -> Object:
    found = document.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


def _ready(status: str, reason: str, message: str) -> Object:
    more = {key: value for key, value in (("reason", reason), ("message", message)) if value}
    return {"conditions": [{"type": "Ready", "status": status, **more}]}


def _is_ready(pod: Object) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def _failure_of(pod: Object, *, is_ready: bool) -> Object | None:
    """What its containers failed by, as KServe finds it: in a crash loop, and what else it looks at."""
    found = pod["status"].get("initContainerStatuses", [])
    for each in found if is_ready else [*found, *pod["status"].get("containerStatuses", [])]:
        if end := each.get("lastState", {}).get("terminated"):
            return {"reason": "ModelLoadFailed", "message": end.get("message", ""), "exitCode": end["exitCode"]}
    return None


def _is_complete(deployment: Object) -> bool:
    return _condition(deployment, "Progressing").get("reason") == "NewReplicaSetAvailable"


def _deployment_status(
    deployment: Object,
    *,
    old: list[Object] | None = None,
    new: list[Object] | None = None,
    message_of_deadline: str = "",
) -> Object:
    """As the Deployment controller sums up the pods; by a deadline that passed, the same with its reason."""
    before = deployment.get("status", {})
    wanted = deployment["spec"]["replicas"]
    if message_of_deadline:
        failed = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        others = [each for each in before.get("conditions", []) if each["type"] != "Progressing"]
        observed = {"observedGeneration": deployment["metadata"]["generation"]}
        return {**before, **observed, "conditions": [*others, {**failed, "message": message_of_deadline}]}
    old, new = old or [], new or []
    available = [pod for pod in old + new if _is_ready(pod)]
    is_complete = len(new) == wanted and not old and len(available) == wanted
    progressing = {"type": "Progressing", "status": "True"}
    progressing["reason"] = "NewReplicaSetAvailable" if is_complete else "ReplicaSetUpdated"
    is_same = before.get("observedGeneration") == deployment["metadata"]["generation"]
    if is_same and not is_complete and _condition(deployment, "Progressing").get("status") == "False":
        progressing = _condition(deployment, "Progressing")
    is_available = len(available) >= max(1, wanted) or (wanted > 1 and len(available) * 4 >= wanted * 3)
    counts = {
        "replicas": len(old) + len(new),
        "updatedReplicas": len(new),
        "readyReplicas": len(available),
        "availableReplicas": len(available),
        "unavailableReplicas": max(0, max(wanted, len(old) + len(new)) - len(available)),
    }
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        **{name: value for name, value in counts.items() if value},
        "conditions": [{"type": "Available", "status": "True" if is_available or not wanted else "False"}, progressing],
    }


def _pod_serves() -> Object:
    done = {
        "name": Place.DOWNLOAD.value,
        "ready": True,
        "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
    }
    return {
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "initContainerStatuses": [done],
        "containerStatuses": [
            {"name": Place.RUNTIME.value, "ready": True, "restartCount": 0, "state": {"running": {}}}
        ],
    }


def _pod_fails(outcome: Outcome) -> Object:
    status: Object = {"name": outcome.place.value, "ready": False, "restartCount": 0}
    if outcome.exit_code is None:
        waiting = {"reason": outcome.reason, **({"message": outcome.message} if outcome.message else {})}
        status["state"] = {"waiting": waiting}
    else:
        end = {"exitCode": outcome.exit_code, "reason": outcome.reason}
        status |= {"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        status["lastState"] = {"terminated": {**end, **({"message": outcome.message} if outcome.message else {})}}
    where = "initContainerStatuses" if outcome.place is Place.DOWNLOAD else "containerStatuses"
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
    return {
        "phase": "Pending" if outcome.place is Place.DOWNLOAD else "Running",
        "conditions": conditions,
        where: [status],
    }

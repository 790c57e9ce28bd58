"""The API server: Kubernetes' HTTP API over stored objects, for the clients that a deployer uses.

It does what https://kubernetes.io/docs/reference/using-api/api-concepts/ says; README.md tells what it leaves out.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import itertools
import json
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any, NoReturn

import jsonpatch
import trustme
import yaml
from aiohttp import web

from tests.deployers.kserve.simulator import fields, schemas
from tests.deployers.kserve.simulator.access import EVERYTHING, EVERYWHERE, Account, Act, Rule
from tests.deployers.kserve.simulator.objects import Expired, Matches, Object, Objects, Resource, Write

Admission = Callable[[str, Resource, Object, Object | None], Object]
"""A webhook: the operation, the new object and the old one give the object as it may be stored; else ``Refusal``."""

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, is_custom=False)
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    503: "ServiceUnavailable",
}
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_MOST_ANNOTATIONS = 256 * 1024
"""Bytes."""
_PAGE = 500
_WATCH_S = 300
_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")


class Refusal(Exception):
    """An answer that is no 200, as a ``Status``."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        causes: Iterable[Mapping[str, str]] = (),
        **details: Any,
    ) -> None:
        super().__init__(message)
        causes = list(causes)
        details = {**details, **({"causes": causes} if causes else {})}
        self.code, reason = code, _REASONS.get(code, "") if reason is None else reason
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({"details": details} if details else {}),
            "code": code,
        }


@dataclass(slots=True)
class Cluster:
    """A cluster with an API server, for tests: what they say here happens as if others in the cluster had done it."""

    url: str = ""
    certificate: bytes = b""
    objects: Objects = field(default_factory=Objects)
    accounts: list[Account] = field(default_factory=list)
    webhooks: list[Admission] = field(default_factory=list)
    is_away: bool = False
    """Answer 503 to everything."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each call."""
    version: str = "v1.33.0"
    _resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    _names: Iterable[int] = field(default_factory=lambda: itertools.count(1))

    def serve(self, *resources: Resource) -> None:
        """Register kinds of objects, as a CustomResourceDefinition does."""
        for each in resources:
            self._resources[each.group, each.version, each.plural] = each

    def resource(self, plural: str) -> Resource:
        """By its plural; the full name (``services.serving.knative.dev``) where two have one."""
        return next(each for each in self._resources.values() if plural in {each.plural, each.full_name})

    def namespace(self, name: str) -> None:
        self.put("namespaces", {"metadata": {"name": name}})

    def account(
        self, name: str, rules: Mapping[str, Sequence[Rule]] | None = None, *, token_file: Path | None = None
    ) -> Account:
        """Somebody who may do what the rules allow, by namespace; without rules, everything."""
        given = {EVERYWHERE: [EVERYTHING]} if rules is None else {where: list(each) for where, each in rules.items()}
        account = Account(name, given, token_file=token_file)
        self.accounts.append(account)
        return account

    def kubeconfig(self, account: Account, namespace: str = "default") -> dict[str, Any]:
        """As a document; write it down as YAML for kubectl."""
        authority = base64.b64encode(self.certificate).decode()
        user = {"tokenFile": str(account.token_file)} if account.token_file else {"token": account.token}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "who", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "who", "namespace": namespace}}],
            "current-context": "it",
        }

    def get(self, plural: str, name: str, namespace: str = "") -> Object | None:
        return self.objects.get(self.resource(plural), namespace, name)

    def list(self, plural: str, namespace: str = "") -> list[Object]:
        return self.objects.list(self.resource(plural), namespace)

    def put(
        self,
        plural: str,
        document: Mapping[str, Any],
        *,
        manager: str = "kube-controller-manager",
        subresource: str = "",
    ) -> Object:
        """Create or replace, as something else in the cluster would: no admission, no conflict; ``manager`` owns it."""
        resource, new = self.resource(plural), copy.deepcopy(dict(document))
        namespace = new["metadata"].get("namespace", "")
        old = self.objects.get(resource, namespace, new["metadata"]["name"])
        change = _Change(self, resource, namespace, new["metadata"]["name"], manager=manager, subresource=subresource)
        return change.store(old, _completed(resource, old, new, subresource))

    def patch(self, plural: str, name: str, change: Mapping[str, Any], namespace: str = "", **more: str) -> Object:
        """Merge something into an object (RFC 7396), as something else in the cluster would."""
        old = self.objects.get(self.resource(plural), namespace, name)
        assert old is not None, f"there is no {plural} {name}"
        return self.put(plural, _merge_patched(old, change), **more)

    def remove(self, plural: str, name: str, namespace: str = "") -> None:
        """Gone at once, with all that it owned."""
        self.collect(self.objects.remove(self.resource(plural), namespace, name))

    def collect(self, owner: Object) -> None:
        """What an object owned goes with it, as the garbage collector does."""
        for resource, each in self.objects.all():
            metadata = each["metadata"]
            place = metadata.get("namespace", ""), metadata["name"]
            owners = {reference.get("uid") for reference in metadata.get("ownerReferences", [])}
            if owner["metadata"]["uid"] in owners and self.objects.get(resource, *place):
                self.collect(self.objects.remove(resource, *place))

    # HTTP

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any call."""
        self.seen.append((request.method, request.path))
        if self.is_away:
            status = Refusal(503, "the server is currently unable to handle the request").status
            return _json(status, status=503)
        try:
            if request.path in {"/livez", "/readyz", "/healthz"}:
                return web.Response(text="ok")
            account = self._account_of(request)
            if request.content_type == "application/vnd.kubernetes.protobuf":
                raise Refusal(415, "the simulator reads JSON and YAML")  # noqa: TRY301  # where all refusals are answered
            if found := _discovery(self, request.path):
                return _json(found)
            if request.path == _REVIEWS:
                return _json(_review(account, await request.json()), status=201)
            return await _Call(self, request, account).answer()
        except Refusal as refusal:
            return _json(refusal.status, status=refusal.code)
        except Expired:
            return _json(_expired().status, status=410)

    def resources(self) -> Sequence[Resource]:
        return tuple(self._resources.values())

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def generated(self, prefix: str) -> str:
        return f"{prefix}{next(iter(self._names)):05d}"

    def _account_of(self, request: web.BaseRequest) -> Account:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        for account in self.accounts:
            if scheme == "Bearer" and token == account.token:
                return account
        raise Refusal(401, "Unauthorized")


@asynccontextmanager
async def running(*resources: Resource) -> AsyncIterator[Cluster]:
    """A cluster that listens on this machine, with TLS as a real one."""
    authority = trustme.CA()
    context = SSLContext(PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    cluster = Cluster(certificate=authority.cert_pem.bytes())
    cluster.serve(NAMESPACES, *resources)
    cluster.namespace("default")
    runner = web.ServerRunner(web.Server(cluster.answer), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    cluster.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield cluster
    finally:
        cluster.objects.break_watches()
        await runner.cleanup()


@dataclass(slots=True)
class _Change:
    """One write: by whom, of what, and how it is to be checked."""

    cluster: Cluster
    resource: Resource
    namespace: str
    name: str
    manager: str
    subresource: str = ""
    validation: str = "Strict"
    is_dry: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def schema(self) -> fields.Schema:
        declared = self.resource.schema or fields.ANYTHING
        properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, **declared.get("properties", {})}
        return {**declared, "properties": {**properties, "metadata": fields.META}}

    def store(self, old: Object | None, new: Object, owners: fields.Owners | None = None) -> Object:
        """Store what changed; nothing, if nothing did."""
        if old is not None and owners is None and _without_bookkeeping(old) == _without_bookkeeping(new):
            return old
        if owners is None:
            before = fields.owners_from(old["metadata"].get("managedFields", [])) if old else {}
            writer = fields.Manager(self.manager, "Update", self.resource.api_version, self.subresource)
            owners = fields.updated(old or {}, new, self.schema, before, writer, _now())
        new["metadata"]["managedFields"] = fields.entries_of(owners)
        if old is None:
            new["metadata"]["generation"] = 1
        elif old != new:
            generation = old["metadata"].get("generation", 1)
            new["metadata"]["generation"] = generation + (_desired(self.resource, old) != _desired(self.resource, new))
        if old == new or self.is_dry:
            return new
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            self.cluster.objects.put(self.resource, new)
            gone = self.cluster.objects.remove(self.resource, self.namespace, self.name)
            self.cluster.collect(gone)
            return gone
        return self.cluster.objects.put(self.resource, new)

    def checked(self, operation: str, old: Object | None, new: Object) -> Object:
        """What will be stored. Raises ``Refusal``: it is invalid, or a webhook denies it."""
        for webhook in self.cluster.webhooks:
            new = webhook(operation, self.resource, copy.deepcopy(new), old)
        wrong = [*_wrong_metadata(new), *schemas.mistyped(new, self.schema), *schemas.invalid(new, self.schema)]
        if wrong:
            self.refuse_invalid(wrong)
        return new

    def refuse_invalid(self, wrong: Sequence[schemas.Wrong]) -> NoReturn:
        causes = [
            {"reason": each.reason, "message": each.message.partition(": ")[2], "field": each.field} for each in wrong
        ]
        told = [each.message for each in wrong]
        message = f'{self.resource.kind}.{self.resource.group} "{self.name}" is invalid: '
        message += told[0] if len(told) == 1 else f"[{', '.join(told)}]"
        raise Refusal(422, message, causes=causes, name=self.name, group=self.resource.group, kind=self.resource.kind)

    def pruned(self, document: Object) -> Object:
        """Without unknown fields, as ``fieldValidation`` says. Raises ``Refusal``."""
        found = [f'unknown field "{each.lstrip(".")}"' for each in schemas.unknown(document, self.schema)]
        if found and self.validation == "Strict":
            raise Refusal(400, f"strict decoding error: {', '.join(found)}")
        if self.validation == "Warn":
            self.warnings += found
        pruned: Object = schemas.prune(document, self.schema)
        return pruned

    def check_typed(self, config: Object) -> None:
        """A server-side apply of what the schema does not have fails here, and with 500: kubernetes#122480, still open.

        Raises:
            Refusal: a field is unknown, or has another type.
        """
        found = [f"{each}: field not declared in schema" for each in schemas.unknown(config, self.schema)]
        wrong = schemas.mistyped(config, self.schema)
        found += [f".{each.field}: expected another type: {each.message.partition(': ')[2]}" for each in wrong]
        if found:
            who = f"{self.namespace}/{self.name}; {self.resource.api_version}, Kind={self.resource.kind}"
            told = found[0] if len(found) == 1 else "errors:\n" + "\n".join(f"  {each}" for each in found)
            raise Refusal(500, f"failed to create typed patch object ({who}): {told}", reason="")


class _Call:
    """One call about objects."""

    def __init__(self, cluster: Cluster, request: web.BaseRequest, account: Account) -> None:
        self.cluster, self.request, self.account, self.query = cluster, request, account, request.query
        parts = request.path.strip("/").split("/")
        if parts[0] not in {"api", "apis"}:
            self._no_path()
        (group, version), rest = (("", parts[1]), parts[2:]) if parts[0] == "api" else (tuple(parts[1:3]), parts[3:])
        self.namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
            self.namespace, rest = rest[1], rest[2:]
        resource = cluster.find(group, version, rest[0])
        if resource is None or len(rest) > 3:
            self._no_path()
        self.resource = resource
        self.name, self.subresource = [*rest[1:], "", ""][:2]
        if self.subresource and not (self.subresource == "status" and resource.has_status):
            self._no_path()

    def _no_path(self) -> NoReturn:
        raise Refusal(404, "the server could not find the requested resource")

    async def answer(self) -> web.StreamResponse:
        method, watches = self.request.method, self.query.get("watch") in {"1", "true", "True"}
        if method in {"GET", "HEAD"} and (watches or not self.name):
            verb = "watch" if watches else "list"
        elif method == "DELETE" and not self.name:
            verb = "deletecollection"
        else:
            verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
            verb = verbs.get(method, method.lower())
        self.check_may(verb)
        if verb == "watch":
            return await self.watch()
        if verb in {"list", "get"}:
            return _json(self.list() if verb == "list" else self.found())
        change = self.change()
        if verb == "create" and not self.name:
            code, document = 201, self.created(change, _document(await self.request.read()))
        elif verb == "update":
            code, document = 200, self.replaced(change, _document(await self.request.read()))
        elif verb == "patch":
            code, document = await self.patched(change)
        elif verb == "delete":
            code, document = 200, self.deleted(change, _document(await self.request.read() or b"{}"))
        else:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        answer = _json(document, status=code)
        for warning in change.warnings:
            answer.headers.add("Warning", f"299 - {json.dumps(warning)}")
        return answer

    def check_may(self, verb: str) -> None:
        """Raises ``Refusal``: no rule of this account's allows it."""
        resource = "/".join(filter(None, [self.resource.plural, self.subresource]))
        if self.account.may(Act(verb, self.resource.group, resource), self.namespace, self.name):
            return
        where = f' in the namespace "{self.namespace}"' if self.namespace else " at the cluster scope"
        what = f'resource "{resource}" in API group "{self.resource.group}"'
        raise Refusal(
            403,
            f"{self.resource.full_name}{f' {json.dumps(self.name)}' if self.name else ''} is forbidden: "
            f'User "{self.account.name}" cannot {verb} {what}{where}',
            name=self.name,
            group=self.resource.group,
            kind=self.resource.plural,
        )

    def change(self) -> _Change:
        agent = self.request.headers.get("User-Agent", "unknown").partition("/")[0]
        manager = self.query.get("fieldManager") or agent
        return _Change(
            self.cluster,
            self.resource,
            self.namespace,
            self.name,
            manager,
            self.subresource,
            self.query.get("fieldValidation") or "Warn",
            self.query.get("dryRun") == "All",
        )

    def found(self) -> Object:
        """Raises ``Refusal``: there is none."""
        found = self.cluster.objects.get(self.resource, self.namespace, self.name)
        if found is None:
            raise Refusal(
                404,
                f'{self.resource.full_name} "{self.name}" not found',
                name=self.name,
                group=self.resource.group,
                kind=self.resource.plural,
            )
        return found

    def _matches(self) -> Matches:
        return _selector(self.query.get("labelSelector", ""), self.query.get("fieldSelector", ""))

    def list(self) -> Object:
        """A page of them; the next one is of the same moment only if nothing was written in between."""
        items = [each for each in self.cluster.objects.list(self.resource, self.namespace) if self._matches()(each)]
        start, limit = 0, int(self.query.get("limit") or 0)
        revision = self.cluster.objects.revision
        if token := self.query.get("continue"):
            revision, start = json.loads(base64.urlsafe_b64decode(token))
            self.cluster.objects.check_known(revision)
        metadata = {"resourceVersion": str(revision)}
        if limit and len(items) > start + limit:
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps([revision, start + limit]).encode()).decode()
            metadata["remainingItemCount"] = len(items) - start - limit  # type: ignore[assignment]
        items = items[start : start + limit] if limit else items[start:]
        kind = {"apiVersion": self.resource.api_version, "kind": f"{self.resource.kind}List"}
        return {**kind, "metadata": metadata, "items": items}

    async def watch(self) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        await stream.prepare(self.request)
        # Who watches may be gone at any moment.
        async with aclosing(self._watched()) as watched:
            with suppress(ConnectionResetError):
                async for kind, document in watched:
                    await stream.write(json.dumps({"type": kind, "object": document}).encode() + b"\n")
        return stream

    async def _watched(self) -> AsyncGenerator[tuple[str, Object]]:
        """What happens, until the time of this watch is over or its past is forgotten."""
        matches, objects, name = self._matches(), self.cluster.objects, self.name
        after = int(self.query.get("resourceVersion") or 0)

        def is_meant(each: Object) -> bool:
            return matches(each) and name in {"", each["metadata"]["name"]}

        try:
            async with asyncio.timeout(float(self.query.get("timeoutSeconds") or _WATCH_S)):
                if not after:
                    after = objects.revision
                    for each in filter(is_meant, objects.list(self.resource, self.namespace)):
                        yield "ADDED", each
                async for write in objects.follow(after):
                    after = write.revision
                    if write.resource == self.resource and (told := _told(write, self.namespace, is_meant)):
                        yield told
        except Expired:
            yield "ERROR", _expired(after, objects.revision).status
        except TimeoutError:
            if self.query.get("allowWatchBookmarks") in {"1", "true", "True"}:
                kind = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
                yield "BOOKMARK", {**kind, "metadata": {"resourceVersion": str(objects.revision)}}

    def created(self, change: _Change, document: Object) -> Object:
        metadata = document.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self.cluster.generated(metadata["generateName"])
        self.name = change.name = metadata.get("name", "")
        self._check_place(document)
        if metadata.get("resourceVersion"):
            raise Refusal(500, "resourceVersion should not be set on objects to be created", reason="")
        if self.cluster.objects.get(self.resource, self.namespace, self.name):
            raise Refusal(
                409,
                f'{self.resource.full_name} "{self.name}" already exists',
                reason="AlreadyExists",
                name=self.name,
                group=self.resource.group,
                kind=self.resource.plural,
            )
        return self._create(change, change.pruned(document))

    def _create(self, change: _Change, document: Object, owners: fields.Owners | None = None) -> Object:
        if self.namespace and not self.cluster.objects.get(NAMESPACES, "", self.namespace):
            raise Refusal(404, f'namespaces "{self.namespace}" not found', name=self.namespace, kind="namespaces")
        document["metadata"].setdefault("namespace", self.namespace)
        new = _completed(self.resource, None, document, self.subresource)
        return change.store(None, change.checked("CREATE", None, new), owners)

    def replaced(self, change: _Change, document: Object) -> Object:
        old = self.found()
        document.setdefault("metadata", {})
        self._check_place(document)
        if self.resource.is_custom and not document["metadata"].get("resourceVersion"):
            field = "metadata.resourceVersion"
            message = f"{field}: Invalid value: 0x0: must be specified for an update"
            change.refuse_invalid([schemas.Wrong(field, "FieldValueInvalid", message)])
        return self._replace(change, old, change.pruned(document))

    def _replace(self, change: _Change, old: Object, new: Object, owners: fields.Owners | None = None) -> Object:
        said = new["metadata"]
        if said.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            self._conflict(
                f"Precondition failed: UID in precondition: {said['uid']}, UID in object meta: {old['metadata']['uid']}"
            )
        if said.get("resourceVersion") not in {None, "", old["metadata"]["resourceVersion"]}:
            self._conflict(
                "the object has been modified; please apply your changes to the latest version and try again"
            )
        new = _completed(self.resource, old, new, self.subresource)
        return change.store(old, change.checked("UPDATE", old, new), owners)

    def _conflict(self, why: str) -> NoReturn:
        raise Refusal(
            409,
            f'Operation cannot be fulfilled on {self.resource.full_name} "{self.name}": {why}',
            name=self.name,
            group=self.resource.group,
            kind=self.resource.plural,
        )

    async def patched(self, change: _Change) -> tuple[int, Object]:
        body, kind = await self.request.read(), self.request.content_type
        if kind not in _PATCHES:
            accepted = ", ".join(_PATCHES)
            raise Refusal(
                415, f"the body of the request was in an unknown format - accepted media types include: {accepted}"
            )
        if kind == "application/apply-patch+yaml":
            return self.applied(change, _document(body))
        old = self.found()
        if kind == "application/merge-patch+json":
            new = _merge_patched(old, _document(body))
        else:
            try:
                new = jsonpatch.apply_patch(old, json.loads(body))
            except (jsonpatch.JsonPatchConflict, jsonpatch.JsonPatchTestFailed) as error:
                raise Refusal(422, f"the server rejected our request due to an error in our request: {error}") from None
            except (jsonpatch.JsonPatchException, ValueError) as error:
                raise Refusal(400, f"error decoding patch: {error}") from None
        self._check_place(new)
        return 200, self._replace(change, old, change.pruned(new))

    def applied(self, change: _Change, config: Object) -> tuple[int, Object]:
        """Server-side apply."""
        if not self.query.get("fieldManager"):
            message = "fieldManager: Required value: is required for apply patch"
            causes = [{"reason": "FieldValueRequired", "message": message.partition(": ")[2], "field": "fieldManager"}]
            raise Refusal(422, f'PatchOptions.meta.k8s.io "" is invalid: {message}', causes=causes)
        metadata = config.setdefault("metadata", {})
        if metadata.get("managedFields"):
            raise Refusal(400, "metadata.managedFields must be nil")
        self._check_place(config)
        old = self.cluster.objects.get(self.resource, self.namespace, self.name)
        if old is None:
            if self.subresource:
                self.found()
            self.check_may("create")
            if metadata.get("uid") or metadata.get("resourceVersion"):
                self._conflict("the object that is meant is not there")
        change.check_typed(config)
        subject = {name: value for name, value in config.items() if name in _reach(self.resource, self.subresource)}
        subject["metadata"] = {
            name: value for name, value in metadata.items() if name not in {"uid", "resourceVersion"}
        }
        writer = fields.Manager(change.manager, "Apply", self.resource.api_version, self.subresource)
        owners = fields.owners_from(old["metadata"].get("managedFields", [])) if old else {}
        live = {name: value for name, value in (old or {}).items() if name != "metadata"}
        live["metadata"] = {
            name: value for name, value in (old or {}).get("metadata", {}).items() if name != "managedFields"
        }
        try:
            new, owners = fields.applied(
                live, subject, change.schema, owners, writer, _now(), force=self.query.get("force") == "true"
            )
        except fields.Conflicts as conflicts:
            raise _field_conflict(conflicts) from None
        # What defaulting and webhooks add is found by them to be theirs, in Kubernetes; here nobody owns it.
        new = change.pruned(new)
        if old is None:
            return 201, self._create(change, new, owners)
        said = {name: metadata[name] for name in ("uid", "resourceVersion") if name in metadata}
        new["metadata"] = {**new["metadata"], **said}
        return 200, self._replace(change, old, new, owners)

    def deleted(self, change: _Change, options: Object) -> Object:
        old = self.found()
        for name, value in options.get("preconditions", {}).items():
            if old["metadata"].get(name) != value:
                told = {"uid": "UID", "resourceVersion": "ResourceVersion"}[name]
                is_now = old["metadata"].get(name)
                self._conflict(f"Precondition failed: {told} in precondition: {value}, {told} in object meta: {is_now}")
        if change.is_dry or options.get("dryRun"):
            return old
        if old["metadata"].get("finalizers"):
            new = copy.deepcopy(old)
            new["metadata"].setdefault("deletionTimestamp", _now())
            new["metadata"].setdefault("deletionGracePeriodSeconds", 0)
            return self.cluster.objects.put(self.resource, new)
        gone = self.cluster.objects.remove(self.resource, self.namespace, self.name)
        if options.get("propagationPolicy", self.query.get("propagationPolicy")) != "Orphan":
            self.cluster.collect(gone)
        details = {
            "name": self.name,
            "group": self.resource.group,
            "kind": self.resource.plural,
            "uid": gone["metadata"]["uid"],
        }
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _check_place(self, document: Object) -> None:
        """Raises ``Refusal``: the document is of another kind, or of another place, than the path says."""
        kind = document.get("apiVersion"), document.get("kind")
        if kind != (self.resource.api_version, self.resource.kind):
            raise Refusal(
                400,
                f"the API version in the data ({kind[0]}, Kind={kind[1]}) does not match the expected API version "
                f"({self.resource.api_version}, Kind={self.resource.kind})",
            )
        said = document["metadata"]
        if said.get("name", self.name) != self.name:
            raise Refusal(
                400, f"the name of the object ({said.get('name')}) does not match the name on the URL ({self.name})"
            )
        if said.get("namespace", self.namespace) != self.namespace:
            raise Refusal(400, "the namespace of the provided object does not match the namespace sent on the request")


def _field_conflict(conflicts: fields.Conflicts) -> Refusal:
    found = conflicts.found
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": fields.text_of(path)}
        for manager, path in found
    ]
    if len(found) == 1:
        message = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {fields.text_of(found[0][1])}"
    else:
        lines = []
        for manager, group in itertools.groupby(found, key=lambda each: each[0]):
            lines += [f"conflicts with {manager}:", *(f"- {fields.text_of(path)}" for _, path in group)]
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return Refusal(409, message, causes=causes)


def _expired(after: int | None = None, now: int | None = None) -> Refusal:
    more = f": {after} ({now})" if after is not None else ""
    return Refusal(410, f"too old resource version{more}")


def _reach(resource: Resource, subresource: str) -> set[str]:
    """What a write may change, of the top level: with a status subresource, the one or the other."""
    every = {"apiVersion", "kind", "metadata"}
    if subresource == "status":
        return every | {"status"}
    return _Everything() if not resource.has_status else _Everything({"status"})


class _Everything(set[str]):
    """Every name but some."""

    def __init__(self, but: Iterable[str] = ()) -> None:
        super().__init__()
        self._but = set(but)

    def __contains__(self, name: object) -> bool:
        return name not in self._but


def _completed(resource: Resource, old: Object | None, new: Object, subresource: str) -> Object:
    """With what the API server sets itself, and without what this write may not change."""
    new = copy.deepcopy(new)
    if old is None:
        kept = {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
    else:
        names = ("uid", "creationTimestamp", "generation", "resourceVersion", "managedFields", "deletionTimestamp")
        kept = {name: old["metadata"][name] for name in names if name in old["metadata"]}
        if subresource == "status":
            new = {**copy.deepcopy(old), **({"status": new["status"]} if "status" in new else {})}
        elif resource.has_status:
            new.pop("status", None)
            new |= {"status": copy.deepcopy(old["status"])} if "status" in old else {}
    new["metadata"] = {**new["metadata"], **kept}
    if old is None and resource.has_status and resource.is_custom and not subresource:
        new.pop("status", None)
    return {"apiVersion": resource.api_version, "kind": resource.kind, **new}


def _desired(resource: Resource, document: Object) -> Object:
    """What ``generation`` counts the changes of."""
    if resource.is_custom:
        dropped = {"metadata", "status"} if resource.has_status else {"metadata"}
        return {name: value for name, value in document.items() if name not in dropped}
    return {"spec": document.get("spec")}


def _without_bookkeeping(document: Object) -> Object:
    metadata = {
        name: value for name, value in document["metadata"].items() if name not in {"managedFields", "generation"}
    }
    return {**document, "metadata": metadata}


def _wrong_metadata(document: Object) -> list[schemas.Wrong]:
    metadata = document["metadata"]
    name, labels = metadata.get("name", ""), metadata.get("labels") or {}
    bad_labels = [
        value
        for value in labels.values()
        if isinstance(value, str) and not (_LABEL.fullmatch(value) and len(value) <= 63)
    ]
    size = sum(len(f"{key}{value}".encode()) for key, value in (metadata.get("annotations") or {}).items())
    found = []
    if not _DNS_NAME.fullmatch(name) or len(name) > 253:
        rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        found.append(("name", "Invalid", f'Invalid value: "{name}": {rule}'))
    for value in bad_labels:
        rule = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
        found.append(("labels", "Invalid", f'Invalid value: "{value}": {rule}'))
    if size > _MOST_ANNOTATIONS:
        found.append(("annotations", "TooLong", f"Too long: may not be more than {_MOST_ANNOTATIONS} bytes"))
    return [
        schemas.Wrong(f"metadata.{field}", f"FieldValue{reason}", f"metadata.{field}: {message}")
        for field, reason, message in found
    ]


def _merge_patched(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for name, item in patch.items():
        if item is None:
            result.pop(name, None)
        else:
            result[name] = _merge_patched(result.get(name), item)
    return result


def _document(body: bytes) -> Object:
    try:
        document = yaml.safe_load(body)
    except yaml.YAMLError as error:
        raise Refusal(400, f"error decoding: {error}") from None
    if not isinstance(document, dict):
        raise Refusal(400, "the body is no object")
    return document


def _selector(labels: str, of_fields: str) -> Matches:
    """Label selectors by equality and by set; field selectors on any path.  Raises ``Refusal``."""
    terms = re.split(r",(?![^(]*\))", labels) if labels else []
    tests = [_label_term(term.strip()) for term in terms]
    tests += [_field_term(term) for term in of_fields.split(",") if term]
    return lambda each: all(test(each) for test in tests)


def _field_term(term: str) -> Matches:
    path, sign, wanted = re.split(r"(==|!=|=)", term, maxsplit=1)

    def matches(each: Object) -> bool:
        value: Any = each
        for name in path.split("."):
            value = value.get(name, "") if isinstance(value, dict) else ""
        return (str(value) == wanted) is (sign != "!=")

    return matches


def _label_term(term: str) -> Matches:
    def labels(each: Object) -> Mapping[str, str]:
        return each["metadata"].get("labels") or {}

    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", term):
        key, sign, values = found[1], found[2], {value.strip() for value in found[3].split(",")}
        return lambda each: (labels(each).get(key) in values) is (sign == "in")
    if found := re.fullmatch(r"([^=!\s]+)\s*(==|=|!=)\s*(\S*)", term):
        key, sign, value = found.groups()
        return lambda each: (labels(each).get(key) == value) is (sign != "!=")
    if re.fullmatch(r"!?[^\s=!(),]+", term):
        return lambda each: (term.lstrip("!") in labels(each)) is not term.startswith("!")
    raise Refusal(400, f"unable to parse requirement: {term}")


def _told(write: Write, namespace: str, matches: Matches) -> tuple[str, Object] | None:
    """What a watcher of some objects is told of a write."""
    seen = write.new or write.old
    assert seen is not None
    if namespace not in {"", seen["metadata"].get("namespace", "")}:
        return None
    was, is_now = bool(write.old and matches(write.old)), bool(write.new and matches(write.new))
    if not was and not is_now:
        return None
    if is_now:
        assert write.new is not None
        return ("MODIFIED" if was else "ADDED"), write.new
    assert write.old is not None
    last = copy.deepcopy(write.old)
    last["metadata"]["resourceVersion"] = str(write.revision)
    return "DELETED", last


def _review(account: Account, document: Object) -> Object:
    """What ``kubectl auth can-i`` asks (SelfSubjectAccessReview)."""
    asked = document["spec"]["resourceAttributes"]
    resource = "/".join(filter(None, [asked.get("resource", ""), asked.get("subresource", "")]))
    act = Act(asked.get("verb", ""), asked.get("group", ""), resource)
    may = Account(account.name, account.rules).may(act, asked.get("namespace", ""), asked.get("name", ""))
    return {**document, "status": {"allowed": may}}


def _discovery(cluster: Cluster, path: str) -> Object | None:
    """What clients ask to learn what there is."""
    groups: dict[str, list[str]] = {}
    for each in cluster.resources():
        if each.group and each.version not in groups.setdefault(each.group, []):
            groups[each.group].append(each.version)
    parts = path.strip("/").split("/")
    if path == "/version":
        major, minor, *_ = cluster.version.removeprefix("v").split(".")
        return {"major": major, "minor": minor, "gitVersion": cluster.version, "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*each) for each in groups.items()]}
    if path == "/openapi/v3":
        places = {
            each.api_version: ("apis/" if each.group else "api/") + each.api_version for each in cluster.resources()
        }
        return {"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}"} for each in places.values()}}
    if parts[:2] == ["openapi", "v3"]:
        return _openapi([each for each in cluster.resources() if each.api_version == "/".join(parts[3:])])
    if len(parts) == 2 and parts[0] == "apis" and parts[1] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1], groups[parts[1]])}
    version = "/".join(parts[1:]) if parts[0] in {"api", "apis"} else ""
    found = [each for each in cluster.resources() if each.api_version == version]
    if not found:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": each.plural,
                "singularName": each.kind.lower(),
                "namespaced": each.namespaced,
                "kind": each.kind,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
                "shortNames": list(each.short_names),
            }
            for each in found
        ],
    }


def _group(name: str, versions: Sequence[str]) -> Object:
    told = [{"groupVersion": f"{name}/{each}", "version": each} for each in versions]
    return {"name": name, "versions": told, "preferredVersion": told[0]}


def _openapi(resources: Sequence[Resource]) -> Object:
    """As much of OpenAPI as clients ask for: the kinds with their schemas, and that writes know ``fieldValidation``."""
    paths, kinds = {}, {}
    for each in resources:
        place = f"/{'apis' if each.group else 'api'}/{each.api_version}/{each.plural}/{{name}}"
        kind = {"group": each.group, "version": each.version, "kind": each.kind}
        parameters = [{"name": name, "in": "query"} for name in ("dryRun", "fieldManager", "fieldValidation")]
        paths[place] = {"patch": {"parameters": parameters, "x-kubernetes-group-version-kind": kind}}
        name = ".".join([*reversed(each.group.split(".")), each.version, each.kind])
        kinds[name] = {"type": "object", "x-kubernetes-group-version-kind": [kind], **(each.schema or {})}
    document = {"openapi": "3.0.0", "info": {"title": "simulator", "version": "0"}, "paths": paths}
    return {**document, "components": {"schemas": kinds}}


def _json(document: Object, status: int = 200) -> web.Response:
    # Without a charset, as Kubernetes: lightkube reads a Status only then.
    return web.Response(body=json.dumps(document).encode(), status=status, content_type="application/json")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

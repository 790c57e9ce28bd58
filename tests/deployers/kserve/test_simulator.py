"""The simulated cluster answers as Kubernetes does: asked by lightkube, a real client, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.apps_v1 import Deployment
from lightkube.types import CascadeType, PatchType

from tests.deployers.kserve.simulator.access import Account, Act, acts_of, without
from tests.deployers.kserve.simulator.api import Cluster, Refusal, running
from tests.deployers.kserve.simulator.kserve import (
    DEPLOYMENTS,
    EVENTS,
    LOADING,
    MODE,
    PODS,
    UNSCHEDULABLE,
    KServe,
    Place,
    not_downloaded,
    not_loaded,
)
from tests.deployers.kserve.simulator.kserve import RESOURCES as ALL
from tests.deployers.kserve.simulator.objects import Object, Resource

Widget = create_namespaced_resource("example.com", "v1", "Widget", "widgets")
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 0, "maximum": 100},
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "limit": {"x-kubernetes-int-or-string": True},
                "plain": {"type": "array", "items": {"type": "string"}},
                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "image": {"type": "string"},
                            "n": {"type": "integer"},
                        },
                    },
                },
                "whole": {
                    "type": "object",
                    "x-kubernetes-map-type": "atomic",
                    "additionalProperties": {"type": "string"},
                },
            },
        },
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    },
}
WIDGETS = Resource("example.com", "v1", "widgets", "Widget", schema=SCHEMA)
PATH = "/apis/example.com/v1/namespaces/things/widgets"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[Cluster]:
    async with running(WIDGETS, *ALL) as cluster:
        cluster.namespace("things")
        yield cluster


@pytest.fixture
async def cluster(world: Cluster) -> AsyncIterator[Cluster]:
    """Empty again for each test."""
    yield world
    for each in (*ALL, WIDGETS):
        for found in world.list(each.full_name):
            if world.objects.get(each, found["metadata"].get("namespace", ""), found["metadata"]["name"]):
                world.remove(each.full_name, found["metadata"]["name"], found["metadata"].get("namespace", ""))
    world.accounts.clear()
    world.webhooks.clear()
    world.is_away = False


@pytest.fixture
def account(cluster: Cluster) -> Account:
    return cluster.account("someone")


@asynccontextmanager
async def signed_in(cluster: Cluster, account: Account) -> AsyncIterator[AsyncClient]:
    config = KubeConfig.from_dict(cluster.kubeconfig(account, "things"))
    client = AsyncClient(config, field_manager="ours", trust_env=False)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(cluster: Cluster, account: Account) -> AsyncIterator[AsyncClient]:
    async with signed_in(cluster, account) as client:
        yield client


@pytest.fixture
async def http(cluster: Cluster, account: Account) -> AsyncIterator[httpx.AsyncClient]:
    trusted = ssl.create_default_context(cadata=cluster.certificate.decode())
    headers = {"Authorization": f"Bearer {account.token}", "User-Agent": "curl/8"}
    async with httpx.AsyncClient(base_url=cluster.url, verify=trusted, headers=headers, trust_env=False) as http:
        yield http


def widget(name: str = "w", **spec: Any) -> Any:
    return Widget(metadata={"name": name, "namespace": "things"}, spec={"size": 1, **spec})


def written(name: str = "w", /, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "things"}
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, "spec": {"size": 1, **spec}}


def owned(document: Mapping[str, Any], manager: str) -> Any:
    return next(e["fieldsV1"] for e in document["metadata"]["managedFields"] if e["manager"] == manager)


async def refused(call: Any) -> Any:
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value.status


# Objects


async def test_an_object_is_created_read_replaced_and_deleted(client: AsyncClient) -> None:
    made = await client.create(widget(color="blue"))
    assert made.metadata.generation == 1
    assert made.metadata.uid
    made.spec["size"] = 2
    replaced = await client.replace(made)
    assert (replaced.metadata.generation, replaced.metadata.uid) == (2, made.metadata.uid)
    assert [each.spec["size"] async for each in client.list(Widget)] == [2]
    await client.delete(Widget, "w")
    assert (await refused(client.get(Widget, "w"))).reason == "NotFound"


async def test_what_is_there_is_not_created_again(client: AsyncClient) -> None:
    await client.create(widget())
    status = await refused(client.create(widget()))
    assert (status.code, status.reason) == (409, "AlreadyExists")


async def test_who_replaces_an_older_version_is_refused(client: AsyncClient) -> None:
    first = await client.create(widget())
    await client.patch(Widget, "w", {"spec": {"size": 3}}, patch_type=PatchType.MERGE)
    status = await refused(client.replace(first))
    assert (status.code, status.reason) == (409, "Conflict")
    assert "the object has been modified" in status.message


async def test_a_put_must_say_which_version_it_replaces(client: AsyncClient, http: httpx.AsyncClient) -> None:
    await client.create(widget())
    answer = await http.put(f"{PATH}/w", json=written(size=2))
    assert (answer.status_code, answer.json()["details"]["causes"][0]["field"]) == (422, "metadata.resourceVersion")


async def test_a_write_that_changes_nothing_is_none(client: AsyncClient) -> None:
    made = await client.create(widget())
    again = await client.patch(Widget, "w", {"spec": {"size": 1}}, patch_type=PatchType.MERGE)
    assert again.metadata.resourceVersion == made.metadata.resourceVersion


async def test_only_a_change_of_the_spec_is_a_generation(client: AsyncClient) -> None:
    await client.create(widget())
    labelled = await client.patch(Widget, "w", {"metadata": {"labels": {"a": "b"}}}, patch_type=PatchType.MERGE)
    status = Widget.Status(metadata={"name": "w", "namespace": "things"}, spec={"size": 9}, status={"phase": "Up"})
    told = await client.apply(status, field_manager="controller")
    assert labelled.metadata.generation == told.metadata.generation == 1
    assert (told.status, told.spec["size"]) == ({"phase": "Up"}, 1)


async def test_the_main_resource_does_not_touch_the_status(client: AsyncClient) -> None:
    made = await client.create(Widget(metadata={"name": "w"}, spec={"size": 1}, status={"phase": "Up"}))
    assert made.status is None


async def test_a_json_patch_is_applied_or_refused_as_a_whole(client: AsyncClient) -> None:
    await client.create(widget())
    tested = [{"op": "test", "path": "/spec/size", "value": 5}, {"op": "replace", "path": "/spec/size", "value": 6}]
    assert (await refused(client.patch(Widget, "w", tested, patch_type=PatchType.JSON))).code == 422
    moved = [{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 6}]
    assert (await client.patch(Widget, "w", moved, patch_type=PatchType.JSON)).spec["size"] == 6


async def test_a_strategic_patch_of_a_custom_resource_is_unsupported(client: AsyncClient) -> None:
    await client.create(widget())
    status = await refused(client.patch(Widget, "w", {"spec": {}}, patch_type=PatchType.STRATEGIC))
    assert (status.code, status.reason) == (415, "UnsupportedMediaType")


async def test_deleting_another_object_of_that_name_is_refused(client: AsyncClient, http: httpx.AsyncClient) -> None:
    made = await client.create(widget())
    for uid, code in (("another", 409), (made.metadata.uid, 200)):
        answer = await http.request("DELETE", f"{PATH}/w", json={"preconditions": {"uid": uid}})
        assert answer.status_code == code, answer.text


async def test_finalizers_hold_an_object_until_they_are_gone(client: AsyncClient) -> None:
    await client.create(Widget(metadata={"name": "w", "finalizers": ["x.example/y"]}, spec={"size": 1}))
    await client.delete(Widget, "w")
    assert (await client.get(Widget, "w")).metadata.deletionTimestamp
    await client.patch(Widget, "w", {"metadata": {"finalizers": None}}, patch_type=PatchType.MERGE)
    assert (await refused(client.get(Widget, "w"))).code == 404


async def test_what_an_object_owns_goes_with_it(client: AsyncClient) -> None:
    owner = await client.create(widget("owner"))
    reference = {"apiVersion": "example.com/v1", "kind": "Widget", "name": "owner", "uid": owner.metadata.uid}
    await client.create(Widget(metadata={"name": "kept", "ownerReferences": [reference]}, spec={"size": 1}))
    await client.delete(Widget, "owner", cascade=CascadeType.BACKGROUND)
    assert [each.metadata.name async for each in client.list(Widget)] == []


async def test_a_dry_run_says_what_would_be_and_stores_nothing(client: AsyncClient, http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, params={"dryRun": "All"}, json=written())
    assert (answer.status_code, answer.json()["spec"]["color"]) == (201, "red")
    assert [each async for each in client.list(Widget)] == []


async def test_a_namespace_must_be_there(client: AsyncClient) -> None:
    status = await refused(client.create(Widget(metadata={"name": "w", "namespace": "nowhere"}, spec={"size": 1})))
    assert (status.code, status.message) == (404, 'namespaces "nowhere" not found')


# What is valid


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ({"colour": "red"}, 400, 'strict decoding error: unknown field "spec.colour"'),
        ({"size": "1"}, 422, 'spec.size: Invalid value: "string": must be of type integer'),
        ({"size": True}, 422, 'spec.size: Invalid value: "boolean": must be of type integer'),
        ({"size": 101}, 422, "should be less than or equal to 100"),
        ({"color": "green"}, 422, 'Unsupported value: "green": supported values: "red", "blue"'),
        ({"limit": 1.5}, 422, "must be of type integer or string"),
        ({"parts": [{"name": "a", "img": "x"}]}, 400, 'unknown field "spec.parts[0].img"'),
    ],
)
async def test_what_the_schema_does_not_have_is_refused(
    http: httpx.AsyncClient, spec: dict[str, Any], code: int, said: str
) -> None:
    answer = await http.post(PATH, params={"fieldValidation": "Strict"}, json=written(**spec))
    assert answer.status_code == code, answer.text
    assert said in answer.json()["message"]
    assert answer.json().get("details", {}).get("causes") or code == 400


async def test_what_is_missing_is_named(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json={**written(), "spec": {}})
    assert answer.json()["details"]["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.size"}
    ]


async def test_unknown_fields_are_dropped_with_a_warning_unless_one_asks_for_more(http: httpx.AsyncClient) -> None:
    warned = await http.post(PATH, json=written("a", colour="red"))
    ignored = await http.post(PATH, params={"fieldValidation": "Ignore"}, json=written("b", colour="red"))
    assert warned.headers["Warning"] == r'299 - "unknown field \"spec.colour\""'
    assert "Warning" not in ignored.headers
    assert "colour" not in warned.json()["spec"] | ignored.json()["spec"]


async def test_what_a_schema_leaves_free_is_kept(client: AsyncClient) -> None:
    made = await client.create(widget(free={"any": ["thing"]}, limit="10%"))
    assert (made.spec["free"], made.spec["limit"]) == ({"any": ["thing"]}, "10%")


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "Big"}, "metadata.name"),
        ({"name": "w", "labels": {"a": "x" * 64}}, "metadata.labels"),
        ({"name": "w", "labels": {"a": "x/y"}}, "metadata.labels"),
        ({"name": "w", "annotations": {"a": "x" * 262_144}}, "metadata.annotations"),
        ({"name": "w", "annotations": {"a": 7}}, "metadata.annotations.a"),
    ],
)
async def test_metadata_has_rules_of_its_own(http: httpx.AsyncClient, metadata: dict[str, Any], field: str) -> None:
    answer = await http.post(PATH, json={**written(), "metadata": metadata})
    assert (answer.status_code, answer.json()["details"]["causes"][0]["field"]) == (422, field)


async def test_a_webhook_may_change_what_is_written_and_may_deny_it(cluster: Cluster, client: AsyncClient) -> None:
    def webhook(operation: str, resource: Resource, new: Object, old: Object | None) -> Object:
        if new["spec"]["size"] == 13:
            raise Refusal(403, 'admission webhook "w.example" denied the request: not that')
        return {**new, "spec": {**new["spec"], "color": "blue"}}

    cluster.webhooks.append(webhook)
    assert (await client.create(widget())).spec["color"] == "blue"
    status = await refused(client.patch(Widget, "w", {"spec": {"size": 13}}, patch_type=PatchType.MERGE))
    assert (status.code, "not that" in status.message) == (403, True)


# Server-side apply


async def test_an_apply_creates_and_says_whose_the_fields_are(client: AsyncClient, http: httpx.AsyncClient) -> None:
    spec = {"parts": [{"name": "a", "image": "x"}], "tags": ["t"], "whole": {"k": "v"}, "plain": ["p"]}
    await client.apply(widget(**spec))
    document = (await http.get(f"{PATH}/w")).json()
    assert owned(document, "ours") == {
        "f:spec": {
            "f:parts": {'k:{"name":"a"}': {".": {}, "f:image": {}, "f:name": {}}},
            "f:plain": {},
            "f:size": {},
            "f:tags": {'v:"t"': {}},
            "f:whole": {},
        }
    }


async def test_a_field_of_another_is_a_conflict_that_names_both(client: AsyncClient) -> None:
    await client.apply(widget(color="red"), field_manager="argo")
    status = await refused(client.apply(widget(color="blue", size=2)))
    assert (status.code, status.reason) == (409, "Conflict")
    assert status.message == ('Apply failed with 2 conflicts: conflicts with "argo":\n- .spec.color\n- .spec.size')
    assert [(each.reason, each.field) for each in status.details.causes] == [
        ("FieldManagerConflict", ".spec.color"),
        ("FieldManagerConflict", ".spec.size"),
    ]


async def test_a_conflict_with_an_update_says_by_which_version(client: AsyncClient) -> None:
    await client.create(widget(color="red"), field_manager="edit")
    status = await refused(client.apply(widget(color="blue")))
    expected = 'Apply failed with 1 conflict: conflict with "edit" using example.com/v1: .spec.color'
    assert status.message == expected


async def test_force_takes_a_field_over(client: AsyncClient, http: httpx.AsyncClient) -> None:
    await client.apply(widget(color="red"), field_manager="argo")
    await client.apply(widget(color="blue"), force=True)
    document = (await http.get(f"{PATH}/w")).json()
    assert document["spec"]["color"] == "blue"
    assert "f:color" not in owned(document, "argo")["f:spec"]
    assert (await refused(client.apply(widget(color="red"), field_manager="argo"))).code == 409


async def test_who_says_the_same_owns_it_too_and_the_last_takes_it_away(client: AsyncClient) -> None:
    await client.apply(widget(color="blue"), field_manager="argo")
    await client.apply(widget(color="blue"))
    kept = await client.apply(Widget(metadata={"name": "w"}, spec={"size": 1}), field_manager="argo")
    assert kept.spec["color"] == "blue"
    gone = await client.apply(Widget(metadata={"name": "w"}, spec={"size": 1}))
    assert gone.spec["color"] == "red"  # the default


async def test_what_one_no_longer_says_goes_and_what_others_own_stays(client: AsyncClient) -> None:
    await client.apply(widget(parts=[{"name": "a", "image": "x"}, {"name": "b", "n": 1}], tags=["t", "u"]))
    other = {"parts": [{"name": "a", "n": 7}], "tags": ["u"]}
    await client.apply(Widget(metadata={"name": "w"}, spec=other), field_manager="other")
    left = await client.apply(widget())
    assert left.spec["parts"] == [{"name": "a", "n": 7}]
    assert left.spec["tags"] == ["u"]


async def test_an_atomic_map_and_list_belong_to_one_as_a_whole(client: AsyncClient) -> None:
    await client.apply(widget(whole={"a": "1"}, plain=["x"]), field_manager="argo")
    status = await refused(client.apply(widget(whole={"b": "2"}, plain=["x", "y"])))
    assert {each.field for each in status.details.causes} == {".spec.whole", ".spec.plain"}


async def test_annotations_are_owned_one_by_one(client: AsyncClient) -> None:
    for manager, key in (("argo", "a"), ("ours", "b")):
        noted = Widget(metadata={"name": "w", "annotations": {key: manager}}, spec={"size": 1})
        await client.apply(noted, field_manager=manager)
    left = await client.apply(widget())
    assert left.metadata.annotations == {"a": "argo"}


async def test_the_same_apply_again_writes_nothing(client: AsyncClient) -> None:
    first = await client.apply(widget(color="blue"))
    again = await client.apply(widget(color="blue"))
    assert first.metadata.resourceVersion == again.metadata.resourceVersion


async def test_an_apply_of_an_older_version_is_refused(client: AsyncClient) -> None:
    first = await client.apply(widget())
    await client.patch(Widget, "w", {"metadata": {"labels": {"a": "b"}}}, patch_type=PatchType.MERGE)
    locked = Widget(metadata={"name": "w", "resourceVersion": first.metadata.resourceVersion}, spec={"size": 2})
    assert "the object has been modified" in (await refused(client.apply(locked))).message


@pytest.mark.parametrize("spec", [{"colour": "red"}, {"size": "1"}])
async def test_an_apply_that_the_schema_does_not_have_is_a_500_without_a_reason(
    http: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    query = {"fieldManager": "ours", "fieldValidation": "Strict"}
    answer = await http.patch(f"{PATH}/w", params=query, headers=APPLY, content=json.dumps(written(**spec)))
    assert (answer.status_code, "reason" in answer.json()) == (500, False)
    expected = "failed to create typed patch object (things/w; example.com/v1, Kind=Widget): .spec."
    assert answer.json()["message"].startswith(expected)


@pytest.mark.parametrize(
    ("query", "changed", "code"),
    [
        ({}, {}, 422),
        ({"fieldManager": "ours"}, {"kind": "Gadget"}, 400),
        ({"fieldManager": "ours"}, {"metadata": {"name": "x"}}, 400),
        ({"fieldManager": "ours"}, {"metadata": {"name": "w", "namespace": "default"}}, 400),
        ({"fieldManager": "ours"}, {"metadata": {"name": "w", "managedFields": [{"manager": "m"}]}}, 400),
        ({"fieldManager": "ours"}, {"metadata": {"name": "w", "uid": "u"}}, 409),
    ],
)
async def test_a_malformed_apply_is_refused(
    http: httpx.AsyncClient, query: dict[str, str], changed: dict[str, Any], code: int
) -> None:
    body = json.dumps({**written(), **changed})
    answer = await http.patch(f"{PATH}/w", params=query, headers=APPLY, content=body)
    assert answer.status_code == code, answer.text


async def test_a_replica_count_that_another_sets_stays_his(client: AsyncClient, cluster: Cluster) -> None:
    await client.apply(Widget(metadata={"name": "w"}, spec={"size": 1, "color": "red"}))
    cluster.patch("widgets", "w", {"spec": {"size": 5}}, "things", manager="autoscaler")
    without_size = await client.apply(Widget(metadata={"name": "w"}, spec={"color": "red"}))
    assert without_size.spec == {"size": 5, "color": "red"}


# Lists and watches


async def test_a_list_is_selected_and_comes_in_pages(client: AsyncClient) -> None:
    for name, label in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")):
        await client.create(Widget(metadata={"name": name, "labels": {"l": label}}, spec={"size": 1}))

    async def names(**query: Any) -> list[str | None]:
        return [each.metadata.name async for each in client.list(Widget, chunk_size=2, **query)]

    assert await names() == ["a", "b", "c", "d"]
    assert await names(labels={"l": "x"}) == ["a", "c", "d"]
    assert await names(labels={"l": ["x", "y"]}) == ["a", "b", "c", "d"]
    assert await names(fields={"metadata.name": "b"}) == ["b"]


async def test_a_watch_tells_what_happens_from_where_one_has_read(client: AsyncClient, cluster: Cluster) -> None:
    first = await client.create(widget())
    cluster.patch("widgets", "w", {"spec": {"size": 2}}, "things")
    cluster.put("widgets", written("other"))
    cluster.remove("widgets", "w", "things")
    seen = []
    async for kind, each in client.watch(Widget, resource_version=first.metadata.resourceVersion):
        seen.append((kind, each.metadata.name))
        if len(seen) == 3:
            break
    assert seen == [("MODIFIED", "w"), ("ADDED", "other"), ("DELETED", "w")]


async def test_who_does_not_match_any_more_is_deleted_for_a_watcher(client: AsyncClient, cluster: Cluster) -> None:
    first = await client.create(Widget(metadata={"name": "w", "labels": {"l": "x"}}, spec={"size": 1}))
    cluster.patch("widgets", "w", {"metadata": {"labels": {"l": "y"}}}, "things")
    cluster.patch("widgets", "w", {"metadata": {"labels": {"l": "x"}}}, "things")
    seen = []
    async for kind, _ in client.watch(Widget, labels={"l": "x"}, resource_version=first.metadata.resourceVersion):
        seen.append(kind)
        if len(seen) == 2:
            break
    assert seen == ["DELETED", "ADDED"]


async def test_a_watch_from_too_long_ago_is_told_so(
    client: AsyncClient, cluster: Cluster, http: httpx.AsyncClient
) -> None:
    await client.create(widget())
    cluster.objects.forget()
    async with http.stream("GET", PATH, params={"watch": "1", "resourceVersion": "1"}) as answer:
        told = json.loads(await anext(answer.aiter_lines()))
    assert (told["type"], told["object"]["code"], told["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_a_watch_ends_after_its_time_with_a_bookmark(cluster: Cluster, http: httpx.AsyncClient) -> None:
    query = {"watch": "1", "timeoutSeconds": "0.05", "allowWatchBookmarks": "true"}
    async with http.stream("GET", PATH, params=query) as answer:
        told = [json.loads(line) async for line in answer.aiter_lines()]
    assert [each["type"] for each in told] == ["BOOKMARK"]
    assert told[0]["object"]["metadata"]["resourceVersion"] == str(cluster.objects.revision)


async def test_a_watch_without_a_version_begins_with_what_is_there(
    cluster: Cluster, client: AsyncClient, http: httpx.AsyncClient
) -> None:
    await client.create(widget())
    async with http.stream("GET", PATH, params={"watch": "1", "timeoutSeconds": "0.05"}) as answer:
        told = [json.loads(line)["type"] async for line in answer.aiter_lines()]
    assert told == ["ADDED"]


async def test_broken_watches_are_taken_up_by_the_client(cluster: Cluster, client: AsyncClient) -> None:
    first = await client.create(widget())
    seen = asyncio.Event()

    async def watch() -> list[int]:
        sizes = []
        async for _, each in client.watch(Widget, resource_version=first.metadata.resourceVersion):
            sizes.append(each.spec["size"])
            seen.set()
            if len(sizes) == 2:
                break
        return sizes

    watching = asyncio.create_task(watch())
    cluster.patch("widgets", "w", {"spec": {"size": 2}}, "things")
    await seen.wait()
    cluster.objects.break_watches()
    cluster.patch("widgets", "w", {"spec": {"size": 3}}, "things")
    assert await watching == [2, 3]


# Who may


async def test_a_token_that_was_changed_is_good_no_more_and_the_file_has_the_new_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    account = cluster.account("pod", token_file=tmp_path / "token")
    config = KubeConfig.from_dict(cluster.kubeconfig(account, "things"))
    fixed = cluster.kubeconfig(account)
    fixed["users"][0]["user"] = {"token": account.token}
    async with signed_in(cluster, account) as client:
        await client.create(widget())
    account.rotate()
    assert config.get() is not None
    assert (tmp_path / "token").read_text() == account.token
    stale = AsyncClient(KubeConfig.from_dict(fixed), namespace="things", trust_env=False)
    assert (await refused(stale.get(Widget, "w"))).code == 401
    await stale.close()
    async with signed_in(cluster, account) as client:
        assert (await client.get(Widget, "w")).metadata.name == "w"


async def test_a_role_allows_what_it_says_in_its_namespace(cluster: Cluster) -> None:
    cluster.namespace("elsewhere")
    rules = [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get", "list", "patch", "create"]}]
    account = cluster.account("deployer", {"things": rules})
    async with signed_in(cluster, account) as client:
        await client.apply(widget())
        assert (await refused(client.delete(Widget, "w"))).reason == "Forbidden"
        status = await refused(client.get(Widget, "w", namespace="elsewhere"))
        whole = Widget.Status(metadata={"name": "w"}, status={"phase": "Up"})
        assert (await refused(client.apply(whole))).code == 403
    expected = 'User "deployer" cannot get resource "widgets" in API group "example.com" in the namespace "elsewhere"'
    assert expected in status.message
    assert account.refused >= {Act("delete", "example.com", "widgets"), Act("patch", "example.com", "widgets/status")}
    assert account.used == {Act("patch", "example.com", "widgets"), Act("create", "example.com", "widgets")}


async def test_an_apply_of_what_is_not_there_needs_leave_to_create(cluster: Cluster) -> None:
    rules = [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["patch", "create"]}]
    create = Act("create", "example.com", "widgets")
    assert create in acts_of(rules)
    async with signed_in(cluster, cluster.account("deployer", {"things": without(rules, create)})) as client:
        assert (await refused(client.apply(widget()))).code == 403


async def test_rules_may_name_single_objects(cluster: Cluster) -> None:
    rule = {"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"], "resourceNames": ["w"]}
    async with signed_in(cluster, cluster.account("reader", {"things": [rule]})) as client:
        assert (await refused(client.get(Widget, "w"))).code == 404
        assert (await refused(client.get(Widget, "x"))).code == 403


async def test_an_api_server_that_is_away_answers_503(cluster: Cluster, http: httpx.AsyncClient) -> None:
    cluster.is_away = True
    assert (await http.get("/version")).status_code == 503


async def test_one_may_ask_what_one_may(cluster: Cluster, http: httpx.AsyncClient) -> None:
    resource = {"verb": "get", "group": "example.com", "resource": "widgets", "namespace": "things"}
    review = {"spec": {"resourceAttributes": resource}}
    answer = await http.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", json=review)
    assert answer.json()["status"] == {"allowed": True}


async def test_what_there_is_can_be_found_out(http: httpx.AsyncClient) -> None:
    assert (await http.get("/version")).json()["gitVersion"].startswith("v1.")
    groups = {each["name"]: each["versions"] for each in (await http.get("/apis")).json()["groups"]}
    assert [each["version"] for each in groups["serving.kserve.io"]] == ["v1beta1", "v1alpha1"]
    kinds = (await http.get("/apis/example.com/v1")).json()["resources"]
    assert [(each["name"], each["namespaced"]) for each in kinds] == [("widgets", True)]
    schemas = (await http.get("/openapi/v3/apis/example.com/v1")).json()["components"]["schemas"]
    assert "size" in schemas["com.example.v1.Widget"]["properties"]["spec"]["properties"]
    assert (await http.get("/apis/nowhere.example/v1/things")).status_code == 404


# KServe


def service(uri: str = "s3://b/1/", mode: str = "Standard", **changes: Any) -> Object:
    predictor = {"minReplicas": 1, "model": {"modelFormat": {"name": "mlflow"}, "storageUri": uri}}
    predictor |= changes.pop("predictor", {})
    metadata = {"name": "iris", "namespace": "things", "annotations": {MODE: mode, "note": "1"}}
    return {"metadata": metadata, "spec": {"predictor": predictor, **changes}}


@pytest.fixture
def kserve(cluster: Cluster) -> KServe:
    return KServe(cluster)


def told(cluster: Cluster) -> Object:
    found = cluster.get("inferenceservices", "iris", "things")
    assert found is not None
    return found.get("status") or {}


def is_ready(cluster: Cluster) -> str:
    conditions = {each["type"]: each["status"] for each in told(cluster).get("conditions", [])}
    return str(conditions.get("Ready"))


def rolled(cluster: Cluster, name: str = "iris-predictor") -> Object:
    found = cluster.get("deployments", name, "things")
    assert found is not None
    return found


async def test_ready_stays_true_while_a_new_version_rolls_and_when_it_fails(cluster: Cluster, kserve: KServe) -> None:
    cluster.put("inferenceservices", service())
    kserve.settle()
    assert is_ready(cluster) == "True"
    kserve.outcomes["s3://b/2/"] = not_loaded("No module named 'skops'")
    cluster.put("inferenceservices", service("s3://b/2/"))
    assert is_ready(cluster) == "True"
    kserve.settle()
    assert is_ready(cluster) == "True"
    assert "lastFailureInfo" not in told(cluster)["modelStatus"]
    assert told(cluster)["observedGeneration"] == rolled(cluster)["status"]["observedGeneration"]
    status = rolled(cluster)["status"]
    assert (status["replicas"], status["updatedReplicas"], status["availableReplicas"]) == (2, 1, 1)
    kserve.pass_deadlines()
    reasons = {each["type"]: each.get("reason") for each in rolled(cluster)["status"]["conditions"]}
    assert reasons["Progressing"] == "ProgressDeadlineExceeded"
    assert is_ready(cluster) == "True"


async def test_a_download_that_failed_is_told_and_stays_told(cluster: Cluster, kserve: KServe) -> None:
    kserve.outcomes["s3://b/1/"] = not_downloaded("AccessDenied")
    cluster.put("inferenceservices", service())
    kserve.settle()
    assert is_ready(cluster) == "False"
    failure = told(cluster)["modelStatus"]["lastFailureInfo"]
    assert (failure["reason"], failure["message"]) == ("ModelLoadFailed", "AccessDenied")
    kserve.outcomes.clear()
    kserve.settle()
    assert is_ready(cluster) == "True"
    assert told(cluster)["modelStatus"]["lastFailureInfo"] == failure


async def test_a_pod_that_no_node_has_room_for_waits(cluster: Cluster, kserve: KServe) -> None:
    kserve.outcomes["s3://b/1/"] = UNSCHEDULABLE
    cluster.put("inferenceservices", service())
    kserve.settle()
    (pod,) = cluster.list("pods", "things")
    assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
    (event,) = cluster.list("events", "things")
    assert event["reason"] == "FailedScheduling"


async def test_annotations_reach_the_pods_and_each_change_rolls_them(cluster: Cluster, kserve: KServe) -> None:
    cluster.put("inferenceservices", service())
    kserve.settle()
    (before,) = cluster.list("pods", "things")
    cluster.patch("inferenceservices", "iris", {"metadata": {"annotations": {"note": "2"}}}, "things")
    kserve.settle()
    (after,) = cluster.list("pods", "things")
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert after["metadata"]["annotations"]["note"] == "2"


async def test_a_paused_controller_has_seen_nothing(cluster: Cluster, kserve: KServe) -> None:
    kserve.is_paused = True
    async with kserve.following(lag_s=0):
        cluster.put("inferenceservices", service())
        await asyncio.sleep(0)
        assert told(cluster) == {}
        assert kserve.step()
        assert rolled(cluster).get("status") is None


async def test_following_it_all_happens_by_itself(cluster: Cluster, kserve: KServe, client: AsyncClient) -> None:
    async with kserve.following(lag_s=0):
        cluster.put("inferenceservices", service())
        async for _, each in client.watch(Deployment, resource_version="0"):
            if each.status and each.status.availableReplicas:
                break
    assert rolled(cluster)["status"]["observedGeneration"] == 1


async def test_a_canary_is_a_deployment_of_its_own_and_becomes_stable_without_a_restart(
    cluster: Cluster, kserve: KServe
) -> None:
    cluster.put("inferenceservices", service())
    canary = {"trafficPercent": 10, "predictor": {"name": "v2", "model": {"storageUri": "s3://b/2/"}}}
    cluster.put("inferenceservices", service(canary=[canary]))
    kserve.settle()
    (status,) = told(cluster)["canaryStatuses"]
    assert (status["name"], status["ready"], status["trafficPercent"]) == ("v2", True, 10)
    route = cluster.get("httproutes", "iris-predictor", "things")
    assert route is not None
    assert [each["weight"] for each in route["spec"]["rules"][0]["backendRefs"]] == [90, 10]
    canaries = {pod["metadata"]["name"] for pod in cluster.list("pods", "things") if "v2" in pod["metadata"]["name"]}
    stable = {"name": "v2", "model": {"storageUri": "s3://b/2/"}}
    document = service()
    document["spec"]["predictor"] = stable
    cluster.put("inferenceservices", document)
    kserve.settle()
    assert {pod["metadata"]["name"] for pod in cluster.list("pods", "things")} == canaries
    assert [each["metadata"]["name"] for each in cluster.list("deployments", "things")] == ["iris-v2-predictor"]


@pytest.mark.parametrize("waits_for_canaries", [False, True])
async def test_a_canary_takes_its_pods_from_the_stable_ones(cluster: Cluster, waits_for_canaries: bool) -> None:
    kserve = KServe(cluster, waits_for_canaries=waits_for_canaries)
    kserve.outcomes["s3://b/2/"] = LOADING
    canary = {"trafficPercent": 50, "predictor": {"name": "v2", "model": {"storageUri": "s3://b/2/"}}}
    predictor = service()["spec"]["predictor"] | {"minReplicas": 5}
    cluster.put("inferenceservices", service(predictor=predictor, canary=[canary]))
    kserve.settle()
    route = cluster.get("httproutes", "iris-predictor", "things")
    assert route is not None
    assert rolled(cluster, "iris-v2-predictor")["spec"]["replicas"] == 3
    assert rolled(cluster)["spec"]["replicas"] == (5 if waits_for_canaries else 2)
    assert len(route["spec"]["rules"][0]["backendRefs"]) == (1 if waits_for_canaries else 2)
    kserve.outcomes.clear()
    kserve.settle()
    assert rolled(cluster)["spec"]["replicas"] == 2


async def test_an_older_kserve_knows_no_canary(cluster: Cluster) -> None:
    kserve = KServe(cluster, knows_canary=False)
    canary = {"trafficPercent": 10, "predictor": {"name": "v2", "model": {"storageUri": "s3://b/2/"}}}
    cluster.put("inferenceservices", service(canary=[canary]))
    kserve.settle()
    assert [each["metadata"]["name"] for each in cluster.list("deployments", "things")] == ["iris-predictor"]


async def test_knative_keeps_traffic_on_what_is_ready_and_says_unknown_meanwhile(
    cluster: Cluster, kserve: KServe
) -> None:
    cluster.put("inferenceservices", service(mode="Knative"))
    kserve.settle()
    kserve.outcomes["s3://b/2/"] = LOADING
    cluster.put("inferenceservices", service("s3://b/2/", mode="Knative"))
    kserve.settle()
    part = told(cluster)["components"]["predictor"]
    assert (part["latestCreatedRevision"], part["latestReadyRevision"]) == (
        "iris-predictor-00002",
        "iris-predictor-00001",
    )
    assert is_ready(cluster) == "Unknown"
    assert part["traffic"] == [{"revisionName": "iris-predictor-00001", "latestRevision": True, "percent": 100}]
    kserve.pass_deadlines()
    assert is_ready(cluster) == "False"


async def test_knative_splits_by_the_percent_of_the_newest(cluster: Cluster, kserve: KServe) -> None:
    cluster.put("inferenceservices", service(mode="Knative"))
    kserve.settle()
    more = {"canaryTrafficPercent": 10}
    cluster.put(
        "inferenceservices",
        service("s3://b/2/", mode="Knative", predictor=more | service("s3://b/2/")["spec"]["predictor"]),
    )
    kserve.settle()
    part = told(cluster)["components"]["predictor"]
    assert [(each["revisionName"], each["percent"]) for each in part["traffic"]] == [
        ("iris-predictor-00002", 10),
        ("iris-predictor-00001", 90),
    ]
    assert part["latestRolledoutRevision"] == "iris-predictor-00001"


@pytest.mark.parametrize(
    "wrong",
    [
        service(predictor={"minReplicas": 3, "maxReplicas": 2}),
        service(canary=[{"trafficPercent": 60, "predictor": {"name": name}} for name in ("a", "b")]),
        service(canary=[{"trafficPercent": 10, "predictor": {}}]),
        service(mode="Knative", canary=[{"trafficPercent": 10, "predictor": {"name": "a"}}]),
        {**service(), "metadata": {**service()["metadata"], "name": "7iris"}},
    ],
)
async def test_kserves_webhook_denies_with_the_code_of_a_missing_right(
    cluster: Cluster, kserve: KServe, http: httpx.AsyncClient, wrong: Object
) -> None:
    path = "/apis/serving.kserve.io/v1beta1/namespaces/things/inferenceservices"
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    answer = await http.post(path, json={**kind, **wrong})
    assert answer.status_code == 403, answer.text
    assert "denied the request" in answer.json()["message"]


async def test_the_mode_of_a_service_cannot_change(cluster: Cluster, kserve: KServe, http: httpx.AsyncClient) -> None:
    cluster.put("inferenceservices", service())
    kserve.settle()
    path = "/apis/serving.kserve.io/v1beta1/namespaces/things/inferenceservices/iris"
    change = {"metadata": {"annotations": {MODE: "Knative"}}}
    answer = await http.patch(path, json=change, headers={"Content-Type": "application/merge-patch+json"})
    assert "deploymentMode cannot be changed" in answer.json()["message"]


async def test_who_calls_the_mode_by_its_older_name_can_change_nothing_later(
    cluster: Cluster, kserve: KServe, http: httpx.AsyncClient
) -> None:
    cluster.put("inferenceservices", service(mode="RawDeployment"))
    kserve.settle()
    assert told(cluster)["deploymentMode"] == "Standard"
    path = "/apis/serving.kserve.io/v1beta1/namespaces/things/inferenceservices/iris"
    change = {"metadata": {"annotations": {"serving.kserve.io/stop": "true"}}}
    answer = await http.patch(path, json=change, headers={"Content-Type": "application/merge-patch+json"})
    assert "cannot be changed from 'Standard' to 'RawDeployment'" in answer.json()["message"]


async def test_a_runtime_that_is_not_there_is_told(cluster: Cluster, kserve: KServe) -> None:
    document = service()
    document["spec"]["predictor"]["model"]["runtime"] = "nowhere"
    cluster.put("inferenceservices", document)
    kserve.settle()
    assert told(cluster)["modelStatus"]["lastFailureInfo"]["reason"] == "RuntimeNotRecognized"


async def test_pods_that_are_lost_come_back(cluster: Cluster, kserve: KServe) -> None:
    cluster.put("inferenceservices", service())
    kserve.settle()
    kserve.lose_pods("iris", "things")
    assert is_ready(cluster) == "False"
    kserve.settle()
    assert is_ready(cluster) == "True"


def test_the_kinds_are_those_of_the_clusters() -> None:
    assert {each.full_name for each in (DEPLOYMENTS, PODS, EVENTS)} == {"deployments.apps", "pods", "events"}
    assert Place("storage-initializer") is Place.DOWNLOAD

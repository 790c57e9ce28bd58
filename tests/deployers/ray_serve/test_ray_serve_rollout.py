"""The rollout, step by step, without Ray: what is desired after each call and each look at Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from countersign_ray_serve.adoption import orphans
from countersign_ray_serve.contract import Deployment, Phase, Reason
from countersign_ray_serve.diagnosis import diagnose, reason_for_delay, tail
from countersign_ray_serve.layout import (
    ROUTER,
    AppStatus,
    app_name,
    foreign_apps,
    has_drifted,
    observe,
    serve_config,
)
from countersign_ray_serve.rollout import Observation, accept, advance
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State, Step
from hypothesis import given
from hypothesis import strategies as st

Json = dict[str, Any]
RUNNING = AppStatus("RUNNING", "", matches=True, has_running_replica=True)
DEPLOYING = AppStatus("DEPLOYING", "", matches=True, has_running_replica=False)


def failed(message: str) -> AppStatus:
    return AppStatus("DEPLOY_FAILED", message, matches=True, has_running_replica=False)


class Rollouts:
    """One model's story."""

    def __init__(self, settings: Settings, make_call: Callable[..., Json]) -> None:
        self.settings = settings
        self.make_call = make_call
        self.state = State()
        self.now = 1000.0
        self.generation = 0

    def call(self, version: str = "7", **changes: object) -> None:
        self.generation += 1
        event = self.make_call(generation=self.generation, version=version, **changes)
        accept(self.state, self.settings, Deployment.model_validate_json(json.dumps(event["data"])), self.now)

    def look(self, **seen: Any) -> None:
        advance(self.state, self.settings, self.iris, Observation(at=self.now, **seen))

    def go_live(self, version: str = "7") -> str:
        self.call(version)
        app = self.candidate
        self.look(apps={app: RUNNING})
        self.look(apps={app: RUNNING, ROUTER: RUNNING}, proven={"iris": app})
        assert self.phases[-1] == Phase.READY
        return app

    @property
    def iris(self) -> Any:
        return self.state.resources["iris"]

    @property
    def candidate(self) -> str:
        assert self.iris.candidate is not None
        return str(self.iris.candidate)

    @property
    def reports(self) -> list[Json]:
        return [json.loads(report.body)["data"] for report in self.state.outbox]

    @property
    def phases(self) -> list[str]:
        return [report["phase"] for report in self.reports]

    @property
    def config(self) -> Json:
        return serve_config(self.settings, self.state)

    @property
    def routed(self) -> str | None:
        routes = self.config["applications"][-1]["deployments"][0]["user_config"]["routes"]
        return routes["iris"]["app"] if "iris" in routes else None

    @property
    def apps(self) -> set[str]:
        return {spec["name"] for spec in self.config["applications"]} - {ROUTER}


@pytest.fixture
def story(settings: Settings, make_call: Callable[..., Json]) -> Rollouts:
    return Rollouts(settings, make_call)


def test_a_new_version_starts_in_the_dark_and_gets_the_route_when_it_runs(story: Rollouts) -> None:
    story.call("7")
    app = story.candidate
    assert (story.apps, story.routed) == ({app}, None)
    story.look(apps={app: DEPLOYING})
    assert story.routed is None
    story.look(apps={app: RUNNING})
    assert (story.routed, story.iris.step) == (app, Step.SWITCHING)
    assert Phase.READY not in story.phases


def test_ready_is_reported_only_when_probes_saw_the_new_version(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("8")
    new = story.candidate
    story.look(apps={old: RUNNING, new: RUNNING}, proven={"iris": old})
    story.look(apps={old: RUNNING, new: RUNNING}, proven={"iris": old})
    assert story.phases[-1] == Phase.PROGRESSING
    story.look(apps={old: RUNNING, new: RUNNING}, proven={"iris": new})
    assert story.reports[-1]["phase"] == Phase.READY
    assert story.reports[-1]["serving"] == [
        {"version": "8", "weight": 100, "ready": True, "url": "http://127.0.0.1:9/iris"}
    ]


def test_a_status_of_another_configuration_does_not_count(story: Rollouts) -> None:
    story.call("7")
    story.look(apps={story.candidate: AppStatus("RUNNING", "", matches=False, has_running_replica=True)})
    assert story.iris.step is Step.STARTING


def test_the_previous_version_stays_loaded_for_the_rollback_window(story: Rollouts) -> None:
    old = story.go_live("7")
    new = story.go_live("8")
    story.now += story.settings.rollback_window_s - 1
    story.look()
    assert story.apps == {old, new}
    story.now += 2
    story.look()
    assert story.apps == {new}


def test_only_one_previous_version_stays_loaded(story: Rollouts) -> None:
    story.go_live("7")
    second, third = story.go_live("8"), story.go_live("9")
    story.now += story.settings.drain_s + 1
    story.look()
    assert story.apps == {second, third}


def test_a_rollback_within_the_window_starts_nothing_anew(story: Rollouts) -> None:
    old = story.go_live("7")
    before = story.iris.apps[old].spec
    story.go_live("8")
    assert story.go_live("7") == old
    assert story.iris.apps[old].spec == before
    assert story.routed == old


def test_a_version_that_cannot_load_leaves_the_old_one_and_says_why(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("8")
    bad = story.candidate
    story.look(apps={old: RUNNING, bad: failed("Traceback …\nModuleNotFoundError: No module named 'skops'")})
    assert (story.routed, story.apps) == (old, {old})
    assert (story.reports[-1]["phase"], story.reports[-1]["reason"]) == (Phase.FAILED, Reason.MODEL_LOAD_FAILED)
    assert "No module named 'skops'" in story.reports[-1]["message"]
    assert story.reports[-1]["backend"]["ray"] == {"app": bad, "status": "DEPLOY_FAILED"}


def test_a_retry_of_a_failed_version_differs_from_the_first_try(story: Rollouts) -> None:
    story.call("7")
    first = story.config["applications"][0]
    story.look(apps={story.candidate: failed("boom")})
    story.call("7")
    second = story.config["applications"][0]
    assert first["name"] == second["name"]
    assert first["args"] != second["args"]


def test_a_version_that_fails_after_the_switch_gives_the_route_back_and_ends_its_requests(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("8")
    new = story.candidate
    story.look(apps={old: RUNNING, new: RUNNING})
    assert story.routed == new
    story.look(apps={old: RUNNING, new: failed("died")})
    assert (story.routed, story.apps) == (old, {old, new})
    story.now += story.settings.drain_s + 1
    story.look()
    assert story.apps == {old}


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({}, Reason.PROGRESS_DEADLINE_EXCEEDED),
        ({"trouble": (Reason.UNREACHABLE, "Ray's dashboard does not answer")}, Reason.UNREACHABLE),
    ],
)
def test_a_rollout_ends_at_its_deadline(story: Rollouts, seen: Json, reason: Reason) -> None:
    old = story.go_live("7")
    story.call("8")
    story.now += 299
    story.look(**seen)
    assert story.phases[-1] == Phase.PROGRESSING
    story.now += 1
    story.look(**seen)
    assert (story.reports[-1]["phase"], story.reports[-1]["reason"]) == (Phase.FAILED, reason)
    assert (story.routed, story.apps) == (old, {old})


def test_no_room_in_the_cluster_is_said_while_waiting(story: Rollouts) -> None:
    story.call("7")
    waiting = AppStatus("DEPLOYING", "1 replicas that have taken more than 30s to be scheduled.", True, False)
    story.look(apps={story.candidate: waiting})
    assert story.reports[-1]["reason"] == Reason.NO_CAPACITY


def test_a_newer_call_supersedes_a_rollout_on_its_way(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("8")
    dropped = story.candidate
    story.call("9")
    assert story.phases[-2:] == [Phase.SUPERSEDED, Phase.ACCEPTED]
    assert [report["generation"] for report in story.reports[-2:]] == [2, 3]
    assert story.routed == old
    assert dropped not in story.apps


def test_a_removed_model_loses_its_route_first_and_its_replicas_later(story: Rollouts) -> None:
    app = story.go_live("7")
    story.call("7", action="remove", model=None)
    assert (story.routed, story.apps) == (None, {app})
    story.look(apps={ROUTER: RUNNING}, proven={"iris": None})
    assert (story.reports[-1]["phase"], story.reports[-1]["serving"]) == (Phase.READY, [])
    story.now += story.settings.drain_s + 1
    story.look()
    assert story.apps == set()


def test_a_serving_version_that_ray_gave_up_is_tried_again_but_not_all_the_time(story: Rollouts) -> None:
    app = story.go_live("7")
    attempts = []
    for _ in range(3):
        story.look(apps={app: failed("S3 was away")})
        attempts.append(story.iris.apps[app].spec["args"]["attempt"])
        story.now += 45
    assert attempts == [2, 2, 3]


def test_progress_that_was_not_taken_is_replaced_by_newer_progress(story: Rollouts) -> None:
    story.call("7")
    for _ in range(10):
        story.now += story.settings.heartbeat_s / 2
        story.look(apps={story.candidate: DEPLOYING})
    assert story.phases == [Phase.ACCEPTED, Phase.PROGRESSING]


@given(steps=st.lists(st.sampled_from(["call 7", "call 8", "remove", "runs", "proven", "fails", "late", "away"])))
def test_whatever_happens_a_route_leads_to_a_loaded_version_and_reports_are_numbered(
    make_settings: Callable[..., Settings], make_call: Callable[..., Json], steps: list[str]
) -> None:
    story = Rollouts(make_settings(), make_call)
    story.go_live("7")
    for step in steps:
        story.now += 1
        app = story.iris.candidate or story.iris.active or ""
        match step:
            case "call 7" | "call 8":
                story.call(step[-1])
            case "remove":
                story.call("7", action="remove", model=None)
            case "runs":
                story.look(apps={app: RUNNING})
            case "proven":
                story.look(apps={app: RUNNING}, proven={"iris": story.iris.active})
            case "fails":
                story.look(apps={app: failed("boom")})
            case "late":
                story.now += 301
                story.look()
            case "away":
                story.look(trouble=(Reason.UNREACHABLE, ""))
        assert story.routed is None or story.routed in story.apps
        assert story.iris.stable is None or story.iris.stable in story.apps
        assert story.iris.is_settled or step != "late"
    numbers = [(report["generation"], report["sequence"]) for report in story.reports]
    assert numbers == sorted(set(numbers))


def details_of(config: Json, status: str = "RUNNING") -> Json:
    """What Serve answers when it has this configuration."""
    return {
        "applications": {
            spec["name"]: {"status": status, "source": "declarative", "deployed_app_config": spec, "deployments": {}}
            for spec in config["applications"]
        }
    }


def test_what_ray_has_is_compared_with_what_it_must_have(story: Rollouts) -> None:
    story.go_live("7")
    before = details_of(story.config)
    assert not has_drifted(story.config, before)
    assert has_drifted(story.config, {"applications": {}})
    story.call("8")
    assert has_drifted(story.config, before)
    dropped, more = story.candidate, details_of(story.config)
    story.look(apps={dropped: failed("boom")})
    assert has_drifted(story.config, more)
    more["applications"][dropped]["status"] = "DELETING"
    assert not has_drifted(
        story.config,
        {"applications": {**details_of(story.config)["applications"], dropped: more["applications"][dropped]}},
    )


def test_a_masked_environment_is_not_a_difference(story: Rollouts) -> None:
    story.go_live("7")
    details = json.loads(json.dumps(details_of(story.config)))
    for app in details["applications"].values():
        app["deployed_app_config"]["runtime_env"] = {"env_vars": {"KEY": "<redacted>"}}
    assert all(status.matches for status in observe(story.config, details).values())


def test_applications_of_others_are_seen_but_imperative_ones_are_harmless(story: Rollouts) -> None:
    story.go_live("7")
    details = details_of(story.config)
    assert foreign_apps(details) == []
    theirs = {"status": "RUNNING", "deployed_app_config": {"import_path": "their:app"}}
    details["applications"]["theirs"] = {**theirs, "source": "declarative"}
    details["applications"]["notebook"] = {**theirs, "source": "imperative"}
    assert foreign_apps(details) == ["theirs"]


def test_a_lost_state_is_rebuilt_from_what_ray_serves(story: Rollouts) -> None:
    story.go_live("7")
    story.go_live("8")
    found = orphans(State(), details_of(story.config))["iris"]
    assert (found.generation, found.content) == (story.iris.generation, story.iris.content)
    assert (found.active, found.stable, found.step) == (story.iris.active, story.iris.active, Step.SETTLED)
    assert found.apps[found.active].spec == story.iris.apps[found.active].spec
    assert orphans(story.state, details_of(story.config)) == {}


def test_replicas_of_a_serving_version_are_not_touched_by_new_settings(
    story: Rollouts, make_settings: Callable[..., Settings]
) -> None:
    app = story.go_live("7")
    before = story.config
    story.settings = make_settings(backend_num_cpus=2, runtime_pip="humanize")
    assert story.config == before
    story.go_live("8")
    new = next(spec for spec in story.config["applications"] if spec["name"] not in {app, ROUTER})
    assert new["runtime_env"] == {"pip": ["humanize"]}


@given(name=st.text(min_size=1, max_size=100), version=st.integers(min_value=1))
def test_every_model_name_gives_an_application_name_that_serve_and_urls_take(name: str, version: int) -> None:
    from countersign_ray_serve.contract import ModelVersion

    model = ModelVersion(name=name, version=str(version)[:18], uri="s3://models/x/", digest="sha256:" + "0" * 64)
    import re

    assert re.fullmatch(r"[a-z0-9-]{1,60}--v\d+-[0-9a-f]{8}", app_name(model))
    other = model.model_copy(update={"digest": "sha256:" + "1" * 64})
    assert app_name(other) != app_name(model)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("countersign_ray_serve.serving.artifacts.DigestMismatch: file:///x has the digest", Reason.DIGEST_MISMATCH),
        ("countersign_ray_serve.serving.artifacts.ArtifactNotReadable: s3://x", Reason.ARTIFACT_NOT_READABLE),
        (
            "Runtime env setup for app failed: RuntimeEnvSetupError: Failed to set up runtime environment",
            Reason.RUNTIME_ENV_FAILED,
        ),
        ("ModuleNotFoundError: No module named 'xgboost'", Reason.MODEL_LOAD_FAILED),
    ],
)
def test_the_reason_of_a_failure_is_read_from_the_traceback(message: str, reason: Reason) -> None:
    assert diagnose(f"The deployment failed to start 3 times in a row.\n{message}")[0] is reason


@pytest.mark.parametrize(
    "message",
    [
        "could not connect to https://user:hunter2@store.test/x",
        "GET https://store.test/x?X-Amz-Signature=hunter2&x=1",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "{'Authorization': 'Bearer hunter2'}",
        '{"password": "hunter2"}',
        "whsec_hunter2",
    ],
)
def test_a_message_that_is_passed_on_has_no_secrets(message: str) -> None:
    assert "hunter2" not in tail(f"Traceback\n{message}\nValueError: no")


def test_a_delay_without_a_known_cause_has_no_reason() -> None:
    assert reason_for_delay("Deploying") is Reason.NONE

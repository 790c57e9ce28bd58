"""The rollout, step by step, without Ray: what is desired after each call and each look at Ray."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from countersign_deployer.contract import Deployment
from countersign_deployer.masking import tail
from countersign_deployer.phases import Phase, Reason
from countersign_deployer.problems import Problem
from countersign_ray_serve.adoption import orphans
from countersign_ray_serve.diagnosis import diagnose, reason_for_delay
from countersign_ray_serve.layout import (
    ROUTER,
    AppStatus,
    Version,
    app_name,
    foreign_apps,
    has_drifted,
    observe,
    serve_config,
)
from countersign_ray_serve.rollout import Observation, accept, advance
from countersign_ray_serve.serving import failures
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State, Step
from hypothesis import given
from hypothesis import strategies as st

Json = dict[str, Any]
RUNNING = AppStatus("RUNNING", "", matches=True, replicas=frozenset({"one"}))
DEPLOYING = AppStatus("DEPLOYING", "", matches=True)
LIMPING = AppStatus("UNHEALTHY", "One of two replicas is replaced.", matches=True, replicas=frozenset({"one"}))
DOWN = AppStatus("UNHEALTHY", "The replica is replaced.", matches=True)


def failed(message: str) -> AppStatus:
    return AppStatus("DEPLOY_FAILED", message, matches=True)


class Rollouts:
    """One model's story."""

    def __init__(self, settings: Settings, make_call: Callable[..., Json]) -> None:
        self.settings = settings
        self.make_call = make_call
        self.state = State()
        self.now = 1000.0
        self.generation = 0
        self.running: dict[str, AppStatus] = {}  # the last look, as calls know it

    def call(self, version: str = "7", **changes: object) -> None:
        self.generation += 1
        event = self.make_call(generation=self.generation, version=version, **changes)
        wanted = Deployment.model_validate_json(json.dumps(event["data"]))
        accept(self.state, self.settings, wanted, self.now, self.running)

    def split(self, version: str, weight: int, stable: str) -> None:
        """Call for a version with a weight, and the rest for another."""
        model = self.make_call(version=stable)["data"]["model"]
        named = {"version": stable, "uri": model["uri"], "digest": model["digest"]}
        self.call(version, traffic={"weight": weight, "stable": named})

    def look(self, *, proven: bool = False, **seen: Any) -> None:
        """A look at Ray; ``proven``: every router has what it was told."""
        if proven:
            seen["proven"] = {"iris": list(self.iris.routed)}
        advance(self.state, self.settings, self.iris, Observation(at=self.now, **seen))

    def look_all_well(self, *, proven: bool = True) -> None:
        self.look(apps=dict.fromkeys((ROUTER, *self.iris.apps), RUNNING), proven=proven)

    def go_live(self, version: str = "7") -> str:
        self.call(version)
        app = self.candidate
        self.look_all_well(proven=False)
        self.look_all_well()
        assert self.phases[-1] == Phase.READY
        return app

    def app_of(self, version: str) -> str:
        (name,) = [name for name, app in self.iris.apps.items() if app.version == version]
        return str(name)

    @property
    def weights(self) -> dict[str, int]:
        """What the router is told, by version."""
        return {self.iris.apps[share.app].version: share.weight for share in self.iris.routed}

    @property
    def iris(self) -> Any:
        return self.state.resources["iris"]

    @property
    def candidate(self) -> str:
        return str(self.iris.wanted[0].app)

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
        shares = routes["iris"]["shares"] if "iris" in routes else []
        return next((share["app"] for share in shares if share["weight"]), None)

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
    everything = {old: RUNNING, new: RUNNING, ROUTER: RUNNING}
    for _ in range(2):
        story.look(apps=everything)
    advance(story.state, story.settings, story.iris, Observation(story.now, everything, {"iris": story.iris.proven}))
    assert story.phases[-1] == Phase.PROGRESSING
    story.look(apps=everything, proven=True)
    assert story.reports[-1]["phase"] == Phase.READY
    assert story.reports[-1]["serving"] == [
        {
            "version": "8",
            "weight": 100,
            "ready": True,
            "url": "http://127.0.0.1:9/iris",
            "name": new,
            "digest": story.iris.apps[new].digest,
        }
    ]


def test_a_status_of_another_configuration_does_not_count(story: Rollouts) -> None:
    story.call("7")
    story.look(apps={story.candidate: AppStatus("RUNNING", "", matches=False, replicas=frozenset({"one"}))})
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
    assert (story.reports[-1]["phase"], story.reports[-1]["reason"]) == (Phase.FAILED, Reason.DEPENDENCY_MISSING)
    assert "'skops' is not installed" in story.reports[-1]["message"]
    assert story.reports[-1]["backend"]["ray"] == {old: "RUNNING"}


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
    assert (story.reports[-1]["phase"], story.reports[-1]["reason"]) == (Phase.ERRORED, reason)
    assert (story.routed, story.apps) == (old, {old})


def test_no_room_in_the_cluster_is_said_while_waiting(story: Rollouts) -> None:
    story.call("7")
    waiting = AppStatus("DEPLOYING", "1 replicas that have taken more than 30s to be scheduled.", matches=True)
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
    story.look(apps={ROUTER: RUNNING}, proven=True)
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


@given(
    steps=st.lists(
        st.sampled_from(
            ["call 7", "call 8", "canary", "dark", "remove", "runs", "proven", "fails", "limps", "late", "away"]
        )
    )
)
def test_whatever_happens_a_route_leads_to_a_loaded_version_and_reports_are_numbered(  # noqa: C901  # one line each
    make_settings: Callable[..., Settings], make_call: Callable[..., Json], steps: list[str]
) -> None:
    story = Rollouts(make_settings(), make_call)
    story.go_live("7")
    for step in steps:
        story.now += 1
        app = next((share.app for share in [*story.iris.wanted, *story.iris.routed]), "")
        match step:
            case "call 7" | "call 8":
                story.call(step[-1])
            case "canary":
                story.split("8", 10, "7")
            case "dark":
                story.split("8", 0, "7")
            case "remove":
                story.call("7", action="remove", model=None)
            case "runs":
                story.look(apps={app: RUNNING})
            case "proven":
                story.look(apps={app: RUNNING}, proven=True)
            case "fails":
                story.look(apps={app: failed("boom")})
            case "limps":
                story.look(apps={app: LIMPING})
            case "late":
                story.now += 301
                story.look()
            case "away":
                story.look(trouble=(Reason.UNREACHABLE, ""))
        assert story.routed is None or story.routed in story.apps
        assert {share.app for share in [*story.iris.proven, *story.iris.routed, *story.iris.wanted]} <= story.apps
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
    assert foreign_apps(details, "ray") == []
    theirs = {"status": "RUNNING", "deployed_app_config": {"import_path": "their:app"}}
    details["applications"]["theirs"] = {**theirs, "source": "declarative"}
    details["applications"]["notebook"] = {**theirs, "source": "imperative"}
    assert foreign_apps(details, "ray") == ["theirs"]


def test_a_cluster_has_the_models_of_one_target(story: Rollouts) -> None:
    """The deployer of another would take them over, and then both would delete what the other adds."""
    story.go_live("7")
    assert foreign_apps(details_of(story.config), "another") == [ROUTER]


def test_a_lost_state_is_rebuilt_from_what_ray_serves(story: Rollouts) -> None:
    story.go_live("7")
    story.go_live("8")
    found = orphans(State(), details_of(story.config))["iris"]
    assert (found.generation, found.content) == (story.iris.generation, "")
    assert (found.routed, found.proven, found.step) == (story.iris.routed, story.iris.routed, Step.SETTLED)
    assert all(found.apps[share.app].spec == story.iris.apps[share.app].spec for share in found.routed)
    assert orphans(story.state, details_of(story.config)) == {}


def test_a_router_is_told_of_as_many_slots_as_serve_gives_it_and_what_finds_none_does_not_wait_for_ever(
    story: Rollouts,
) -> None:
    spec = story.config["applications"][-1]
    (deployment,) = spec["deployments"]
    assert deployment["max_ongoing_requests"] == spec["args"]["slots"]
    assert deployment["max_queued_requests"] > 0
    assert deployment["backpressure_config"] == {"status_code": 503, "retry_after_s": 1}


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
    model = Version(name, str(version)[:18], "s3://models/x/", "sha256:" + "0" * 64)
    assert re.fullmatch(r"[a-z0-9-]{1,60}--v\d+-[0-9a-f]{8}", app_name(model, {}))
    others = [replace(model, digest="sha256:" + "1" * 64), replace(model, uri="s3://models/y/")]
    assert len({app_name(model, {}), app_name(model, {"num_cpus": 2}), *(app_name(o, {}) for o in others)}) == 4


def replica_says(name: str, message: str) -> str:
    return f"Traceback …\ncountersign_ray_serve.serving.failures.{name}: {message}\n"


@pytest.mark.parametrize(
    ("message", "reason", "told"),
    [
        (replica_says("DigestMismatch", "s3://x has the digest"), Reason.DIGEST_MISMATCH, "has the digest"),
        (replica_says("ArtifactNotFound", "s3://x"), Reason.ARTIFACT_NOT_FOUND, "s3://x"),
        (replica_says("StorageDenied", "s3://x: 403"), Reason.STORAGE_DENIED, "403"),
        (replica_says("StorageUnreachable", "s3://x"), Reason.STORAGE_UNREACHABLE, "s3://x"),
        (replica_says("PythonVersionMismatch", "3.12"), Reason.PYTHON_VERSION_MISMATCH, "3.12"),
        (replica_says("DependencyMissing", "The package 'skops'"), Reason.DEPENDENCY_MISSING, "'skops'"),
        ("RuntimeEnvSetupError: Failed to set up runtime environment", Reason.RUNTIME_ENV_FAILED, "Failed"),
        ("ModuleNotFoundError: No module named 'xgboost.sklearn'", Reason.DEPENDENCY_MISSING, "'xgboost'"),
        ("ModuleNotFoundError: No module named 'countersign_ray_serve'", Reason.DEPENDENCY_MISSING, "SHIP=upload"),
        ("ValueError: no", Reason.MODEL_LOAD_FAILED, "ValueError: no"),
    ],
)
def test_the_reason_of_a_failure_is_read_from_the_traceback(message: str, reason: Reason, told: str) -> None:
    found, text = diagnose(f"The deployment failed to start 3 times in a row.\n{message}")
    assert found is reason
    assert told in text


def test_each_thing_a_replica_may_say_is_a_reason() -> None:
    said = {kind.__name__ for kind in failures.NotServable.__subclasses__()}
    assert said <= {reason.value for reason in Reason}
    assert len(said) == 6


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


def test_a_canary_gets_its_weight_and_nothing_is_loaded_again_when_it_changes(story: Rollouts) -> None:
    story.go_live("7")
    for weight in (0, 10, 50):
        story.split("8", weight, "7")
        story.look_all_well(proven=False)
        story.look_all_well()
        assert story.weights == {"8": weight, "7": 100 - weight}
        told = [(serving["version"], serving["weight"]) for serving in story.reports[-1]["serving"]]
        assert told == [("8", weight), ("7", 100 - weight)]
    assert {app.spec["args"]["attempt"] for app in story.iris.apps.values()} == {1, 2}
    assert {serving["name"] for serving in story.reports[-1]["serving"]} == story.apps


def test_a_way_back_does_not_wait_for_a_look(story: Rollouts) -> None:
    story.go_live("7")
    story.split("8", 50, "7")
    story.look_all_well(proven=False)
    story.look_all_well()
    story.running = dict.fromkeys(story.iris.apps, RUNNING)
    story.call("7")
    assert story.weights == {"7": 100}
    assert story.phases[-1] == Phase.ACCEPTED


def test_traffic_moves_before_what_is_only_to_be_loaded_has_loaded(story: Rollouts) -> None:
    story.go_live("7")
    story.split("8", 0, "9")
    stable, dark = story.app_of("9"), story.app_of("8")
    story.look(apps={stable: RUNNING, dark: DEPLOYING, ROUTER: RUNNING})
    assert story.weights == {"9": 100}
    story.look(apps={stable: RUNNING, dark: DEPLOYING, ROUTER: RUNNING}, proven=True)
    assert story.phases[-1] == Phase.PROGRESSING
    story.look(apps={stable: RUNNING, dark: failed("boom"), ROUTER: RUNNING})
    assert (story.phases[-1], story.weights) == (Phase.FAILED, {"9": 100})


def test_a_dark_first_version_is_ready_and_gets_nothing(story: Rollouts) -> None:
    story.call("7", traffic={"weight": 0, "stable": None})
    story.look_all_well(proven=False)
    story.look_all_well()
    assert (story.phases[-1], story.weights, story.routed) == (Phase.READY, {"7": 0}, None)


def test_a_store_that_is_away_is_tried_again_until_the_deadline(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("8")
    new = story.candidate
    away = failed(replica_says("StorageUnreachable", "s3://models is away"))
    first = story.iris.apps[new].spec["args"]["attempt"]
    story.look(apps={old: RUNNING, new: away})
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.PROGRESSING, Reason.STORAGE_UNREACHABLE)
    assert story.iris.apps[new].spec["args"]["attempt"] == first + 1
    story.now += 300
    story.look(apps={old: RUNNING, new: away})
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.ERRORED, Reason.STORAGE_UNREACHABLE)
    assert story.apps == {old}


def test_a_version_has_its_own_time_to_start(story: Rollouts, make_settings: Callable[..., Settings]) -> None:
    story.settings = make_settings(serve_wait_timeout=60)
    story.call("7")
    story.now += 60
    story.look(apps={story.candidate: DEPLOYING})
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.ERRORED, Reason.PROGRESS_DEADLINE_EXCEEDED)


def test_what_ray_refuses_is_taken_back_at_once(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("8")
    story.look(trouble=(Reason.CONFIG_REFUSED, "initial_replicas"))
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.FAILED, Reason.CONFIG_REFUSED)
    assert story.apps == {old}


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"trouble": (Reason.UNREACHABLE, "Ray's dashboard does not answer")}, Reason.UNREACHABLE),
        ({"apps": {ROUTER: RUNNING}}, Reason.UNHEALTHY),
        ({"apps": {ROUTER: DEPLOYING}}, Reason.UNHEALTHY),
    ],
)
def test_what_falls_ill_after_ready_is_told_and_that_it_healed(story: Rollouts, seen: Json, reason: Reason) -> None:
    app = story.go_live("7")
    told = story.iris.sequence
    story.look(**seen)
    assert story.iris.sequence == told, "what passes soon is not told"
    story.now += 11
    story.look(**seen)
    told = story.iris.sequence
    story.look(**seen)
    assert story.iris.sequence == told, "it is told once"
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.READY, reason)
    assert not story.reports[-1]["serving"][0]["ready"]
    story.look(apps={app: RUNNING, ROUTER: RUNNING})
    assert story.reports[-1]["reason"] != Reason.NONE, "it is well when probes have shown it"
    for _ in range(2):
        story.look_all_well()
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.READY, Reason.NONE)
    assert story.reports[-1]["serving"][0]["ready"]


def test_called_again_with_other_options_a_version_is_loaded_beside_itself(story: Rollouts) -> None:
    old = story.go_live("7")
    story.call("7", config={"num_cpus": 2})
    new = story.candidate
    assert (story.routed, story.apps) == (old, {old, new})
    assert story.iris.apps[new].spec["deployments"][0]["ray_actor_options"] == {"num_cpus": 2}
    story.look_all_well(proven=False)
    story.look_all_well()
    assert story.routed == new


def test_options_come_from_the_call_before_the_settings_and_the_models_own_before_the_targets(story: Rollouts) -> None:
    config = {"max_replicas": 4, "upscale_delay_s": 5, "models": {"iris": {"max_replicas": 3, "num_gpus": 1}}}
    story.call("7", config=config)
    (deployment,) = story.iris.apps[story.candidate].spec["deployments"]
    assert deployment["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 8,
        "upscale_delay_s": 5,
        "downscale_delay_s": 600,
    }
    assert deployment["ray_actor_options"] == {"num_cpus": 0.5, "num_gpus": 1}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"runtime_env": {"pip": ["evil"]}}, "data.config.runtime_env"),
        ({"num_cpus": "1"}, "data.config.num_cpus"),
        ({"num_cpus": -1}, "data.config.num_cpus"),
        ({"min_replicas": 3, "max_replicas": 2}, "data.config.max_replicas"),
        ({"max_replicas": 2, "initial_replicas": 3}, "data.config.initial_replicas"),
        ({"models": {"iris": {"import_path": "evil:app"}}}, "data.config.models.iris.import_path"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_by_name(story: Rollouts, config: Json, field: str) -> None:
    with pytest.raises(Problem) as refused:
        story.call("7", config=config)
    assert refused.value.status == 422
    assert [name for name, _ in refused.value.fields] == [field]


def test_the_models_own_packages_are_read_where_the_model_is(
    story: Rollouts, make_settings: Callable[..., Settings]
) -> None:
    story.settings = make_settings(runtime_pip="model, boto3")
    story.call("7")
    spec = story.iris.apps[story.candidate].spec
    assert spec["runtime_env"] == {}
    assert spec["args"]["packages"] == ["model", "boto3"]
    assert "ray_actor_options" not in spec["deployments"][0], "Serve would take it before what the code says"


def test_what_a_superseded_generation_had_begun_to_load_is_not_begun_anew(story: Rollouts) -> None:
    story.go_live("7")
    story.split("8", 0, "7")
    before = story.iris.apps[story.candidate].spec
    story.split("8", 10, "7")
    assert story.iris.apps[story.candidate].spec == before


def test_a_mistake_in_the_options_is_not_in_the_way_of_a_way_back_or_a_removal(story: Rollouts) -> None:
    old = story.go_live("7")
    story.go_live("8")
    story.call("7", config={"num_cpu": 1})
    assert story.candidate == old
    story.call("7", action="remove", model=None, config={"num_cpu": 1})
    assert story.routed is None


@pytest.fixture
def canary(story: Rollouts) -> Rollouts:
    """Version 8 gets 10 % of the requests, 7 the rest."""
    story.go_live("7")
    story.split("8", 10, "7")
    story.look_all_well(proven=False)
    story.look_all_well()
    return story


@pytest.mark.parametrize("ill", [LIMPING, DOWN])
def test_a_way_back_is_not_undone_by_a_replica_that_is_replaced(canary: Rollouts, ill: AppStatus) -> None:
    stable, bad = canary.app_of("7"), canary.app_of("8")
    canary.running = dict.fromkeys(canary.iris.apps, RUNNING)
    canary.call("7")
    canary.look(apps={ROUTER: RUNNING, stable: ill, bad: RUNNING})
    assert (canary.phases[-1], canary.reports[-1]["reason"]) == (Phase.PROGRESSING, Reason.UNHEALTHY)
    assert canary.weights == {"7": 100}
    canary.look_all_well()
    assert (canary.phases[-1], canary.weights) == (Phase.READY, {"7": 100})


def test_a_way_back_within_the_rollback_window_is_not_undone_either(story: Rollouts) -> None:
    old = story.go_live("7")
    new = story.go_live("8")
    story.running = {old: RUNNING, new: RUNNING}
    story.call("7")
    story.look(apps={ROUTER: RUNNING, old: DOWN, new: RUNNING})
    assert (story.phases[-1], story.weights) == (Phase.PROGRESSING, {"7": 100})


def test_a_way_back_to_what_limps_moves_the_requests_at_once_and_restarts_nothing(canary: Rollouts) -> None:
    stable = canary.app_of("7")
    before = canary.iris.apps[stable].spec
    canary.running = {**dict.fromkeys(canary.iris.apps, RUNNING), stable: LIMPING}
    canary.call("7")
    assert (canary.weights, canary.iris.apps[stable].spec) == ({"7": 100}, before)


def test_a_way_back_to_what_is_down_waits_for_it_and_restarts_nothing(canary: Rollouts) -> None:
    stable = canary.app_of("7")
    before = canary.iris.apps[stable].spec
    canary.running = {**dict.fromkeys(canary.iris.apps, RUNNING), stable: DOWN}
    canary.call("7")
    assert (canary.weights, canary.iris.apps[stable].spec) == ({"8": 10, "7": 90}, before)
    canary.look_all_well(proven=False)
    assert canary.weights == {"7": 100}


def test_a_new_version_goes_on_starting_while_a_replica_of_the_stable_one_is_replaced(story: Rollouts) -> None:
    stable = story.go_live("7")
    story.split("8", 10, "7")
    story.look(apps={ROUTER: RUNNING, stable: DOWN, story.candidate: DEPLOYING})
    assert story.phases[-1] == Phase.PROGRESSING
    story.now += 300
    story.look(apps={ROUTER: RUNNING, stable: DOWN, story.candidate: RUNNING})
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.ERRORED, Reason.UNHEALTHY)


def test_a_new_version_that_does_not_stay_well_has_failed(story: Rollouts) -> None:
    stable = story.go_live("7")
    story.call("8")
    story.look(apps={ROUTER: RUNNING, stable: RUNNING, story.candidate: RUNNING})
    story.look(apps={ROUTER: RUNNING, stable: RUNNING, story.candidate: LIMPING})
    assert (story.phases[-1], story.reports[-1]["reason"]) == (Phase.ERRORED, Reason.UNHEALTHY)
    assert story.weights == {"7": 100}


def test_what_was_let_go_gets_no_requests_for_having_run_at_the_last_look(story: Rollouts) -> None:
    old = story.go_live("7")
    story.go_live("8")
    story.now += story.settings.rollback_window_s + 1
    story.running = dict.fromkeys((ROUTER, *story.iris.apps), RUNNING)
    story.look(apps=story.running)
    assert old not in story.apps
    story.call("7")
    assert story.weights == {"8": 100}

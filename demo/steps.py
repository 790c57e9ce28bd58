"""What happens in the story, one function a chapter: said, done, and checked against what really is."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from demo.calls import TIMEOUT_S, Control, Json, Ledger
from demo.failure import StoryFailed, require
from demo.platform import Connection
from demo.prober import Predictions, Prober, ask
from demo.scientist import Scientist, predictions_of
from demo.screen import Screen
from demo.sidecar import SideCar

MODEL, ALIAS = "diabetes", "production"
ALPHAS = (1.0, 0.1)
ROLLOUT_PATIENCE_S = 300
APPLY_PATIENCE_S = 60
REQUESTS_AFTERWARDS = 50


@dataclass(frozen=True, slots=True)
class Trained:
    """A version that the scientist registered; ``example`` is a request that a served model understands."""

    version: str
    example: Json


@dataclass(frozen=True, slots=True)
class Served:
    """A version that answered requests, where its bytes are, and what it predicts for the example."""

    version: str
    uri: str
    predictions: Predictions


class Steps:
    """The actors and props of one telling."""

    def __init__(self, connection: Connection, screen: Screen) -> None:
        self.connection = connection
        self.screen = screen
        self.control = Control(connection, screen)
        self.ledger = Ledger(connection)
        self.scientist = Scientist(connection)
        self.served_at = f"{connection.serve}/{MODEL}"

    def train(self, alpha: float) -> Trained:
        """Step 2: one version, with everything that belongs to it."""
        began = time.monotonic()
        with self.screen.waiting(f"training with alpha={alpha} and logging to {self.connection.gateway}"):
            told = self.scientist.train(MODEL, alpha)
        version = str(told["version"])
        logged = self.ledger.logged(MODEL, version)
        require(float(logged.params.get("alpha", "nan")) == alpha, f"version {version} has no parameter alpha={alpha}")
        require("rmse" in logged.metrics, f"version {version} has no metrics")
        require(logged.datasets, f"version {version} has no dataset")
        require(logged.has_signature, f"version {version} has no signature")
        self.screen.done(
            f"version {version}: alpha {alpha}, rmse {logged.metrics['rmse']:.2f}, dataset {logged.datasets[0]}, "
            f"signature, input example  ({time.monotonic() - began:.1f} s)"
        )
        return Trained(version, logged.example)

    def ask_natively(self, version: str) -> Json:
        """Step 3: MLflow's own call, refused in MLflow's own words, has opened a promotion."""
        before = self.ledger.holder(MODEL, ALIAS)
        self.screen.line(f'scientist: MlflowClient().set_registered_model_alias("{MODEL}", "{ALIAS}", {version})')
        with self.screen.waiting("calling"):
            told = self.scientist.set_alias(MODEL, ALIAS, version)
        require(told["refused"], f"the call was not refused: version {version} went past the second signature")
        self.screen.quote(told["message"])
        require(told["error_code"] == "PERMISSION_DENIED", f"expected PERMISSION_DENIED, not {told['error_code']}")
        link = re.search(rf"{re.escape(self.connection.console)}/promotions/(prm_\w+)", told["message"])
        if link is None:
            raise StoryFailed("the message has no link to a promotion")
        promotion = self.control.get("scientist", f"/promotions/{link[1]}")
        require(promotion["to_version"] == version, f"the promotion is of version {promotion['to_version']}")
        require(promotion["state"] == "pending", f"the promotion is {promotion['state']}, not pending")
        require(self.ledger.holder(MODEL, ALIAS) == before, "the alias moved all the same")
        self.screen.done(f"promotion {promotion['id']} exists and is pending; in MLflow nothing has moved")
        return promotion

    def go_past_the_gateway(self, version: str) -> None:
        """Step 3: nor does MLflow's own port help who reaches it."""
        answer = self.ledger.move_past_the_gateway(MODEL, ALIAS, version)
        require(answer.status_code == 401, f"MLflow listened to somebody else: {answer.status_code} {answer.text}")
        self.screen.line(f"POST {answer.request.url}, past the gateway:")
        self.screen.quote(answer.json()["message"])

    def try_to_approve(self, promotion: Json) -> None:
        """Step 4: who asked for it cannot approve it."""
        answer = self.control.tell("scientist", "POST", f"/promotions/{promotion['id']}/approve")
        require(answer.status_code == 403, f"the requester could approve: {answer.status_code} {answer.text}")
        self.screen.quote(answer.json()["detail"])

    def approve(self, promotion: Json, reason: str) -> Json:
        """Step 4: somebody else approves, and the worker moves the alias."""
        path = f"/promotions/{promotion['id']}/approve"
        answer = self.control.tell("approver", "POST", path, json={"reason": reason})
        require(answer.status_code == 200, f"the approval was refused: {answer.status_code} {answer.text}")
        return self.applied(promotion)

    def applied(self, promotion: Json) -> Json:
        """The promotion once the alias is where it should be."""
        found = self.control.follow(
            promotion["id"], lambda now: bool(now["alias_moved"]), "the worker moves the alias", APPLY_PATIENCE_S
        )
        holder = self.ledger.holder(MODEL, ALIAS)
        require(holder == found["to_version"], f"in MLflow, {ALIAS} points to version {holder}")
        self.screen.done(f"read from MLflow: {MODEL}@{ALIAS} is version {holder}")
        return found

    def resolve(self, promotion: Json) -> str:
        """Step 5: from the alias to the bytes that were approved."""
        uri = f"models:/{MODEL}@{ALIAS}"
        answer = self.control.tell("serving", "GET", "/resolve", params={"uri": uri})
        require(answer.status_code == 200, f"{uri} was not resolved: {answer.text}")
        found = answer.json()
        require(found["version"] == promotion["to_version"], f"{uri} resolves to version {found['version']}")
        require(found["digest"] == promotion["digest"], "the digest is not the one that was approved")
        self.screen.fact("asked for", uri)
        self.screen.fact("version", found["version"])
        self.screen.fact("uri", found["uri"])
        self.screen.fact("digest", found["digest"])
        return str(found["uri"])

    def following(self) -> SideCar:
        """Step 5: what runs beside a server of models, and hears of each move of the alias."""
        side_car = SideCar(self.connection, f"models:/{MODEL}@{ALIAS}")
        self.screen.line(f"$ {side_car.command} &")
        return side_car

    def pull(self, side_car: SideCar, promotion: Json, folder: Path) -> None:
        """Step 5: the bytes themselves, verified, for who has no account at the store."""
        target = folder / "pulled" / str(promotion["to_version"])
        self.screen.line(f"$ countersign pull models:/{MODEL}@{ALIAS} {target}")
        with self.screen.waiting("downloading"):
            said, seconds = side_car.pull(target)
        self.screen.overheard(f"{said}  ({seconds:.1f} s)")
        require(f"(verified, {promotion['digest']})" in said, "what was downloaded is not what was approved")

    def seen(self, side_car: SideCar, *versions: Trained) -> None:
        """Step 6: who followed the alias heard of each move, and of nothing else."""
        numbers = [each.version for each in versions]
        side_car.saw(*numbers)
        self.screen.done(f"who followed the alias was told of versions {', '.join(numbers)}, each as it took over")

    def roll_out(self, promotion: Json) -> None:
        """Step 5: the webhook reaches the deployer, and the deployer reports the version ready."""
        began = time.monotonic()
        live = self.control.follow(
            promotion["id"],
            lambda now: now["state"] == "live",
            f"Ray Serve loads version {promotion['to_version']}",
            ROLLOUT_PATIENCE_S,
        )
        deployment = live["deployments"][0]
        subject = f"{deployment['target']}/{MODEL}"
        deliveries = self.control.get("administrator", "/deliveries", target=deployment["target"])["items"]
        call = next((item for item in deliveries if item["generation"] == deployment["generation"]), None)
        require(call and call["state"] == "delivered", f"the webhook to {subject} is not delivered: {call}")
        self.screen.done(
            f"the signed webhook reached the deployer of {deployment['target']}; version {live['to_version']} is "
            f"{deployment['phase']}, the promotion is live  ({time.monotonic() - began:.1f} s)"
        )

    def serve(self, trained: Trained, uri: str) -> Served:
        """Step 5: the served model answers, with the right version and the numbers of the bytes at the resolved URI."""
        predictions = self.answered_by(trained.version, trained.example)
        with self.screen.waiting("loading the model from the resolved URI with MLflow, to compare"):
            expected = predictions_of(uri, trained.example)
        require(alike(predictions, expected), f"the model at {uri} predicts {expected}")
        self.screen.done("the model loaded from the resolved URI, past any server, predicts the same numbers")
        return Served(trained.version, uri, predictions)

    def answered_by(self, version: str, example: Json) -> Predictions:
        """What the served model says to ``example``, as anybody may ask it; fails when another version answers."""
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            try:
                health = http.get(self.served_at)
                answered, predictions = ask(http, self.served_at, example)
            except (httpx.HTTPError, ValueError) as error:
                raise StoryFailed(f"the served model did not answer: {error}") from None
        require(health.status_code == 200 and health.text == "ok", f"GET {self.served_at} answers {health.text}")
        self.screen.call(None, f"GET {self.served_at}", health.text)
        shown = ", ".join(f"{value:.3f}" for value in predictions)
        self.screen.call(None, f"POST {self.served_at}", f'{{"predictions": [{shown}]}}  X-Model-Version: {answered}')
        require(answered == version, f"version {answered} answered, not {version}")
        return predictions

    def roll_back(self, to: Served) -> Json:
        """Step 6: ask to go back to the version before."""
        path = f"/models/{MODEL}/aliases/{ALIAS}/rollback"
        answer = self.control.tell("approver", "POST", path, json={"reason": "the demo shows the way back"})
        require(answer.status_code == 201, f"the rollback was refused: {answer.status_code} {answer.text}")
        promotion: Json = answer.json()
        require(promotion["to_version"] == to.version, f"it goes back to version {promotion['to_version']}")
        return promotion

    def probed(self, prober: Prober, *expected: Served) -> None:
        """Step 6: no request failed, all versions answered, and each with its own numbers."""
        prober.require_no_failure()
        for (version, predictions), count in prober.answers.items():
            right = next((served for served in expected if served.version == version), None)
            require(
                right and alike(predictions, right.predictions), f"version {version} answered {predictions} {count}x"
            )
        counts = {served.version: self._count(prober, served.version) for served in expected}
        require(all(counts.values()), f"not every version answered requests: {counts}")
        told = ", ".join(f"{count} by version {version}" for version, count in counts.items())
        self.screen.done(f"{prober.asked} requests meanwhile, 0 failed: {told}")

    def _count(self, prober: Prober, version: str) -> int:
        return sum(count for (answered_by, _), count in prober.answers.items() if answered_by == version)


def alike(some: Predictions, others: Predictions | list[float]) -> bool:
    """Whether two rows of predictions are the same numbers."""
    return len(some) == len(others) and all(
        math.isclose(one, other, rel_tol=1e-9) for one, other in zip(some, others, strict=True)
    )

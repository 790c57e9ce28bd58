"""MLflow's own web interface, unchanged, in a real browser: what it shows through the gateway is what it shows
without, under the Content-Security-Policy of the gateway; and what somebody uploaded runs no script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from app.domain.routes import match
from app.proxy.asgi import Receive, Scope, Send
from app.proxy.content_security import protective
from tests.conftest import running_service
from tests.e2e.browsing import Visitor, running_browser, visitor
from tests.e2e.scientist import Told, environment, tell
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, running_mlflow
from tests.proxying import serving

HARMLESS = "ResizeObserver loop"
"""A browser says so when a layout took two rounds: now and then, with and without the gateway."""


@dataclass(frozen=True)
class View:
    """An address, and what is there: texts, and something that only a script can have drawn."""

    address: str
    texts: tuple[str, ...]
    drawn: str = ""


def views(shown: Told) -> dict[str, View]:
    experiment = f"/#/experiments/{shown['experiment']}"
    run = f"{experiment}/runs/{shown['runs'][1]}"
    both = f"runs={json.dumps(shown['runs'])}&experiments={json.dumps([shown['experiment']])}"
    model = f"/#/models/{shown['model']}"
    chart = ".js-plotly-plot .scatterlayer .trace"
    return {
        "experiments": View("/#/experiments", ("Experiments", "exhibition")),
        "runs": View(f"{experiment}/runs", ("exhibited run 0", "exhibited run 1", "2 matching runs")),
        "charts of runs": View(f"{experiment}/runs?compareRunsMode=CHART", ("Model metrics",), chart),
        # Of these Plotly draws the first with WebGL, through functions that it compiles.
        "compared runs": View(f"/#/compare-runs?{both}", ("Comparing 2 Runs",), ".parcoords .axis-heading"),
        "a run": View(run, ("exhibited run 1", "Finished", "About this run")),
        "charts of a run": View(f"{run}/model-metrics", ("accuracy", "loss"), chart),
        "artifacts": View(f"{run}/artifacts", ("report.html", "words.txt", "Select a file to preview")),
        "a picture": View(f"{run}/artifacts/image.png", ("image.png",), "img[src^='blob:']"),
        "a recording": View(f"{run}/artifacts/recording.wav", ("recording.wav",), "canvas"),
        "rows": View(f"{run}/artifacts/rows.csv", ("Previewing the first 1 rows",)),
        "values": View(f"{run}/artifacts/values.json", ('"exhibited"',)),
        "words": View(f"{run}/artifacts/words.txt", ("some exhibited words",)),
        "traces": View(f"{experiment}/traces", ("exhibited question 0", "exhibited question 1")),
        "logged models": View(f"{experiment}/models", ("line", "Ready")),
        "models": View("/#/models", ("Registered Models", shown["model"])),
        "a model": View(model, ("an exhibited", "Version 1", "candidate")),
        "a version": View(f"{model}/versions/1", ("Version 1", "candidate", "Schema")),
        "prompts": View("/#/prompts", ("Prompts", shown["prompt"])),
        "a prompt": View(f"/#/prompts/{shown['prompt']}", ("Viewing version 1", "Hello {{name}}")),
    }


@pytest.fixture(scope="module")
def mlflow_server() -> Iterator[MlflowServer]:
    """One of its own: lists show their first page, which the models of other tests would fill."""
    with running_mlflow() as server:
        yield server


@pytest.fixture(scope="module")
def service(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Countersign]:
    with running_service(postgres, template_database, mlflow_server, issuer, tmp_path_factory) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(tmp_path_factory.mktemp("exhibition"), environment(mlflow_server.url), "shown", "exhibition")


@pytest.fixture
def behind(browser: Browser, service: Countersign) -> Iterator[Visitor]:
    """A scientist who looks at MLflow through the gateway."""
    with visitor(browser, service.url, service.token("scientist")) as behind:
        yield behind


def look_at(somebody: Visitor, view: View) -> None:
    somebody.visit(view.address)
    somebody.sees(*view.texts)
    if view.drawn:
        somebody.page.locator(view.drawn).first.wait_for()


@pytest.mark.timeout(600)  # forty pages, drawn in software
def test_every_view_shows_the_same_with_and_without_the_gateway(
    browser: Browser, behind: Visitor, mlflow_server: MlflowServer, shown: Told, tmp_path: Path
) -> None:
    with visitor(browser, mlflow_server.url) as bare:
        for name, view in views(shown).items():
            look_at(bare, view)
            look_at(behind, view)
            behind.page.screenshot(path=tmp_path / f"{name}.png")

    assert [error for error in behind.errors if HARMLESS not in error] == []
    assert behind.troubles == bare.troubles


def test_a_page_among_the_artifacts_is_shown_and_runs_no_script(behind: Visitor, shown: Told) -> None:
    """In MLflow's own interface it would run: at the origin where promotions are approved."""
    behind.visit(f"/#/experiments/{shown['experiment']}/runs/{shown['runs'][1]}/artifacts/report.html")
    preview = behind.page.frame_locator("iframe.mlflow-html-iframe")

    preview.get_by_text("an exhibited page").wait_for()
    assert preview.locator("#out").inner_text() == "no script ran"


def test_the_alias_editor_shows_the_refusal_with_its_promotion(
    behind: Visitor, mlflow_server: MlflowServer, shown: Told, tmp_path: Path
) -> None:
    behind.visit(f"/#/models/{shown['model']}/versions/1")
    behind.sees("Version 1", "candidate")
    behind.page.locator("[data-component-id*=modelversionviewaliaseditor]").first.click()
    editor = behind.page.get_by_role("dialog")
    name = editor.get_by_role("combobox")
    name.fill("production")
    name.press("Enter")
    editor.get_by_title("production").first.wait_for()
    editor.get_by_role("button", name="Save").click()
    refusal = behind.page.get_by_text("protected by policy 'production'").first
    refusal.wait_for()
    behind.page.screenshot(path=tmp_path / "refusal.png")

    assert re.search(
        r"moves only through a promotion\. Promotion prm_\w+ of version 1 .* Follow it at http", refusal.inner_text()
    )
    assert mlflow_server.holder(shown["model"]) is None


ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/1/report.html"
PAGE = b"""<!doctype html><title>uploaded</title><p id=out>no script ran</p><img src=/stolen>
<script>document.getElementById("out").textContent = "a script ran"; fetch("/stolen")</script>"""


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "bare"])
def test_an_uploaded_page_at_its_own_address_is_inert(browser: Browser, protected: bool) -> None:
    """Even where a store forgets to say that it is an attachment. Without our headers its script runs."""
    found = match("GET", ARTIFACT)
    assert found
    headers = [(b"content-type", b"text/html"), *(protective(found.route, https=False) if protected else ())]
    asked: list[str] = []

    async def uploaded(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE})

    with serving(uploaded) as url, visitor(browser, url) as somebody:
        somebody.page.goto(url + ARTIFACT)
        said = somebody.page.locator("#out").inner_text()
        origin = somebody.page.evaluate("self.origin")

    assert said == ("no script ran" if protected else "a script ran")
    assert ("/stolen" in asked) is not protected
    assert (origin == "null") is protected


def test_an_artifact_is_offered_as_a_file(behind: Visitor, service: Countersign, shown: Told) -> None:
    address = f"/get-artifact?run_uuid={shown['runs'][1]}&path=report.html"
    answer = httpx.get(service.url + address, headers={"Authorization": f"Bearer {service.token('scientist')}"})
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")

    behind.visit("/#/experiments")
    with behind.page.expect_download() as download:
        behind.page.evaluate(f"location.assign({address!r})")

    assert b"an exhibited page" in Path(download.value.path()).read_bytes()

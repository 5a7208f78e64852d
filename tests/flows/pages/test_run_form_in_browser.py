"""The run form of Prefect's UI: a person opens it, changes a value, submits, and has a dataset."""

import os
from pathlib import Path

import datasets
import pytest
from browser import chromium
from serving import ENDED, call, eventually, made_to_serve, state_of

from gristmill.flows.connection import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SHOTS = os.environ.get("GRISTMILL_SCREENSHOTS")  # folder for new pictures of docs/
NAME = "from-the-form"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with our deployments, whose runs keep what they make in a folder of their own."""
    root = tmp_path_factory.mktemp("root")
    (root / "data").mkdir()
    (root / "data" / "demo").symlink_to(ROOT / "data" / "demo")
    (root / "flows").symlink_to(ROOT / "flows")
    process, address = made_to_serve(root / "prefect", GRISTMILL_ROOT=str(root))
    yield process, address, root
    process.terminate()
    process.wait(timeout=90)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def field(label: str, kind: str) -> str:
    """JavaScript: the field of a kind under a label of the form."""
    return (
        f"[...document.querySelectorAll('label')].find(l => l.innerText === {label!r})"
        f".closest('.group').querySelector({kind!r})"
    )


def written(page, label: str, text: str) -> None:
    """Put a text in the field under a label, as a person does."""
    page.js(f"{field(label, 'textarea')}.setAttribute('data-field', 'yes')")
    page.write("[data-field]", text)
    page.press("Tab")  # the form takes a value over as its field is left
    page.js("document.querySelector('[data-field]').removeAttribute('data-field')")


def pressed(page, words: str) -> None:
    """Press the button with these words."""
    find = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {words!r})"
    page.wait(f"{find} && !{find}.disabled")
    page.js(f"{find}.setAttribute('data-press', 'yes')")
    page.click("[data-press]")


def form_of(page, address: dict, deployment: dict) -> None:
    """Open the run form of a deployment, and give the secret where the UI asks for it."""
    page.call("Page.navigate", url=f"{address['pages']}/v2/login")
    asked = "document.querySelector('input[type=password]')"
    page.wait(f"{asked} || document.body.innerText.includes('Logout')", 120)
    if page.js(f"Boolean({asked})"):  # not so in a browser that has given it before
        page.write("input[type=password]", address["secret"])
        page.press("Enter")
        page.wait("!location.pathname.endsWith('/login')", 60)
    where = f"{address['pages']}/v2/deployments/deployment/{deployment['id']}/run"
    page.call("Page.navigate", url=where)
    page.wait("document.body.innerText.includes('Allow Network')", 120)


def runs_of(address: dict, deployment: dict) -> list[dict]:
    """The runs of a deployment."""
    wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    return call(address, "/flow_runs/filter", wanted)


def pictured(page, name: str, height: int = 900) -> None:
    """A picture for docs/, where somebody asks for one."""
    if SHOTS:
        page.size(1280, height)
        page.wait("document.readyState === 'complete'")
        page.screenshot(Path(SHOTS) / name)


def test_a_run_from_the_form_ends_completed_and_its_dataset_loads(served, browser, tmp_path):
    process, address, root = served
    deployment = call(address, "/deployments/name/curate/targeted-selection")
    with browser.page("about:blank#") as page:
        form_of(page, address, deployment)
        form = page.text()
        # What a person reads there: titles, what a setting is, a method with its settings.
        for words in ("where the raw rows are", "Embedder", "a sentence embedder", "reduce"):
            assert words in form
        tabs = page.js("[...document.querySelectorAll('[role=tab]')].map(t => t.innerText)")
        assert {"Any method", "rds_plus", "embedding_similarity", "less"} <= set(tabs)
        page.js(f"{field('Scorers', '[role=tab]')}.scrollIntoView()")
        pictured(page, "form-method-1280.png")
        page.js("scrollTo(0, 0)")
        written(page, "Name", NAME)
        written(page, "Budget (Optional)", "5")
        pictured(page, "form-1280.png", 1200)
        pressed(page, "Submit")
        page.wait("!location.pathname.endsWith('/run')", 60)  # the deployment's page lists it
        (run,) = runs_of(address, deployment)
        state = eventually(state_of(address, run, *ENDED), seconds=400, process=process)
        assert state["type"] == "COMPLETED", state
        asked = call(address, f"/flow_runs/{run['id']}")["parameters"]["config"]
        assert (asked["name"], asked["select"]["budget"]) == (NAME, "5")
        page.call("Page.navigate", url=f"{address['pages']}/v2/runs/flow-run/{run['id']}")
        page.wait("document.body.innerText.includes('Completed')", 120)
    folder = root / "data" / "curated" / NAME / "latest"
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert data["train"].num_rows == 5


def test_a_value_that_does_not_fit_is_told_in_the_form_and_no_run_starts(served, browser):
    _, address, _ = served
    deployment = call(address, "/deployments/name/clean/clean-only")
    with browser.page("about:blank#") as page:
        form_of(page, address, deployment)
        written(page, "Name", "not a name!")
        pressed(page, "Submit")
        page.wait("document.body.innerText.includes('does not match')", 30)
    assert runs_of(address, deployment) == []

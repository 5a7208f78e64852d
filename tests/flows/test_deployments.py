"""Deployments: every flow has one, and what its form begins with is a run that starts."""

import ast
import re
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml

from gristmill.flows import bootstrap, connection, files
from gristmill.flows.connection import ROOT, TAG

FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS = {d["name"]: d for d in FILE["deployments"]}
STARTS = {
    "clean-only": "clean",
    "targeted-selection": "curate",
    "preference-pairs": "curate",
    "synthesize-from-documents": "synthesize",
}


def flow_of(deployment: dict) -> str:
    """The name that the flow of an entrypoint has, by its source."""
    file, _, function = deployment["entrypoint"].partition(":")
    (found,) = (
        n
        for n in ast.parse((ROOT / file).read_text("utf-8")).body
        if isinstance(n, ast.FunctionDef) and n.name == function
    )
    calls = [d for d in found.decorator_list if isinstance(d, ast.Call)]
    (name,) = [k.value.value for c in calls for k in c.keywords if k.arg == "name"]
    return name


@cache
def fits(flow: str) -> jsonschema.Draft202012Validator:
    """What a server checks the parameters of a flow by."""
    return jsonschema.Draft202012Validator(files.FLOWS[flow].model_json_schema())


def test_every_flow_has_a_deployment_and_every_task_a_starting_point():
    assert len(DEPLOYMENTS) == len(FILE["deployments"]), "two of one name"
    flows = {name: flow_of(d) for name, d in DEPLOYMENTS.items()}
    assert set(files.FLOWS) <= set(flows.values())
    assert {name: flows[name] for name in STARTS} == STARTS


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_a_form_begins_with_is_valid_and_its_files_are_there(name):
    deployment = DEPLOYMENTS[name]
    flow = flow_of(deployment)
    if flow not in files.FLOWS:
        pytest.skip(f"{flow} is no kind of run: its own tests look at its parameters")
    model = files.FLOWS[flow]
    values = deployment["parameters"]["config"]
    config = model.model_validate(values)
    assert not list(fits(flow).iter_errors(values))
    for source in (*vars(config).get("sources", ()), *vars(config).get("reference", ())):
        assert list(ROOT.glob(source.path)), "a file, or a pattern of files"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_tells_a_person_what_it_is_and_runs_alone(name):
    deployment = DEPLOYMENTS[name]
    assert deployment["description"].endswith(".")
    assert deployment["tags"][0] == TAG, "automations go by it"
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["work_pool"]["name"] == bootstrap.POOL
    for schedule in deployment.get("schedules", ()):
        assert re.fullmatch(r"(\S+ ){4}\S+", schedule["cron"])
        assert ZoneInfo(schedule["timezone"])
        assert schedule["active"] is False, "nobody asked for a demo each night"


@pytest.mark.slow  # imports Prefect
def test_automations_go_by_our_tag_and_know_every_state_in_which_a_run_ends():
    from gristmill.flows.stopping import STATES

    zombies = bootstrap._zombies().trigger
    ended = {"Completed", "Held", "Failed", "TimedOut", "Cancelled", "Crashed", *STATES.values()}
    assert {f"prefect.flow-run.{s}" for s in ended} < zombies.expect
    alerts = bootstrap._alerts("00000000-0000-0000-0000-000000000000").trigger
    assert "prefect.flow-run.Completed" not in alerts.expect
    for trigger in (zombies, alerts):
        assert trigger.match_related.root["prefect.resource.id"] == [f"prefect.tag.{TAG}"]


def test_bootstrap_away_from_a_clone_or_without_a_server_is_one_sentence(
    gristmill, monkeypatch, tmp_path
):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    code, _, err = gristmill("bootstrap")
    assert (code, "no Prefect server is up" in err) == (2, True)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    code, _, err = gristmill("bootstrap")
    assert (code, "no Prefect server answers" in err) == (2, True)
    monkeypatch.setattr(connection, "ROOT", Path(tmp_path))
    code, _, err = gristmill("bootstrap")
    assert (code, "there is no prefect.yaml" in err) == (2, True)

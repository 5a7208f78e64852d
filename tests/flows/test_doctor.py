"""Doctor: what is missing is told with the command that mends it; schemas for editors."""

import json
import tomllib

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from gristmill.flows import doctor, editing
from gristmill.flows.connection import ROOT


def states(found):
    return {f.what: f for f in found}


def test_doctor_exits_by_what_it_finds_and_tells_it_as_json(gristmill, monkeypatch):
    for name in ("GRISTMILL_DATA", "PREFECT_API_URL", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "_packages", lambda: iter(()))
    code, out, _ = gristmill("doctor", "--json")
    found = {row["what"]: row for row in json.loads(out)}
    assert code == 0
    assert {"Python", "cpu", "memory", "disk of store", "evaluation sets"} <= set(found)
    assert all(row["mend"] for row in found.values() if row["state"] != "ok")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    code, out, _ = gristmill("doctor")
    assert (code, "does not answer" in out) == (1, True)


def test_a_package_that_is_missing_or_of_another_version_is_told(monkeypatch):
    there = {"prefect": "3.9.1", "fastapi": "0.160.0"}

    def version(name):
        if name not in there:
            raise doctor.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(doctor, "version", version)
    assert doctor._package(Requirement("prefect>=3.8.8,<4")) is None
    monkeypatch.setattr(doctor, "ROOT", ROOT)
    pinned = doctor._package(Requirement("fastapi>=0.139,<0.151"))
    assert (pinned.state, pinned.mend) == ("broken", "make setup")
    assert "0.160.0, which is not" in pinned.found
    monkeypatch.setattr(doctor, "ROOT", ROOT / "nowhere")
    missing = doctor._package(Requirement("peft>=0.19,<1"))
    assert (missing.found, missing.mend) == ("not installed", "pip install 'peft<1,>=0.19'")


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": ""}, "broken"),
        ({"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "10"}, "broken"),
        ({"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}, None),
        ({}, None),
    ],
)
def test_what_stops_every_run_of_prefect_is_told(environment, state, tmp_path):
    found = states(doctor._servers({**environment, "PREFECT_HOME": str(tmp_path)}))
    assert (found["Prefect"].state if "Prefect" in found else None) == state
    assert found["Prefect server"].state == "note", "none is up there"


def test_a_full_disk_and_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    free = doctor.shutil.disk_usage(tmp_path)._replace(free=1 << 29)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: free)
    full = doctor._disk("store", tmp_path / "not" / "yet")
    assert (full.state, full.mend) == ("broken", "gristmill gc")
    assert full.found == f"0.5 GiB free at {tmp_path}"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor._disk("store", tmp_path).state == "broken"


def test_the_demos_models_are_those_of_setup():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    assert list(doctor.DEMO_MODELS) == groups["models"]


# ------------------------------------------------------------------------------ schemas


def test_init_points_an_editor_to_the_schema_of_its_file(gristmill, tmp_path):
    assert gristmill("init", "--pairs", "run.yaml")[0] == 0
    text = (tmp_path / "run.yaml").read_text("utf-8")
    place = text.partition("\n")[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((tmp_path / place).read_text("utf-8"))
    assert schema["title"] == "Curate"
    fits = jsonschema.Draft202012Validator(schema)
    values = yaml.safe_load(text)
    assert fits.is_valid(values)
    values["scorers"][0]["method"] = "perplexitty"
    assert not fits.is_valid(values)


def test_a_schema_is_printed_or_written_and_an_unknown_kind_is_one_sentence(gristmill, tmp_path):
    code, out, _ = gristmill("schema", "finetune")
    assert (code, json.loads(out)["title"]) == (0, "Fine-tune run")
    code, out, _ = gristmill("schema", "cleaners", "--out", tmp_path / "s")
    assert (code, out.strip()) == (0, str(tmp_path / "s" / "cleaners.schema.json"))
    code, _, err = gristmill("schema", "curat")
    assert (code, "did you mean 'curate'" in err) == (2, True)
    assert set(editing.KINDS) > {"curate", "clean", "compare"}

"""Choices: what the JSON schema of a run's settings offers a form or an editor, and refuses."""

import jsonschema
import pytest
import yaml

from gristmill.flows import choices, files
from gristmill.flows.config import CurateConfig, ScorerConfig
from gristmill.flows.connection import ROOT
from gristmill.pipeline.contracts import ROLES
from gristmill.selectors import catalog

TEMPLATES = sorted((ROOT / "flows" / "templates").glob("*.yaml"))
SCORER = ScorerConfig.model_json_schema()


@pytest.fixture(scope="module")
def schemas():
    return {flow: model.model_json_schema() for flow, model in files.FLOWS.items()}


def test_schemas_are_schemas(schemas):
    jsonschema.Draft202012Validator.check_schema(schemas["prefer"])
    jsonschema.Draft202012Validator.check_schema(SCORER)


def test_every_setting_of_every_run_has_a_title_and_says_what_it_is(schemas):
    silent = []
    for flow, schema in schemas.items():
        for name, part in {flow: schema, **schema.get("$defs", {})}.items():
            assert part["title"]
            for whole in part.get("anyOf", [part]):
                for setting, shown in whole.get("properties", {}).items():
                    told = "description" in shown or "$ref" in shown
                    if "title" not in shown or not (told or setting in catalog.FORMS):
                        silent.append(f"{flow}: {name}.{setting}")
    assert not silent


def test_names_of_the_catalogue_are_offered(schemas):
    curate = schemas["curate"]["$defs"]
    whole, *tabs = curate["ScorerConfig"]["anyOf"]
    assert whole["properties"]["method"]["enum"] == list(catalog.methods())
    assert [tab["title"] for tab in tabs] == list(catalog.FORMS)
    (rule, _) = curate["SelectConfig"]["properties"]["rule"]["anyOf"]
    assert rule["enum"] == list(choices.rules())
    assert curate["FilterConfig"]["properties"]["filter"]["enum"] == list(choices.filters())
    for flow in ("curate", "finetune"):
        assert list(schemas[flow]["properties"]["models"]["properties"]) == list(ROLES)
    synthesis, prefer = schemas["synthesize"]["properties"], schemas["prefer"]["properties"]
    assert synthesis["generator"]["enum"] == list(choices.generators())
    assert prefer["rule"]["enum"] == list(choices.pair_rules())


def test_the_form_begins_with_what_a_run_cannot_do_without(schemas):
    shown = schemas["curate"]["properties"]
    order = sorted(shown, key=lambda name: shown[name]["position"])
    assert order[:6] == ["name", "sources", "reference", "models", "scorers", "select"]
    assert sorted(p["position"] for p in shown.values()) == list(range(len(shown)))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_what_init_writes_fits_its_schema(path, schemas):
    values = yaml.safe_load(path.read_text("utf-8"))
    fits = jsonschema.Draft202012Validator(schemas[files.flow_of(values)])
    assert not list(fits.iter_errors(values))


@pytest.mark.parametrize("method", catalog.methods())
def test_the_settings_that_a_method_has_by_default_fit_it(method):
    settings = catalog.described(method)["settings"]
    schema = choices.settings_of(catalog.method(method), as_text=False)
    assert jsonschema.Draft202012Validator(schema).is_valid(choices._jsonable(settings))


@pytest.mark.parametrize(
    ("scorer", "fits"),
    [
        ({"method": "less", "settings": {"size": 4096}}, True),
        ({"method": "less", "settings": {"size": "4096"}}, True),  # as on the command line
        ({"method": "less", "settings": {"warm_up": {"epochs": 2}}}, True),
        ({"method": "less", "settings": {"warm_up.epochs": 2}}, True),
        ({"less": {"size": 4096}}, True),
        ({"less": {"size": 4096}, "name": "twice"}, True),
        ({"method": "ifd"}, True),
        ({"method": "less", "settings": {"siez": 4096}}, False),
        ({"method": "less", "settings": {"update": "sgd", "size": [1]}}, False),
        ({"method": "ifd", "settings": {"size": 4096}}, False),  # of another method
        ({"method": "lees"}, False),
        ({"less": {"siez": 4096}}, False),
        ({"less": {}, "ifd": {}}, False),
    ],
)
def test_settings_are_those_of_their_method(scorer, fits):
    assert jsonschema.Draft202012Validator(SCORER).is_valid(scorer) is fits


def test_a_method_as_a_key_is_the_method_with_these_settings():
    long = {"method": "less", "settings": {"size": 4096}, "name": "a"}
    assert ScorerConfig(**{"less": {"size": 4096}, "name": "a"}) == ScorerConfig(**long)
    assert ScorerConfig(**{"less": None}).settings == {}
    for wrong in ({"less": 3}, {"less": {}, "ifd": {}}, {"metod": "less"}, {"name": "a"}):
        with pytest.raises(ValueError, match="method"):
            ScorerConfig(**wrong)


def test_a_misspelt_method_as_a_key_is_told_as_any_other(gristmill):
    run = {"name": "a", "sources": [{"path": "x"}], "scorers": [{"lees": {"size": 1}}]}
    assert CurateConfig(**run).scorers[0].method == "lees"
    with pytest.raises(ValueError, match="did you mean 'less'"):
        catalog.method("lees")

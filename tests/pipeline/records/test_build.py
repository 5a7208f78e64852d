"""Build and registry: what text and YAML values become, for methods, rules and filters alike."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from gristmill.pipeline.clean.filters import Filter, filter_named, filters
from gristmill.pipeline.clean.filters.license import License
from gristmill.pipeline.clean.filters.prose import Prose
from gristmill.pipeline.clean.filters.repetition import Repetition
from gristmill.pipeline.contracts import Rule, settings_of
from gristmill.pipeline.records.build import build, paths
from gristmill.pipeline.records.registry import registry
from gristmill.pipeline.records.settings import settings_rows
from gristmill.pipeline.selection.rules import rule_named, rules
from gristmill.pipeline.selection.rules.band import Band
from gristmill.pipeline.selection.rules.curriculum import Curriculum
from gristmill.pipeline.selection.rules.threshold import Threshold
from gristmill.selectors import catalog


@dataclass(frozen=True, kw_only=True)
class Warm:
    epochs: int = 1
    rate: float | None = 0.1


@dataclass(frozen=True, kw_only=True)
class Deep:
    warm: Warm = Warm(epochs=5)
    name: str = "x"


@dataclass(frozen=True, kw_only=True)
class Things:
    name: str = "a"
    maybe: str | None = "b"
    number: float = 1.0
    perhaps: float | None = 1.0
    flag: bool = False
    choice: Literal["none", "some"] = "some"
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[int, float] | None = None
    names: tuple[str, ...] = ("a",)
    chain: Sequence[str] = ()
    seeds: list[int] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    warm_up: Warm = Warm(epochs=3)
    cool: Warm | None = None
    deep: Deep = Deep()


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        # nothing, only where it is allowed
        ({"maybe": "none"}, "maybe", None),
        ({"maybe": "NULL"}, "maybe", None),
        ({"maybe": None}, "maybe", None),
        ({"perhaps": "none"}, "perhaps", None),
        ({"seeds": "null"}, "seeds", None),
        ({"name": "none"}, "name", "none"),
        ({"choice": "none"}, "choice", "none"),
        # numbers and truth
        ({"number": "2"}, "number", 2.0),
        ({"number": 2}, "number", 2.0),
        ({"flag": "false"}, "flag", False),
        ({"flag": "true"}, "flag", True),
        # plain text is left as it is, commas and colons too
        ({"name": " a,b:1 "}, "name", " a,b:1 "),
        ({"maybe": "a,b"}, "maybe", "a,b"),
        # mappings
        ({"weights": "a:1,b:0.5"}, "weights", {"a": 1.0, "b": 0.5}),
        ({"weights": "hf:org/name:2, b:1"}, "weights", {"hf:org/name": 2.0, "b": 1.0}),
        ({"weights": {"hf:a": "2"}}, "weights", {"hf:a": 2.0}),
        ({"weights": ""}, "weights", {}),
        ({"caps": "2:0.5"}, "caps", {2: 0.5}),  # also where nothing is allowed
        # lists
        ({"names": "x,y"}, "names", ("x", "y")),
        ({"names": "x, y,"}, "names", ("x", "y")),
        ({"names": ""}, "names", ()),
        ({"names": ["x", "y"]}, "names", ("x", "y")),
        ({"chain": "x,y"}, "chain", ["x", "y"]),
        ({"seeds": "1,2"}, "seeds", [1, 2]),
        ({"pair": "3,10"}, "pair", (3.0, 10.0)),
        # dataclasses within: what is not named stays as the field's own default has it
        ({"warm_up.rate": "0.5"}, "warm_up", Warm(epochs=3, rate=0.5)),
        ({"warm_up.rate": "none"}, "warm_up", Warm(epochs=3, rate=None)),
        ({"warm_up": {"epochs": "2"}, "warm_up.rate": 1}, "warm_up", Warm(epochs=2, rate=1.0)),
        ({"warm_up": Warm(epochs=9)}, "warm_up", Warm(epochs=9)),
        ({"cool.epochs": "2"}, "cool", Warm(epochs=2)),
        ({"cool": "none"}, "cool", None),
        ({"deep.warm.rate": "2"}, "deep", Deep(warm=Warm(epochs=5, rate=2.0))),
    ],
)
def test_what_settings_become(settings, name, value):
    made = build(Things, settings, "things")
    assert vars(made)[name] == value
    assert type(vars(made)[name]) is type(value)
    assert all(vars(made)[k] == v for k, v in vars(Things()).items() if k != name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"numbr": 1}, "things has no setting 'numbr'; it has: name, maybe, number,"),
        ({"numbr": 1}, "did you mean 'number'?"),
        ({"name.inner": 1}, "things has no setting 'name.inner'; it has: name,"),
        (
            {"warm_up.epoch": 1},
            "things has no setting 'warm_up.epoch'; it has: warm_up.epochs, warm_up.rate; "
            "did you mean 'warm_up.epochs'?",
        ),
        ({"deep.warm.zzz": 1}, "no setting 'deep.warm.zzz'; it has: deep.warm.epochs, deep.warm.r"),
        ({"number": "none"}, "things.number = 'none': input should be a valid number"),
        ({"number": None}, "things.number = None: input should be a valid number"),
        ({"name": 3}, "things.name = 3: input should be a valid string."),
        (
            {"weights": "a"},
            "things.weights = 'a': 'a' is not a valid pair; expected the form a:1,b:0.5.",
        ),
        ({"weights": "a:1,b"}, "things.weights = 'a:1,b': 'b' is not a valid pair;"),
        ({"weights": "a:x"}, "things.weights = 'a:x': input should be a valid number"),
        ({"choice": "Any"}, "things.choice = 'Any': input should be 'none' or 'some'."),
        ({"warm_up.epochs": "x"}, "things.warm_up.epochs = 'x': input should be a valid integer"),
        (
            {"warm_up": "x"},
            "things.warm_up = 'x': it has settings of its own; give warm_up.epochs, warm_up.rate.",
        ),
        ({"warm_up": None}, "things.warm_up = None: it has settings of its own; give warm_up.epo"),
        ({"cool": 2}, "give cool.epochs, cool.rate, or none to do without."),
        ({"deep.warm": "x"}, "things.deep.warm = 'x': it has settings of its own; give deep.warm."),
        # what was meant may stand inside another
        ({"epochs": 2}, "pair, warm_up.epochs, warm_up.rate, cool.epochs, cool.rate, deep.warm.ep"),
        ({"epochs": 2}, "did you mean 'warm_up.epochs'?"),
        ({"warmup.epochs": 2}, "did you mean 'warm_up.epochs'?"),
        ({"cool": "none", "cool.epochs": 1}, "things.cool is set as a whole and in part: choose"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        build(Things, settings, "things")
    assert "\n" not in str(error.value)
    assert str(error.value)[-1] in ".?"


def test_names_limit_what_may_be_set():
    with pytest.raises(ValueError, match="things has no setting 'flag'; it has: name, number"):
        build(Things, {"flag": True}, "things", ("name", "number"))
    assert build(Things, {"name": "b"}, "things", ("name", "number")) == Things(name="b")


def test_a_setting_without_a_default_is_asked_for():
    with pytest.raises(ValueError, match=r"^filter license needs its setting 'allowed'\.$"):
        filter_named("license")
    assert filter_named("license", {"allowed": "mit,CC-BY-4.0"}) == License(
        allowed=("mit", "CC-BY-4.0")
    )


# ---- the three that share it; each of these differed before


def test_nothing_is_nothing_for_rules_too():
    assert rule_named("curriculum", {"within": "none"}) == Curriculum()
    assert rule_named("threshold", {"min": "none", "max": "2"}) == Threshold(max=2.0)


def test_keys_with_colons_serve_methods_too():
    made = catalog.make("blend", {"methods": "my:ifd:1,length:0.5"})
    assert vars(made)["methods"] == {"my:ifd": 1.0, "length": 0.5}


NESTED = sorted(
    {
        (method, path)
        for method, cls in catalog.methods().items()
        for path in paths(cls, catalog.fields_of(cls))
        if "." in path
    }
)


def test_repeated_blocks_of_settings_stand_inside_one_another():
    """One word for one thing: a warm-up, rollouts, a judge and an objective are set alike."""
    found = {}
    for method, path in NESTED:
        found.setdefault(path.split(".")[0], set()).add(method)
    assert found == {
        "alignment": {"iprox"},
        "judge": {"ask_llm", "deita", "selectit", "solve_rate_filter"},
        "objective": {"implicit_gap", "irm", "lossdiff", "lossdiff_irm", "tif"},
        "rollouts": {"solve_rate_filter", "uncertainty_consistency"},
        "training": {"cpqs", "s2l"},
        "warm_up": {
            *("datainf", "iprox", "less", "tracin"),
            *("implicit_gap", "irm", "lossdiff", "lossdiff_irm", "tif"),
        },
    }


@pytest.mark.parametrize(("method", "path"), NESTED)
def test_what_stands_inside_is_set_by_a_dotted_key_or_a_mapping(method, path):
    default = settings_of(catalog.make(method))
    outer, inner = path.split(".")
    now = default[outer][inner]
    other = {
        "epochs": 2,
        "every": 100,
        "name": "slic",
        "grade": "number",
        "form": "slim",
        "layers": "last",
    }
    value = other.get(inner, {bool: not now, str: "x", type(None): 0.5}.get(type(now)))
    if inner == "span":
        value = "answer"
    elif inner == "gamma":  # SimPO's alone
        value = None
    elif value is None:
        value = now / 2 if now < 1 else type(now)(now * 2)
    given = {path: str(value)}
    if inner == "gamma":
        given = {path: "0.5", "objective.name": "simpo"}
    made = catalog.make(method, given)
    whole = {k.split(".")[1]: v for k, v in given.items()}
    assert made == catalog.make(method, {outer: whole})
    changed = settings_of(made)
    assert changed[outer][inner] != now
    same = {k: v for k, v in default[outer].items() if k not in whole}
    assert {k: changed[outer][k] for k in same} == same
    assert {k: v for k, v in changed.items() if k != outer} == {
        k: v for k, v in default.items() if k != outer
    }


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("less", {"epochs": 1}, "did you mean 'warm_up.epochs'?"),
        ("less", {"warm_up.epoch": 1}, "no setting 'warm_up.epoch'; it has: warm_up.share, warm_u"),
        ("less", {"warm_up.epoch": 1}, "did you mean 'warm_up.epochs'?"),
        ("less", {"warm_up": {"epoch": 1}}, "did you mean 'warm_up.epochs'?"),
        ("less", {"warm_up": "none"}, "less.warm_up = 'none': it has settings of its own; give"),
        ("less", {"warm_up.share": 2}, "warm_up.share is 2.0; give a share of the pool, 0 to 1."),
        ("irm", {"warm_up": "false"}, "warm_up.targets, or none to do without."),
        ("irm", {"beta": 1}, "did you mean 'objective.beta'?"),
        ("irm", {"objective": "slic"}, "give objective.name, objective.beta, objective.gamma."),
        ("irm", {"objective.gamma": 1}, "gamma is read by simpo alone, not by dpo."),
        ("solve_rate_filter", {"sampels": 1}, "did you mean 'rollouts.samples'?"),
        ("ask_llm", {"judge.least_mass": 0}, "judge.least_mass is a probability above 0 and below"),
    ],
)
def test_a_setting_that_stands_inside_is_told_of(method, given, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        catalog.make(method, given)
    assert "\n" not in str(error.value)


def test_a_warm_up_is_left_out_by_none():
    assert catalog.make("irm", {"warm_up": "none"}).recipes == ()
    kept, trained = catalog.make("irm", {"warm_up.epochs": "3"}).recipes
    assert (kept.role, trained.settings.training.epochs) == ("reference", 3)


def test_the_cue_is_shown_to_the_judge():
    """It was a setting that nothing read."""
    (signal,) = catalog.make("ask_llm").signals
    assert signal.view.cue == "Answer:"
    (other,) = catalog.make("ask_llm", {"judge.cue": "So:"}).signals
    assert other.view.cue == "So:"


def test_the_catalogue_tells_what_stands_inside():
    row = catalog.described("less")
    assert row["settings"]["warm_up"]["epochs"] == 4
    irm = catalog.method("irm")
    rows = {s.name: s for s in settings_rows(irm, catalog.fields_of(irm))}
    assert (rows["warm_up"].default, rows["warm_up.epochs"].default) == ("", "None")
    assert rows["warm_up"].told.startswith("none: the target is trained already")
    assert rows["objective.name"].told.startswith("`'dpo'` or `'slic'` or `'simpo'`; ")
    assert rows["warm_up.learning_rate"].told.startswith("the peak")


def test_empty_items_fall_out_of_the_lists_of_rules_too():
    assert rule_named("band", {"columns": "a,b,"}) == Band(columns=("a", "b"))


def test_filters_read_mappings_and_pairs():
    assert filter_named("repetition", {"top": "2:0.3,3:0.2"}) == Repetition(top={2: 0.3, 3: 0.2})
    assert filter_named("prose", {"word_length": "2,12"}) == Prose(word_length=(2.0, 12.0))


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (catalog.make, "lenth", "there is no method 'lenth'; .*; did you mean 'length'"),
        (rule_named, "tpo", "there is no rule 'tpo'; there are: band, .*; did you mean 'top'"),
        (filter_named, "secret", "there is no filter 'secret'; .*; did you mean 'secrets'"),
        (rule_named, "qqq", r"weighted\.$"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(make, name, said):
    with pytest.raises(ValueError, match=said):
        make(name)


# ---- the registry


def test_filters_and_rules_keep_their_names_and_classes():
    found = {name: cls.__name__ for name, cls in {**filters(), **rules()}.items()}
    assert found == {
        "language": "Language",
        "length": "Length",
        "license": "License",
        "phrases": "Phrases",
        "pii": "Pii",
        "prose": "Prose",
        "refusal": "Refusal",
        "repetition": "Repetition",
        "secrets": "Secrets",
        "template_leak": "TemplateLeak",
        "toxicity": "Toxicity",
        "where": "Where",
        "band": "Band",
        "curriculum": "Curriculum",
        "gumbel": "Gumbel",
        "mixture": "Mixture",
        "multinomial": "Multinomial",
        "round_robin": "RoundRobin",
        "stratified": "Stratified",
        "threshold": "Threshold",
        "top": "Top",
        "weighted": "Weighted",
    }
    assert settings_of(rule_named("gumbel")) == {"class": "Gumbel", "temperature": 1.0, "seed": 0}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "planted_rules"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_shared.py").write_text("raise AssertionError('shared files are not ids')\n")
    (folder / "mine.py").write_text(
        "from gristmill.pipeline.selection.rules.top import Top\n\nclass Mine(Top):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_file_is_an_id_and_what_it_imports_is_not_its_own(package):
    found = registry(package, package.name, Rule)
    assert {name: cls.__name__ for name, cls in found.items()} == {"mine": "Mine"}


@pytest.mark.parametrize("source", ["", "class A(Top): ...\nclass B(Top): ...\n"])
def test_a_file_of_none_or_two_is_refused(package, source):
    (package / "bad.py").write_text(
        f"from gristmill.pipeline.selection.rules.top import Top\n{source}"
    )
    with pytest.raises(AssertionError, match=r"bad\.py defines [02] of Rule, not one"):
        registry(package, package.name, Rule)


def test_a_protocol_serves_as_a_base(package):
    (package / "mine.py").write_text(
        "class Shouting:\n    def reasons(self, records): ...\n\nclass Other:\n    pass\n"
    )
    assert list(registry(package, package.name, Filter)) == ["mine"]

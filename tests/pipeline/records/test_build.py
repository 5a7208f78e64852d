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
from gristmill.pipeline.records.build import build
from gristmill.pipeline.records.registry import registry
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
        ({"warm_up": "x"}, "things.warm_up = 'x': "),
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

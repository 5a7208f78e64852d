"""Every setting acts: another value asks for another training, or gives other scores."""

import ast
import dataclasses
import typing

import polars as pl
import pytest
from acting import make_toys, recorded_training
from repository import ROOT

from gristmill.pipeline.contracts import Recipe, Scorer, settings_of
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft
from gristmill.pipeline.prepare.prepare import WarmUp
from gristmill.pipeline.signals.forward_signals import MeanLoss
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors import catalog
from gristmill.selectors.hidden import _contrast_training
from gristmill.selectors.influence._proxy import LowRankProxy

# What a method is built with before a setting is changed.
ROLLED = {"rollouts.samples": 4, "rollouts.max_tokens": 4}
BASE = {
    "active_dpo": {"layers": "q_proj"},
    "blend": {"methods": {"random": 1.0, "length": 1.0}},
    "column": {"name": "quality"},
    "cpqs": {"damage": "alone"},
    "datainf": {"k": 4},
    "deita": {"turns": 2},
    "ekfac": {"k": 4, "layers": "q_proj"},
    "filtered_dpo": {"max_tokens": 4},
    "grace": {"dim": 32},
    "gradient_cosine": {"layers": "q_proj"},
    "mig": {"tags": "ppl", "quality": "level", "picks": 5.0},
    "paser": {"every": 2, "picks": 8.0},
    "selectit": {"prompts": 2},
    "solve_rate_filter": ROLLED,
    "spice": {"picks": 8.0},
    "stat_sel": {"skills": "teacher", "missing": "none", "outcomes": "right"},
    "uncertainty_consistency": ROLLED,
}
ONE_SIDED = {"outcomes": "right", "perplexities": "ppl"}
TRAIN = {"train": True, "training.epochs": 60, "training.every": 12}
DIFFERENCE = {"by": "difference"}
BY_HAND = {"by": "difference", "epsilon": 0.1, "warm_up": None}
# Setting -> another value; or other settings under which it has something to do, and the value.
ANY = {
    "alpha": 7.0,
    "batch_size": 32,
    "beta": 0.3,
    "clusters": 3,
    "cue": "Mark: ",
    "damping": 3.0,
    "epochs": 9,
    "gamma": ({"objective.name": "simpo"}, 0.5),
    "k": 2,
    "layers": "v_proj",
    "learning_rate": 3e-3,
    "least_mass": 0.5,
    "loss": "sum",
    "max_tokens": 3,
    "objective.name": "simpo",
    "part_tokens": 30,
    "picks": 5.0,
    "probes": 4,
    "rank": 5,
    "reduce": "mean",
    "role": "proxy",
    "samples": 3,
    "seed": 7,
    "share": 0.5,
    "size": 64,
    "start": "reference",
    "targets": "all-linear",
    "temperature": 0.5,
    "warm_up": ({}, None),
}
OTHER = {
    "active_dpo": {"ridge": 9.0},
    "alignment_potential": {"weight": 0.5},
    "ask_llm": {"normalise": "answers", "question": "{text}?"},
    "bees": {"fusion": "min", "both_positive": True, "pairs": 5},
    "blend": {"methods": {"random": 1.0, "length": -1.0}},
    "column": {"name": "level", "prefer": "low"},
    "cpqs": {
        "classifier": "CLASSIFIER",
        "contrast": "CONTRAST",
        "form": "slim",
        "rank": 5,
        "scaled": False,
        "training.layers": "last",
        "span": "answer",
        "shortest": 40,
        "rows": 3,
        "damage": ({"contrast": "CONTRAST"}, "none"),
        "folds": 3,
        "passes": 20,
    },
    "cw_po": {"label": "annotator"},
    "deita": {
        "threshold": 0.99999,
        "over_turns": "mean",
        "turns": 1,
        "embedding": "last_token",
        "quality_role": "reward",
        "complexity_question": "{prompt}?",
        "quality_question": "{answer}?",
        "rendered": "plain",
    },
    "density": {"hashes": 50, "buckets": 30, "bandwidth": 0.1, "concat": 2},
    "donod": {"rate": 1e-2, "don_weight": 0.1, "nod_weight": 0.1},
    "dsir": {"n": 1, "buckets": 50, "least_words": 20, "per_ngram": True, "by_task": True},
    "ekfac": {"space": "whole", "loss": "mean", "size": 2_048},
    "facility_location_knn": {"neighbours": 1},
    "filtered_dpo": {"generated": "rated"},
    "grace": {
        "teacher": "task",
        "dim": 64,
        "projection": "factored",
        "splits": 3,
        "smoothing": 0.1,
    },
    "gradient_cosine": {"similarity": "inner", "aggregation": "mean_gradient"},
    "ifd": {"ratio": "ppl"},
    "implicit_gap": {"absolute": True},
    "iprox": {
        "rho": 0.7,
        "weighting": "none",
        "ridge": "absolute",
        "gamma": 0.1,
        "rank_multiple": 8,
        "alignment.epochs": 1,
        "kl_weight": 0.5,
        "probe_share": 0.9,
        "adapter": False,
    },
    "length": {"unit": "chars"},
    "less": {
        "update": "adam_eps_inside",
        "projection": ({"size": 64}, "dense_jl"),
        "aggregation": "mean_gradient",
    },
    "mig": {
        "tags": "other_ppl",
        "quality": "right",
        "threshold": 0.9999,
        "spread": 0.0,
        "exponent": 0.3,
        "per_label": True,
        "picks": 4.0,
    },
    "nuggets": {
        "anchors": 2,
        "anchor_tokens": 110,
        "parity": True,
        "exclude_self": False,
        "seed": ({"anchors": 3}, 7),
    },
    "paser": {"neighbours": 3, "every": 3, "seed": 7},
    "perplexity": {"prefer": "mid"},
    "prior_filter": {
        "prior": "tfdf",
        "window": "rank",
        "share": 0.5,
        "block": 8,
        "seed": ({"share": 0.5}, 7),
    },
    "rds_plus": {"template": "tulu"},
    "s2l": {
        "iterations": 1,
        "by": "level",
        "train": True,
        "epochs": (TRAIN, 50),
        "learning_rate": (TRAIN, 3e-3),
        "every": (TRAIN, 20),
    },
    "selectit": {"prompts": 1, "wordings": ({"prompts": 1}, ("Rate it.",))},
    "selective_dpo": {"seeds": ({}, (41, 42))},
    "semdedup": {
        "epsilon": 0.2,
        "clusters": 4,
        "iterations": ({"clusters": 4}, 1),
        "order": "easy",
        "vs_kept": ({"epsilon": 0.3}, True),
        "seed": ({"clusters": 4}, 7),
    },
    "solve_rate_filter": {
        "votes": 0,
        "least_votes": 0.6,
        "grade": "number",
        "answer": "solution",
        "outcomes": ({"outcomes": "right"}, "wrong"),
    },
    "spice": {
        "role": "target",
        "pool_size": 5,
        "alpha": 9.0,
        "penalty": 0.9,
        "omega": 0.9,
        "fisher": "diag_g2",
        "token_mask": "all",
    },
    "stat_sel": {"skills": "task", "missing": "task", "outcomes": "wrong", "hardest": 1},
    "teacher_divergence": {
        "beta": 0.5,
        "by": "share",
        "best": False,
        "distilled": True,
    },
    "tif": {
        "by": "difference",
        "layers": "q_proj",
        "epsilon": (BY_HAND, 0.2),
    },
    "tsds": {"alpha": 0.999, "scale": 0.01, "sigma": 0.0},
    "uncertainty_consistency": {
        "form": "online",
        "gamma": ({"form": "online"}, 0.9),
        "grade": "number",
        "answer": "solution",
        "outcomes": (ONE_SIDED, "wrong"),
        "perplexities": (ONE_SIDED, "other_ppl"),
    },
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toys(tmp_path_factory.mktemp("toys"))


def dead(toys, method, settings):
    """The settings of a method by which nothing changes, and those that no entry above changes."""
    found = []
    # a path enters by the content of what lies there: `test_cpqs` has the tests
    places = {f.name for f in dataclasses.fields(catalog.method(method)) if f.metadata.get("place")}
    for name in settings:
        leaf = name.rpartition(".")[2]
        known = {**ANY, **OTHER.get(method, {})}
        other = known.get(name, known.get(leaf))
        if other is None:
            found.append(f"{name}: no other value is given here")
            continue
        context, value = other if isinstance(other, tuple) else ({}, other)
        base = {**BASE.get(method, {}), **{k: toys.path(v) for k, v in context.items()}}
        one = catalog.make(method, base)
        changed = catalog.make(method, {**base, name: toys.path(value)})
        if name not in places and settings_of(one) == settings_of(changed):
            found.append(f"{name}: {value!r} does not enter the key")
        elif not toys.differ(one, changed):
            found.append(f"{name}: {value!r} changes no training and no score")
    return found


def leaves(settings, prefix=""):
    """Dotted names of the settings; of one that may be an object or nothing, its own name too."""
    cls = type(settings)
    names = catalog.fields_of(cls) if isinstance(settings, Scorer) else vars(settings)
    hints = typing.get_type_hints(cls)
    found = []
    for name in names:
        value = vars(settings)[name]
        inner = dataclasses.is_dataclass(value)
        found += leaves(value, f"{prefix}{name}.") if inner else []
        if not inner or type(None) in typing.get_args(hints[name]):
            found.append(prefix + name)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unread(Scorer):
    """A planted dead setting: it enters the key, and nothing reads it."""

    mood: str = "kind"

    @property
    def signals(self):
        return (MeanLoss(),)

    def score(self, pool, reference=None):
        blocks = (b.select("id", score=MeanLoss().column) for b in pool.blocks())
        return pl.concat(blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moody(Dialogue):
    """A view whose setting changes its name alone."""

    mood: str

    @property
    def name(self):
        return f"dialogue_{self.mood}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgotten(Scorer):
    """A planted dead setting: it is handed on to a view that forgets it, and the pass is paid."""

    mood: str = "kind"

    @property
    def signals(self):
        return (MeanLoss(view=Moody(mood=self.mood)),)

    def score(self, pool, reference=None):
        return pl.concat(b.select("id", score=self.signals[0].column) for b in pool.blocks())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rereading(Recipe):
    """A recipe that trains whatever its setting says."""

    role: str = "target"
    mood: str

    def make(self, context):
        return WarmUp(role="target").make(context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untrained(Unread):
    """A planted dead setting: it is handed on to a recipe that does without."""

    @property
    def recipes(self):
        return (Rereading(role="target", mood=self.mood),)


@pytest.mark.parametrize("planted", [Unread, Forgotten, Untrained])
def test_a_dead_setting_is_found(planted, toys, monkeypatch):
    one, two = planted(), planted(mood="stern")
    assert settings_of(one) != settings_of(two), "it enters the key, as ask_llm's cue once did"
    with recorded_training(toys, monkeypatch):
        assert not toys.differ(one, two)
        alive = (catalog.make("ask_llm", {"judge.cue": cue}) for cue in ("Answer:", "Mark:"))
        assert toys.differ(*alive)


@pytest.mark.parametrize("method", sorted(catalog.methods()))
def test_every_setting_of_a_method_acts(method, toys, monkeypatch):
    with recorded_training(toys, monkeypatch):
        assert dead(toys, method, leaves(catalog.methods()[method]())) == []


# What is handed on whole, and the folder whose code has to read each of its fields.
HANDED_ON = {
    Dpo: "pipeline/finetune",
    Lora: "pipeline/finetune",
    LowRankProxy: "selectors/influence",
    Reward: "pipeline/finetune",
    Sft: "pipeline/finetune",
    Training: "pipeline/finetune",
    _contrast_training.Training: "selectors/hidden",
}


class Reads(ast.NodeVisitor):
    """Attributes that code reads, but for checks of their values."""

    def __init__(self):
        self.names = set()

    def visit_FunctionDef(self, node):
        if node.name != "__post_init__":
            self.generic_visit(node)

    def visit_Attribute(self, node):
        self.names.add(node.attr)
        self.generic_visit(node)


@pytest.mark.parametrize("cls", HANDED_ON, ids=lambda c: c.__qualname__)
def test_what_is_handed_on_whole_is_read_where_it_goes(cls):
    """The recorded trainings show that a setting arrives; this, that it is not left lying there."""
    reads = Reads()
    for path in (ROOT / HANDED_ON[cls]).rglob("*.py"):
        reads.visit(ast.parse(path.read_text("utf-8")))
    unread = {f.name for f in dataclasses.fields(cls)} - reads.names
    assert not unread

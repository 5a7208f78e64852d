"""What a method does with its settings, on toys: trainings recorded, everything else real.

The outcome of a run is what its recipes ask to be trained (rows, base, settings) and the scores
table. Trainings are answered with checkpoints that were made once: two settings that ask for the
same training, and give the same scores, differ in nothing.
"""

import json
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import polars as pl
from rows import chat_rows, document_rows, pair_rows, write_jsonl

from gristmill.pipeline.contracts import EncodingFacts, Frames, asked_roles, settings_of
from gristmill.pipeline.finetune.reward import Reward, train_reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.pipeline.signals.rollouts import Rollouts
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.hidden import _contrast
from gristmill.selectors.hidden._contrast_classifier import classifier, networks
from gristmill.selectors.hidden.cpqs import Cpqs
from gristmill.selectors.influence import _proxy_build
from gristmill.selectors.preference.tif import Tif

ONCE = Training(epochs=1, batch_size=8, learning_rate=1e-2, checkpoints="last")


@dataclass(frozen=True, kw_only=True)
class Toys:
    """Models, rows and checkpoints that all runs share."""

    store: Store
    models: dict[str, tuple[str, ...]]
    pools: dict[str, object]
    targets: dict[str, object]
    trained: dict[str, tuple[str, ...]]
    calls: list
    asked: dict

    def path(self, value):
        """A value, or the file that a name in capitals stands for."""
        root = self.store.root.parent
        if value == "CONTRAST":
            return str(root / "marked-pool.jsonl")
        if value == "CLASSIFIER":
            if not (root / "classifier").exists():
                score(self._ready(Cpqs(damage="alone"), few=True, targets=False))
            return str(root / "classifier")
        return value

    def differ(self, one, two):
        """Whether two scorers ask for other trainings, or else give other scores.

        Where their passes differ a few rows are enough; a pass is what takes time.
        """
        sets = {"required": [True], "optional": [True, False], "none": [False]}[one.reference]
        return any(self._differ(one, two, targets=given) for given in sets)

    def _differ(self, one, two, *, targets):
        few = _read(one) != _read(two)
        asked = [self._trainings(s, few=few, targets=targets) for s in (one, two)]
        self.calls.clear()
        if asked[0] != asked[1]:
            return True
        if not few and _made(one) == _made(two) and type(one).__name__ in GIVEN:
            tables = [s.score(*GIVEN[type(s).__name__](s)) for s in (one, two)]
            return not tables[0].equals(tables[1])
        runs = [self._ready(s, few=few, targets=targets) for s in (one, two)]
        tables = [score(run).frame().sort("id") for run in runs]
        if few and tables[0].equals(tables[1]):  # few rows may score alike: compare what was read
            tables = [_observed(run) for run in runs]
        return not tables[0].equals(tables[1])

    def _trainings(self, scorer, *, few, targets):
        """What its recipes ask to be trained, in order, up to the first that is not answered."""
        known = digest([repr(scorer), few, targets])  # places too, which are in no key
        if known in self.asked:
            return self.asked[known]
        for step in ("contrast", "low-rank-proxy"):  # else asked for once alone
            shutil.rmtree(self.store.root / step, ignore_errors=True)
        for opened in (classifier, networks):
            opened.cache_clear()
        self.calls.clear()
        self.calls.append("first")
        with suppress(Asked):
            self._ready(scorer, few=few, targets=targets)
        self.asked[known] = self.calls[1:]
        return self.asked[known]

    def _ready(self, scorer, *, few, targets):
        """The run with its models made."""
        kind = scorer.accepts[0]
        roles = {r: self.models[r] for r in asked_roles(scorer) or ("target",)}
        if isinstance(scorer, Tif) and "proxy" in roles:  # it compares two
            roles["proxy"] = self.models["history"]
        run = ScoreRun(
            scorer=scorer,
            dataset=self.pools[kind, few],
            reference=self.targets[kind] if targets else None,
            context=RunContext(
                models=Models(store=self.store, roles=roles), passes=Passes(device="cpu")
            ),
        )
        return ready(run)


class Asked(Exception):
    """Enough is known: what would be made now takes long."""


def _observed(run):
    """The numbers that the signals gave, under names that do not tell settings."""
    seen = observe(run.context, run.dataset, run.scorer.signals)
    names = [name for s in run.scorer.signals for name, _ in seen.columns(s)]
    return seen.frame().sort("id").select(pl.col(n).alias(f"{i}") for i, n in enumerate(names))


def _embeddings(scorer):
    """Sixty points in four clouds, some of them nearly on another."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4, 8)).repeat(15, axis=0) + 0.4 * draw.normal(size=(60, 8))
    x[1::3] = x[0::3] + 0.1 * draw.normal(size=(20, 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    (signal,) = scorer.signals
    column = pl.Series(signal.column, x, dtype=pl.Array(pl.Float32, 8))
    return (
        Frames(parts=(pl.DataFrame({"id": [f"{i:02d}" for i in range(60)]}).hstack([column]),)),
    )


def _targets(scorer):
    """The same, and a target in two of the clouds."""
    (pool,) = _embeddings(scorer)
    return pool, Frames(parts=(pool.frame()[[0, 1, 20]],))


def _trajectories(scorer):
    """Losses of 400 rows at two checkpoints."""
    loss_NS = np.random.default_rng(0).normal(size=(400, 2))
    (signal,) = scorer.signals
    frame = pl.DataFrame({"id": [f"{i:03d}" for i in range(400)]}).with_columns(
        pl.Series(f"{signal.column}@{s}", loss_NS[:, s]) for s in (0, 1)
    )
    told = pl.Series("meta", [f'{{"level": {i % 3}}}' for i in range(400)])
    frame = frame.with_columns(told, source=pl.lit("pool"))
    return (Frames(parts=(frame,), weights={"history": (0.5, 0.5)}),)


def _rollouts(scorer):
    """Six tasks, six rollouts each that end in a number, and one judge who says yes at times."""
    said = [str((i * k) % 4) for i in range(6) for k in range(6)]
    rolled = [
        [{"text": f"so {t}", "tokens": 4, "logprob": -1.0 - k, "whole": k % 3 > 0} for k, t in e]
        for e in (list(enumerate(said[6 * i : 6 * i + 6])) for i in range(6))
    ]
    answer = [[{"role": "assistant", "content": f"It is {i % 4} #### 2"}] for i in range(6)]
    meta = [
        json.dumps(
            {
                "solution": "#### 0",
                "right": [k > i for k in range(6)],
                "wrong": [k > 3 for k in range(6)],
            }
            | {"ppl": [1.5 + k for k in range(6)], "other_ppl": [1.0 + k * k % 5 for k in range(6)]}
        )
        for i in range(6)
    ]
    frame = pl.DataFrame({"id": list("abcdef"), "messages": answer, "meta": meta})
    for signal in scorer.signals:
        if isinstance(signal, Rollouts):
            frame = frame.with_columns(pl.Series(signal.column, rolled))
        else:
            yes = [[0.1 + i / 20, 0.3] for i in range(6)]
            judged = pl.Series(signal.column, yes, dtype=pl.Array(pl.Float32, 2))
            frame = frame.with_columns(judged)
    return (Frames(parts=(frame,)),)


def _sentences(scorer):
    """Two answers to each of six questions, alike to the last four; three sentences an answer."""
    parts = [[-0.1, -2.0, -0.5], [-2.0, -0.1, -0.6], [-0.2, -0.3, -2.0], [-0.1, -0.3, -2.0]]
    parts += parts[:1] * 8
    asked = [[{"role": "user", "content": f"{i // 2}?"}] for i in range(12)]
    said = [[*q, {"role": "assistant", "content": f"{i}."}] for i, q in enumerate(asked)]
    frame = pl.DataFrame({"id": list("abcdefghijkl"), "messages": said}).with_columns(
        tools=pl.lit(None, pl.String)
    )
    for shift, signal in enumerate(scorer.signals):
        values = [{"ends": [1, 2, 3], "logprob": p[shift:] + p[:shift]} for p in parts]
        frame = frame.with_columns(pl.Series(signal.column, values))
    return (Frames(parts=(frame,)),)


def _gradients(scorer):
    """Twenty gradients in few dimensions, where some pull against others."""
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    (signal,) = scorer.signals
    column = pl.Series(signal.column, x, dtype=pl.Array(pl.Float32, 4))
    return (
        Frames(parts=(pl.DataFrame({"id": [f"{i:02d}" for i in range(20)]}).hstack([column]),)),
    )


def _recovery(scorer):
    """Sixty rows in no clear clusters, of which two models think more or less apart."""
    draw = np.random.default_rng(0)
    divergence, embedding = scorer.signals
    x = draw.normal(size=(60, 4)).astype(np.float32)
    facts = EncodingFacts(role="reference", view=Dialogue()).column
    told = [{"tokens": 5 + i, "answer_tokens": 4, "cut": 0, "reason": None} for i in range(60)]
    said = [[{"role": "assistant", "content": f"word{i}", "extra": None}] for i in range(60)]
    columns = [
        pl.Series("id", [f"{i:02d}" for i in range(60)]),
        pl.Series("messages", said),
        pl.Series(divergence.column, draw.random(60)),
        pl.Series(embedding.column, x, dtype=pl.Array(pl.Float32, 4)),
        pl.Series(facts, told, dtype=EncodingFacts.dtype),
    ]
    return (Frames(parts=(pl.DataFrame(columns),)),)


# Rows that show what the pools are too small, or a random model too poor, to show.
GIVEN = {
    "Density": _embeddings,
    "Semdedup": _embeddings,
    "Tsds": _targets,
    "Paser": _recovery,
    "S2l": _trajectories,
    "SolveRateFilter": _rollouts,
    "UncertaintyConsistency": _rollouts,
    "Spice": _gradients,
    "TeacherDivergence": _sentences,
}


def _made(scorer):
    return [settings_of(r) for r in scorer.recipes]


def _read(scorer):
    return [settings_of(s) for s in (*scorer.signals, *scorer.reference_signals, *scorer.facts)]


def make_toys(root) -> Toys:
    """Three blocks a model, so that some can be dropped; every role has weights of its own."""
    store = Store(root=root / "store")
    store.root.mkdir()
    one, two = (str(make_tiny(root / f"model{s}", s, hidden=32, layers=3)) for s in (1, 2))
    models = dict.fromkeys(("target", "teacher", "embedder", "reference"), (one,))
    models |= dict.fromkeys(("proxy", "student", "judge", "weak"), (two,))
    models["history"] = (one, two)
    pools, targets = {}, {}
    for kind, rows in _rows().items():
        few, pool, target = (
            ingest(store, [Source(path=str(write_jsonl(root / f"{kind}-{p}.jsonl", part)))])
            for p, part in (
                ("few", [*rows[:3], rows[-1]]),
                ("pool", [*rows[:-4], rows[-1]]),
                ("target", rows[-4:]),
            )
        )
        pools |= {(kind, True): few, (kind, False): pool}
        targets[kind] = target
    examples, pairs = (pools[k, True].frame() for k in ("example", "pair"))
    adapters = [
        train_sft(examples, one, Sft(training=replace(ONCE, seed=s), lora=Lora(rank=4)), store)
        for s in (1, 2)
    ]
    reward = train_reward(pairs, one, Reward(training=ONCE), store)
    models["reward"] = (reward.reference,)
    trained = {
        "adapter": tuple(a.reference for a in adapters),
        "reward": (reward.reference,),
        "full": (two,),
    }
    return Toys(
        store=store,
        models=models,
        pools=pools,
        targets=targets,
        trained=trained,
        calls=[],
        asked={},
    )


def _rows():
    """Rows of each kind, the last four of them targets; some pool rows are nearly the same."""
    chats = chat_rows(14)
    for i, row in enumerate(chats):
        for message in row["messages"]:
            message["content"] = message["content"][:40]
        row |= {
            "task": "ab"[i % 2],
            "teacher": "xyz"[i % 3],
            "right": [True, False, i % 2 == 0, i % 3 == 0],
            "wrong": [False, False, i % 2 == 0, True],
            "ppl": [1.5, 2.0 + i % 5, 1.0 + i % 3, 4.0],
            "other_ppl": [2.5, 1.0, 3.0, 1.0 + i % 4],
            "solution": "42" if i % 2 else str(i),
            "level": i * i % 7,
        }
    for i, row in enumerate(pairs := pair_rows(14)):
        if i % 2:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        row |= {"level": i, "rated": i / 10, "rated_again": 1 - i / 10}
    marked = [{**r, "quality": ("strong", "weak")[i % 2]} for i, r in enumerate(chats[:8])]
    return {"example": chats, "pair": pairs, "marked": marked, "document": document_rows(10)}


@contextmanager
def recorded_training(toys: Toys, monkeypatch):
    """Trainings are noted down and answered with checkpoints that are there."""

    def answer(kind, frame, base, settings, **more):
        tie = more.get("reference")
        toys.calls.append((kind, frame["id"].to_list(), base, settings_of(settings), tie))
        name = "reward" if kind == "reward" else "adapter" if settings.lora else "full"
        found = toys.trained[name]
        # rows of the pool and of the target set give two models
        model = found[frame.height % 2 if len(found) > 1 else 0]
        checkpoint = SimpleNamespace(reference=model, learning_rate=1.0)
        return SimpleNamespace(checkpoints=(checkpoint,), reference=model, notes=())

    def train(kind):
        return lambda frame, base, settings, store, **more: answer(
            kind, frame, base, settings, **more
        )

    def agreement(frame, model, store, **more):
        toys.calls.append(("margins", frame.height, more["beta"]))
        return SimpleNamespace(size=SimpleNamespace(value=1.0))

    def note(call):
        toys.calls.append(call)
        if toys.calls[0] == "first":
            raise Asked

    def low_rank(recipe, frame, wanted, loaded):
        note(("low rank", frame["id"].to_list(), wanted, settings_of(recipe)))
        return loaded.model, {"notes": []}

    real = _contrast.fit

    def contrast(taken, model, training, path, *more):
        told = [(r.id, r.strong, r.damaged) for r in taken]
        note(("contrast", told, settings_of(training), more[-1]))
        made = toys.store.root.parent / "classifier"
        if not made.exists():
            real(taken, model, replace(training, passes=1, form="slim"), made, *more)
        shutil.copytree(made, path)

    monkeypatch.setattr("gristmill.pipeline.prepare.prepare.LEAST", 2)  # toys are small pools
    monkeypatch.setattr("gristmill.selectors.data_space._token_prior.LEAST", 2)
    for module in ("prepare.prepare", "prepare.preference"):
        monkeypatch.setattr(f"gristmill.pipeline.{module}.train_dpo", train("dpo"))
    monkeypatch.setattr("gristmill.pipeline.prepare.prepare.train_sft", train("sft"))
    monkeypatch.setattr("gristmill.pipeline.prepare.preference.train_reward", train("reward"))
    monkeypatch.setattr("gristmill.selectors.likelihood.s2l.train_sft", train("sft"))
    monkeypatch.setattr("gristmill.pipeline.evaluate.preference.preference_accuracy", agreement)
    monkeypatch.setattr(_proxy_build, "build", low_rank)
    monkeypatch.setattr(_contrast, "fit", contrast)
    yield

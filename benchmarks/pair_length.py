"""Is the share of pairs whose chosen side is longer held, where a judge loves length?

    GRISTMILL_DATA=... python benchmarks/pair_length.py

The two answers to each prompt of MT-Bench's human pairs are candidates; a mock judge prefers the
longer one in both orders, as often as told, and else agrees with the people. Pairs are built by the
default rule under each length control.
"""

import os
from pathlib import Path

import polars as pl

from gristmill.pipeline.evaluate.judging import Judged
from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.records.schema import uniform
from gristmill.synthesis.preference.building import Building
from gristmill.synthesis.preference.candidates import Candidate, prompt_id
from gristmill.synthesis.preference.judges import Judgement
from gristmill.synthesis.preference.length import LengthControl
from gristmill.synthesis.preference.outcome import Controls, built
from gristmill.synthesis.preference.prompts import ASIDE, Prompt
from gristmill.synthesis.preference.rules import rule_named
from gristmill.synthesis.preference.tournament import Meeting, scored

FILE = "pref/mtbench_human_pairs.json"
DATA = Path(os.environ.get("GRISTMILL_DATA", Path(__file__).parent / "data"))
CONTROLS = [
    LengthControl(by="none"),
    *(LengthControl(cap=c) for c in (0.6, 0.5, 0.3)),
    LengthControl(by="bands"),
]


def judged(love):
    """Prompts and the verdicts of a judge that prefers the longer answer so often."""
    prompts, candidates, met = {}, [], []
    path = DATA / FILE
    read = format_of(path)
    for number, (_, item) in enumerate(read.items(path)):
        row = read.parse(item)
        turns = [{"role": "user", "content": row["input"], "extra": None}]
        ident = prompt_id(turns)
        texts = [row[f"output_{n}"] for n in (1, 2)]
        two = [Candidate(prompt=ident, text=t, role=f"model-{n}") for n, t in enumerate(texts)]
        one, other = sorted(two, key=lambda c: c.id)
        if ident in prompts or one.id == other.id or row["label"] not in (1, 2):
            continue
        prompts[ident] = Prompt(
            id=ident,
            source=FILE,
            row=number,
            license=None,
            messages=turns,
            tools=None,
            text=row["input"],
            answer=None,
        )
        by_people = one.text == texts[row["label"] - 1]
        by_length = one.length > other.length
        value = float(by_length if uniform(0, "love of length", ident) < love else by_people)
        said = Judged(id=ident, one_first=value, two_first=value)
        met.append(Meeting(prompt=ident, one=one.id, two=other.id, said=said, judge="mock"))
        candidates += two
    return prompts, Judgement(candidates=tuple(scored(candidates, met)), met=tuple(met))


def main():
    print(f"{'love':>6}{'control':>12}{'pairs':>7}{'longer before':>15}{'after':>8}{'left':>6}")
    building = Building(rule=rule_named("best_random_lower"))
    for love in (0.0, 0.5, 0.9):
        prompts, found = judged(love)
        for control in CONTROLS:
            aside = pl.DataFrame(schema=ASIDE)
            made = built(
                list(prompts.values()), aside, [], found, building, Controls(length=control)
            )
            before, after = (0.0 if share is None else share for share in made.longer)
            assert control.by != "cap" or after <= control.cap
            name = f"cap {control.cap:g}" if control.by == "cap" else control.by
            print(
                f"{love:6.1f}{name:>12}{len(made.pairs):7d}{before:15.3f}{after:8.3f}"
                f"{len(made.kept):6d}"
            )


if __name__ == "__main__":
    main()

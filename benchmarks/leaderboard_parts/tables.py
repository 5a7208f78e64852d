"""The tables of the leaderboard, from the cells that are there; losers stand in them."""

from pathlib import Path

import polars as pl

from gristmill.pipeline.compare import findings
from leaderboard_parts import canary, large
from leaderboard_parts.arms import NO_METHOD
from leaderboard_parts.parts import BEST, DRAWS, MORE, pairs, small

HOME = Path(__file__).parents[1]
CLAIM = findings.CLAIM
MATCHED = ("length_matched", "compute_matched")
HEAD = (
    "arm", "rows", "tokens", "cost", "rate", "value", "against random", "p (Holm)",
    "balanced random", "its lengths", "as much compute", "seen from", "elsewhere", "faulty",
)  # fmt: skip


def write(store):
    """Write `leaderboard.md` and its two Parquet files."""
    text, boards = [INTRODUCTION], {}
    for make in (small, pairs):
        table = make(store)
        own = _boards(table)
        boards |= {(table.name, target): board for target, board in own.items()}
        text += _part(table, own)
    trials, larger = canary.canary(store), large.large(store)
    boards["canary", canary.TARGET], boards["large", large.TARGET] = (
        trials.compared(),
        larger.compared(),
    )
    text += canary.section(boards["canary", canary.TARGET])
    text += large.section(larger, boards["large", large.TARGET])
    (HOME / "leaderboard.md").write_text("\n".join(text).rstrip() + "\n", "utf-8")
    for name, made in (
        ("leaderboard", findings.leaderboard),
        ("leaderboard_cells", findings.cells),
    ):
        frames = [
            made(board).with_columns(table=pl.lit(part), target=pl.lit(target))
            for (part, target), board in boards.items()
            if board is not None
        ]
        pl.concat(frames, how="diagonal").write_parquet(HOME / f"{name}.parquet")


def _boards(table):
    found = {}
    for target in table.targets:
        made = table.there(target, table.budgets)
        if made:
            found[target] = table.compared(target, made)
    return found


def _part(table, boards):
    text = [f"## {TITLES[table.name]}", "", NOTES[table.name], ""]
    text += _claims(table, boards)
    for target, board in boards.items():
        for budget in (b for b in sorted(table.budgets, key=_share) if b in board.outcomes[target]):
            text += [f"### {target}, {budget}", "", *_table(table, board, target, budget), ""]
            text += [*_missing(table, board, target, budget), ""]
    for target, board in boards.items():
        budget = next(b for b in table.budgets if b in board.outcomes[target])
        methods = [o for o in board.outcomes[target][budget].values() if not o.arm.control]
        text += [f"### A sentence a method: {target}, {budget}", ""]
        text += [f"- {findings.summary(board, budget, o.arm.name)}" for o in _ranked(methods)]
        text += [""]
    text += [f"- **Warning.** {w}" for board in boards.values() for w in findings.warnings(board)]
    return [*text, *_settings(table), ""]


def _share(budget):
    return float(budget.rstrip("%"))


def _ranked(outcomes):
    return sorted(outcomes, key=lambda o: (-_effect(o), o.arm.name))


def _effect(outcome):
    return outcome.against["random"].value if "random" in outcome.against else 0.0


def _table(table, board, target, budget):
    """A row an arm: methods, and the controls among them; matched controls stand in columns."""
    shown = [o for o in board.outcomes[target][budget].values() if o.arm.matched is None]
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for o in _ranked(shown):
        e = o.against.get("random")
        others = [
            f"{name} {findings.shown(x)}"
            for name, found in board.outcomes.items()
            if board.design.evaluations[name].part == "elsewhere"
            and (x := found[budget][o.arm.name].against.get("random"))
        ]
        cells = [
            f"*{findings.words(o.arm.name)}*" if o.arm.control else f"`{o.arm.name}`",
            f"{o.rows:.0f}",
            f"{o.tokens:,.0f}",
            f"{o.arm.cost:,.0f}" if not o.arm.control else "",
            f"{o.rate:g}" if o.rate else "",
            f"{o.value:.4f}",
            findings.shown(e) if e else "",
            _p(o.adjusted.get("random")),
            *(_against(o, kind) for kind in ("balanced_random", *MATCHED)),
            f"{e.detectable:.4f}" if e else "",
            "; ".join(others),
            _faulty(table, o),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _against(outcome, kind):
    e = outcome.against.get(kind)
    if e is None or (outcome.arm.control and kind in MATCHED):
        return ""
    p = outcome.adjusted.get(kind)
    return findings.shown(e) + (f", p {_p(p)}" if p is not None else "")


def _p(value):
    return "" if value is None else f"{value:.2g}"


def _faulty(table, outcome):
    """How many of the first draw's rows are planted, by kind."""
    if not outcome.arm.draws:
        return ""
    own = outcome.arm.draws[0].join(table.board.planted, on="id")["planted"].drop_nulls()
    counts = own.value_counts().sort("planted").rows()
    return ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in counts)


def _claims(table, boards):
    """Who beats all three controls at the first budget, on every target."""
    budget = table.budgets[0]
    fit = {t: b for t, b in boards.items() if budget in b.outcomes[t]}
    if not fit:
        return []
    claimed = {
        target: {
            o.arm.name
            for o in board.outcomes[target][budget].values()
            if not o.arm.control and findings.claimed(board, target, budget, o.arm.name)
        }
        for target, board in fit.items()
    }
    both = sorted(set.intersection(*claimed.values()))
    named = ", ".join(f"`{n}`" for n in both) or "none"
    text = [
        f"**At {budget}, {len(both)} methods beat random, balanced random and random rows of their "
        f"own lengths on {' and '.join(fit)}, each after Holm: {named}.**",
        "",
    ]
    for target, board in fit.items():
        alone = sorted(claimed[target] - set(both))
        if alone:
            text += [f"On {target} alone: {', '.join(f'`{n}`' for n in alone)}."]
        text += _short(board, target, budget, claimed[target])
    return [*text, ""]


def _short(board, target, budget, claimed):
    """Those that beat random by their interval and yet claim nothing, and what is lacking."""
    text = []
    for o in _ranked(board.outcomes[target][budget].values()):
        if o.arm.control or o.arm.name in claimed or o.against["random"].low <= 0:
            continue
        lacking = [
            f"{findings.words(c)} ({findings.shown(o.against[c])}, p {_p(o.adjusted.get(c))})"
            if c in o.against
            else f"{findings.words(c)} (not trained yet)"
            for c in CLAIM
            if not o.beats(c, board.design.level)
        ]
        text += [f"- `{o.arm.name}` on {target}: not shown to beat {', '.join(lacking)}."]
    return text


def _missing(table, board, target, budget):
    there = {o.arm.name for o in board.outcomes[target][budget].values()}
    names = [m.name for m in table.methods if m.name not in there and m.name not in table.failed]
    if not names:
        return []
    return [f"Not trained yet: {', '.join(f'`{n}`' for n in names)}."]


def _settings(table):
    told = [f"- `{m.name}`: {m.why}." for m in table.methods if m.why]
    told += [f"- `{name}` cannot run here: {why}" for name, why in sorted(table.failed.items())]
    told += [f"- `{name}` is not in it: it {why}." for name, why in NO_METHOD.items()]
    return ["### Settings, and who is not in it", "", SETTINGS, "", *told]


TITLES = {"small": "Examples, the small model", "pairs": "Preference pairs, the small model"}
INTRODUCTION = f"""# Leaderboard of selectors

Does a selector's choice train a better model than random rows of the same number do? Made by
`python benchmarks/leaderboard.py`, which goes on where it was stopped; `--check 2` trains two cells
again in a new store and compares them with `leaderboard_cells.parquet`, weights and values.
Figures are in nats a token (examples) or shares of pairs (preference pairs); above zero is better.

- **Interval**: 95 %, over test items (paired bootstrap), training seeds and draws of the control; a
  method is one draw, so it varies as random draws do. `p (Holm)` is adjusted over the methods of a
  table. *seen from*: the smallest effect that this experiment would find with a power of 80 %.
- **Controls**: {DRAWS["random"]} random draws, {DRAWS["balanced_random"]} balanced ones (alike
  from every source), at 10 % of the examples {MORE["random"]} and {MORE["balanced_random"]}, as
  more draws show smaller effects; the longest rows, a canary (one more random draw), all rows, the
  base as it is. Methods whose intervals against random and balanced random are above zero also meet
  {DRAWS["length_matched"]} random draws of their rows' lengths (the {BEST} best on all targets
  {MORE["length_matched"]}), and {DRAWS["compute_matched"]} of as many more rows as training on them
  costs what the choice cost (*cost*: forward passes of a row by the base). The others cannot claim
  anything, and are spared them; so Holm's family of these two controls holds few methods.
- **Chosen after looking**: random on maths at 10 % went from 10 draws to 20 when
  `gradient_cosine` stood at p 0.06 after Holm, and who meets 8 draws of its lengths was chosen by
  the results at 3. Both narrow intervals; neither was undone where it went against a method.
  Matched controls stand for 10 % alone; at 5 and 30 % they appear where they are the same rows.
- **One recipe**: three seeds, two epochs, batches of eight, all weights; the learning rate is
  chosen for each arm, of two, on validation rows.
- **faulty**: planted rows among those that were chosen; no selector sees the mark.
"""
NOTES = {
    "small": (
        "Base: 1.25 M parameters, `benchmarks/data/lds/base`, trained on general text and none of "
        "these rows but Dolly's. Pool: 480 rows of GSM8K, MedQuAD, Dolly, T0, Glaive and, planted, "
        "16 exact and 20 near copies, 28 off-target rows, 32 with another question's answer, 24 "
        "with half an answer. Targets: maths (96 test rows of GSM8K's test set) and medical (96 of "
        "MedQuAD); 24 query rows and 32 validation rows each; elsewhere: the other target, and 48 "
        "seed tasks of Self-Instruct."
    ),
    "pairs": (
        "The same base under DPO (beta 0.1). Pool: 373 pairs of TruthfulQA answers, harmless "
        "dialogues and PandaLM, 62 of them swapped. Target: of two answers to a TruthfulQA "
        "question, the true one (190 test pairs, 32 query and 48 validation pairs); elsewhere: "
        "64 harmless dialogues and 32 pairs of PandaLM. The base itself has no margin against "
        "itself: its share is 0 by definition."
    ),
}
SETTINGS = (
    "Every selector has its defaults and its own rule; it reads the base in every role that it "
    "asks for, judges and reward models included, but for the embedder (all-MiniLM-L6-v2)."
)

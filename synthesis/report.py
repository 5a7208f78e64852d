"""The report of a run of EQUAL: where it pulled, what came out, what it cost, and against uniform.

Draws the tables of `figures`, each plot with its numbers beside it. Self-contained HTML.
"""

# T = pulls in order

import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from gristmill.pipeline.models.completion.client import Price
from gristmill.pipeline.report import plots
from gristmill.pipeline.report.page import (
    Child,
    Html,
    document,
    figure,
    number,
    numbers,
    section,
    table,
    tag,
)
from gristmill.synthesis.equal import Outcome
from gristmill.synthesis.figures import Advantage, advantage, by_cluster, by_round, reasons
from gristmill.synthesis.transport import Array

_SHOWN = 20  # clusters or rounds drawn, and lines of a curve's table


def page(outcome: Outcome, *, title: str, price: Price | None = None) -> bytes:
    """The whole report."""
    price = price or Price()
    pulls, sent = outcome.table("pulls"), outcome.table("sent")
    candidates = outcome.table("candidates")
    clusters = by_cluster(pulls, _names(outcome))
    rounds = by_round(pulls, price)
    sections = [
        ("yield", "Yield", _yield(clusters)),
        ("uniform", "Against uniform", _against(advantage(pulls))),
        ("cost", "Cost", _cost(rounds, clusters, price)),
        ("refused", "Refused", _refused(reasons(sent, candidates))),
        ("examples", "Examples", _examples(candidates)),
    ]
    kept = int(pulls["kept"].sum())
    tokens = int((pulls["tokens_in"] + pulls["tokens_out"]).sum())
    money = price.of(int(pulls["tokens_in"].sum()), int(pulls["tokens_out"].sum()))
    tiles = [
        (kept, "pairs kept"),
        (len(candidates), "pairs extracted"),
        (len(sent), f"documents sent of {len(outcome.site.texts):,}"),
        (tokens, "tokens"),
        (1_000 * kept / tokens if tokens else None, "kept pairs per 1,000 tokens"),
        (money / kept if kept and money else None, "money per kept pair"),
    ]
    why = {
        "share": "all documents of the share were sent",
        "pairs": "as many pairs as wanted were kept",
        "budget": "the next document might have exceeded the budget",
        "exhausted": "no cluster has a batch left",
    }[outcome.stop]
    header = Html(
        text="".join(
            x.text
            for x in (
                tag("h1", title),
                tag("p", f"EQUAL, mode {outcome.equal.mode}. It ended because {why}."),
                tag("div", *(_tile(v, w) for v, w in tiles if v is not None), class_="tiles"),
            )
        )
    )
    return document(title, header, sections, "Every figure is computed from the rounds' tables.")


def _names(outcome: Outcome) -> dict[int, str]:
    """A cluster's name: the source, or first heading, that most of its documents have."""
    documents = outcome.site.documents
    known = {r["id"]: r for r in documents.select("id", "source", "meta").iter_rows(named=True)}
    votes: dict[int, dict[str, int]] = {}
    for ident, cluster in outcome.table("sent").select("document", "cluster").iter_rows():
        if cluster is None:
            continue
        headings = json.loads(known[ident]["meta"] or "{}").get("chunk", {}).get("headings", [])
        name = headings[0] if headings else known[ident]["source"]
        count = votes.setdefault(cluster, {})
        count[name] = count.get(name, 0) + 1
    return {
        c: f"{c} · {max(sorted(count), key=lambda n, count=count: count[n])}"  # type: ignore[misc]
        for c, count in votes.items()
    }


def _tile(value: float, words: str) -> Html:
    return tag("div", tag("b", number(value)), tag("span", words), class_="tile")


def _yield(clusters: pl.DataFrame) -> Html:
    shown = clusters.head(_SHOWN)
    head = ["cluster", "pulls", "documents", "pairs", "kept", "kept a document", "mean W"]
    columns = ["name", "pulls", "documents", "pairs", "kept", "per_document", "cost"]
    drawn = tag(
        "div",
        plots.bars(
            "Documents sent, by cluster",
            shown["name"].to_list(),
            [shown["documents"].to_list()],
            ["cluster", "documents"],
            with_numbers=False,
        ),
        plots.bars(
            "Kept pairs a document, by cluster",
            shown["name"].to_list(),
            [shown["per_document"].to_list()],
            ["cluster", "kept a document"],
            with_numbers=False,
        ),
        class_="figures",
    )
    note = (
        f"The {min(_SHOWN, len(clusters))} clusters that were sent most documents, of "
        f"{len(clusters)} drawn from. W is the cost of a full pull: lower is nearer to the target."
    )
    return section(
        "yield",
        "Where it pulled, and what came out",
        note,
        drawn,
        numbers(head, clusters.select(columns).rows()),
    )


def _against(found: Advantage | None) -> Html:
    title = "Against uniform pulls"
    if found is None:
        return section(
            "uniform", title, "There were no, or too few, pulls by chance to compare with."
        )
    verdict = "clearly above" if found.clear else "not clearly above"
    note = (
        f"A uniform pull is estimated to cost W = {found.uniform:.4f} ± {1.96 * found.error:.4f} "
        f"(from {found.sampled} pulls by chance). The {len(found.saved_T)} chosen pulls "
        f"saved {found.saved_T[-1]:.4f} in all, {found.saved_T[-1] / len(found.saved_T):.4f} each: "
        f"{verdict} what chance explains (95 %)."
    )
    return section("uniform", title, note, _line(found))


def _line(found: Advantage, height: int = 200) -> Html:
    """Saving by pull, with its band."""
    low_T, high_T = found.saved_T - found.half_T, found.saved_T + found.half_T
    bottom, top = min(0.0, float(low_T.min())), max(0.0, float(high_T.max()))
    span = (top - bottom) or 1.0
    width, left, right, above, below = plots.WIDTH, 8, 8, 12, 22

    def points(values_T: Array) -> list[str]:
        steps = np.linspace(left, width - right, len(values_T) + 1)
        y_T = above + (top - np.concatenate([[0.0], values_T])) / span * (height - above - below)
        return [f"{x:.1f},{y:.1f}" for x, y in zip(steps, y_T, strict=True)]

    zero = above + top / span * (height - above - below)
    band = " ".join([*points(high_T), *points(low_T)[::-1]])
    parts = [
        tag("polygon", points=band, class_="pool", opacity=0.35),
        tag("line", x1=left, y1=f"{zero:.1f}", x2=width - right, y2=f"{zero:.1f}", class_="axis"),
        tag("polyline", points=" ".join(points(found.saved_T)), class_="dots t", stroke_width=2),
        tag("text", "0 pulls", x=left, y=height - 6),
        tag(
            "text", f"{len(found.saved_T)} pulls", x=width - right, y=height - 6, text_anchor="end"
        ),
        tag("text", number(top), x=left, y=above - 2),
    ]
    label = "Saved cost against uniform pulls"
    drawn = tag("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)
    shown = sorted({round(x) for x in np.linspace(1, len(found.saved_T), _SHOWN)})
    rows = [(t, float(found.saved_T[t - 1]), float(found.half_T[t - 1])) for t in shown]
    told = numbers(("pulls", "saved", "± (95 %)"), rows)
    return figure(f"{label}, summed; band: 95 %", drawn, told)


def _cost(rounds: pl.DataFrame, clusters: pl.DataFrame, price: Price) -> Html:
    names = ["warm-up" if r < 0 else f"round {r}" for r in rounds["round"]]
    shown = clusters.sort("tokens", "cluster", descending=[True, False]).head(_SHOWN)
    drawn = tag(
        "div",
        plots.bars(
            "Kept pairs per 1,000 tokens, by round",
            names[:_SHOWN],
            [rounds["pairs_per_1000"].fill_null(0.0).head(_SHOWN).to_list()],
            ["round", "pairs"],
            with_numbers=False,
        ),
        plots.bars(
            "Where the tokens went, by cluster",
            shown["name"].to_list(),
            [shown["tokens"].to_list()],
            ["cluster", "tokens"],
        ),
        class_="figures",
    )
    head = ["round", "documents", "kept", "tokens", "pairs per 1,000 tokens", "mean W"]
    columns = ["documents", "kept", "tokens", "pairs_per_1000", "cost"]
    if price.of(1_000_000, 1_000_000) > 0:
        head, columns = [*head, "money", "money a kept pair"], [*columns, "money", "money_per_pair"]
    lines: list[Sequence[Child | None]] = [
        [name, *row] for name, row in zip(names, rounds.select(columns).rows(), strict=True)
    ]
    note = "Tokens of prompts and answers of every call, whether a model or the cache served them."
    return section("cost", "What it cost", note, drawn, numbers(head, lines))


def _refused(found: pl.DataFrame) -> Html:
    note = "Nothing is dropped in silence: each refused pair and fruitless document has a reason."
    if found.is_empty():
        return section("refused", "What was refused", f"{note} Here none was refused.")
    names = [f"{r} ({w})" for w, r in found.select("what", "reason").iter_rows()]
    drawn = plots.bars("Reasons", names, [found["count"].to_list()], ["reason", "count"])
    return section("refused", "What was refused", note, drawn)


def _examples(candidates: pl.DataFrame, each: int = 5) -> Html:
    kept = candidates.filter(pl.col("reason").is_null()).sort("cost", "id", nulls_last=True)
    out = candidates.filter(pl.col("reason").is_not_null()).unique(
        pl.col("reason").str.split(":").list.first(), keep="first", maintain_order=True
    )
    parts: list[Html] = []
    for title, frame in (("Kept, from the nearest pulls", kept), ("Refused, one a reason", out)):
        rows = frame.head(each).select("question", "answer", "reason", "cost").rows()
        parts += [tag("h3", title), table(["question", "answer", "reason", "W"], rows)]
    return section("examples", "Pairs", "As the extractor wrote them.", *parts)

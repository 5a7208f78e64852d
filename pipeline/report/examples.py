"""The sections of the report that show single rows: the map, examples, and rendered masks."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import polars as pl

from gristmill.pipeline.records.dataset import Records
from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.report import tables
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.page import Html, join, number, section, table, tag
from gristmill.pipeline.report.rendered import REMEDY, Rendered
from gristmill.pipeline.report.scatter import COLOURS, Group, scatter

EXPLORER = "http://127.0.0.1:8421/"  # where `gristmill explore` answers, unless told otherwise
EACH = 3  # rows at the top, on each side of the cut, and at the bottom
TURN_CHARACTERS = 600
TOKENS = 700


def scattered(facts: Facts, projection: pl.DataFrame | None, how: str) -> Html:
    """The map of the pool, if the caller had vectors to make one from."""
    title = "Map of the pool"
    if projection is None or projection.is_empty():
        return section("map", title, "No vectors were at hand in this run, so there is no map.")
    drawn = pl.col("id").is_in(projection["id"].implode())
    read = facts.ledger.select("id", "source", "row", "verdict").filter(drawn)
    points = projection.join(_places(read.collect()), on="id").sort("id")
    common = points["source"].value_counts().sort("count", "source", descending=[True, False])
    names = common["source"].head(COLOURS).to_list()
    grouped = points.with_columns(
        group=pl.when(pl.col("source").is_in(names)).then(pl.col("source"))
    )
    groups = [
        _group(name, grouped.filter(pl.col("group").eq_missing(name)))
        for name in [*names, *([None] if common.height > COLOURS else [])]
    ]
    apart = (("left out", ~pl.col("kept")), ("taken", pl.col("kept")))
    spread = [
        _spread(name, part) for name, of in apart if not (part := points.filter(of)).is_empty()
    ]
    wide = table(("points", "rows drawn", "spread, first axis", "spread, second axis"), spread)
    by_source = table(
        ("source", "rows drawn", "of them taken"),
        [(g.name, len(g.left_N2) + len(g.taken_N2), len(g.taken_N2)) for g in groups],
    )
    parts = [
        scatter("Each dot is a row, its colour the source", groups),
        tag(
            "figure",
            tag("figcaption", "Rows by source"),
            by_source,
            tag("figcaption", "How far the dots lie apart"),
            wide,
        ),
    ]
    return section("map", title, how, tag("div", *parts, class_="figures"))


def _spread(name: str, points: pl.DataFrame) -> tuple[str, int, float, float]:
    x, y = (float(points[axis].to_numpy().std()) for axis in ("x", "y"))
    return name, points.height, x, y


def _places(ledger: pl.DataFrame) -> pl.DataFrame:
    """Columns `id, source, kept`: of copies, the source of the one that was taken, or the first."""
    return (
        ledger.select("id", "source", "row", kept=tables.KEPT)
        .sort("kept", "source", "row", descending=[True, False, False])
        .unique("id", keep="first", maintain_order=True)
        .drop("row")
    )


def _group(name: str | None, points: pl.DataFrame) -> Group:
    left, taken = (points.filter(pl.col("kept") == kept) for kept in (False, True))
    return Group(
        name="other sources" if name is None else name,
        left_N2=left.select("x", "y").to_numpy(),
        taken_N2=taken.select("x", "y").to_numpy(),
    )


def rows(facts: Facts, records: Records) -> Html:
    """Rows at the top, on both sides of the cut, and at the bottom."""
    places = facts.read("rank", "verdict").drop_nulls("rank").sort("rank")
    last = places.with_row_index("at").filter(tables.KEPT)["at"].max()
    cut = 0 if last is None else int(str(last)) + 1
    ranks = {
        "At the top": places.head(EACH),
        "Just above the cut": places.slice(max(cut - EACH, 0), min(EACH, cut)),
        "Just below the cut": places.slice(cut, EACH),
        "At the bottom": places.tail(EACH),
    }
    read = facts.ledger.select("id", "source", "row", "rank", "score", "verdict", "reason")
    shown = pl.concat(ranks.values())["rank"].unique()
    scored = read.filter(pl.col("rank").is_in(shown.implode())).collect()
    scored = scored.sort("rank", "id", "source", "row")
    picks = {
        name: scored.join(some.select("rank"), on="rank", how="semi", maintain_order="left")
        for name, some in ranks.items()
    }
    wanted = pl.concat(picks.values()).select("id").unique()
    columns = ["id", *CONTENT[records.kind]]
    found = [b.join(wanted, on="id", how="semi") for b in records.blocks(columns)]
    texts = {r["id"]: r for f in found for r in f.iter_rows(named=True)}
    seen: set[tuple[Any, ...]] = set()
    parts: list[Html] = []
    for name, frame in picks.items():
        cards = []
        for line in frame.iter_rows(named=True):
            key = (line["id"], line["source"], line["row"])
            if key not in seen and line["id"] in texts:
                seen.add(key)
                cards.append(_card(line, texts[line["id"]]))
        if cards:
            parts += [tag("h3", name), tag("div", *cards, class_="rows")]
    note = (
        "Read these before training: a score is only as good as the rows it likes. An id opens its "
        "row while `gristmill explore` shows this dataset; `gristmill why ID` tells of any row."
    )
    return section("examples", "Rows at the top, at the cut, at the bottom", note, *parts)


def _card(line: Mapping[str, Any], record: Mapping[str, Any]) -> Html:
    kept = line["verdict"] == "kept"
    said = "taken" if kept else line["reason"] or line["verdict"]
    head = tag(
        "header",
        tag("b", f"rank {number(line['rank'])}"),
        tag("span", f"score {number(line['score'])}"),
        tag("span", said),
        tag("span", line["source"]),
        tag("a", tag("code", line["id"][:10]), href=f"{EXPLORER}?id={line['id']}"),
    )
    turns = [
        tag("div", tag("b", role), _cut(content), class_="turn") for role, content in _turns(record)
    ]
    return tag("div", head, *turns, class_="row in" if kept else "row out")


def _turns(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "text" in record:
        yield "text", record["text"]
        return
    for column in ("messages", "prompt", "chosen", "rejected"):
        for message in record.get(column) or ():
            role = column if column in ("chosen", "rejected") else message["role"]
            yield role, "\n".join(t for t in (message["content"], message["extra"]) if t)


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= TURN_CHARACTERS else f"{text[:TURN_CHARACTERS].rstrip()} …"


def rendered(facts: Facts) -> Html:
    """What a trainer will see, with the trained tokens coloured."""
    check = facts.render
    title = "Training-render check"
    if check is None:
        note = "Not made: no tokenizer was given. Look at your trainer's masks before training."
        return section("render", title, note)
    note = (
        f"{check.rows:,} of {check.shipped:,} rows rendered with the target's chat template; "
        f"{check.trained_share:.1%} of their tokens carry loss. Marked text is trained."
    )
    lines = [(name.replace("_", " "), len(check.found.get(name, ()))) for name in REMEDY]
    parts: list[Html] = [table(("fault", "rows"), lines)]
    for ident, example in check.examples:
        words = (
            f"{sum(example.trained):,} of {len(example.tokens):,} tokens trained"
            f"{f', {example.cut:,} cut' if example.cut else ''}"
        )
        link = tag("a", ident[:10], href=f"{EXPLORER}?id={ident}")
        parts += [tag("h3", link, f": {words}"), _coloured(example)]
    return section("render", title, note, *parts)


def _coloured(example: Rendered) -> Html:
    pairs = list(zip(example.tokens, example.trained, strict=True))[:TOKENS]
    runs = [
        tag("mark" if trained else "span", "".join(t for t, _ in run))
        for trained, run in groupby(pairs, key=lambda pair: pair[1])
    ]
    tail = ["…"] if len(example.tokens) > TOKENS else []
    return tag("div", join([*runs, *tail]), class_="render")

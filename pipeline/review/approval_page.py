"""The page of a request for approval: what is to be published, and the sample; no script in it."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.report.page import Child, Html, document, number, section, table, tag


def page(request: Mapping[str, Any], sample: pl.DataFrame) -> bytes:
    """The page as bytes.

    Args:
        request: of an approval.
        sample: its rows, with their texts.
    """
    head = tag(
        "header",
        tag("h1", f"{request['name']}: {request['rows']:,} rows before publication"),
        tag("p", f"of {request['of']:,} rows of the pool; asked {request['asked_at']}"),
        *(tag("p", s) for s in ((request["gate"] or {}).get("sentence") or "").splitlines()),
        *(tag("p", f"Beyond a limit: {s}", class_="alarm") for s in request.get("alarms") or ()),
    )
    cards = [_card(row) for row in sample.iter_rows(named=True)]
    made = [
        (
            "verdicts",
            "Verdicts",
            section("verdicts", "Rows by verdict", "", _counts(request["verdicts"])),
        ),
        ("strata", "Sample", section("strata", "The sample", "", _counts(request["strata"]))),
        ("rows", "Rows", section("rows", "The rows", "", tag("div", *cards, class_="rows"))),
    ]
    end = "Approve or reject where the run waits: in the Prefect UI, or by `gristmill approve`."
    return document(str(request["name"]), head, made, end)


def _counts(rows: list[dict[str, Any]]) -> Html:
    names = list(rows[0]) if rows else []
    lines: list[list[Child | None]] = [[row[n] for n in names] for row in rows]
    return table(names, lines)


def _card(row: Mapping[str, Any]) -> Html:
    head = tag(
        "header",
        tag("b", row["stratum"]),
        tag("span", f"rank {number(row['rank'])}, score {number(row['score'])}"),
        tag("span", f"row {row['row']} of {row['source']}"),
        tag("code", row["id"][:10]),
    )
    said = [_turn(t["role"], t["content"], t["extra"]) for t in turns(row)]
    return tag("div", head, *said, class_="row in")


def _turn(who: str, text: str, extra: str | None) -> Html:
    told = "\n".join(t for t in (text, extra) if t)
    return tag("div", tag("b", who), told, class_="turn", dir="auto")


def turns(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a record, whatever its kind; which answer of a pair they are in the role."""
    found: list[dict[str, Any]] = []
    for column in dict.fromkeys(c for columns in CONTENT.values() for c in columns):
        value = row.get(column)
        if isinstance(value, str):
            found.append({"role": column, "content": value, "extra": None})
        for turn in value if isinstance(value, list) else ():
            role = turn["role"] if column == "messages" else f"{column}, {turn['role']}"
            found.append({"role": role, "content": turn["content"] or "", "extra": turn["extra"]})
    return found

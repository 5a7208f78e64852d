"""The ledger that ships: one row per candidate, with its source, licence and split group; no text.

`split_group` ties rows that must not straddle train and validation: members of one duplicate
cluster, and rows with the same prompt, transitively.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import KEY, Kind

NARROW = ("id", "source", "row", "user_id", "license", "revision", "meta")
SOMETIMES = ("parents", "own_source")  # columns that are left out where no row has them
_FIRST = (
    "id",
    "user_id",
    "source",
    "source_revision",
    "row",
    "license",
    "split_group",
    "kind",
    "tokens",
    "score",
    "rank",
    "threshold",
    "cluster",
    "duplicate_of",
    "contaminates",
    "stage",
    "verdict",
    "reason",
    "weight",
)


def narrow(blocks: Iterable[pl.DataFrame], kind: Kind) -> pl.DataFrame:
    """What the ledger needs of each record beside the scores; the text itself is let go.

    Columns: the key, `user_id`, `license`, `revision`, `parents` (of generated rows), `own_source`
    (what a row calls its source, where the run calls it something else),
    `prompt_hash`, `rich` (a turn has fields beyond role and content), `tooled`.
    """
    return pl.concat(_narrow(block, kind) for block in blocks)


def _narrow(block: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    text, rich = _prompt(kind), _rich(kind)
    frame = block.select(
        *NARROW[:-1],
        parents=pl.col("meta").str.json_path_match("$.parents"),
        own_source=pl.col("meta").str.json_path_match("$.source"),
        _text=text.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars(),
        rich=rich,
        tooled=pl.lit(False) if kind == "document" else pl.col("tools").is_not_null(),
    )
    hashes = [hashlib.blake2b(t.encode(), digest_size=16).hexdigest() for t in frame["_text"]]
    return frame.drop("_text").with_columns(prompt_hash=pl.Series(hashes, dtype=pl.String))


def _prompt(kind: Kind) -> pl.Expr:
    """The text before the first answer, system turns aside; of a document all of it."""
    if kind == "document":
        return pl.col("text")
    role = pl.element().struct.field("role")
    asked = pl.element().filter(((role == "assistant").cum_sum() == 0) & (role != "system"))
    column = "messages" if kind == "example" else "prompt"
    contents = pl.col(column).list.eval(asked.struct.field("content").fill_null(""))
    return contents.list.join("\n")


def _rich(kind: Kind) -> pl.Expr:
    if kind == "document":
        return pl.lit(False)
    columns = ("messages",) if kind == "example" else ("prompt", "chosen", "rejected")
    extra = pl.element().struct.field("extra").is_not_null()
    return pl.any_horizontal([pl.col(c).list.eval(extra).list.any() for c in columns])


def split_groups(frame: pl.DataFrame) -> pl.Series:
    """The group of each row: connected by `cluster` or by `prompt_hash`.

    Labels fall to the smallest prompt hash of the component, so they are stable names.
    """
    cluster = pl.coalesce("cluster", "prompt_hash")
    work = frame.select("prompt_hash", label="prompt_hash", cluster=cluster)
    while True:
        lower = work
        for column in ("cluster", "prompt_hash"):
            lower = lower.with_columns(label=pl.col("label").min().over(column))
        if lower["label"].equals(work["label"]):
            return lower["label"].alias("split_group")
        work = lower


def joined(
    ledger: pl.DataFrame, known: pl.DataFrame, sources: Sequence[Mapping[str, Any]]
) -> pl.DataFrame:
    """Lines of a ledger with what is known of their records, in order.

    NaN and infinities become nulls: readers turn tables into JSON, which cannot say them.

    Args:
        ledger: some lines, in order.
        known: of their records, the table of `narrow`.
        sources: name, license and revision of each source: all that is known of rows that are no
            records.
    """
    floats: list[Any] = [c for c, t in ledger.schema.items() if t.is_float()]
    ledger = ledger.with_columns(pl.when(pl.col(c).is_finite()).then(c).alias(c) for c in floats)
    own = [c for c in ledger.columns if c in known.columns and c not in KEY]
    found = ledger.drop(own).join(
        known, on=list(KEY), how="left", validate="1:1", maintain_order="left"
    )
    unread = pl.col("prompt_hash").is_null()  # no record: quarantined, or a prompt without one
    said = pl.DataFrame(
        [(s["name"], s.get("license"), s.get("revision")) for s in sources],
        schema=dict.fromkeys(("source", "said_license", "said_revision"), pl.String),
        orient="row",
    )
    found = found.join(said, on="source", how="left", validate="m:1", maintain_order="left")
    found = found.with_columns(
        pl.when(unread).then(f"said_{c}").otherwise(c).alias(c) for c in ("license", "revision")
    )
    found = found.rename({"revision": "source_revision"}).drop("said_license", "said_revision")
    return found.with_columns(prompt_hash=pl.col("prompt_hash").fill_null(pl.col("id")))


def line(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of the ledger that ships, in their order."""
    rest = sorted(c for c in rows.columns if c not in _FIRST)
    return rows.select(*_FIRST, *rest).with_columns(_texts(rows))


def _texts(frame: pl.DataFrame) -> list[pl.Expr]:
    """Nested columns as JSON text: a ledger is flat."""
    nested: list[Any] = [c for c, t in frame.schema.items() if t.is_nested()]
    return [pl.struct(c).struct.json_encode().alias(c) for c in nested]


def content_hash(parts: Iterable[pl.DataFrame]) -> str:
    """Hash of a ledger's content, whatever the order of its columns.

    Args:
        parts: of its lines, in order of source, row and id; where it is cut does not matter.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for number, part in enumerate(parts):
        flat = part.select(sorted(part.columns)).with_columns(_texts(part))
        if not number:
            hasher.update(",".join(flat.columns).encode())
        for lines in flat.iter_slices(100_000):
            hasher.update(lines.write_csv(include_header=False, null_value="\0").encode())
    return hasher.hexdigest()

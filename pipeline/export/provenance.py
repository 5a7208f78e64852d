"""The ledger that ships: one row per candidate, with its source, licence and split group; no text.

`split_group` ties rows that must not straddle train and validation: members of one duplicate
cluster, and rows with the same prompt, transitively.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import KEY, Kind, ranked, uniform

NARROW = ("id", "source", "row", "user_id", "license", "revision", "meta")
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
    made = [_narrow(block, kind) for block in blocks]
    if not made:
        raise ValueError("the dataset is empty: there is nothing to publish.")
    return pl.concat(made)


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


def validation_groups(groups: pl.Series, fraction: float, seed: int) -> set[str]:
    """The groups held out: those whose own draw falls below `fraction`, whatever else is shipped.

    A group keeps its side as the pool grows. Both sides get at least one group if there are two.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction={fraction} must be at least 0 and below 1.")
    names = groups.unique().to_list()
    if fraction == 0 or len(names) < 2:
        return set()
    draws = sorted((uniform(seed, "validation", name), name) for name in names)
    below = sum(draw < fraction for draw, _ in draws)
    return {name for _, name in draws[: min(max(below, 1), len(draws) - 1)]}


def published(
    ledger: pl.DataFrame,
    known: pl.DataFrame,
    sources: Sequence[Mapping[str, Any]],
    scorers: Sequence[str],
) -> pl.DataFrame:
    """Join the ledger with what is known of the records, in the order of the pool.

    NaN and infinities become nulls: readers turn tables into JSON, which cannot say them.

    Args:
        ledger: the ledger.
        known: the table of `narrow`.
        sources: name, license and revision of each source: all that is known of rows that are no
            records.
        scorers: names of the scorers, which get a rank each.
    """
    taken = known.drop("rich", "tooled")
    floats: list[Any] = [c for c, t in ledger.schema.items() if t.is_float()]
    ledger = ledger.with_columns(pl.when(pl.col(c).is_finite()).then(c).alias(c) for c in floats)
    own = [c for c in ledger.columns if c in taken.columns and c not in KEY]
    joined = ledger.drop(own).join(taken, on=list(KEY), how="left", validate="1:1")
    unread = pl.col("prompt_hash").is_null()  # no record: quarantined, or a prompt without one
    said = pl.DataFrame(
        [(s["name"], s.get("license"), s.get("revision")) for s in sources],
        schema=dict.fromkeys(("source", "said_license", "said_revision"), pl.String),
        orient="row",
    )
    joined = joined.join(said, on="source", how="left", validate="m:1")
    joined = joined.with_columns(
        pl.when(unread).then(f"said_{c}").otherwise(c).alias(c) for c in ("license", "revision")
    )
    joined = joined.rename({"revision": "source_revision"}).drop("said_license", "said_revision")
    asked = pl.col("prompt_hash").fill_null(pl.col("id"))
    joined = joined.with_columns(prompt_hash=asked)
    joined = joined.with_columns(split_groups(joined)).drop("prompt_hash")
    lowest = pl.col("score").filter(pl.col("verdict") == "kept").min()  # of what was taken
    joined = joined.with_columns(*_ranks(joined, scorers), threshold=lowest)
    for column in ("parents", "own_source"):
        if joined[column].null_count() == joined.height:
            joined = joined.drop(column)
    rest = sorted(c for c in joined.columns if c not in _FIRST)
    return joined.select(*_FIRST, *rest).with_columns(_texts(joined)).sort("source", "row", "id")


def _ranks(frame: pl.DataFrame, scorers: Sequence[str]) -> list[pl.Series]:
    """`rank_<scorer>` for each scorer that has a column of its own."""
    ranks: list[pl.Series] = []
    for scorer in scorers:
        column = f"score_{scorer}"
        if column in frame.columns:
            numbered = frame.with_row_index("_at").filter(pl.col(column).is_not_null())
            numbered = numbered.sort(ranked(column)).with_row_index("_rank", offset=1)
            back = frame.with_row_index("_at").join(
                numbered.select("_at", "_rank"), on="_at", how="left", maintain_order="left"
            )
            ranks.append(back["_rank"].cast(pl.Int64).alias(f"rank_{scorer}"))
    return ranks


def _texts(frame: pl.DataFrame) -> list[pl.Expr]:
    """Nested columns as JSON text: a ledger is flat."""
    nested: list[Any] = [c for c, t in frame.schema.items() if t.is_nested()]
    return [pl.struct(c).struct.json_encode().alias(c) for c in nested]


def content_hash(ledger: pl.DataFrame) -> str:
    """Hash of a ledger's content, whatever the order of its rows and columns."""
    hasher = hashlib.blake2b(digest_size=16)
    ordered = ledger.select(sorted(ledger.columns)).sort(*KEY)
    flat = ordered.with_columns(_texts(ordered))
    hasher.update(",".join(flat.columns).encode())
    for part in flat.iter_slices(100_000):
        hasher.update(part.write_csv(include_header=False, null_value="\0").encode())
    return hasher.hexdigest()

"""Possible: what a rule and its budget ask for that the rows cannot give, found before any score.

A rule reads columns of the scores and of the records, and may name values of one ("source: half of
it medical"). A column that nothing makes, or a value that no row has, is a mistake of the settings;
it is told here, and not after the passes, nor by rows that silently vanish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.build import did_you_mean
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.selection.length_bias import length_strata, side_lengths
from gristmill.pipeline.selection.rules.mixture import UNKNOWN
from gristmill.pipeline.selection.selection import Budget

# What a rule may read of every row; a row's own `source` stands beside the name that a run gave it.
RECORD_COLUMNS = ("source", "license", "user_id", "own_source")
COLUMNS = (*RECORD_COLUMNS, "kind", "tokens", "score")
LENGTH_STRATUM = "length_stratum"  # of pairs: class of how much longer the chosen response is
_NAMED = 12  # values that a sentence lists


def unreadable(
    rule: Rule,
    scorers: Sequence[str],
    *,
    counted: bool,
    targets: bool = True,
    pairs: bool = False,
) -> list[str]:
    """The columns that a rule needs and that nothing will make, a sentence each.

    Args:
        rule: as it was set.
        scorers: names of the scorers of its stage.
        counted: whether a tokenizer counts the tokens of the rows.
        targets: whether the scorer that decides measures against target rows.
        pairs: whether the rows may be preference pairs.
    """
    known = [*COLUMNS, *([LENGTH_STRATUM] if pairs else []), *(f"score_{name}" for name in scorers)]
    found = [
        f"the rule {called(rule)} reads the column {column!r}, which neither scores nor records "
        f"have; they have {', '.join(known)}, and the parts of a score as score_<part>"
        f"{did_you_mean(column, known)}"
        for column in rule.needs
        if column not in known and not column.startswith("score_")
    ]
    if "tokens" in rule.needs and not counted:
        found.append(
            f"the rule {called(rule)} reads the tokens of every row, which the tokenizer of the "
            "role target counts: bind a model to it."
        )
    if rule.by_target and not targets:
        found.append(
            f"the rule {called(rule)} lets targets take turns, and the method that decides "
            "measures against none: choose another rule, or a method that reads `reference:`."
        )
    return found


def uncounted(budget: Budget | None, *, counted: bool) -> list[str]:
    """A budget in tokens without a tokenizer that counts them, as a sentence."""
    if budget is None or budget.tokens is None or counted:
        return []
    return [
        "a budget in tokens needs the tokens of every row, which the tokenizer of the role target "
        "counts: bind a model to it, or give the budget in rows or as a share."
    ]


def nameless(rule: Rule, rows: pl.DataFrame) -> list[str]:
    """The values that a rule names and that no row has, a sentence each.

    Args:
        rule: as it was set.
        rows: the pool, with the columns that it names; columns that are not there are passed over.
    """
    found = []
    for column, names in rule.named.items():
        if column in rows.columns:
            values = rows[column].cast(pl.String).fill_null(UNKNOWN).unique().sort().to_list()
            found += [_no_row(rule, column, n, values) for n in names if n not in set(values)]
    return found


def lacking(dataset: Dataset, rule: Rule) -> list[str]:
    """What a rule asks for that no row of a dataset has; rows are read where they alone tell.

    Raises:
        ValueError: the rule reads what such records do not have.
    """
    if not rule.named and LENGTH_STRATUM not in rule.needs:
        return []
    return nameless(rule, record_columns(dataset, rule))


def refuse(sentences: Sequence[str]) -> None:
    """Raise the first of the sentences, if there are any."""
    if sentences:
        more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
        raise ValueError(sentences[0] + more)


def record_columns(dataset: Dataset, rule: Rule) -> pl.DataFrame:
    """The key of every row of a dataset, and the columns of the records that rules may read.

    Raises:
        ValueError: the rule reads what such records do not have.
    """
    made = RecordColumns(dataset=dataset, rule=rule)
    return made.of(dataset.frame(made.read))


@dataclass(frozen=True, kw_only=True)
class RecordColumns:
    """The columns of records that a rule may read, of any rows of a dataset.

    Attributes:
        dataset: the rows.
        rule: which reads them.
    """

    dataset: Dataset
    rule: Rule

    @property
    def read(self) -> list[str]:
        """What is read of the records."""
        own = ["meta"] if "own_source" in self.rule.needs else []
        return [*KEY, "license", "user_id", *own]

    @cached_property
    def _strata(self) -> pl.DataFrame | None:
        """The class of length of every pair; None: the rule does not read it."""
        if LENGTH_STRATUM not in self.rule.needs:
            return None
        if self.dataset.kind != "pair":
            raise ValueError(
                f"the rule {called(self.rule)} reads {LENGTH_STRATUM}, which pairs alone have, and "
                f"the data holds {self.dataset.kind} records: choose another column."
            )
        read = ["id", "chosen", "rejected"]
        lengths = pl.concat([side_lengths(b) for b in self.dataset.blocks(read)]).unique("id")
        return length_strata(self.dataset.frame(list(KEY)), lengths).unique(KEY)

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The key of some rows, and the columns.

        Args:
            rows: what is `read` of them.
        """
        if self._strata is not None:
            rows = rows.join(self._strata, on=KEY, how="left", maintain_order="left")
        if "meta" not in rows.columns:
            return rows
        own = pl.col("meta").str.json_path_match("$.source")
        return rows.with_columns(own_source=own).drop("meta")


def called(rule: Rule) -> str:
    """A rule's name is that of its file."""
    return type(rule).__module__.rpartition(".")[2]


def _no_row(rule: Rule, column: str, name: str, values: Sequence[str]) -> str:
    shown = ", ".join(values[:_NAMED])
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return (
        f"the rule {called(rule)} names {column} {name!r}, which no row has; there are: "
        f"{shown}{more}{did_you_mean(name, values)}"
    )


def named_of(sources: Mapping[str, str | None]) -> pl.DataFrame | None:
    """The column `source` as the settings alone say it; None where the rows themselves decide.

    Args:
        sources: path -> the name that the user gave it.
    """
    names = list(sources.values())
    if not names or None in names:
        return None
    return pl.DataFrame({"source": names}, schema={"source": pl.String})

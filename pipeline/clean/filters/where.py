"""Where: records for which a predicate of the user's does not hold."""

from dataclasses import dataclass

import polars as pl
import polars.exceptions

from gristmill.pipeline.clean import predicates
from gristmill.pipeline.clean.text import word_counts
from gristmill.pipeline.records.text import texts


@dataclass(frozen=True, kw_only=True)
class Where:
    """Keeps the records for which a predicate of the user's holds: `where: <predicate>`.

    The predicate is SQL over the record's columns and `prompt_text`, `answer_text`, `answer_words`:
    `license = 'mit' AND answer_words BETWEEN 3 AND 500`. Only expressions over one row are allowed
    (`predicates` has the list): no sub-query, no table, nothing that reads a file. A record for
    which it is null goes.
    """

    sql: str

    def __post_init__(self) -> None:
        predicates.check(self.sql)
        try:
            pl.sql_expr(self.sql)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{self.sql!r} is no SQL predicate: {error}") from error

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        answer = texts(records, "answer")
        known = records.with_columns(
            prompt_text=texts(records, "prompt"),
            answer_text=answer,
            answer_words=word_counts(answer),
        )
        try:
            holds = known.select(pl.sql_expr(self.sql).alias("holds")).to_series()
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"{self.sql!r} cannot be asked of these records: {str(error).splitlines()[0]} "
                f"(columns: {', '.join(known.columns)})."
            ) from error
        if holds.dtype != pl.Boolean or len(holds) != records.height:
            raise ValueError(
                f"{self.sql!r} is not a valid predicate: it does not say yes or no of a row."
            )
        why = pl.lit(f"where: {self.sql}")
        return pl.select(pl.when(~holds.fill_null(value=False)).then(why)).to_series()

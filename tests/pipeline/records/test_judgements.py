"""Which judgements count."""

import polars as pl
import pytest

from gristmill.pipeline.records.judgements import JUDGEMENTS, current


def test_the_last_judgement_counts_unless_it_was_taken_back():
    said = [("a", "ann", 0, "chosen"), ("a", "ann", 1, "tie"), ("a", "bob", 0, "rejected")]
    said += [("b", "ann", 2, "chosen"), ("b", "ann", 3, None)]
    rows = [
        dict(zip(("item", "annotator", "number", "judgement"), row, strict=True)) for row in said
    ]
    table = pl.DataFrame(rows, schema=JUDGEMENTS, orient="row").reverse()
    found = current(table).select("item", "annotator", "judgement").rows()
    assert found == [("a", "ann", "tie"), ("a", "bob", "rejected")]


def test_a_table_without_a_column_is_refused():
    with pytest.raises(ValueError, match=r"lacks the columns .*number"):
        current(pl.DataFrame({"item": ["a"]}))

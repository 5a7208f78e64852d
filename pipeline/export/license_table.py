"""LICENSES.md: what each source of a published dataset declares."""

import polars as pl

from gristmill.pipeline.records.licenses import UNKNOWN, spdx, terms
from gristmill.pipeline.report.markdown import table


def document(sources: pl.DataFrame) -> str:
    """LICENSES.md: one line a source and licence.

    Args:
        sources: columns `source, revision, license, rows_in, rows_out`.
    """
    lines = [
        (
            row["source"],
            row["revision"] or "not stated",
            row["license"] or UNKNOWN,
            spdx(row["license"]) or "none certain",
            "; ".join(terms(row["license"])) or "none noted",
            f"{row['rows_in']:,}",
            f"{row['rows_out']:,}",
        )
        for row in sources.iter_rows(named=True)
    ]
    head = (
        "source",
        "revision",
        "licence as declared",
        "SPDX",
        "terms to mind",
        "rows in",
        "rows out",
    )
    silent = sources.filter(pl.col("license").is_null() & (pl.col("rows_out") > 0)).height
    warning = (
        f"\n{silent} of {sources.height} lines above ship rows without a declared licence.\n"
        if silent
        else ""
    )
    return (
        "# Licences by source\n\n"
        "Each row keeps the licence of its source (column `license`). An unknown licence is shown "
        "as unknown; no default was filled in.\n\n" + table(head, lines) + warning
    )

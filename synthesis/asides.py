"""What becomes of records that are not kept: the ledger's reasons, and runs that keep nothing."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from gristmill.pipeline.records.schema import LEDGER, Kind, check
from gristmill.pipeline.records.store import Part, Step, Store, write_table, write_text


def decided(records: pl.DataFrame, kind: Kind, stage: str) -> pl.DataFrame:
    """The ledger of what a run made: a record with a reason is out, one without is in.

    Args:
        records: `id`, `source`, `row`, and `detail`, the whole reason: null if a record is kept,
            else "reason" or "reason: detail"; further columns stay.
        kind: of the records.
        stage: where the verdict fell.
    """
    kept = pl.col("detail").is_null()
    what = pl.col("detail").str.split_exact(": ", 1)
    found = records.with_columns(
        kind=pl.lit(kind),
        verdict=pl.when(kept).then(pl.lit("kept")).otherwise(pl.lit("dropped")),
        reason=what.struct.field("field_0"),
        stage=pl.lit(stage),
        weight=pl.when(kept).then(1.0),
    )
    repeats = pl.col("reason") == "contaminated"
    found = found.with_columns(contaminates=pl.when(repeats).then(what.struct.field("field_1")))
    found = found.with_columns(pl.lit(None).alias(c) for c in LEDGER if c not in found.columns)
    return check(found, LEDGER, "ledger")


def unpublished(
    step: Step, store: Store, files: Mapping[str, pl.DataFrame | str], report: bytes | None
) -> Path:
    """Nothing was kept: the files of the publication in the store, for whoever asks why.

    Args:
        step: of the run.
        store: where they are kept.
        files: by name.
        report: the page, if there is one.

    Returns:
        The folder of the files.
    """

    def write(folder: Path) -> None:
        folder.mkdir()
        for path, content in files.items():
            if isinstance(content, str):
                write_text(folder / path, content)
            else:
                write_table(content, folder / path)
        if report is not None:
            (folder / "report.html").write_bytes(report)

    return store.run(step, [Part(name="run", write=write)]).path / "run"

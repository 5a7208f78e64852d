"""License: records whose licence is not on a list."""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.records.licenses import UNKNOWN, spdx


@dataclass(frozen=True, kw_only=True)
class License:
    """Drops records whose licence is not on the list: `license: <as declared>`.

    Attributes:
        allowed: licences, in any spelling that names one SPDX id for certain.
        unknown: whether records without a licence stay (else `license: unknown`).
    """

    allowed: tuple[str, ...]
    unknown: bool = False

    def __post_init__(self) -> None:
        vague = [name for name in self.allowed if spdx(name) is None]
        if vague:
            raise ValueError(
                f"{vague[0]!r} names no licence for certain; give SPDX ids such as CC-BY-4.0."
            )

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        ids = {spdx(name) for name in self.allowed}
        declared = records["license"].unique().to_list()
        fine = [d for d in declared if (self.unknown if d is None else spdx(d) in ids)]
        named = pl.lit("license: ") + pl.col("license").fill_null(UNKNOWN)
        stays = pl.col("license").is_in(fine, nulls_equal=True)
        return records.select(pl.when(~stays).then(named).alias("why")).to_series()

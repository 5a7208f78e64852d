"""Lines: what each part of a run takes, and all of them together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gristmill.pipeline.plan.amounts import NOTHING, Amount, total

FOUND = "found"
MOST_NAMED = 2  # signals, in a line of a table
COLUMNS = (
    *("data", "role", "view", "rows", "tokens", "pass", "flops", "time"),
    *("memory", "disk", "money", "signals"),
)
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_FLOPS = ("", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """A part of a run.

    Attributes:
        data: what it works on, or what it is.
        role: of the model that is asked.
        model: its reference.
        view: how records are shown, or what is made.
        rows: of the data; None: it has none.
        tokens: that models read.
        written: tokens that models write.
        runs: what is done with a row.
        flops: of the models.
        seconds: on this machine; None: it was not probed.
        memory: bytes at the worst moment.
        disk: bytes that stay in the store or in the published folder.
        money: for answers that are paid by the token.
        signals: what comes of it.
        found: the store has it already.
        most: it may take less, down to nothing: what a cache already holds, say, is not asked.
    """

    data: str
    role: str = ""
    model: str = ""
    view: str = ""
    rows: int | None = None
    tokens: Amount = NOTHING
    written: Amount = NOTHING
    runs: str = ""
    flops: Amount = NOTHING
    seconds: Amount | None = None
    memory: int = 0
    disk: Amount = NOTHING
    money: Amount = NOTHING
    signals: Sequence[str] = ()
    found: bool = False
    most: bool = False

    @property
    def hours(self) -> Amount | None:
        """The time in hours."""
        return None if self.seconds is None else self.seconds.times(1 / 3600)

    @property
    def all_tokens(self) -> Amount:
        """Read and written: what `max_tokens` counts."""
        return total([self.tokens, self.written])

    def times(self, count: int) -> "PlanLine":
        """The same work so many times, one after another."""
        return replace(
            self,
            tokens=self.tokens.times(count),
            written=self.written.times(count),
            runs=f"{self.runs}, by {count:,} models",
            flops=self.flops.times(count),
            seconds=None if self.seconds is None else self.seconds.times(count),
            disk=self.disk.times(count),
            money=self.money.times(count),
        )

    def row(self) -> dict[str, str]:
        """As a line of a table."""
        values = (
            *(self.data, self.role, self.view),
            "" if self.rows is None else f"{self.rows:,}",
            _tokens(self.tokens, self.written),
            FOUND if self.found else self.runs,
            scaled(self.flops, 1_000, _FLOPS) + "FLOP" if self.flops.value else "",
            "" if self.seconds is None else duration(self.seconds),
            size(self.memory) if self.memory else "",
            scaled(self.disk, 1_024, _BYTES) if self.disk.value else "",
            with_half(self.money, 2) if self.money.value else "",
            _named(self.signals),
        )
        return dict(zip(COLUMNS, values, strict=True))

    def facts(self) -> dict[str, Any]:
        """As numbers, with the ends of their intervals."""
        amounts = {
            "tokens_read": self.tokens,
            "tokens_written": self.written,
            "flops": self.flops,
            "hours": self.hours,
            "disk_bytes": self.disk,
            "money": self.money,
        }
        return {
            "data": self.data,
            "role": self.role,
            "model": self.model,
            "view": self.view,
            "rows": self.rows,
            "pass": self.runs,
            "found": self.found,
            **{
                name: None if a is None else {"value": a.value, "low": a.low, "high": a.high}
                for name, a in amounts.items()
            },
            "memory_bytes": self.memory,
            "signals": list(self.signals),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All parts of a run.

    Attributes:
        lines: the parts, in order.
        hour_price: of an hour of this machine.
    """

    lines: Sequence[PlanLine]
    hour_price: float = 0.0

    @property
    def certain(self) -> "Plan":
        """The parts that are sure to be worked on."""
        return replace(self, lines=[line for line in self.lines if not line.most])

    @property
    def total(self) -> PlanLine:
        """All of it: sums, and of memory the largest; no time, if some part was not probed."""
        lines = [line for line in self.lines if not line.found]
        times = [line.seconds for line in lines]
        known = [t for t in times if t is not None]
        seconds = total(known) if len(known) == len(times) else None
        hours = NOTHING if seconds is None else seconds.times(self.hour_price / 3600)
        return PlanLine(
            data="in all",
            tokens=total(line.tokens for line in lines),
            written=total(line.written for line in lines),
            flops=total(line.flops for line in lines),
            seconds=seconds,
            memory=max((line.memory for line in lines), default=0),
            disk=total(line.disk for line in lines),
            money=total([hours, *(line.money for line in lines)]),
        )

    def table(self) -> list[dict[str, str]]:
        """For a reader; columns that no line fills are left out."""
        return filled([line.row() for line in (*self.lines, self.total)])

    def facts(self) -> list[dict[str, Any]]:
        """For a program."""
        return [line.facts() for line in (*self.lines, self.total)]


def filled(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows of a table without the columns that are empty in all of them."""
    found = list(rows)
    names = [n for n in (found[0] if found else ()) if any(r[n] for r in found)]
    return [{n: r[n] for n in names} for r in found]


def _named(signals: Sequence[str]) -> str:
    more = f" and {len(signals) - MOST_NAMED} more" if len(signals) > MOST_NAMED else ""
    return ", ".join(signals[:MOST_NAMED]) + more


def _tokens(read: Amount, written: Amount) -> str:
    if not written.value:
        return with_half(read) if read.value else ""
    return f"{with_half(read)} read, {with_half(written)} written"


def with_half(amount: Amount, digits: int = 0) -> str:
    """An estimate, and half the width of its interval."""
    told = f"{amount.value:,.{digits}f}"
    return told + (f" ± {amount.half:,.{digits}f}" if amount.half else "")


def scaled(amount: Amount, base: int, units: Sequence[str]) -> str:
    """An estimate in the unit that suits it."""
    power = 0
    while amount.value >= base ** (power + 1) and power < len(units) - 1:
        power += 1
    some = amount.times(1 / base**power)
    digits = 1 if power else 0
    return f"{with_half(some, digits)} {units[power]}"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return scaled(Amount(value=count), 1_024, _BYTES)


def duration(seconds: Amount) -> str:
    """Time as a person reads it."""
    for unit, length in (("h", 3_600), ("min", 60), ("s", 1)):
        if seconds.value >= 2 * length or length == 1:
            return f"{with_half(seconds.times(1 / length), 1)} {unit}"
    raise AssertionError("a second is the last unit")

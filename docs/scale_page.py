"""What a pool of a million, a hundred million and ten billion rows takes, from unit costs.

The table `STAGES` holds every unit cost, each a figure of `benchmarks/README.md`; `docs/scale.md`
is worked out from it and nothing else. Measured again? Change the table, run `docs/generate.py`.
"""

from dataclasses import dataclass
from pathlib import Path

POOLS = (10**6, 10**8, 10**10)
CORES = 64  # of the machine that the hours by the clock are told for
CORE_HOUR = 0.04  # in dollars: what a rented core costs an hour, rounded; no figure of ours
WORDS = 360  # of a row whose text is read: about 500 tokens
TEXT_BYTES = 2_200  # of its text as it is stored


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a run and what a row costs in it.

    Attributes:
        name: of the step.
        seconds: of one processor, a row.
        kept: bytes a row that it leaves on the disk.
        passes: how often the text of its rows is read.
        share: of the pool's rows, those that reach it in the cascade of this page.
        how: what was measured, and on how many rows.
        figure: the number as `benchmarks/README.md` prints it.
        model: whether it runs one.
    """

    name: str
    seconds: float
    kept: int
    passes: int
    share: float
    how: str
    figure: str
    model: bool = False


STAGES = (
    Stage(
        name="ingest",
        seconds=1 / 24_000,
        kept=TEXT_BYTES,
        passes=1,
        share=1,
        how="5,973 rows of GSM8K, 24,000 a second",
        figure="about 24,000 rows a processor second",
    ),
    Stage(
        name="near duplicates",
        seconds=(110.4 + 31.6) / 2_000_000,
        kept=14 * 24,
        passes=1,
        share=1,
        how="two million texts in 110.4 s to sketch and 31.6 s to compare",
        figure="sketches, comparison | 110.4 s, 31.6 s |",
    ),
    Stage(
        name="`prior_filter`",
        seconds=89.7 / 50_000,
        kept=32 + 8 + 40,
        passes=1,
        share=1,
        how="30,000 documents and 20,000 of them counted in 89.7 s, at a load of 10 to 13",
        figure="30,000 (20,000 counted), load 10 to 13 | 89.7 processor s",
    ),
    Stage(
        name="`dsir`",
        seconds=2.26 / 2_800,
        kept=8 + 32,
        passes=2,
        share=1,
        how="2,800 texts of up to 360 words in 2.26 s, counted and scored",
        figure="counted and scored: 2.26 processor s",
    ),
    Stage(
        name="select, twice",
        seconds=2 * 32.7e-7,
        kept=2 * 60,
        passes=0,
        share=1,
        how="ten million scores in parts, read, decided and written",
        figure="| top | 32.7 s processor",
    ),
    Stage(
        name="`rds_plus`: a forward pass of 135 M parameters",
        seconds=500 / 327,
        kept=4 * 576,
        passes=1,
        share=0.05,
        how="24 rows, 327 tokens a second (SmolLM2, float32)",
        figure="17.3 | 327 | 1.00×",
        model=True,
    ),
    Stage(
        name="`gradient_cosine`: a backward pass of it",
        seconds=500 / 138,
        kept=4 * 1_024,
        passes=1,
        share=0.01,
        how="the same rows, 138 tokens a second",
        figure="41.2 | 138 | 2.38×",
        model=True,
    ),
    Stage(
        name="export",
        seconds=8.3 / 200_000,
        kept=round(0.01 * TEXT_BYTES),
        passes=1,
        share=1,
        how="40,000 of 200,000 rows with report in 8.3 s by the clock",
        figure="export of 40,000 of 200,000 rows with report | 8.3 s",
    ),
)


def hours(stage: Stage, pool: int) -> float:
    """Of one processor, for the rows of a pool that reach a stage."""
    return stage.seconds * stage.share * pool / 3_600


def bottleneck(pool: int) -> Stage:
    """The stage that takes the most processor time."""
    return max(STAGES, key=lambda stage: hours(stage, pool))


def page(figures: Path) -> str:
    """The whole of `docs/scale.md`.

    Args:
        figures: the page of measured figures, which must hold every unit cost.
    """
    told = figures.read_text("utf-8")
    for stage in STAGES:
        assert stage.figure in told, f"{figures.name} does not say {stage.figure!r} ({stage.name})"
    parts = [_HEAD, _units(), *(_pool(n) for n in POOLS), _TAIL]
    return "\n".join(parts)


def _units() -> str:
    lines = [
        "| stage | rows that reach it | processor time a row | bytes a row | reads | measured |",
        "|---|---|---|---|---|---|",
    ]
    for s in STAGES:
        cells = (s.name, f"{s.share:.0%}", _time(s.seconds), f"{s.kept:,}", str(s.passes), s.how)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _pool(pool: int) -> str:
    slow = bottleneck(pool)
    total = sum(hours(s, pool) for s in STAGES)
    lead = max((s for s in STAGES if not s.model), key=lambda s: hours(s, pool))
    lines = [
        f"## {pool:,} rows\n",
        f"| stage | rows | bytes read | bytes left | core-hours | on {CORES} cores | dollars |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in STAGES:
        rows = s.share * pool
        read, left = s.passes * rows * TEXT_BYTES, s.kept * rows
        lines.append(_line(s.name, f"{rows:,.0f}", read, left, hours(s, pool)))
    read = sum(s.passes * s.share for s in STAGES) * pool * TEXT_BYTES
    left = sum(s.kept * s.share for s in STAGES) * pool
    lines += [
        _line("**all**", "", read, left, total),
        "",
        f"Bottleneck: {slow.name}, {hours(slow, pool) / total:.0%} of the processor time; of the "
        f"stages without a model {lead.name}.",
        "",
    ]
    return "\n".join(lines)


def _line(name: str, rows: str, read: float, left: float, used: float) -> str:
    money, wall = _short(used * CORE_HOUR), _time(3_600 * used / CORES)
    return (
        f"| {name} | {rows} | {_bytes(read)} | {_bytes(left)} | {_short(used)} | {wall} | {money} |"
    )


def _bytes(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return "-" if not count else f"{count:.0f} B"


def _time(seconds: float) -> str:
    for unit, size in (("years", 3.156e7), ("days", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


_HEAD = f"""\
# Scale

What a cascade over a pool takes, worked out by `docs/scale_page.py` from the unit costs of
[benchmarks/README.md](../benchmarks/README.md). Every row passes ingest, near duplicates,
`prior_filter` and `dsir`; a twentieth of the pool meets a forward pass, and a hundredth a backward
pass. Rows have about {WORDS} words, 500 tokens.

These are products, not runs: a unit cost times a number of rows. Nothing here was run on more than
ten million rows. Costs are of one x86-64 core that other work shared; time on {CORES} cores takes
it that shards divide evenly. Ingest, near duplicates and export were measured on rows a fifth to a
third as long, so that they are lower bounds here. A core-hour is reckoned at {CORE_HOUR} dollars:
put your own price in.
No stage was measured on a GPU, on which the passes belong; their hours here are those of CPUs.

## What a row costs
"""
_TAIL = """\
## What a cascade keeps

![Share of the top 5 % of less that cascades find, by FLOPs](frontier.svg)

On 2,100 real rows and a model of 1.25 M parameters, `dsir`, `rds_plus` and `gradient_cosine` in
turn find 24 % of the rows that `less` would pick, and 63 % of what these are worth by its own
scores, for 17 % of its FLOPs; `less` with another seed finds 43 % and 77 %. A cascade is a way to
the right region of a pool, and not to the same rows.

## What does not grow in step

- **Ledgers and scores of a run** (`gristmill run curate`) are read into memory for every stage's
  selection: about 3.4 GiB for ten million rows, so some 34 GiB for a hundred million, and not at
  all for ten billion. `gristmill select` on tables of scores needs 0.8 to 1 GiB for ten million.
- **Semantic duplicates** compare within clusters of about a thousand rows: 93 µs a row at 100,000,
  more where k-means has more centroids to compare with. 384 numbers are 1.5 kB a row.
- **`kcenter`** takes rows times picks at worst: 98 s for a million rows and 5,000 picks, 7.2 s for
  100,000 and 2,000; **`facility_location_knn`** 514 s and 50.6 s, with 3.8 GiB for the million.
- **Gradient features** of 1,024 numbers are 4 kB a row, 4 TB for a billion rows: they are for what
  a cascade leaves.
"""

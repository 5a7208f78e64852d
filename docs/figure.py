"""The README's figure, drawn from the measured numbers of `benchmarks/README.md`."""

import re
from html import escape
from pathlib import Path

# Row of the table "Fidelity", how it is shown, and which of its numbers where it has several.
BARS = (
    ("EK-FAC, ours", "EK-FAC (here)", 0),
    ("EK-FAC, bergson 2.5.1", "EK-FAC (bergson 2.5.1)", 0),
    ("whitened cosine, ours", "whitened cosine (here)", 0),
    ("LESS features, every epoch; `less` by itself", "LESS features, every epoch", 0),
    ("TrackStar, bergson", "TrackStar (bergson 2.5.1)", 0),
    ("`gradient_cosine`", "gradient_cosine", 0),
    ("TracIn, every epoch; `tracin` by itself", "TracIn, every epoch", 0),
    ("DataInf on projections; `datainf` by itself", "DataInf on projections", 0),
    ("length, random, loss", "control: length", 0),
    ("length, random, loss", "control: random", 1),
)
_LEFT, _SCALE, _ROW, _TOP = 210, 480, 26, 56
_NUMBER = re.compile(r"[-−]?\d\.\d+")


def fidelity(table: Path) -> str:
    """Bars with their intervals: how well scores predict what training on a half does."""
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", table.read_text("utf-8"), re.MULTILINE))
    height = _TOP + _ROW * len(BARS) + 34
    width = _LEFT + _SCALE + 70
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="13" role="img">',
        "<title>Linear Datamodelling Score of influence methods, with 95 % intervals</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="15" font-weight="bold">Do scores predict what training on '
        "the rows does?</text>",
        '<text x="12" y="41" fill="#555555">Linear Datamodelling Score, 1.25 M-parameter model, '
        "64 random halves of 200 rows; bars of 95 %</text>",
    ]
    for number, (row, shown, which) in enumerate(BARS):
        assert row in rows, f"{table.name} has no row {row!r} in its table of fidelity"
        drawn += _bar(_TOP + _ROW * number, shown, *_read(rows[row], which))
    foot = _TOP + _ROW * len(BARS)
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8):
        x = _LEFT + round(tick * _SCALE / 0.9)
        drawn.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{foot}" stroke="#dddddd"/>')
        drawn.append(
            f'<text x="{x}" y="{foot + 18}" text-anchor="middle" fill="#555555">{tick:g}</text>'
        )
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _read(cell: str, which: int) -> tuple[float, float | None, float | None]:
    """A value of a cell such as `0.736 (0.669 .. 0.777)`, with its interval if it has one."""
    numbers = [float(n.replace("−", "-")) for n in _NUMBER.findall(cell)]
    interval = re.match(r"[^;]*\(([^)]*)\)", cell)
    if interval is None:
        return numbers[which], None, None
    low, high = (float(n) for n in _NUMBER.findall(interval[1]))
    return numbers[0], low, high


def _bar(top: int, shown: str, value: float, low: float | None, high: float | None) -> list[str]:
    def at(score: float) -> int:
        return _LEFT + round(score * _SCALE / 0.9)

    middle = top + _ROW // 2
    start, end = sorted((at(0), at(value)))
    colour = "#999999" if shown.startswith("control") else "#2b6cb0"
    drawn = [
        f'<text x="{_LEFT - 22}" y="{middle + 4}" text-anchor="end">{escape(shown)}</text>',
        f'<rect x="{start}" y="{top + 5}" width="{max(1, end - start)}" height="{_ROW - 10}" '
        f'fill="{colour}"/>',
    ]
    right = end
    if low is not None and high is not None:
        right = at(high)
        drawn.append(
            f'<line x1="{at(low)}" y1="{middle}" x2="{right}" y2="{middle}" stroke="#111111" '
            'stroke-width="2"/>'
        )
    text = f"{value:.2f}".replace("-", "−")
    drawn.append(f'<text x="{right + 8}" y="{middle + 4}">{text}</text>')
    return drawn

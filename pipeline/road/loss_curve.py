"""Loss curve: the loss of every step as an SVG image without anything else."""

# S = steps

import numpy as np
import polars as pl

from gristmill.pipeline.report.page import Html, number, tag
from gristmill.pipeline.report.plots import LEFT, WIDTH, Floats, circle, line, text
from gristmill.pipeline.report.style import MARKS, PALETTE

HEIGHT = 190
_TOP, _BOTTOM = 34, 26
_MOST = 320  # points; longer trainings are shown as means of neighbouring steps
_LINE = ".curve{fill:none;stroke:var(--taken);stroke-width:1.6}"


def curve(metrics: pl.DataFrame) -> bytes:
    """The image of a training's metrics.

    Args:
        metrics: `step` and `loss`, one row per step.
    """
    step_S, loss_S = _thinned(metrics)
    low, high = float(loss_S.min()), float(loss_S.max())
    base = HEIGHT - _BOTTOM
    x_S = LEFT + (step_S - step_S[0]) / max(1.0, step_S[-1] - step_S[0]) * (WIDTH - 2 * LEFT)
    y_S = base - (loss_S - low) / ((high - low) or 1.0) * (base - _TOP)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x_S, y_S, strict=True))
    ends = f"from {number(float(loss_S[0]))} to {number(float(loss_S[-1]))}"
    parts = [
        text(LEFT, 14, f"Loss per step, {ends}", "start"),
        text(WIDTH - LEFT, _TOP - 6, f"highest {number(high)}, lowest {number(low)}", "end"),
        line(LEFT, base, WIDTH - LEFT, base, "axis"),
        tag("polyline", points=points, class_="curve"),
        circle(float(x_S[-1]), float(y_S[-1]), 3, "taken"),
        text(LEFT, HEIGHT - 8, f"step {step_S[0]:.0f}", "start"),
        text(WIDTH - LEFT, HEIGHT - 8, f"{step_S[-1]:.0f}", "end"),
    ]
    made = tag(
        "svg",
        tag("style", Html(text=f"{PALETTE}{MARKS}{_LINE}")),
        tag("rect", width="100%", height="100%", style="fill:var(--card)"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=HEIGHT,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
    )
    return made.text.encode()


def _thinned(metrics: pl.DataFrame) -> tuple[Floats, Floats]:
    """Steps and losses, as means of neighbours where there are too many to be drawn."""
    parts = min(_MOST, metrics.height)
    pairs = (metrics[name].cast(pl.Float64).to_numpy() for name in ("step", "loss"))
    step_S, loss_S = (
        np.array([part.mean() for part in np.array_split(values, parts)]) for values in pairs
    )
    return step_S, loss_S

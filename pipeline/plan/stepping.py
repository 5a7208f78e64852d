"""Stepping: how long work takes that goes on in steps, from how long a little of it took."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.pipeline.plan.amounts import Amount, ratio
from gristmill.pipeline.plan.probe import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Stepping:
    """Times what reports its steps; what is before the first and after the last is done once.

    Attributes:
        watch: of the probe; its caps count the tokens of training steps.
    """

    watch: Stopwatch
    _whole: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """The work begins."""
        self.watch.start()
        self._whole.append(self.watch.clock())

    def told(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        self.watch.mark()

    def end(self) -> None:
        """The work is done."""
        self._whole.append(self.watch.clock())

    def tokens(self, times: float) -> Amount | None:
        """Tokens of so many times as much work; None: they were not counted."""
        count = self.watch.caps.spent_tokens
        return Amount(value=count * times) if count else None

    @property
    def fixed(self) -> float:
        """Seconds that were not spent in steps; all, if it does not report any."""
        elapsed, (rate, units) = self._whole[1] - self._whole[0], self._rate
        return max(0.0, elapsed - rate.value * units)

    def seconds(self, times: float) -> Amount:
        """Seconds of so many times as much work."""
        rate, units = self._rate
        if not units:  # nothing is known of its parts, or of their spread
            return Amount(value=self.fixed * times, half=self.fixed * times)
        work = rate.times(units * times)
        return Amount(value=self.fixed + work.value, half=work.half)

    @property
    def _rate(self) -> tuple[Amount, float]:
        """Seconds a unit of work (a token, or a step), and the units of all steps."""
        seconds, tokens = self.watch.spans
        # the first step warms up, and what stands before it is counted with it
        spans, units = seconds[1:], tokens[1:]
        if not spans:
            return Amount(value=0.0), 0.0
        if not any(units):
            units = [1.0] * len(spans)
        return ratio(spans, units), sum(units) * (len(spans) + 1) / len(spans)

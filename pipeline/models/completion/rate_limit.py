"""How fast an endpoint may be asked: parallel requests, rate limits, pauses, circuit breaker.

    limit <- min(most, limit + 1)   every 25 answers          (additive increase)
    limit <- max(1, limit * 0.75)   on "too many" or "too slow", once per 2 s (multiplicative)
    breaker opens when at least half of the last 10 attempts hit a sick endpoint; after a pause that
    doubles, one probe goes through; the run gives up when `probes` probes in a row have failed.

Pure bookkeeping: the clock is handed in. `Gate` is the same for asyncio tasks.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

# "fine" = answered (a refusal of one request is an answer); "busy" = told to slow down; "sick" =
# server error, timeout or broken connection.
Verdict = Literal["fine", "busy", "sick"]

_GROW_EVERY = 25
_SHRINK = 0.75
_SHRINK_EVERY = 2.0  # seconds
_RECENT = 10
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When the next attempt may start.

    Attributes:
        most: parallel attempts.
        requests_per_minute: attempts are spaced evenly, so no window of a minute has more.
        tokens_per_minute: likewise for tokens, at what each attempt is expected to take.
        pause: seconds the breaker stays open at first.
        probes: failed probes after which the endpoint is given up.
        state: running values; made by the class.
        recent: verdicts of the last attempts.
    """

    most: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    pause: float = 5.0
    probes: int = 5
    state: dict[str, float] = field(default_factory=dict)
    recent: deque[Verdict] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def __post_init__(self) -> None:
        zeros = ("in_flight", "answers", "not_before", "next_request", "next_tokens", "open")
        self.state.update(dict.fromkeys((*zeros, "probing"), 0.0))
        self.state.update(limit=float(self.most), shrunk=float("-inf"))

    def delay(self, now: float) -> float | None:
        """Seconds until an attempt may start; 0 = now; None = when another has ended."""
        s = self.state
        if s["in_flight"] >= int(s["limit"]) or s["probing"]:
            return None
        return max(0.0, max(s["not_before"], s["next_request"], s["next_tokens"]) - now)

    def start(self, now: float, tokens: int) -> None:
        s = self.state
        s["in_flight"] += 1
        s["probing"] = float(s["open"] > 0)
        if self.requests_per_minute is not None:
            s["next_request"] = max(now, s["next_request"]) + 60 / self.requests_per_minute
        if self.tokens_per_minute is not None:
            s["next_tokens"] = max(now, s["next_tokens"]) + tokens * 60 / self.tokens_per_minute

    def end(self, now: float, verdict: Verdict, *, probe: bool, wait: float = 0.0) -> None:
        """An attempt ended. `probe`: it went through an open breaker; `wait`: the server's wish."""
        s = self.state
        s["in_flight"] -= 1
        s["not_before"] = max(s["not_before"], now + wait)
        if probe:
            s["probing"] = 0.0
        if verdict == "fine":
            s["open"] = 0.0
            s["answers"] += 1
            if s["answers"] % _GROW_EVERY == 0:
                s["limit"] = min(float(self.most), s["limit"] + 1)
        elif now - s["shrunk"] >= _SHRINK_EVERY:
            s["limit"], s["shrunk"] = max(1.0, s["limit"] * _SHRINK), now
        self._break(now, verdict, probe)

    def _break(self, now: float, verdict: Verdict, probe: bool) -> None:
        s = self.state
        if s["open"]:
            if probe and verdict == "sick":
                self._open(now)
            return  # stragglers from before the breaker opened say nothing new
        if verdict != "busy":
            self.recent.append(verdict)
        if len(self.recent) == _RECENT and 2 * self.recent.count("sick") >= _RECENT:
            self._open(now)

    def _open(self, now: float) -> None:
        s = self.state
        pause = min(_LONGEST_PAUSE, self.pause * 2 ** s["open"])
        s["open"] += 1
        s["not_before"] = max(s["not_before"], now + pause)
        self.recent.clear()

    @property
    def given_up(self) -> bool:
        return self.state["open"] > self.probes


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A pace for asyncio tasks: first come, first served."""

    pace: Pace
    clock: Callable[[], float]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter(self, tokens: int) -> bool:
        """Wait for leave to start an attempt; True if it is a probe."""
        async with self.turn:
            while (delay := self.pace.delay(self.clock())) != 0 and not self.pace.given_up:
                if delay is None:
                    self.ended.clear()
                    await self.ended.wait()
                else:
                    await asyncio.sleep(delay)
            self.pace.start(self.clock(), tokens)
            return self.pace.state["probing"] > 0

    def leave(self, verdict: Verdict, *, probe: bool, wait: float = 0.0) -> None:
        self.pace.end(self.clock(), verdict, probe=probe, wait=wait)
        self.ended.set()

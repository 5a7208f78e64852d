"""What a run may spend, what it has spent, and the live report of both."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.pipeline.models.caps import CapReached, RunCaps

_SUMS = (
    *("tokens", "tokens_in", "tokens_out", "money", "requests"),
    *("reserved_tokens", "reserved_money", "reserved_requests"),
)


@dataclass(frozen=True, kw_only=True)
class Price:
    """Money per million tokens; per hour of model time for a model of one's own."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    hour: float = 0.0

    def of(self, tokens_in: int, tokens_out: int, seconds: float = 0.0) -> float:
        tokens = tokens_in * self.tokens_in + tokens_out * self.tokens_out
        return tokens / 1e6 + seconds / 3600 * self.hour


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Caps on what is newly spent, shared by every run that is handed the same object.

    The worst case of a request (bound on its prompt, whole `max_tokens`) is reserved before it is
    sent and replaced by what it took. When nothing is in flight and the next one might not fit, the
    run stops; what is finished stays. Answers from the cache cost nothing. Time paid by the hour
    cannot be known beforehand, so that part is seen only when a group of requests ends.

    Attributes:
        tokens: prompt and answer tokens together.
        money: in the currency of `price`.
        requests: requests sent (candidates).
        price: the price table.
        caps: of the whole run, which they stop: they are told of all that is newly spent.
        spent: running sums; made by the class.
    """

    tokens: int | None = None
    money: float | None = None
    requests: int | None = None
    price: Price = field(default_factory=Price)
    caps: RunCaps = field(default_factory=RunCaps)
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(_SUMS, 0), compare=False, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, cap in (
            ("tokens", self.tokens),
            ("money", self.money),
            ("requests", self.requests),
        ):
            if cap is not None and cap < 0:
                raise ValueError(f"budget {name}={cap} is negative; give 0 or more.")

    def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Set the worst case of a request aside; False if it might not fit."""
        tokens, money = tokens_in + tokens_out, self.price.of(tokens_in, tokens_out)
        with self._lock:
            fits = all(
                cap is None or self.spent[name] + self.spent["reserved_" + name] + more <= cap
                for name, cap, more in (
                    ("tokens", self.tokens, tokens),
                    ("money", self.money, money),
                    ("requests", self.requests, 1),
                )
            )
            if fits and self._capped(tokens, money) is None:
                self._reserve(tokens, money, 1)
                return True
            return False

    def capped(self, tokens_in: int, tokens_out: int) -> CapReached | None:
        """The cap of the whole run that a request might exceed."""
        with self._lock:
            return self._capped(tokens_in + tokens_out, self.price.of(tokens_in, tokens_out))

    def _capped(self, tokens: int, money: float) -> CapReached | None:
        reserved = self.spent["reserved_tokens"], self.spent["reserved_money"]
        return self.caps.before(int(reserved[0]) + tokens, reserved[1] + money)

    def settle(
        self,
        reserved: tuple[int, int],
        tokens_in: int,
        tokens_out: int,
        seconds: float = 0.0,
    ) -> float:
        """Replace a reservation by what was really spent; return the money."""
        money = self.price.of(tokens_in, tokens_out, seconds)
        with self._lock:
            self._reserve(-sum(reserved), -self.price.of(*reserved), -1)
            self.spent["tokens_in"] += tokens_in
            self.spent["tokens_out"] += tokens_out
            self.spent["tokens"] += tokens_in + tokens_out
            self.spent["money"] += money
            self.spent["requests"] += 1
        self.caps.spend(tokens_in + tokens_out, money)
        return money

    def _reserve(self, tokens: int, money: float, requests: int) -> None:
        self.spent["reserved_tokens"] += tokens
        self.spent["reserved_money"] += money
        self.spent["reserved_requests"] += requests
        if self.spent["reserved_requests"] == 0:
            self.spent["reserved_money"] = 0  # no rounding may gather here

    @property
    def stop_reason(self) -> str:
        """Why a run had to stop, in one sentence."""
        caps = (("tokens", self.tokens), ("money", self.money), ("requests", self.requests))
        used = [
            f"{self.spent[name]:.6g} of {cap:.6g} {name}" for name, cap in caps if cap is not None
        ]
        return f"budget: the next request might exceed it ({', '.join(used)} spent)"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a run stands. `rows = ok + rejected + failed` of the rows that have a result.

    Attributes:
        rows: results so far.
        total: rows to come in all, if that is known.
        ok: good ones.
        rejected: answered, but refused by the schema or `parse`.
        failed: without a (whole) answer.
        cached: results that cost nothing.
        sent: requests answered or failed by the back end in this run, repairs included.
        tokens_in: prompt tokens newly spent.
        tokens_out: answer tokens newly spent.
        cost: money newly spent.
        seconds: since the run began.
        reasons: how often each kind of reason occurred (the word before the colon).
    """

    rows: int
    total: int | None
    ok: int
    rejected: int
    failed: int
    cached: int
    sent: int
    tokens_in: int
    tokens_out: int
    cost: float
    seconds: float
    reasons: Mapping[str, int]

    @property
    def remaining_seconds(self) -> float | None:
        """Estimate of what is left, from the pace so far."""
        if self.total is None or self.rows == 0:
            return None
        return (self.total - self.rows) * self.seconds / self.rows


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would take, before anything is sent.

    Attributes:
        requests: requests in all.
        cached: of these, answered already.
        tokens_in: prompt tokens still to be paid.
        tokens_out: answer tokens still to be paid, at the mean length of the cached answers.
        tokens_out_most: the same, if every answer were as long as allowed.
        cost: money for `tokens_in` and `tokens_out`.
        cost_most: money for `tokens_in` and `tokens_out_most`.
    """

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int
    tokens_out_most: int
    cost: float
    cost_most: float

"""Caps: how long a run may take, how many tokens models may read and write in it, what it may cost.

A cap stops a run between two units of work: what is finished is in the store, and the same command
goes on from there. Whoever works for a run tells its caps of every unit (`told`), of the tokens and
money that it took (`spend`), and asks at places where nothing is lost (`check`).

Tokens are those that models read and write: of every sequence that a pass shows a model, of every
row of a training step, of every prompt and answer of a generation. What the store or the cache of
completions already has is not read again, and does not count.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class CapReached(Exception):
    """A run came to one of its caps; its text is the sentence for the user."""


@dataclass(kw_only=True)
class _Spent:
    """What a run has taken so far."""

    began: float
    tokens: int = 0
    money: float = 0.0
    last: str = "nothing yet"
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, kw_only=True)
class RunCaps:
    """What one invocation of a run may take; None: as much as it takes.

    Attributes:
        hours: from the start of the run.
        tokens: that models read and write.
        money: of `spend`, and of the hours at `hour_price`.
        hour_price: of an hour of this machine.
        outer: asked with every check: stops what is part of a run that is to stop.
        clock: seconds, from any start.
    """

    hours: float | None = None
    tokens: int | None = None
    money: float | None = None
    hour_price: float = 0.0
    outer: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, compare=False, repr=False)
    _spent: list[_Spent] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._spent.append(_Spent(began=self.clock()))

    @property
    def spent_hours(self) -> float:
        """Since the run began."""
        return (self.clock() - self._spent[0].began) / 3600

    @property
    def spent_tokens(self) -> int:
        """Read and written by models."""
        return self._spent[0].tokens

    @property
    def spent_money(self) -> float:
        """For tokens that are paid for, and for the hours."""
        return self._spent[0].money + self.hour_price * self.spent_hours

    def spend(self, tokens: int, money: float = 0.0) -> None:
        """Count what models have just read and written, and what was paid for it."""
        spent = self._spent[0]
        with spent.lock:
            spent.tokens += tokens
            spent.money += money

    def told(self, what: str, done: int, total: int) -> None:
        """Remember how far the work is, for the sentence at a cap."""
        self._spent[0].last = f"{what}, {done:,} of {total:,}"

    @property
    def reached(self) -> bool:
        """Whether the run is to stop at the next place where nothing is lost."""
        return self.before(0, 0.0) is not None

    def check(self) -> None:
        """Stop the run if it has come to a cap.

        Raises:
            CapReached: which cap, how far the work was, and how to go on.
        """
        if self.outer is not None:
            self.outer()
        stop = self.before(0, 0.0)
        if stop is not None:
            raise stop

    def before(self, tokens: int, money: float) -> CapReached | None:
        """What stops the run before it spends so much more, at worst; None: it may."""
        spent_tokens, spent_money = self.spent_tokens, self.spent_money
        if _full(self.tokens, spent_tokens, tokens):
            return self._stop(
                f"max_tokens = {self.tokens:,}: models read and wrote {spent_tokens:,} tokens",
                spent_tokens < (self.tokens or 0),
            )
        if _full(self.money, spent_money, money):
            return self._stop(
                f"max_money = {self.money:g}: {spent_money:.4g} was spent",
                spent_money < (self.money or 0),
            )
        if _full(self.hours, self.spent_hours, 0.0):
            return self._stop(f"max_hours = {self.hours:g}: it took {self.spent_hours:.3g} h")
        return None

    def _stop(self, cap: str, short: bool = False) -> CapReached:
        more = ", and the next request might exceed it" if short else ""
        return CapReached(
            f"stopped at the cap {cap} in this run{more}; done: {self._spent[0].last}. All "
            "finished work is kept in the store: run the same command again to go on from there, "
            "or raise the cap."
        )


def _full(cap: float | None, spent: float, more: float) -> bool:
    return cap is not None and (spent >= cap or spent + more > cap)

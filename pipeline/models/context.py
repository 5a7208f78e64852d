"""What one run has: its store, its models, how they are run, its caps, who is told of progress."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from gristmill.pipeline.engine.engine import Engine, Local, Needs
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.store import Store


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Made once a run and handed down; no verb makes another.

    Attributes:
        models: the store, and roles bound to references; the model in memory is shared.
        passes: how models are run over records.
        progress: told of stages of work (what, done, in all); None: nobody is.
        caps: what the run may take; by default, as much as it takes.
        engine: who reads records with models.
    """

    models: Models
    passes: Passes = field(default_factory=Passes)
    progress: Progress | None = None
    caps: RunCaps = field(default_factory=RunCaps)
    engine: Engine = field(default_factory=Local)

    @cached_property
    def pinned(self) -> Passes:
        """How records are read: "auto" is what it is where the engine works, once for the run."""
        resolve = partial(self.passes.resolved, self.engine.threads)
        if self.passes.device != "auto":  # the same everywhere
            return resolve()
        return self.engine.ask(resolve, Needs(device="auto"))

    @property
    def store(self) -> Store:
        """Where all work is kept."""
        return self.models.store

    def advance(self, what: str, done: int, total: int) -> None:
        """Report progress, if anybody listens; stop here if the run has come to a cap.

        Raises:
            CapReached: it has.
        """
        self.tell(what, done, total)
        self.caps.check()

    def tell(self, what: str, done: int, total: int) -> None:
        """Report progress within a unit of work that is not to be cut off."""
        if self.progress is not None:
            self.progress(what, done, total)
        self.caps.told(what, done, total)

    def bound(self, models: Models) -> "RunContext":
        """The same run with further roles bound."""
        return replace(self, models=models)

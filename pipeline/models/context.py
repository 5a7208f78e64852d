"""What one run has: its store, its models, how they are run, and who is told of progress."""

from dataclasses import dataclass, field, replace

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
    """

    models: Models
    passes: Passes = field(default_factory=Passes)
    progress: Progress | None = None

    @property
    def store(self) -> Store:
        """Where all work is kept."""
        return self.models.store

    def advance(self, what: str, done: int, total: int) -> None:
        """Report progress, if anybody listens."""
        if self.progress is not None:
            self.progress(what, done, total)

    def bound(self, models: Models) -> "RunContext":
        """The same run with further roles bound."""
        return replace(self, models=models)

"""What the command `compress` does: the answers of many models in, a subset of a task out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gristmill.flows.steps import bind, open_store
from gristmill.pipeline.evaluate.compression.compress import Compression, compress
from gristmill.pipeline.evaluate.compression.matrix import Matrix, of_evaluations, of_table
from gristmill.pipeline.evaluate.compression.subset import Subset
from gristmill.pipeline.evaluate.evaluation import embedding
from gristmill.pipeline.export.user_tables import read_table
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.records.build import build


def run(
    answers: Sequence[Path],
    task: str,
    out: Path,
    settings: Mapping[str, Any],
    *,
    embedder: str | None = None,
    store: str,
    device: str = "auto",
    allow_network: bool = False,
    progress: Progress | None = None,
) -> Subset:
    """Choose the items, and write the file."""
    asked = build(Compression, settings, "compress")
    embed = None
    if embedder is not None:
        models = bind(open_store(store), {"embedder": embedder}, allow_network=allow_network)
        embed = embedding(embedder, RunContext(models=models, passes=Passes(device=device)))
    told = progress or (lambda what, done, total: None)
    found = compress(_matrix(answers, task), asked, embed=embed, told=told)
    found.save(out)
    return found


def lines(found: Subset) -> list[dict[str, Any]]:
    """How well it does on models that no search saw, for a table."""
    return [
        {
            "form": f["form"],
            "items": f["items"],
            "models": f["models"],
            "RMSE, points": _shown(f, "rmse", 2),
            "Kendall tau": _shown(f, "kendall", 3),
            "ranks within 5 %": _shown(f, "near", 2),
        }
        for f in found.figures
    ]


def _shown(figures: Mapping[str, Any], name: str, digits: int) -> str:
    value, low, high = (figures[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _matrix(answers: Sequence[Path], task: str) -> Matrix:
    if len(answers) == 1 and answers[0].is_file():
        return of_table(read_table(answers[0], "answers"), task)
    return of_evaluations(answers, task)

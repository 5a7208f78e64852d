"""Looking: what `gristmill explore` opens, and the server that shows it until Ctrl-C."""

from pathlib import Path
from urllib.parse import quote, urlsplit

from gristmill.flows import files
from gristmill.flows.cli.options import STORE
from gristmill.flows.config import RunConfig
from gristmill.flows.console import opened
from gristmill.flows.pages.explore import Page
from gristmill.flows.pages.serving import door, listening, serve
from gristmill.flows.prefer_config import PreferConfig
from gristmill.flows.synthesis_config import SynthesizeConfig
from gristmill.pipeline.records.place import folder_of
from gristmill.pipeline.report.examples import EXPLORER


def explore(
    where: Path, *, against: Path | None, row: str | None, store: str, port: int | None
) -> None:
    """Serve the page of a ledger until a signal comes.

    Args:
        where: a dataset, a version, a run's YAML file, or a ledger.
        against: another version or ledger, shown beside it.
        row: id of a row to begin with.
        store: folder of the store; a run's file names its own, unless another is given.
        port: to listen at; None: the one that reports link to, or, where that is taken, a free one.
    """
    where, store = of_run(where, store)
    usual = urlsplit(EXPLORER).port
    assert usual is not None, "reports link to a port"
    with listening(port, usual) as at:
        page = Page(where, folder_of(store), against)
        try:
            guard = door(at)
            opened(guard.address + (f"&id={quote(row)}" if row else ""), links=guard.port == usual)
            serve(page.app(), at, guard)
        finally:
            page.close()


def of_run(where: Path, store: str) -> tuple[Path, str]:
    """The dataset and the store that a run's file names; any other path as it is.

    Raises:
        ValueError: the run publishes no rows, or has published none yet.
    """
    if where.suffix not in (".yaml", ".yml"):
        return where, store
    flow, run = files.read_any(where)
    match run:
        case RunConfig() | PreferConfig():
            home = Path(run.export.root) / run.name
        case SynthesizeConfig():
            home = Path(run.out) / run.name
        case _:
            raise ValueError(
                f"{where} is {files.called(flow)}, which publishes no ledger to look at: give a "
                "run of curate, clean, refine-pairs, prefer or synthesize, or a dataset."
            )
    if not home.is_dir():
        raise ValueError(
            f"the run {where} has published nothing at {home}: `gristmill run {where}` first."
        )
    return home, run.store if store == STORE else store

"""What the command line shows: tables, one row's story, what came of a run."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gristmill.flows import evaluate_steps, finetune_steps
from gristmill.flows.commands import Decided, Scored
from gristmill.flows.pages.visible import in_json, plain
from gristmill.flows.progress import listening
from gristmill.flows.publishing import shortfalls, verdict
from gristmill.flows.reports import CHANGES
from gristmill.pipeline.compare.compared import PAGE, TABLES, told
from gristmill.pipeline.export.diff import Diff
from gristmill.pipeline.export.why import Story
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.road.finetuned import Finetuned


def publishing(run: Callable[[], str], versions: Path, unchanged: Sequence[str] = ()) -> Path:
    """Run a flow that publishes into a folder of versions; show its progress, and what came of it.

    Args:
        run: returns the published folder.
        versions: where it lies.
        unchanged: filled by a run that has nothing new to publish, with a sentence.

    Returns:
        The published folder.
    """
    before = set(versions.glob("*"))
    with listening() as heard:
        folder = Path(run())
    if unchanged:
        print("\n".join(unchanged))
        return folder
    if folder in before and not heard:
        print("nothing was to do: inputs and settings are those of a run that is done.")
    published(folder)
    return folder


def rows(found: Sequence[Mapping[str, Any]], title: str, *, as_json: bool) -> None:
    """Print rows of equal keys as a table, or as one JSON array."""
    if as_json:
        print(in_json(json.dumps(list(found), indent=1, ensure_ascii=False, default=str)))
    else:
        table(found, title)


def figures(folder: Path) -> None:
    """Print the figures of an evaluation, and where all of it lies."""
    told = json.loads((folder / "summary.json").read_text("utf-8"))
    table(evaluate_steps.shown(told["figures"]), title=told["model"])
    print(folder)


def table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows of equal keys."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # a cell says what it says: its brackets are no markup

    print(title)
    drawn = Table(box=box.SIMPLE_HEAD)
    for name in rows[0] if rows else ():
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text("" if v is None else plain(str(v))) for v in row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(drawn)


def record(row: Mapping[str, Any]) -> None:
    """Print one row, a line a field; what is null is left out."""
    width = max((len(k) for k, v in row.items() if v is not None), default=0)
    for name, value in row.items():
        if value is not None:
            print(f"{name:<{width}}  {plain(str(value))}")
    print()


def described(line: Mapping[str, Any], *, as_json: bool) -> None:
    """Print all of one method, rule or filter."""
    if as_json:
        rows([line], title="", as_json=True)
        return
    print(f"{line['name']}\n\n{line['says']}\n")
    own = ("name", "says", "purpose", "settings", "options")
    told = {k: v for k, v in line.items() if k not in own}
    record({k: ", ".join(v) if isinstance(v, list) else v or None for k, v in told.items()})
    if line["options"]:
        table(line["options"], title="settings (`--set key=value`, or under `settings:`)")
    else:
        print(f"{line['name']} has no settings.")


def stories(found: Sequence[Story], *, as_json: bool) -> None:
    """Print what became of a row, what it says, and the ledger's line.

    A row may hold codes that a terminal obeys: they are shown and not sent to it.
    """
    if as_json:
        told = [{"sentences": s.sentences, "turns": s.turns, "ledger": dict(s.line)} for s in found]
        rows(told, title="", as_json=True)
        return
    for story in found:
        print("\n".join(map(plain, story.sentences)) + "\n")
        for who, text in story.turns:
            print(f"[{plain(who)}]\n{plain(text)}\n")
        if not story.turns:
            print("Its text is neither in the publication nor in the store (--store names it).\n")
        record(story.line)


def opened(address: str, *, links: bool) -> None:
    """Print where a page answers."""
    print(f"open {address}", flush=True)
    if not links:
        print("the port that reports link to is taken: their links lead elsewhere", flush=True)
    print("Ctrl-C ends it.", flush=True)


def sources(dataset: Dataset, *, as_json: bool) -> None:
    """Print what was read from where."""
    found = [
        {k: s.get(k) for k in ("name", "rows", "quarantined", "license", "revision")}
        for s in dataset.sources
    ]
    rows(found, title=f"{dataset.kind} records", as_json=as_json)
    if as_json:
        return
    for reason, count in list(dataset.quarantine_reasons().items())[:5]:
        print(f"quarantined {count}: {reason}")
    print(dataset.entry.path)


def scores(found: Scored, method: str) -> None:
    """Print how many rows were scored, why the others were not, and how to select by the scores."""
    scored = found.rows - sum(found.reasons.values())
    print(f"{method}: {scored:,} of {found.rows:,} rows scored")
    for reason, count in list(found.reasons.items())[:5]:
        print(f"not scored {count:,}: {reason}")
    if found.advice is not None:
        print(found.advice)


def verdicts(found: Decided, out: Path, *, as_json: bool) -> None:
    """Print rows by verdict and reason, the ledger's file, and what is lacking."""
    if as_json:
        rows(found.verdicts, title="", as_json=True)
        return
    table(found.verdicts[:12], title=f"{found.rows:,} rows decided{found.budget}")
    if found.worth is not None:
        mean, worth = found.worth
        print(f"weights: mean {mean:.3f}, worth {worth:,.1f} rows of equal weight")
    print(out)
    short(found.shortfalls)


def drops(seen: int, reasons: Sequence[Mapping[str, Any]], out: Path, *, as_json: bool) -> None:
    """Print how many rows cleaning dropped and why, and the file that names them."""
    dropped = sum(r["rows"] for r in reasons)
    rows(reasons, title=f"{dropped:,} of {seen:,} rows dropped", as_json=as_json)
    if not as_json:
        print(out)


def short(sentences: Sequence[str]) -> None:
    """Print what could not be kept of what was asked: last, where it is seen."""
    for sentence in sentences:
        print(f"less than was asked for: {sentence}")


def published(folder: Path) -> None:
    """Print where the dataset is, what to do with it, and what it lacks of what was asked."""
    print(f"\npublished  {folder}")
    if (folder / "report.html").exists():
        print(f"report     {folder / 'report.html'}")
    if (folder / CHANGES).exists():
        print(f"changes    {folder / CHANGES}")
    gate = verdict(folder)
    held = gate is not None and not gate["promoted"]
    loaded = folder if held else folder.parent / "latest"
    print(f"load       datasets.load_dataset({str(loaded)!r})")
    print(f"check      gristmill verify {folder}")
    short(shortfalls(folder))
    if gate is not None:
        print(f"\n{gate['sentence']}")
        for flag in gate["flags"]:
            print(f"mind: {flag}")
        print(f"models and plots: {folder / 'comparison.html'}")
    if held:
        print(f"{folder.parent / 'latest'} is as it was: it does not name this version.")


def compared(folder: Path) -> None:
    """Print what a comparison found, and where its page is."""
    found = told(folder)
    for sentence in (*found["warnings"], *found["summaries"]):
        print(f"- {sentence}")
    print(f"\nmodels and plots  {folder / PAGE}")
    print(f"tables            {folder / TABLES[0]}")


def training(run: Callable[[], object], out: str | None) -> None:
    """Run what trains a model; show its progress, and what came of it.

    Args:
        run: trains.
        out: folder that the model is written to as well.
    """
    with listening() as heard, finetune_steps.announced() as models:
        run()
    if not heard:
        print("nothing was to do: dataset, model and settings are those of a run that is done.")
    for made in models:
        model(made, out)


def model(made: Finetuned, out: str | None) -> None:
    """Print where a trained model is, what came of the training, and what it has to say."""
    print(f"\ntrained    {made.name}")
    print(f"model      {made.reference}")
    print(f"card       {made.about.path / 'about' / 'README.md'}")
    if out is not None:
        print(f"written to {Path(out).absolute()}")
    print()
    record({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in made.summary.items()})
    for sentence in made.notes:
        print(f"- {sentence}")


def moved(found: tuple[str, Sequence[Mapping[str, Any]]], *, as_json: bool) -> None:
    """Print what moved between two runs."""
    text, lines = found
    if as_json:
        rows(lines, title="", as_json=True)
    else:
        print(text)


def changes(found: Diff, *, as_json: bool) -> None:
    """Print what changed between two versions."""
    if as_json:
        print(json.dumps(found.facts, indent=1, ensure_ascii=False, default=str))
        return
    print(f"{found.before} -> {found.after}")
    for sentence in found.sentences:
        print(f"- {plain(sentence)}")
    tables = {
        "rows in and out, and why": found.changes,
        "kept rows by source": found.mixture,
        "scores (distance: Kolmogorov-Smirnov; chance explains that much in 99 of 100 cases)": (
            found.scores
        ),
        "sources that came and went": found.sources,
    }
    for title, frame in tables.items():
        if frame.height:
            print()
            table([{k: _short(v) for k, v in row.items()} for row in frame.to_dicts()], title)


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value

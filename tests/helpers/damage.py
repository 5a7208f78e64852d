"""Every kind of file that is read back, damaged in every way: what becomes of it.

    python tests/helpers/damage.py    # the table of docs/reliability.md

A case lays out real files, names the victim, and tells what happens afterwards: "made again" (the
result has the bytes it would have had), "refused" (one sentence), or "no harm" (nothing was built
on that file, or it was seen through and hashed). A wrong result is an AssertionError.
"""

import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import reviews
from published import chats, frame, publish, stored

from gristmill.pipeline.export import verify
from gristmill.pipeline.export.archive import pack
from gristmill.pipeline.export.unpack import unpack
from gristmill.pipeline.finetune.checkpoints import COMPLETE, mark_of
from gristmill.pipeline.models.completion.cache import open_cache
from gristmill.pipeline.models.completion.client import Request, complete
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.store import (
    STAMPS,
    Entry,
    Part,
    Step,
    Store,
    sha256,
    stamp,
    table,
    walk,
)
from gristmill.pipeline.review import journal


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def fold(path: Path) -> None:
    """A folder in the place of a file, as a tool that unpacks leaves it; it holds something."""
    path.unlink()
    path.mkdir()
    (path / "notes.txt").write_text("what is this doing here?")


def link(path: Path) -> None:
    """A link that leads nowhere, as a tidied disk leaves it."""
    path.unlink()
    path.symlink_to(path.with_name("moved-away"))


HOWS: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "truncate": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "garble": lambda path: path.write_bytes(b"[]"),
    "delete": Path.unlink,
    "folder": fold,
    "link": link,
}
MADE, REFUSED, NO_HARM = "made again", "refused", "no harm"
STEP = Step(name="toy", version=1, settings={"a": [1, 2.5, None]}, inputs={"x": "abc"})

# a case: lay out under a folder; the victim, and what then happens
Case = Callable[[Path], tuple[Path, Callable[[], str]]]


def harm(path: Path, how: str) -> None:
    HOWS[how](path)


def contents(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256(p) for p in walk(root) if p.name != STAMPS}


# --- the store


def parts(made: list[str], last: Callable[[], None] = lambda: None) -> list[Part]:
    def rows(i: int) -> pl.DataFrame:
        made.append(f"part {i}")
        return pl.DataFrame({"i": [i, i + 1], "text": ["a" * i, "b"]})

    def model(path: Path) -> None:
        made.append("model")
        (path / "inner").mkdir(parents=True)
        (path / "config.json").write_text('{"layers": 2}')
        (path / "inner" / "weights.bin").write_bytes(bytes(range(256)))

    def end(path: Path) -> None:
        last()
        made.append("last")
        path.write_text("the end")

    tables = [table(f"part-{i:05d}", partial(rows, i)) for i in range(2)]
    return [*tables, Part(name="model", write=model), Part(name="z.txt", write=end)]


def truth() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return contents(Store(root=Path(folder)).run(STEP, parts([])).path)


def rerun(store: Store) -> str:
    made: list[str] = []
    entry = store.run(STEP, parts(made))
    assert contents(entry.path) == truth(), "another result was served"
    assert store.find(STEP) == entry
    assert store.computed()
    return MADE if made else NO_HARM


def finished(name: str) -> Case:
    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        store = Store(root=root)
        return store.run(STEP, parts([])).path / name, partial(rerun, store)

    return lay


def in_flight(name: str) -> Case:
    """A run that stopped before its last part."""

    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        def stop() -> None:
            raise KeyboardInterrupt

        store = Store(root=root)
        with contextlib.suppress(KeyboardInterrupt):
            store.run(STEP, parts([], stop))
        made: list[str] = []

        def resumed() -> str:
            entry = store.run(STEP, parts(made))
            assert contents(entry.path) == truth(), "another result was served"
            return MADE if len(made) > 1 else NO_HARM  # the last part was to be made anyway

        return root / "toy" / name.format(key=STEP.key), resumed

    return lay


def unpublished(name: str) -> Case:
    """A run that was killed between its manifest and the rename."""

    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        done = root / "toy" / f".done-{STEP.key}"

        def marked(_: Path) -> dict[str, str]:
            kept.update({p.name: p.read_bytes() for p in done.iterdir()})
            return {}

        kept: dict[str, bytes] = {}
        store = Store(root=root)
        entry = store.run(STEP, parts([]), note=marked)
        work = entry.path.rename(root / "toy" / f".work-{STEP.key}")
        done.mkdir()
        for mark, raw in kept.items():
            (done / mark).write_bytes(raw)
        return work / name, partial(rerun, store)

    return lay


def hashed(root: Path) -> tuple[Path, Callable[[], str]]:
    store, source = Store(root=root), root / "source"
    source.write_text("rows")
    store.file_hash(source)
    (memo,) = walk(root / "hashes")
    before = memo.read_bytes()

    def outcome() -> str:
        assert store.file_hash(source) == sha256(source)
        assert memo.read_bytes() == before
        return MADE

    return memo, outcome


def logged(root: Path) -> tuple[Path, Callable[[], str]]:
    store = Store(root=root)
    store.run(STEP, parts([]))

    def outcome() -> str:
        store.computed()
        other = Step(name="other", version=1)
        store.put(other, pl.DataFrame({"a": [1]}))
        assert store.computed()[-1]["step"] == "other"  # a torn line swallows no other
        return rerun(store)

    return root / "journal.jsonl", outcome


# --- completions


def asked(root: Path) -> tuple[list[Request], Recorded]:
    rows = [
        Request(id=f"r{i}", messages=[{"role": "user", "content": f"q {i}"}]) for i in range(40)
    ]
    return rows, Recorded(answers={r.id: f"the answer to {r.id} " * 9 for r in rows})


def answers(name: str) -> Case:
    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        path, (rows, backend) = root / "c.db", asked(root)
        stack = contextlib.ExitStack()
        if name.endswith("-wal"):  # an open connection keeps its log
            stack.enter_context(closing(open_cache(path)))
        list(complete(rows, backend, cache=path))
        if name.endswith("-wal"):
            raw, log = path.read_bytes(), (root / name).read_bytes()
            stack.close()
            path.write_bytes(raw)  # as a kill would have left them
            (root / name).write_bytes(log)

        def outcome() -> str:
            backend.asked.clear()
            for _ in range(2):
                results = list(complete(rows, backend, cache=path))
                assert [r.value for r in results] == [backend.answers[r.id] for r in rows]
            return MADE if backend.asked else NO_HARM

        return root / name, outcome

    return lay


# --- training


def checkpoint(name: str) -> Case:
    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        from gristmill.pipeline.finetune.trainer import newest

        for step in (2, 4):
            folder = root / f"checkpoint-{step}"
            folder.mkdir()
            for file in (
                "model.safetensors",
                "optimizer.pt",
                "rng_state.pth",
                "trainer_state.json",
            ):
                (folder / file).write_bytes(file.encode() * 20)
            (folder / COMPLETE).write_text(mark_of(folder))
        assert newest(root, {2, 4}) == root / "checkpoint-4"

        def outcome() -> str:
            assert newest(root, {2, 4}) == root / "checkpoint-2"
            assert not (root / "checkpoint-4").exists()
            return MADE

        return root / "checkpoint-4" / name, outcome

    return lay


# --- people


def judged(root: Path) -> tuple[Path, Callable[[], str]]:
    own = journal.journal(root, "ann")
    nothing = dict.fromkeys(JUDGEMENTS)
    for n in range(3):
        own.append({**nothing, "item": f"item-{n}", "comment": "well said " * 9}, f"click-{n}")

    def outcome() -> str:
        (found,) = journal.journals(root)
        assert found.lines == own.lines, "verdicts are lost"
        return NO_HARM

    return own.path, outcome


def approved(name: str) -> Case:
    """A run that waits for approval, and its request asked again."""

    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        (root / "store").mkdir()
        store = Store(root=root / "store")
        pool = stored(store, frame(chats(14)))
        before = reviews.request(store, pool)
        shown = before.sampled()
        before.decide("rejected", by="ann", reason="row 3 is rude")

        def outcome() -> str:
            again = reviews.request(store, pool)
            assert again.sampled().equals(shown)
            assert contents(again.path).keys() >= {"sample.parquet", "report.html"}
            if again.decision is None:
                return MADE  # the run waits, and asks again
            assert again.decision["verdict"] == "rejected"
            return MADE

        return before.path / name, outcome

    return lay


# --- publications


def published(name: str) -> Case:
    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        (root / "store").mkdir()
        again = partial(
            publish,
            root / "out",
            Store(root=root / "store"),
            n=30,
            keep=10,
            run={"seconds": 1.5},
            report=lambda _: b"<html></html>",
        )
        folder = again()

        def outcome() -> str:
            assert verify.verify(folder), "`gristmill verify` saw nothing"
            again()
            assert verify.verify(folder) == []
            return MADE

        return folder / name, outcome

    return lay


def packed(root: Path) -> tuple[Path, Callable[[], str]]:
    (root / "store").mkdir()
    store = Store(root=root / "store")
    version = publish(root / "out", store, n=30, keep=10)
    pack(version, root / "toy.tar", store)

    def outcome() -> str:
        unpack(root / "toy.tar", root / "elsewhere")
        return NO_HARM

    return root / "toy.tar", outcome


def source_of(name: str) -> Case:
    """What a publication reads, damaged while its time stamps stayed: a fault of the medium."""

    def lay(root: Path) -> tuple[Path, Callable[[], str]]:
        (root / "store").mkdir()
        store = Store(root=root / "store")
        entry = stored(store, frame(chats(30))).entry
        victim = entry.path / name

        def outcome() -> str:
            if victim.exists() and victim.stat().st_size == dict(sizes)[name]:
                stamp(entry.path, entry.files)  # what `find` looks at is as it was
                assert store.find(step_of(entry)) is not None
            publish(root / "out", store, n=30, keep=10)
            return MADE

        sizes = [(f["path"], f["bytes"]) for f in entry.files]
        return victim, outcome

    return lay


def step_of(entry: Entry) -> Step:
    facts = json.loads((entry.path / "manifest.json").read_text())
    return Step(name=facts["step"], version=facts["version"], inputs=facts["inputs"])


@dataclass(frozen=True, kw_only=True)
class Row:
    kind: str
    state: str
    case: Case

    def outcome(self, how: str, root: Path) -> str:
        victim, happens = self.case(root)
        harm(victim, how)
        try:
            return happens()
        except ValueError as error:
            text = str(error)
            assert "\n" not in text.strip()
            assert victim.name in text or "is damaged" in text, text
            return REFUSED


def rows() -> Iterator[Row]:
    for kind, name in (
        ("table of an entry", "part-00000.parquet"),
        ("file of a folder in an entry", "model/inner/weights.bin"),
        ("manifest of an entry", "manifest.json"),
        ("time stamps of an entry", STAMPS),
    ):
        yield Row(kind=kind, state="finished", case=finished(name))
    yield Row(
        kind="table that a publication reads, time stamps unmoved",
        state="finished",
        case=source_of("records-00000.parquet"),
    )
    for kind, name in (
        ("finished part", ".work-{key}/part-00000.parquet"),
        ("file of a finished folder", ".work-{key}/model/inner/weights.bin"),
        ("completion mark", ".done-{key}/model.json"),
    ):
        yield Row(kind=kind, state="in flight", case=in_flight(name))
    for kind, name in (
        ("manifest before the rename", "manifest.json"),
        ("part before the rename", "part-00001.parquet"),
    ):
        yield Row(kind=kind, state="in flight", case=unpublished(name))
    yield Row(kind="remembered hash of a source file", state="finished", case=hashed)
    yield Row(kind="journal", state="finished", case=logged)
    yield Row(kind="completion cache", state="finished", case=answers("c.db"))
    yield Row(kind="its write-ahead log", state="in flight", case=answers("c.db-wal"))
    yield Row(kind="verdicts of an annotator", state="finished", case=judged)
    for name in ("request.json", "sample.parquet", "report.html", "decision.json"):
        yield Row(kind=f"approval: {name}", state="finished", case=approved(name))
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json", COMPLETE):
        kind = f"checkpoint: {name}"
        yield Row(kind=kind, state="in flight", case=checkpoint(name))
    for name in (
        "data/train-00000-of-00001.parquet",
        "ledger/pool-00000-of-00001.parquet",
        "manifest.json",
        verify.SUMS,
        verify.SUCCESS,
        verify.RUN,
        "README.md",
        "LICENSES.md",
        "CHANGELOG.md",
        "croissant.json",
        "dataset_info.json",
        "report.html",
        "loaders/trl.yaml",
    ):
        yield Row(kind=f"published: {name}", state="finished", case=published(name))
    yield Row(kind="packed version", state="finished", case=packed)


def markdown(outcomes: dict[tuple[str, str], str]) -> str:
    """The table of docs/reliability.md."""
    lines = [f"| file | when | {' | '.join(HOWS)} |", "|---|---|" + "---|" * len(HOWS)]
    for row in rows():
        cells = " | ".join(outcomes[row.kind, how] for how in HOWS)
        lines.append(f"| {row.kind} | {row.state} | {cells} |")
    return "\n".join(lines) + "\n"


def outcomes() -> dict[tuple[str, str], str]:
    found = {}
    for row in rows():
        for how in HOWS:
            with tempfile.TemporaryDirectory() as folder:
                found[row.kind, how] = row.outcome(how, Path(folder))
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.stdout.write(markdown(outcomes()))

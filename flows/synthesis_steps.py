"""What the tasks of a synthesis run do: settings and paths in, paths out. No Prefect here."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.flows.steps import bind, open_store
from gristmill.flows.synthesis_config import AnswererConfig, SynthesizeConfig
from gristmill.pipeline.clean.benchmarks import load_benchmarks
from gristmill.pipeline.clean.decontaminate import Gate
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.completion.client import CompletionBackend, Price, Sampling
from gristmill.pipeline.models.load import LoadedModel, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.environment import environment
from gristmill.pipeline.records.schema import DOCUMENT, digest
from gristmill.pipeline.records.store import (
    Entry,
    Part,
    Step,
    Store,
    open_entry,
    write_table,
    write_text,
)
from gristmill.pipeline.records.text import texts
from gristmill.synthesis import documents, report, reward
from gristmill.synthesis.chunks import chunk_rows
from gristmill.synthesis.clusters import cluster
from gristmill.synthesis.embedding import Loader, Warmup, embed_documents, stored
from gristmill.synthesis.equal import Equal, Outcome
from gristmill.synthesis.extraction import QA, Ask, Extraction
from gristmill.synthesis.gates import all_of, decontaminated, unlike
from gristmill.synthesis.harvest import Harvester
from gristmill.synthesis.reward import text_of
from gristmill.synthesis.rounds import kept_pairs

Progress = Callable[[str, int, int], None]
_ANSWERERS = ("extractor", "checker", "reader")


def gather(config: SynthesizeConfig) -> Path:
    """Documents to chunks; returns the folder of their table."""
    store = open_store(config.store)
    models = _models(config, store)
    frames = [pl.DataFrame(schema=DOCUMENT)]
    bad = []
    if config.sources:
        read = _ingest(config, store, config.sources, "document")
        frames.append(read.frame())
        bad.append(read.quarantine())
    if config.files:
        good, refused = documents.load(_files(config.files), license=config.license)
        frames.append(good)
        bad.append(refused)
    whole = pl.concat(frames)
    (files,) = models.files("embedder")
    chat = load_tokenizer(files)

    def count(parts: Sequence[str]) -> list[int]:
        if not parts:
            return []
        return [
            len(ids) for ids in chat.tokenizer(list(parts), add_special_tokens=False)["input_ids"]
        ]

    step = Step(
        name="chunks",
        version=1,
        settings={"tokens": config.chunk_tokens},
        inputs={"documents": digest(whole.rows()), "tokenizer": files.tokenizer_sha},
    )

    def work(path: Path) -> None:
        path.mkdir()
        chunks = chunk_rows(whole, limit=config.chunk_tokens, count=count)
        if chunks.is_empty():
            raise ValueError("the sources hold no document with text: see their quarantine.")
        write_table(chunks, path / "chunks.parquet")
        write_table(pl.concat(bad), path / "quarantine.parquet")

    return store.run(step, [Part(name="documents", write=work)]).path


def warm_up(config: SynthesizeConfig, chunks: Path) -> Path | None:
    """Pairs of a random share of the documents; returns the folder of that round, if wanted."""
    if config.warm_up is None:
        return None
    store = open_store(config.store)
    models = _models(config, store)
    harvester = _harvester(config, models)
    equal = _equal(config)
    entry = equal.warm_up(
        _chunks(chunks), harvester, store, known=_known(config, store), price=_price(config)
    )
    return entry.path


def dig(
    config: SynthesizeConfig, chunks: Path, warm: Path | None, progress: Progress | None = None
) -> Path:
    """The rounds; returns the folder with records, rejected pairs and report."""
    store = open_store(config.store)
    models = _models(config, store)
    frame = _chunks(chunks)
    known = _known(config, store)
    first = None if warm is None else open_entry(warm)
    files, load = _embedder(config, models, store, frame, first)
    rows_ND = embed_documents(frame, files, load, store)
    equal = _equal(config)
    size = config.bandit.clusters or equal.clusters_for(len(frame))
    clusters = cluster(
        frame["id"].to_list(), rows_ND, clusters=min(size, len(frame)), seed=config.bandit.seed
    )
    target = _ingest(config, store, config.reference, "example").frame()
    worth = reward.transport_reward(
        config.bandit.mode,
        sorted(set(texts(target, "dialogue"))),
        embed=stored(files, load, store),
        embed_name=files.fingerprint,
        seed=config.bandit.seed,
    )
    outcome = equal.run(
        frame,
        clusters,
        _harvester(config, models),
        worth,
        store,
        known=known,
        warm=first,
        price=_price(config),
        progress=progress,
    )
    return _publish(config, outcome)


def announcement(name: str, folder: Path) -> str:
    """What came out, in a few lines of Markdown."""
    told = json.loads((folder / "summary.json").read_text("utf-8"))
    lines = "".join(f"- {what}: {value}\n" for what, value in told.items())
    return f"**{name}**\n\n{lines}- folder: `{folder}`\n- report: `{folder / 'report.html'}`\n"


def _publish(config: SynthesizeConfig, outcome: Outcome) -> Path:
    """A version of the dataset: kept pairs, ledger, report; records, refused pairs and rounds."""
    made = outcome.publish()
    candidates, sent = outcome.table("candidates"), outcome.table("sent")
    told = {
        "ended by": outcome.stop,
        "documents": len(outcome.site.texts),
        "documents sent": len(sent),
        "pairs extracted": len(candidates),
        "pairs kept": len(made.frame()),
        "tokens": int(sent["tokens_in"].sum()) + int(sent["tokens_out"].sum()),
    }
    files: dict[str, pl.DataFrame | str] = {
        "records.parquet": made.frame(),
        "rejected.parquet": candidates.filter(pl.col("reason").is_not_null()),
        "pulls.parquet": outcome.table("pulls"),
        "sent.parquet": sent,
        "summary.json": json.dumps(told, indent=1) + "\n",
    }
    page = partial(report.page, outcome, title=config.name, price=_price(config))
    if not told["pairs kept"]:
        return _unpublished(config, outcome, files, page)
    pool, ledger = outcome.pool()
    answerers = {role: vars(outcome.site.harvester)[role] for role in _ANSWERERS}
    return export(
        ledger,
        pool,
        root=Path(config.out),
        name=config.name,
        selection={
            "scorers": [],
            "method": "equal",
            "settings": settings_of(outcome.equal),
            "papers": [outcome.equal.paper],
        },
        models=[{"role": r, "id": b.model} for r, b in answerers.items() if b is not None],
        seeds={"split": 0},
        run=environment(),
        contamination=_checked(config),
        tags=["synthetic"],
        report=lambda _: page(),
        files=files,
    )


def _unpublished(
    config: SynthesizeConfig,
    outcome: Outcome,
    files: Mapping[str, pl.DataFrame | str],
    page: Callable[[], bytes],
) -> Path:
    """No pair was kept: the same files in the store, for whoever asks why."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for name, content in files.items():
            if isinstance(content, str):
                write_text(folder / name, content)
            else:
                write_table(content, folder / name)
        (folder / "report.html").write_bytes(page())

    step = Step(
        name="equal_unpublished",
        version=1,
        settings={"title": config.name, "price": vars(_price(config))},
        inputs={"records": outcome.publish().key},
    )
    return outcome.site.store.run(step, [Part(name="run", write=write)]).path / "run"


def _checked(config: SynthesizeConfig) -> dict[str, Any] | None:
    """What the card says of contamination: the sets that pairs were checked against."""
    if config.benchmarks is None:
        return None
    items = load_benchmarks(Path(config.benchmarks))
    gate = Gate()
    sets = items["benchmark"].unique().sort().to_list()
    return {"sets": sets, "n": gate.n, "fuzzy": gate.fuzzy}


def _equal(config: SynthesizeConfig) -> Equal:
    given = config.bandit.model_dump(exclude={"clusters"})
    share = 0.05 if config.warm_up is None else config.warm_up.share
    return Equal(**given, warm_up_share=share)


def _price(config: SynthesizeConfig) -> Price:
    return Price(tokens_in=config.price_in, tokens_out=config.price_out)


def _harvester(config: SynthesizeConfig, models: Models) -> Harvester:
    asked = config.extraction
    sampling = Sampling(max_tokens=asked.max_tokens, temperature=asked.temperature)
    gates = []
    if config.known:
        gates.append(unlike(_ingest(config, models.store, config.known, "example").frame()))
    if config.benchmarks is not None:
        gates.append(decontaminated(load_benchmarks(Path(config.benchmarks))))
    refuse, name = all_of(gates)
    votes = Sampling(max_tokens=128, temperature=0.7 if asked.votes > 1 else 0.0)
    made: dict[str, CompletionBackend | None] = {
        role: _answerer(config, models, role) for role in _ANSWERERS
    }
    assert made["extractor"] is not None, "the settings require an extractor"
    return Harvester(
        extractor=made["extractor"],
        checker=made["checker"],
        reader=made["reader"],
        cache=Path(config.store) / "completions.sqlite",
        extraction=Extraction(
            pairs=asked.pairs,
            longest=asked.longest,
            refine=asked.refine,
            task=asked.task,
            sampling=sampling,
            seed=config.bandit.seed,
        ),
        ask=Ask(sampling=votes, votes=asked.votes, seed=config.bandit.seed),
        grounded=asked.grounded,
        novelty=asked.novelty,
        refuse=refuse if gates else None,
        refuse_name=name if gates else "",
    )


def _answerer(config: SynthesizeConfig, models: Models, role: str) -> CompletionBackend | None:
    who: AnswererConfig | None = vars(config)[role]
    if who is None:
        return None
    if who.recorded is not None:
        from gristmill.pipeline.models.completion.recorded import Recorded

        path = Path(who.recorded)
        if not path.is_file():
            raise ValueError(f"{role}.recorded: there is no file {path}.")
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
        return Recorded(answers={r["id"]: r["text"] for r in rows}, model=path.stem)
    assert who.model is not None, "checked by the settings"
    if who.url is not None:
        from gristmill.pipeline.models.completion.endpoint import Endpoint

        return Endpoint(
            url=who.url, model=who.model, key_variable=who.key_variable, workers=who.workers
        )
    from gristmill.pipeline.models.completion.local import Local

    (files,) = models.files(role)
    return Local(loaded=models.load(files, Passes(**config.passes.model_dump())))


def _models(config: SynthesizeConfig, store: Store) -> Models:
    """The run's models by what they do here; they need not be named like model roles."""
    roles = {
        role: who.model
        for role in _ANSWERERS
        if (who := vars(config)[role]) is not None and who.model is not None and who.url is None
    }
    return bind(store, {**roles, "embedder": config.embedder}, allow_network=config.allow_network)


def _embedder(
    config: SynthesizeConfig, models: Models, store: Store, frame: pl.DataFrame, warm: Entry | None
) -> tuple[ModelFiles, Callable[[ModelFiles], LoadedModel]]:
    """The embedder, tuned if a warm-up gave pairs."""
    from gristmill.pipeline.models.reference import resolve

    (files,) = models.files("embedder")
    load = Loader(device=config.passes.device)
    if warm is None or config.warm_up is None:
        return files, load
    text = dict(frame.select("id", "text").iter_rows())
    pairs: list[tuple[str, str]] = [
        (text[ident], text_of(QA(question=p.question, answer=p.answer)))
        for ident, found in kept_pairs(warm).items()
        for p in found
    ]
    tuning = Warmup(epochs=config.warm_up.epochs, learning_rate=config.warm_up.learning_rate)
    tuned = tuning.tune(pairs, files, load, store)
    return resolve(str(tuned.path / "model"), store), load


def _known(config: SynthesizeConfig, store: Store) -> list[tuple[str, str]]:
    if not config.known:
        return []
    frame = _ingest(config, store, config.known, "example").frame()
    return list(zip(frame["id"], texts(frame, "prompt"), strict=True))


def _ingest(
    config: SynthesizeConfig,
    store: Store,
    sources: Sequence[Source],
    kind: Any,  # noqa: ANN401
) -> Dataset:
    return ingest(store, sources, kind=kind, allow_network=config.allow_network)


def _chunks(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(BytesIO(open_entry(folder).read("documents/chunks.parquet")))


def _files(given: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in given:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"files: there is no {path}.")
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found

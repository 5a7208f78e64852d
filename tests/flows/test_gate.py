"""A gate in a curate run: trained, compared, promoted or held; killed anywhere, the same bytes."""

import json
import signal
from pathlib import Path

import polars as pl
import pytest
import warm
import yaml
from curation import gated, published_bytes, walk_through
from repository import ROOT
from rows import write_jsonl

from gristmill.flows import comparing, console, limits, steps
from gristmill.flows.config import CurateConfig
from gristmill.flows.settings import LimitsConfig
from gristmill.pipeline.compare import compared
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.export.why import stories
from gristmill.pipeline.models.caps import CapReached
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import open_entry

WALK = """
import sys, yaml
sys.path.insert(0, {tests!r})
from curation import walk_through
from gristmill.flows.config import CurateConfig
print(walk_through(CurateConfig.model_validate(yaml.safe_load(open(sys.argv[1])))))
"""


def run_of(root: Path, tiny: Path, **gate) -> CurateConfig:
    return CurateConfig.model_validate(gated(root, tiny, **gate))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp("gate")
    return root, walk_through(run_of(root, tiny))


def journal(root: Path) -> list[tuple[str, str, str]]:
    lines = (root / "store" / "journal.jsonl").read_text().splitlines()
    return [(j["step"], j["key"], j["part"]) for j in map(json.loads, lines) if "part" in j]


def test_the_verdict_is_in_card_ledger_manifest_and_on_screen(made, capsys):
    _, folder = made
    gate = json.loads((folder / "manifest.json").read_text())["evaluation"]["gate"]
    verdict = "promoted" if gate["promoted"] else "held"
    assert gate["promoted"] == (gate["low"] > 0)
    assert gate["sentence"].startswith(verdict.capitalize() + ": length ")
    card = (folder / "README.md").read_text()
    assert "## Proof" in card
    assert gate["sentence"].split(":")[1].strip()[:40] in card
    assert "No comparison with a random selection" not in card
    ledger = pl.read_parquet(folder / "ledger" / "*.parquet")
    assert set(ledger.filter(verdict="kept")["gate"]) == {verdict}
    assert (
        ledger.filter(pl.col("verdict") != "kept")["gate"].null_count()
        == ledger.filter(pl.col("verdict") != "kept").height
    )
    assert verify(folder) == []
    assert (folder.parent / "latest").exists() == gate["promoted"]
    told = stories(ledger.filter(verdict="kept")["id"][0], folder)[0].sentences
    assert ("held" in told[0]) == (verdict == "held")
    page = (folder / "comparison.html").read_text()
    assert "length" in page
    items = pl.read_parquet(folder / "comparison_items.parquet")
    assert items.filter(evaluation="talk")["id"].n_unique() == 4
    console.published(folder)
    out = capsys.readouterr().out
    assert gate["sentence"] in out
    assert ("it does not name this version" in out) == (verdict == "held")


def test_a_rerun_trains_nothing_and_ends_with_the_same_folder(made, tiny):
    root, folder = made
    before, bytes_ = journal(root), published_bytes(folder)
    assert walk_through(run_of(root, tiny)) == folder
    assert journal(root) == before
    assert published_bytes(folder) == bytes_
    cells = [key for step, key, part in before if step == "sft" and part == "checkpoints"]
    assert len(cells) == len(set(cells)) == 9  # one selection and two draws, three seeds each


def test_what_is_still_to_be_trained_is_known_before(made, tiny, tmp_path):
    root, _ = made
    curation = steps.Curation(config=run_of(root, tiny, draws=3))
    rows, _, _ = steps.walk(curation)
    assert len(comparing.of_gate(curation, rows).missing()) == 3  # a third draw


def test_held_out_rows_that_the_pool_repeats_are_refused_before_a_model_is_asked(tiny, tmp_path):
    settings = gated(tmp_path, tiny)
    pool = Path(settings["sources"][0]["path"])
    write_jsonl(tmp_path / "leak.jsonl", [json.loads(pool.read_text().splitlines()[3])])
    settings["gate"]["tests"] = {"leak": [{"path": str(tmp_path / "leak.jsonl")}]}
    with pytest.raises(ValueError, match="leak: 1 of 1 row repeats rows that were trained on"):
        walk_through(CurateConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([("How tall is it?", "Very.")], r"few: 1 of 1 rows can be asked, and an interval needs 2"),
        (
            [("How tall is it?", "Very."), ("word " * 9_000, "a"), ("term " * 9_000, "b")],
            r"few: 1 of 3 rows can be asked \(answer_cut\)",
        ),
        ([("How tall is it?", "")], "few: 1 of 1 rows .* cannot be read"),
    ],
)
def test_held_out_rows_that_no_model_can_be_asked_are_refused_before_training(
    tiny, tmp_path, lines, sentence
):
    settings = gated(tmp_path, tiny)
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in lines
    ]
    held = write_jsonl(tmp_path / "few.jsonl", rows)
    settings["gate"]["elsewhere"] = {"few": [{"path": str(held)}]}
    with pytest.raises(ValueError, match=sentence):
        walk_through(CurateConfig.model_validate(settings))
    assert not (tmp_path / "store" / "sft").exists()


def test_reward_models_are_held_against_no_untrained_model_and_have_no_tasks(tiny, tmp_path):
    """A base without a reward head ranks nothing; what cannot be asked is not found out last."""
    settings = gated(tmp_path, tiny, controls=["random", "zero_shot"])
    said = [(f"Which is {n}?", f"It is {n}.", "No idea.") for n in ("red", "blue", "green", "low")]
    rows = [{"prompt": q, "chosen": a, "rejected": b} for q, a, b in said * 3]
    pool = [r | {"prompt": f"{r['prompt']} Say {n}."} for n, r in enumerate(rows)]
    settings["sources"] = [{"path": str(write_jsonl(tmp_path / "pairs.jsonl", pool))}]
    settings["finetune"]["stage"] = "reward"
    asked = [{"prompt": f"Name {n}!", "chosen": "Gladly.", "rejected": "No."} for n in "abc"]
    held = write_jsonl(tmp_path / "asked.jsonl", asked)
    settings["gate"]["tests"] = {"asked": [{"path": str(held)}]}
    settings |= {"reference": [], "clean": {}}
    curation = steps.Curation(config=CurateConfig.model_validate(settings))
    rows, _, _ = steps.walk(curation)
    (arms,) = comparing.of_gate(curation, rows).arms.values()
    assert {a.kind for a in arms} == {"method", "random"}
    settings["gate"]["tasks"] = {"names": ["gsm8k"], "data": str(tmp_path)}
    curation = steps.Curation(config=CurateConfig.model_validate(settings))
    with pytest.raises(ValueError, match="tasks: a reward model answers nothing"):
        comparing.refuse_held_out(curation, rows)


def test_equal_tokens_are_those_that_the_trained_model_counts(made, tiny):
    root, _ = made
    curation = steps.Curation(config=run_of(root, tiny, against="token_matched"))
    rows, _, _ = steps.walk(curation)
    found = comparing.of_gate(curation, rows)
    (arms,) = found.arms.values()
    own, matched = (next(a for a in arms if a.kind == k) for k in ("method", "token_matched"))
    wanted = own.draws[0]["tokens"].sum()
    longest = Dataset.open(rows.pool).frame()["messages"].list.len().max() * 128
    for draw in matched.draws:
        assert abs(draw["tokens"].sum() - wanted) <= longest / 2
        assert draw.height > own.draws[0].height  # the method takes the longest rows


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gate": {"tests": {}}}, "gate.tests"),
        ({"tests": {"maths": []}}, "gate.tests.maths"),
        ({"finetune": None}, "gate: needs `finetune:`"),
        ({"seeds": [0, 1]}, "gate.seeds"),
        ({"seeds": [0, 1, 1]}, "a seed stands twice"),
        ({"draws": 1}, "gate.draws"),
        ({"rates": [0.1, 0.2]}, "validation rows choose among rates"),
        ({"against": "full"}, "gate.against"),
    ],
)
def test_gates_that_could_prove_nothing_are_refused(tiny, tmp_path, change, sentence):
    from gristmill.flows import config as configs

    settings = gated(tmp_path, tiny)
    own = {k: v for k, v in change.items() if k in ("gate", "finetune")}
    settings["gate"] |= {k: v for k, v in change.items() if k not in own}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings | own))
    with pytest.raises(ValueError, match=sentence.replace("[", r"\[")):
        configs.read(tmp_path / "run.yaml")


def test_a_comparison_is_written_whole_and_never_over_anything_else(made, tmp_path):
    root, _ = made
    (entry,) = [open_entry(p.parent) for p in (root / "store").glob("comparison/*/findings.json")]
    folder = compared.written(entry, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == sorted(compared.NAMES)
    assert compared.written(entry, tmp_path) == folder
    (folder / compared.PAGE).write_text("mine")
    with pytest.raises(ValueError, match="was changed: move"):
        compared.written(entry, tmp_path)


def killed(root: Path, tiny: Path, marks: int) -> int | None:
    """Run in a process of its own until the journal has so many lines more, then SIGKILL."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.yaml").write_text(yaml.safe_dump(gated(root, tiny)))
    child = warm.Child(WALK.format(tests=str(ROOT / "tests" / "helpers")), root / "run.yaml")
    path = root / "store" / "journal.jsonl"
    while child.poll() is None:
        if path.exists() and len(path.read_bytes().splitlines()) >= marks:
            child.kill()
            break
        try:
            child.communicate(timeout=0.02)
        except warm.TimeoutExpired:
            continue
    child.communicate()
    return child.returncode


def finished(root: Path) -> dict[str, int]:
    """The models that are whole, by key, with the time at which they were made."""
    return {
        str(p.parent): p.stat().st_mtime_ns
        for p in (root / "store").glob("sft/[!.]*/metrics.parquet")
    }


def resumed(made: tuple[Path, Path], root: Path, tiny: Path, moments: list[float]) -> None:
    first, whole = made
    lines = len((first / "store" / "journal.jsonl").read_text().splitlines())
    there: dict[str, int] = {}
    for moment in moments:
        assert killed(root, tiny, round(lines * moment / 10)) == -signal.SIGKILL
        there |= finished(root)
    folder = walk_through(run_of(root, tiny))
    assert published_bytes(folder) == published_bytes(whole)
    now = finished(root)
    assert len(now) == 9
    assert there.items() <= now.items(), "a model that was whole is never trained again"
    parts = [p for p in journal(root) if p[0] == "sft"]
    assert len(parts) - len(set(parts)) <= len(moments), "only the part in flight is made again"


@pytest.mark.fault("killed: a gate's models and evaluations")
def test_killed_while_cells_are_trained_a_rerun_ends_with_the_same_bytes(made, tmp_path, tiny):
    resumed(made, tmp_path, tiny, [6])


@pytest.mark.slow
def test_a_cap_in_the_middle_of_the_cells_keeps_every_whole_model(made, tmp_path, tiny):
    _, whole = made
    run = run_of(tmp_path, tiny)
    stops, folder = [], None
    while folder is None:
        assert len(stops) < 20
        capped = LimitsConfig(max_tokens=3_000)
        before = finished(tmp_path)
        try:
            with limits.counted(capped):
                folder = walk_through(run.model_copy(update={"limits": capped}))
        except CapReached as stop:
            stops.append(str(stop))
            assert not (tmp_path / "curated").exists(), "nothing is published before the verdict"
        assert before.items() <= finished(tmp_path).items()
    assert len(stops) > 2
    assert all("max_tokens = 3,000" in s and "run the same command again" in s for s in stops)
    assert published_bytes(folder) == published_bytes(whole)
    assert len(finished(tmp_path)) == 9


@pytest.mark.slow
@pytest.mark.fault("killed: a gate's models and evaluations")
def test_killed_at_ten_moments_no_cell_is_trained_twice(made, tmp_path, tiny, record_property):
    resumed(made, tmp_path, tiny, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9.5])
    record_property("fault", ("right", 10))

"""A ledger asked by a page: windows, filters, counts, stories, and what is not at hand."""

import base64

import numpy as np
import polars as pl
import published
import pytest

from gristmill.pipeline.explore import columns
from gristmill.pipeline.explore.asked import NONE, Asked, inside, words_of
from gristmill.pipeline.explore.explorer import Explorer
from gristmill.pipeline.explore.observed import Observed
from gristmill.pipeline.explore.opening import opened
from gristmill.pipeline.explore.story import Stories
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step, Store

MODEL = {
    "role": "embedder",
    "id": "toy",
    "model_sha": "m",
    "tokenizer_sha": "t",
    "chat_template_sha": "",
}
FINGERPRINT = digest(["m", "t", ""])


def observed(store, column, frame, model=FINGERPRINT):
    step = Step(name="observe", version=3, shelf=digest([column, model]), settings={"column": column},
                inputs={"model": model})  # fmt: skip
    store.put(step, frame)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two versions of a dataset with a cluster, vectors of two models, and their store."""
    root = tmp_path_factory.mktemp("explored")
    store = Store(root=root / "store")
    store.root.mkdir()
    records = published.frame(published.chats(90))
    book = published.ledger(records, 30)
    first = book["id"][0]
    near = pl.col("rank") == 90
    book = book.with_columns(
        duplicate_of=pl.when(near).then(pl.lit(first)).otherwise("duplicate_of"),
        cluster=pl.when(near | (pl.col("id") == first)).then(pl.lit(first)).otherwise("cluster"),
        reason=pl.when(near).then(pl.lit(f"near_duplicate: {first}")).otherwise("reason"),
    )
    options = {"rows": published.chats(90), "models": [MODEL]}
    old = published.publish(root / "out", store, keep=20, **options)
    new = published.publish(root / "out", store, book=book, **options)
    turn_N = np.linspace(0, 3, 90)
    unit = np.stack([np.cos(turn_N), np.sin(turn_N), 0 * turn_N], axis=1).astype(np.float32)
    frame = pl.DataFrame({"id": records["id"], "embedding.text": unit},
                         schema_overrides={"embedding.text": pl.Array(pl.Float32, 3)})  # fmt: skip
    observed(store, "embedding.text", frame)
    observed(
        store,
        "hidden.dialogue.mean.-1",
        frame.rename({"embedding.text": "hidden.dialogue.mean.-1"}),
    )
    observed(store, "embedding.text", frame.head(40), model="another")
    return root, store, old, new, records


@pytest.fixture(scope="module")
def explorer(world):
    root, store, old, _, _ = world
    found = Explorer.of(root / "out", store=store.root, against=old)
    assert found.texts.wait(20)
    yield found
    found.close()


def ats(explorer, asked, limit=500):
    return [row["at"] for row in explorer.window(asked, 0, limit)["rows"]]


def test_windows_are_slices_of_one_order(explorer):
    whole = ats(explorer, Asked())
    assert len(whole) == 90
    assert [r["rank"] for r in explorer.window(Asked(), 0, 90)["rows"]] == list(range(1, 91))
    parts = [r["at"] for o in range(0, 90, 40) for r in explorer.window(Asked(), o, 40)["rows"]]
    assert parts == whole
    assert explorer.window(Asked(), 500, 40)["rows"] == []


@pytest.mark.parametrize("down", [False, True])
def test_any_number_sorts_and_nulls_come_last(explorer, down):
    rows = explorer.window(Asked(sort="tokens", descending=down), 0, 90)["rows"]
    tokens = [r["tokens"] for r in rows]
    assert tokens == sorted(tokens, reverse=down)


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        ("question 7", lambda i: "7" in f"{i}" or ("7" in f"{i * i}" and i % 4 == 1)),
        ('"Question 7,"', lambda i: i == 7),
        ("THEN 3721", lambda i: i == 61),
        ("nowhere", lambda i: False),
    ],
)
def test_search_reads_every_turn(explorer, world, words, holds):
    records = world[4]
    wanted = {ident for i, ident in enumerate(records["id"]) if holds(i)}
    assert {r["id"] for r in explorer.window(Asked(words=words), 0, 90)["rows"]} == wanted


def test_a_text_is_searched_once_whatever_filters_are_put_on(explorer, monkeypatch):
    read = []
    search = type(explorer.texts).search
    monkeypatch.setattr(
        type(explorer.texts),
        "search",
        lambda self, words: read.append(words) or search(self, words),
    )
    asked = Asked(words="question 8")
    assert explorer.window(asked, 0, 9)["total"] > 0
    explorer.counts(asked)
    explorer.window(Asked(words="question 8", values=(("verdict", ("kept",)),)), 0, 9)
    explorer.window(Asked(words="question 8", ranges=(("score", 0.5, 1.0),), sort="score"), 0, 9)
    assert read == [["question", "8"]]


def test_a_search_knows_ids(explorer, world):
    ident = world[4]["id"][5]
    assert [r["id"] for r in explorer.window(Asked(words=ident[:9]), 0, 9)["rows"]] == [ident]


def test_filters_are_ands_and_counts_leave_their_own_out(explorer):
    asked = Asked(values=(("verdict", ("kept",)), ("source", ("org/other",))))
    rows = explorer.window(asked, 0, 90)["rows"]
    assert rows
    assert {(r["verdict"], r["source"]) for r in rows} == {("kept", "org/other")}
    counts = explorer.counts(asked)["values"]
    both = {v["value"]: v["rows"] for v in counts["verdict"]}
    assert both["kept"] == len(rows)
    assert sum(both.values()) == 30  # all of that source
    reasons = {v["value"]: v["of"] for v in counts["reason"]}
    assert reasons == {"below_budget": 59, NONE: 30, "near_duplicate": 1}  # ids are left out


@pytest.mark.parametrize("column", ["verdict", "reason", "stage", "source", "change"])
def test_each_value_of_each_filter_is_its_rows_of_the_ledger(explorer, column):
    told = explorer.counts(Asked())["values"][column]
    said = explorer.ledger[column].str.replace(": [0-9a-f]{32}$", "").fill_null(NONE)
    assert {v["value"] for v in told} == set(said)
    for value in told:
        rows = ats(explorer, Asked(values=((column, (value["value"],)),)))
        assert sorted(rows) == np.flatnonzero((said == value["value"]).to_numpy()).tolist()
        assert len(rows) == value["of"]


def test_the_map_is_coloured_by_values_and_by_scores(explorer):
    def read(text, kind):
        return np.frombuffer(base64.b64decode(text), kind)

    at = read(explorer.points()["at"], "<u4")
    assert at.tolist() == list(range(90))
    told = explorer.colours("source")
    names = [told["names"][code] for code in read(told["codes"], "u1")]
    assert names == explorer.ledger["source"].to_list()
    told = explorer.colours("score")
    order = np.argsort(read(told["codes"], "u1"), kind="stable")
    scores = explorer.ledger["score"].to_numpy()
    assert told["range"] == [scores.min(), scores.max()]
    assert np.all(np.diff(scores[order]) > -(scores.max() - scores.min()) / 253)
    shown = read(explorer.on_map(Asked(values=(("verdict", ("kept",)),)))["shown"], "u1")
    on = np.unpackbits(shown, count=90, bitorder="little").astype(bool)
    assert on.tolist() == (explorer.ledger["verdict"] == "kept").to_list()


def test_brushing_counts_by_bin(explorer):
    counts = explorer.counts(Asked())["numbers"]["score"]
    assert sum(counts["of"]) == sum(counts["rows"]) == 90
    rows = explorer.window(Asked(ranges=(("score", 0.9, 1.0),)), 0, 90)["rows"]
    assert rows
    assert all(0.9 <= r["score"] <= 1.0 for r in rows)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(values=(("id", ("x",)),)),
        Asked(ranges=(("nothing", 0.0, 1.0),)),
        Asked(ranges=(("source", 0.0, 1.0),)),
        Asked(ranges=(("score", 1.0, 0.0),)),
        Asked(ranges=(("score", float("nan"), 1.0),)),
        Asked(sort="nothing"),
        Asked(around=(1.0, 2.0)),
        Asked(around=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)),
        Asked(picked=(9_999,)),
        Asked(picked=(-1,)),
    ],
)
def test_what_is_not_there_is_one_sentence(explorer, asked):
    with pytest.raises(ValueError, match=r"^[^\n]+\.$"):
        explorer.window(asked, 0, 10)


def test_two_versions_stand_side_by_side(explorer):
    rows = explorer.window(Asked(values=(("change", ("added",)),)), 0, 90)["rows"]
    assert len(rows) == 10
    assert {(r["verdict"], r["before_verdict"]) for r in rows} == {("kept", "dropped")}
    assert "In toy v1-" in Stories(explorer=explorer).of(rows[0]["at"])["sentences"][-1]


def test_a_row_tells_why_where_it_stands_and_what_is_like_it(explorer, world):
    records = world[4]
    stories = Stories(explorer=explorer)
    last = ats(explorer, Asked())[-1]
    told = stories.of(last)
    assert "it is nearly the same as the row" in told["sentences"][0]
    assert "rank 90 of 90; the lowest score that was kept is" in told["sentences"][1]
    assert [c["rank"] for c in told["copies"]] == [1]
    place = told["scores"][0]
    assert (place["rank"], place["of"], place["threshold"]) == (90, 90, explorer.threshold)
    by_id = dict(explorer.ledger.select("id", "at").iter_rows())
    near = stories.nearest(by_id[records["id"][40]])
    assert {r["id"] for r in near["rows"][:2]} == {records["id"][39], records["id"][41]}
    assert near["rows"][0]["cosine"] == pytest.approx(np.cos(3 / 89), abs=2e-3)  # float16
    turns, note = stories.turns(by_id[records["id"][1]])
    assert note is None
    assert [t.role for t in turns] == ["user", "assistant"] * 2


def test_vectors_are_those_of_the_publications_model_and_embeddings_first(explorer):
    assert explorer.observed.vectors.column == "embedding.text"
    assert len(explorer.observed.vectors.at) == 90
    assert (
        explorer.observed.map_note == "First two principal components of embedding.text; 90 rows."
    )


def test_a_place_on_the_map_selects_and_ids_are_each_once(explorer):
    xy_N2 = explorer.xy_N2
    left = float(np.median(xy_N2[:, 0]))
    around = (-9.0, -9.0, left, -9.0, left, 9.0, -9.0, 9.0)
    found = ats(explorer, Asked(around=around))
    assert set(found) == set(np.flatnonzero(xy_N2[:, 0] < left).tolist())
    ids = explorer.ids(Asked(around=around))
    assert ids == sorted({explorer.ledger["id"][at] for at in found})
    assert explorer.ids(Asked(picked=(3, 3, 5))) == sorted(explorer.ledger["id"][[3, 5]])


@pytest.mark.parametrize(
    ("point", "within"), [((0.5, 0.5), True), ((1.5, 0.5), False), ((0.9, 0.95), False)]
)
def test_a_lasso_is_a_polygon(point, within):
    notched = [0, 0, 1, 0, 1, 0.9, 0.8, 0.8, 0, 1]
    assert inside(np.array([point, (np.nan, np.nan)], np.float32), notched).tolist() == [
        within,
        False,
    ]


def test_words_and_phrases():
    assert words_of('Alpha "Beta  gamma" delta "') == ["alpha", "delta", "beta  gamma"]


def test_numbers_of_nothing_and_of_one_value():
    assert columns.numbers(pl.Series([None, None], dtype=pl.Float64)) is None
    same = columns.numbers(pl.Series([2.0, 2.0, None]))
    assert sum(same.counts(np.ones(3, bool))["rows"]) == 2
    assert same.place(2.0) == (1, 2)


def test_a_publication_alone_has_the_text_of_its_kept_rows(world):
    _, _, _, new, _ = world
    found = Explorer.of(new, store=None)
    found.texts.wait(20)
    assert "The text of 60 of 90 rows is not in the publication" in found.about()["text"]
    stories = Stories(explorer=found)
    verdicts = dict(found.ledger.select("verdict", "at").iter_rows())
    assert stories.turns(verdicts["kept"])[0][0].role == "user"
    assert "nor in the store" in stories.turns(verdicts["dropped"])[1]
    assert "no map: the store is not at hand" in found.points()["note"]
    assert found.window(Asked(), 0, 1)["rows"][0]["text"].startswith("Question")
    found.close()


def test_a_bare_ledger_finds_its_records_in_the_store(world, tmp_path):
    _, store, _, new, _ = world
    alone = tmp_path / "ledger.parquet"
    pl.read_parquet(new / "ledger").drop("user_id").write_parquet(alone)
    found = Explorer.of(alone, store=store.root)
    assert found.records.places.height == 90
    found.close()
    unlike = Explorer.of(alone, store=tmp_path)
    assert "only their ledger is shown" in unlike.about()["text"]
    unlike.close()


def test_json_turns_of_a_publication_are_read_as_they_were(store, tmp_path):
    folder = published.publish(tmp_path, store, rows=published.tool_chats(), keep=12)
    with_store, alone = Explorer.of(folder, store=store.root), Explorer.of(folder, store=None)
    for at in range(12):
        turns = [Stories(explorer=e).turns(at)[0] for e in (with_store, alone)]
        assert turns[0] == turns[1]
        calls = [call for turn in turns[0] for call in turn.calls]
        assert calls in ([], [("f", '{\n "x": 1\n}')])
    for found in (with_store, alone):
        found.texts.wait(20)
        assert found.window(Asked(words='"use it." two'), 0, 9)["total"] == 1
        found.close()


def test_what_became_of_the_files_is_told(world, tmp_path):
    root, _, old, new, _ = world
    assert opened(root / "out").changed() is None
    assert opened(old).changed() is None  # a version is asked for by name: it stays
    assert opened(new / "ledger").title == opened(new).title  # its own folder within
    alone = tmp_path / "ledger.parquet"
    book = pl.read_parquet(new / "ledger")
    book.write_parquet(alone)
    before = opened(alone)
    book.head(3).write_parquet(alone)
    assert "was changed or removed" in before.changed()
    alone.unlink()
    assert "was changed or removed" in before.changed()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.write_bytes(b"PAR1 cut off"), "is no whole Parquet file"),
        (lambda p: pl.DataFrame({"text": ["x"]}).write_parquet(p), "it has no column id"),
        (lambda p: pl.DataFrame(schema={"id": pl.String, "source": pl.String, "row": pl.Int64,
                                        "verdict": pl.String, "reason": pl.String}).write_parquet(p),
         "holds no row"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_ledger_is_one_sentence(tmp_path, make, said):
    path = tmp_path / "x.parquet"
    make(path)
    with pytest.raises(ValueError, match=said):
        opened(path)


def test_a_damaged_observation_is_passed_over(world, tmp_path):
    folder = tmp_path / "store" / "observe" / "shelf" / "key"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"settings": {"column"')
    assert Observed(opened=opened(world[3]), store=tmp_path / "store").tables == []


def test_records_that_vanish_under_the_page_are_one_sentence(world, tmp_path):
    import shutil

    copy = tmp_path / "toy"
    shutil.copytree(world[3], copy / world[3].name)
    found = Explorer.of(copy, store=None)
    found.texts.wait(20)
    assert found.records.places.height == 30
    kept = int(found.ledger.filter(verdict="kept")["at"][0])
    shutil.rmtree(copy / world[3].name / "data")
    with pytest.raises(ValueError, match="is gone or was changed"):
        Stories(explorer=found).turns(kept)
    found.close()

"""Near duplicates against brute force, planted edits and the theory of banding."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from clean_records import data, documents, examples, records, turn

from gristmill.pipeline.clean import banding
from gristmill.pipeline.clean.candidates import jaccard
from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates
from gristmill.pipeline.clean.sketching import sketches
from gristmill.pipeline.clean.text import words
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import Store

VOCABULARY = 3_000


def prose(rng: np.random.Generator, length: int) -> list[str]:
    return [f"w{i}" for i in rng.integers(0, VOCABULARY, length)]


def ngrams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    w = words(text)
    return {tuple(w[i : i + n]) for i in range(max(1, len(w) - n + 1))} if w else set()


def index(a: str, b: str) -> float:
    x, y = ngrams(a), ngrams(b)
    return len(x & y) / len(x | y) if x and y else 0.0


def edited(rng: np.random.Generator, text: list[str], edits: int) -> list[str]:
    """The text with words replaced, one edit costing at most five n-grams."""
    out = list(text)
    for at in rng.choice(len(text), edits, replace=False):
        out[at] = f"edit{rng.integers(1_000_000)}"
    return out


def planted(rng: np.random.Generator, originals: int) -> list[str]:
    texts = []
    for _ in range(originals):
        text = prose(rng, int(rng.integers(20, 200)))
        texts.append(" ".join(text))
        texts += [" ".join(edited(rng, text, int(e))) for e in rng.integers(0, 8, 2)]
    return texts


def greedy(texts: list[str], threshold: float) -> dict[int, int]:
    """Plain loop: dropped row -> the row that stays."""
    sets = [ngrams(t) for t in texts]
    kept: list[int] = []
    dropped: dict[int, int] = {}
    for row, own in enumerate(sets):
        alike = (k for k in kept if len(own & sets[k]) >= threshold * len(own | sets[k]))
        near = next(alike, None)
        if near is None:
            kept.append(row)
        else:
            dropped[row] = near
    return dropped


def find(pool: pl.DataFrame, settings: MinHash, **more: object) -> pl.DataFrame:
    return near_duplicates([settings.sketch(pool)], settings=settings, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_equals_the_plain_loop(threshold: float) -> None:
    """With enough bands nothing is missed, and every field agrees with the definition."""
    texts = planted(np.random.default_rng(7), 60)
    settings = MinHash(threshold=threshold, bands=60, rows=3)
    drops = find(documents(texts), settings)
    expected = greedy(texts, threshold)
    assert len(expected) > 20
    assert drops["row"].to_list() == sorted(expected)
    ids = documents(texts)["id"]
    for drop in drops.iter_rows(named=True):
        stays = expected[drop["row"]]
        assert drop["duplicate_of"] == drop["cluster"] == ids[stays]
        assert drop["overlap"] == pytest.approx(index(texts[drop["row"]], texts[stays]))
        assert drop["reason"] == "near_duplicate"


def test_planted_edits_are_found() -> None:
    """Acceptance: recall >= 0.99 where J >= threshold + 0.1, precision 1."""
    rng = np.random.default_rng(0)
    texts, found, due = [], 0, 0
    for _ in range(1_500):
        text = prose(rng, 120)
        texts += [" ".join(text), " ".join(edited(rng, text, int(rng.integers(1, 6))))]
    settings = MinHash()
    dropped = find(documents(texts), settings)
    rows = set(dropped["row"])
    for row in range(0, len(texts), 2):
        if index(texts[row], texts[row + 1]) >= settings.threshold + 0.1:
            due += 1
            found += row + 1 in rows
    assert due > 300
    assert found / due >= 0.99
    place = {ident: row for row, ident in enumerate(documents(texts)["id"])}
    for drop in dropped.iter_rows(named=True):
        assert index(texts[drop["row"]], texts[place[drop["duplicate_of"]]]) >= settings.threshold


def test_bands_agree_as_often_as_the_theory_says() -> None:
    """Two texts of index J agree in a band of r rows with probability J^r, within 4 sigma."""
    settings = MinHash(threshold=0.5, ngram=1, bands=20, rows=3)
    rng = np.random.default_rng(3)
    texts, pairs = [], 600
    for _ in range(pairs):  # 70 words in common of 100 in all
        w = [f"v{i}" for i in rng.choice(10**6, 100, replace=False)]
        texts += [" ".join(w[:85]), " ".join([*w[15:85], *w[85:]])]
    assert index(texts[0], texts[1]) < 0.7
    band_Nb = settings.sketch(documents(texts))["bands"].to_numpy()
    share = (band_Nb[::2] == band_Nb[1::2]).mean()
    # A pair's bands are independent draws given J, so the mean has the binomial spread.
    assert abs(share - 0.7**3) < 4 * np.sqrt(0.7**3 * (1 - 0.7**3) / (pairs * settings.bands))
    assert settings.recall(0.7) == pytest.approx(1 - (1 - 0.343) ** 20)


def test_no_kept_row_falls_with_its_chain() -> None:
    """a ~ b ~ c but not a ~ c: b goes for a; c stays, for b that it resembles is gone."""
    rng = np.random.default_rng(1)
    base = prose(rng, 100)
    second, third = list(base), list(base)
    second[:8] = third[:8] = prose(rng, 8)
    third[-8:] = prose(rng, 8)
    texts = [" ".join(t) for t in (base, second, third)]
    assert index(texts[0], texts[1]) >= 0.8
    assert index(texts[1], texts[2]) >= 0.8
    assert index(texts[0], texts[2]) < 0.8
    assert find(documents(texts), MinHash())["row"].to_list() == [1]
    pool = documents(texts)
    scores = pool.select(*KEY, score=pl.Series([0.0, 1.0, 0.5]))
    best = find(pool, MinHash(), scores=scores)  # now b is best, and both others go for it
    assert best["row"].to_list() == [0, 2]
    assert set(best["duplicate_of"]) == {pool["id"][1]}


def test_order_and_sharding_change_nothing() -> None:
    pool = documents(planted(np.random.default_rng(5), 40))
    settings = MinHash()
    whole = find(pool, settings)
    assert whole.height > 10
    mixed = pool.sample(fraction=1.0, shuffle=True, seed=2)
    parts = [settings.sketch(p) for p in (mixed[:13], mixed[13:50], mixed[50:])]
    assert near_duplicates(parts, settings=settings).equals(whole)


def test_many_buckets_of_a_band_and_rows_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits on disk, in however many buckets, makes the clusters of the rows in question."""
    pool = documents(planted(np.random.default_rng(12), 40))
    settings = MinHash()
    parts = []
    for number, part in enumerate(pool.iter_slices(50)):
        parts.append(tmp_path / f"{number}.parquet")
        settings.sketch(part).write_parquet(parts[-1])
    gone = find(pool, settings)["duplicate_of"].unique()[:5]  # their twins now stay
    assert len(gone) == 5
    whole = find(pool.filter(~pool["id"].is_in(gone.implode())), settings)
    monkeypatch.setattr(banding, "BUCKET", 9)

    def left(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(~pl.col("id").is_in(gone.implode()))

    few = near_duplicates(parts, settings=settings, left=left, scratch=tmp_path)
    assert few.equals(whole)
    assert len(list(tmp_path.iterdir())) == len(parts), "nothing is left behind"


def test_rows_that_agree_in_many_bands_are_in_few_groups() -> None:
    text = " ".join(prose(np.random.default_rng(13), 50))
    settings = MinHash()
    band_Nb = settings.sketch(documents([text] * 9))["bands"].to_numpy()
    with banding.banded(settings.bands, 9) as bands:
        bands.append(band_Nb[:4], 0)
        bands.append(band_Nb[4:], 4)
        groups = bands.groups(np.arange(9)[::-1].copy())
    assert groups.row_C.tolist() == list(range(9))
    assert groups.group_P.tolist() == [0] * 9, "14 bands, one set of rows"
    assert groups.begin_G1.tolist() == [0, 9]


def test_new_shards_cost_only_themselves(tmp_path: Path) -> None:
    texts = planted(np.random.default_rng(6), 20)
    settings, store = MinHash(), Store(root=tmp_path / "store")
    pool = documents(texts)
    for number, part in enumerate((pool[:30], pool[30:])):
        part.write_parquet(tmp_path / f"{number}.parquet")
    first = sketches(store, [tmp_path / "0.parquet"], settings)
    both = sketches(store, [tmp_path / f"{n}.parquet" for n in (0, 1)], settings)
    assert both[0] == first[0]
    assert len(store.computed()) == 2
    assert near_duplicates(both, settings=settings).equals(find(pool, settings))
    # Another threshold reads the same sketches; other bands do not.
    looser = MinHash(threshold=0.85)
    assert sketches(store, [tmp_path / "0.parquet"], looser) == first
    assert sketches(store, [tmp_path / "0.parquet"], MinHash(bands=15)) != first


def test_published_rows_always_stay() -> None:
    rng = np.random.default_rng(8)
    base = prose(rng, 80)
    old = documents([" ".join(base), " ".join(edited(rng, base, 1))], "zz")
    new = documents([" ".join(edited(rng, base, 1)), " ".join(prose(rng, 80))], "aa")
    settings = MinHash()
    drops = near_duplicates(
        [settings.sketch(new)],
        settings=settings,
        published=[settings.sketch(old)],
        scores=new.select(*KEY, score=pl.lit(1e9)),
    )
    assert drops.select("source", "row", "duplicate_of").rows() == [("aa", 0, old["id"][0])]


def test_short_empty_and_foreign_texts() -> None:
    pool = documents(
        ["hi there", "Hi  there!", "", "...", "hi you", "我爱北京天安门", "我爱北京天安门。"]
    )
    drops = find(pool, MinHash())
    assert drops["row"].to_list() == [1, 6]  # empty rows neither match nor shift the others
    assert find(documents(["", " "]), MinHash()).height == 0
    assert find(documents([]), MinHash()).height == 0
    assert near_duplicates([], settings=MinHash()).height == 0


def test_rows_that_stand_stay_and_published_ones_that_do_not_count_drop_nobody() -> None:
    text = prose(np.random.default_rng(12), 60)
    pool = documents([" ".join([*text[:-1], "other"]), " ".join(text)])
    how = MinHash()
    sketched, old = [how.sketch(pool)], [how.sketch(documents([" ".join(text)], "old"))]

    def dropped(**more: object) -> list[int]:
        return near_duplicates(sketched, settings=how, **more)["row"].to_list()  # type: ignore[arg-type]

    assert dropped() == [1]
    assert dropped(standing=pl.Series([pool["id"][1]])) == [0]
    assert dropped(published=old) == [0, 1]
    assert dropped(published=old, counts=lambda rows: rows.clear()) == [1]


def test_a_shared_system_prompt_is_no_likeness() -> None:
    rng = np.random.default_rng(9)
    system = " ".join(prose(rng, 300))
    rows = records(
        "example",
        [
            {
                "messages": [
                    turn("system", system),
                    turn("user", " ".join(prose(rng, 20))),
                    turn("assistant", "yes"),
                ],
                "tools": None,
            }
            for _ in range(5)
        ],
    )
    assert find(rows, MinHash(part="all")).height == 4
    assert find(rows, MinHash()).height == 0


def test_thousands_of_equal_rows_do_not_square() -> None:
    """Groups are compared with rows that stay alone, so 5,000 copies are 4,999 comparisons."""
    text = " ".join(prose(np.random.default_rng(10), 50))
    assert find(documents([text] * 5_000), MinHash()).height == 4_999


def test_jaccard_is_the_set_formula() -> None:
    rng = np.random.default_rng(11)
    for a, b in itertools.product((1, 5, 40), repeat=2):
        x, y = rng.integers(0, 60, a), rng.integers(0, 60, b)
        expected = len({*x} & {*y}) / len({*x} | {*y})
        assert jaccard(np.unique(x).astype(np.uint64), np.unique(y).astype(np.uint64)) == expected


def test_settings_that_cannot_keep_the_promise() -> None:
    with pytest.raises(ValueError, match=r"find only 84\.1%.*give at least 26 bands"):
        MinHash(threshold=0.7, bands=10, rows=8)
    with pytest.raises(ValueError, match="threshold is a share"):
        MinHash(threshold=0.0)


def test_distinct_gsm8k_questions_are_never_merged() -> None:
    pool = examples((r["question"], r["answer"]) for r in data("sft/gsm8k_train.jsonl"))
    assert find(pool, MinHash()).height == 0

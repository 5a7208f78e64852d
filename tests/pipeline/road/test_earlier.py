"""Earlier: what the versions of a dataset have published, each row once."""

import polars as pl
import pytest
from published import HELD, publish

from gristmill.pipeline.export.versions import number, versions
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.road.earlier import earlier


def kept(version) -> set[str]:
    ledger = pl.concat([pl.read_parquet(p) for p in version.glob("ledger/*.parquet")])
    return set(ledger.filter(verdict="kept")["id"])


def test_the_rows_of_all_versions_each_once_and_of_the_latest_alone(store, tmp_path):
    publish(tmp_path, store, n=40, keep=20)
    publish(tmp_path, store, n=60, keep=25)
    publish(tmp_path, store, n=60, keep=5)  # all of it was published before
    publish(tmp_path, store, n=70, keep=30, evaluation={"gate": HELD})
    home = tmp_path / "toy"
    told = sorted(versions(home), key=number)
    found = earlier(store, home)
    ids = [i for d in found for i in d.frame(["id"])["id"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == set().union(*map(kept, told))
    assert len(found) == 3, "a version that has nothing new is no dataset of its own"
    (latest,) = earlier(store, home, latest=True)
    assert set(latest.frame(["id"])["id"]) == kept(told[2])
    made = len(store.computed())
    assert [d.content for d in earlier(store, home)] == [d.content for d in found]
    assert len(store.computed()) == made, "read once"
    assert not list(store.root.glob(".work-*"))
    assert earlier(store, tmp_path / "nowhere") == ()


def test_a_version_that_was_changed_is_refused(store, tmp_path):
    version = publish(tmp_path, store, n=40, keep=20)
    (shard,) = version.glob("data/train-*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="not as it was published"):
        earlier(Store(root=store.root), tmp_path / "toy")

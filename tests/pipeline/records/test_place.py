"""What the settings call a store: a folder, or an address that has one here."""

from pathlib import Path

import pytest

from gristmill.pipeline.records.place import address_of, folder_of


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("GRISTMILL_CACHE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")


@pytest.mark.parametrize("store", ["data/work", "/abs/work", "s3", Path("data/work")])
def test_a_folder_is_itself(store):
    assert address_of(store) is None
    assert folder_of(store) == Path(store)


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("s3://team", "s3://team"),
        ("s3://team/", "s3://team"),
        ("s3://team/runs/one/", "s3://team/runs/one"),
    ],
)
def test_an_address_is_read(store, shown):
    assert str(address_of(store)) == shown
    assert folder_of(store) == folder_of(shown)


def test_each_address_has_a_folder_of_its_own(monkeypatch):
    stores = ["s3://team", "s3://team/a", "s3://team/b", "s3://team-a", "s3://team/a-b"]
    stores += ["s3://team/a/b"]
    found = [folder_of(s) for s in stores]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://other:9000")
    found.append(folder_of(stores[0]))
    assert len(set(found)) == len(found)
    assert {p.parent for p in found} == {Path("/cache/gristmill/stores")}
    monkeypatch.setenv("GRISTMILL_CACHE", "/fast/disk")
    assert folder_of(stores[0]).parent == Path("/fast/disk")


@pytest.mark.parametrize(
    "store",
    [
        "gs://team/a",
        "s3:/team/a",
        "s3://",
        "s3:///a",
        "s3://Team/a",
        "s3://team/a/../b",
        "s3://t//a",
    ],
)
def test_what_is_neither_is_refused(store):
    with pytest.raises(ValueError, match="is not a valid store: expected a folder, or s3://bucket"):
        folder_of(store)


def test_a_password_in_an_address_is_not_shown():
    with pytest.raises(ValueError, match=r"'s3://\.\.\.' is not a valid store") as caught:
        folder_of("s3://me:secret@team/a")
    assert "secret" not in str(caught.value)

"""A disk that fails, forbids, or holds other things where the store has its own: right or refused."""

import errno
import os

import polars as pl
import pytest
import warm

from gristmill.pipeline.records import disk
from gristmill.pipeline.records import store as store_
from gristmill.pipeline.records.store import STAMPS, Step, Store, sha256, table, walk

STEP = Step(name="toy", version=1, settings={"a": 1}, inputs={"x": "abc"})
PARTS = [table(f"part-{i:05d}", lambda i=i: pl.DataFrame({"i": [i, i + 1]})) for i in range(3)]


def run(root):
    root.mkdir(exist_ok=True)
    entry = Store(root=root).run(STEP, PARTS)
    return {str(p.relative_to(entry.path)): sha256(p) for p in walk(entry.path) if p.name != STAMPS}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return run(tmp_path_factory.mktemp("calm") / "store")


FAILING = "failing disk: errors of input and output, or a disk turned read-only, at any sync"


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
@pytest.mark.fault(FAILING)
def test_a_disk_that_fails_at_any_write_is_told_and_the_rerun_is_whole(
    truth, tmp_path, monkeypatch, record_property, number
):
    left = [10**9]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number), "store/x")

    monkeypatch.setattr(os, "fsync", fsync)
    run(tmp_path / "count")
    writes = 10**9 - left[0]
    assert writes > 10
    for at in range(writes):
        left[0] = at
        with pytest.raises(OSError, match="store/x") as caught:
            run(tmp_path / f"at-{at}")
        said = disk.trouble(caught.value)
        assert said.startswith(("the disk fails at store/x", "the disk is read-only, so store/x"))
        left[0] = 10**9
        assert run(tmp_path / f"at-{at}") == truth
    record_property("fault", ("refused", writes))


def file(path):
    path.write_text("what is this doing here?")


def nowhere(path):
    path.symlink_to(path.with_name("moved-away"))


def itself(path):
    path.symlink_to(path.name)


IN_THE_WAY = "in the way: files and links where the store has its folders"
KEY = STEP.key


@pytest.mark.parametrize("put", [file, nowhere, itself])
@pytest.mark.parametrize("place", [f"toy/{KEY}", f"toy/.work-{KEY}", f"toy/.done-{KEY}"])
@pytest.mark.fault(IN_THE_WAY)
def test_what_lies_in_the_place_of_a_folder_of_a_step_is_put_away(truth, tmp_path, put, place):
    root = tmp_path / "store"
    (root / "toy").mkdir(parents=True)
    put(root / place)
    assert run(root) == truth
    assert run(root) == truth


@pytest.mark.parametrize("place", ["toy", f"toy/.lock-{KEY}", ""])
@pytest.mark.fault(IN_THE_WAY, ends="refused")
def test_what_lies_where_a_store_or_a_step_would_be_is_named(truth, tmp_path, place):
    root = tmp_path / "store"
    way = root / place
    if place.count("/"):
        way.mkdir(parents=True)
    else:
        way.parent.mkdir(exist_ok=True)
        file(way)
    with pytest.raises(OSError, match=str(way)) as caught:
        run(root)
    said = disk.trouble(caught.value)
    assert said.startswith(str(way))
    assert "then run the same command again" in said
    way.rename(tmp_path / "aside")
    assert run(root) == truth


def test_a_damaged_entry_on_another_disk_is_moved_too(truth, tmp_path, monkeypatch):
    root = tmp_path / "store"
    run(root)
    (root / "toy" / KEY / "part-00000.parquet").write_bytes(b"")
    plain = os.rename

    def rename(source, target):
        if "/damaged/" in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        plain(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert run(root) == truth
    (kept,) = (root / "damaged").iterdir()
    assert (kept / "part-00001.parquet").is_file()


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store_.fcntl, "flock", flock)
    with pytest.raises(OSError, match=f"lock-{KEY}") as caught:
        run(tmp_path / "store")
    assert disk.trouble(caught.value).startswith(f"the disk of {tmp_path}/store/toy/.lock-{KEY}")


FORBIDDEN = """
import ctypes, os, sys
from pathlib import Path
from gristmill.pipeline.records import disk
from gristmill.pipeline.records.store import Step, Store, table
import polars as pl

libc = ctypes.CDLL(None, use_errno=True)
head = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(head, sets) == 0
sets[0] &= ~0b110  # of root's powers, those to read and write what the owner may not
assert libc.capset(head, sets) == 0
try:
    Store(root=Path(sys.argv[1])).run(
        Step(name="toy", version=1, settings={"a": 1}, inputs={"x": "abc"}),
        [table(f"part-{i:05d}", lambda i=i: pl.DataFrame({"i": [i, i + 1]})) for i in range(3)],
    )
except OSError as error:
    print("refused", disk.trouble(error))
"""


@pytest.mark.parametrize("name", ["part-00001.parquet", "manifest.json", "", "../.work-next"])
@pytest.mark.fault("permission denied: one file or folder of a store", ends="refused")
def test_what_may_not_be_read_is_named_and_not_taken_for_damaged(truth, tmp_path, name):
    root = tmp_path / "store"
    run(root)
    victim = (root / "toy" / KEY / name).resolve()
    if name.endswith("next"):  # a step that was made halfway, as another user
        victim = (root / "toy" / KEY).rename(root / "toy" / f".work-{KEY}")
    mode = victim.stat().st_mode
    victim.chmod(0)
    child = warm.Child(FORBIDDEN, root)
    out, error = child.communicate()
    victim.chmod(mode)
    assert out.startswith(f"refused you may not open {victim}"), (out, error)
    assert "change its permissions" in out
    assert not (root / "damaged").exists()
    assert run(root) == truth

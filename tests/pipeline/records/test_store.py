"""The store: never twice, never half, never stale, whatever is killed or damaged."""

import errno
import json
import os
import shutil
import signal
import textwrap
import threading
import time
from pathlib import Path

import polars as pl
import pytest
import warm

from gristmill.pipeline.records import disk
from gristmill.pipeline.records import store as s
from gristmill.pipeline.records.sealed import read_sealed, seal, unseal
from gristmill.pipeline.records.store import (
    Part,
    Step,
    Store,
    damage,
    open_entry,
    sha256,
    table,
    walk,
)

STEP = Step(name="toy", version=1, settings={"a": 1}, inputs={"x": "abc"})


def parts(count, made):
    def make(i):
        made.append(i)
        return pl.DataFrame({"i": [i, i + 1]})

    return [table(f"part-{i:05d}", lambda i=i: make(i)) for i in range(count)]


def contents(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): sha256(p)
        for p in walk(root)
        if p.name != ".stamps.json" and ".lock-" not in p.name and p.name != "journal.jsonl"
    }


def test_a_step_is_computed_once(store):
    made = []
    first = store.run(STEP, parts(3, made))
    second = store.run(STEP, parts(3, made))
    assert made == [0, 1, 2]
    assert first == second
    assert first.frame()["i"].to_list() == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    "other",
    [
        Step(name="toy2", version=1, settings={"a": 1}, inputs={"x": "abc"}),
        Step(name="toy", version=2, settings={"a": 1}, inputs={"x": "abc"}),
        Step(name="toy", version=1, settings={"a": 2}, inputs={"x": "abc"}),
        Step(name="toy", version=1, settings={"a": 1}, inputs={"x": "abd"}),
    ],
)
def test_whatever_changes_the_result_changes_the_key(other):
    assert other.key != STEP.key


def test_the_order_of_settings_does_not(store):
    one = Step(name="toy", version=1, settings={"a": 1, "b": 2})
    two = Step(name="toy", version=1, settings={"b": 2, "a": 1})
    assert one.key == two.key


def test_a_failure_is_not_cached_and_finished_parts_are_kept(store):
    made = []

    def boom():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.run(STEP, [*parts(2, made), table("part-00002", boom)])
    assert store.find(STEP) is None
    store.run(STEP, parts(3, made))
    assert made == [0, 1, 2]


def test_parts_may_be_folders(store):
    def write(path):
        (path / "inner").mkdir(parents=True)
        (path / "a.txt").write_text("a")
        (path / "inner" / "b.txt").write_text("b")

    entry = store.run(STEP, [Part(name="model", write=write)])
    assert [f["path"] for f in entry.files] == ["model/a.txt", "model/inner/b.txt"]
    assert damage(entry.path, verify=True) is None


@pytest.mark.parametrize("how", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_entry_is_set_aside_and_made_again(store, how):
    made = []
    entry = store.run(STEP, parts(2, made))
    before = contents(entry.path)
    victim = entry.shards[1]
    raw = bytearray(victim.read_bytes())
    if how == "truncate":
        victim.write_bytes(raw[:-10])
    elif how == "flip":
        raw[len(raw) // 2] ^= 1
        victim.write_bytes(raw)
    elif how == "remove":
        victim.unlink()
    else:
        (entry.path / "manifest.json").write_text("{")
    assert store.find(STEP) is None
    assert list((store.root / "damaged").iterdir())
    again = store.run(STEP, parts(2, made))
    assert made == [0, 1, 0, 1]
    assert contents(again.path) == before


def test_verify_finds_a_flip_that_kept_its_time_stamp(store):
    entry = store.run(STEP, parts(1, []))
    victim = entry.shards[0]
    stat = victim.stat()
    raw = bytearray(victim.read_bytes())
    raw[8] ^= 1
    victim.write_bytes(raw)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Store(root=store.root, verify=True).find(STEP) is None


def test_a_file_hash_follows_the_content(store, tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    first = store.file_hash(path)
    assert store.file_hash(path) == first == sha256(path)
    path.write_text("two!")
    assert store.file_hash(path) == sha256(path) != first


WORKER = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    import polars as pl
    from gristmill.pipeline.records import store as s

    root, count, die_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with_signal = int(sys.argv[4]) if len(sys.argv) > 4 else signal.SIGKILL
    calls = 0
    real = s.sync
    def sync(path):                      # every durable action passes here
        global calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), with_signal)
        real(path)
    s.sync = sync
    def make(i):
        return pl.DataFrame({"i": list(range(i, i + 5))})
    step = s.Step(name="toy", version=1)
    s.Store(root=root).run(step, [s.table(f"p{i}", lambda i=i: make(i)) for i in range(count)])
    print(calls)
""")


def run_worker(root, die_at):
    root.mkdir(exist_ok=True)
    worker = warm.Child(WORKER, root, 3, die_at)
    told, error = worker.communicate()
    return worker.returncode, told, error


@pytest.mark.fault("killed: a step of the store, at its syncs and renames")
def test_killed_at_every_durable_action_a_rerun_ends_with_the_same_bytes(tmp_path, record_property):
    whole = run_worker(tmp_path / "whole", 0)
    assert whole[0] == 0, whole[2]
    actions = int(whole[1])
    truth = contents(tmp_path / "whole")
    for die_at in range(1, actions + 1, 3):
        root = tmp_path / f"die-{die_at}"
        assert run_worker(root, die_at)[0] == -signal.SIGKILL
        assert run_worker(root, 0)[0] == 0
        left = {k: v for k, v in contents(root).items() if "/.done-" not in k}
        assert left == truth
        lines = (root / "journal.jsonl").read_text().split("\n")[:-1]
        made = [json.loads(line)["part"] for line in lines]
        assert len(set(made)) == 3
        assert len(made) <= 4  # only the part in flight was made again
    record_property("fault", ("right", len(range(1, actions + 1, 3))))


@pytest.mark.fault("two processes on one store")
def test_two_processes_at_once_make_each_part_once(tmp_path):
    root = tmp_path / "shared"
    root.mkdir()
    both = [warm.Child(WORKER, root, 3, 0) for _ in range(2)]
    told = [child.communicate() for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    assert len((root / "journal.jsonl").read_text().split("\n")) == 4


@pytest.mark.fault("stopped by SIGSTOP in the middle of a step, while another process wants it")
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_who_waits_for_a_process_that_was_stopped_ends_right_once_it_goes_on_or_dies(
    tmp_path, then
):
    whole, root = tmp_path / "whole", tmp_path / "shared"
    assert run_worker(whole, 0)[0] == 0
    root.mkdir()
    stopped = warm.Child(WORKER, root, 3, 6, int(signal.SIGSTOP))
    while not stopped.stopped():
        time.sleep(0.01)
    waits = warm.Child(WORKER, root, 3, 0)
    with pytest.raises(warm.TimeoutExpired):
        waits.communicate(timeout=0.5)
    stopped.send(then)
    told = [child.communicate() for child in (stopped, waits)]
    ends = {signal.SIGCONT: 0, signal.SIGKILL: -signal.SIGKILL}[then]
    assert [stopped.returncode, waits.returncode] == [ends, 0], told
    assert contents(root) == contents(whole)


def test_who_waits_long_for_a_lock_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(s, "_PATIENCE", 0.01)
    held, path = threading.Event(), tmp_path / ".lock-x"

    def hold():
        with s.locked(path):
            held.set()
            while "another process holds" not in caplog.text:
                time.sleep(0.01)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with s.locked(path):
        assert f"another process holds {path}: this one waits" in caplog.text
    holder.join()


@pytest.mark.parametrize("value", [{}, {"a": [1, 0.1, None], "b": {"c": "é\ud800"}}])
def test_a_sealed_text_is_read_back_or_not_at_all(value):
    raw = seal(value).encode()
    assert unseal(raw) == value
    assert json.loads(raw).keys() == {"checksum", *value}
    for at in range(len(raw)):
        for changed in (raw[:at], raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]):
            assert unseal(changed) is None
    for line in raw.split(b"\n"):
        assert unseal(raw.replace(line + b"\n", b"", 1)) is None
    assert unseal(raw + raw) is None
    assert read_sealed(Path("nowhere/at/all")) is None


def test_no_line_of_a_manifest_may_change_or_go(store):
    entry = store.run(STEP, parts(2, []))
    manifest = entry.path / "manifest.json"
    text = manifest.read_text()
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        for other in ("", line.replace("1", "2"), line.replace("a", "b")):
            if other != line:
                manifest.write_text("".join([*lines[:at], other, *lines[at + 1 :]]))
                assert "checksum" in damage(entry.path)
                with pytest.raises(
                    ValueError, match=r"manifest\.json is missing or does not match"
                ):
                    open_entry(entry.path)
    manifest.write_text(text)
    assert damage(entry.path) is None
    assert open_entry(entry.path) == entry


def test_an_entry_under_the_key_of_another_is_not_served(store):
    other = Step(name="toy", version=1, settings={"a": 2})
    entry = store.run(other, parts(1, []))
    entry.path.rename(entry.path.with_name(STEP.key))
    made = []
    again = store.run(STEP, parts(2, made))
    assert made == [0, 1]
    assert again.key == STEP.key


def test_a_part_that_was_damaged_while_the_run_stood_still_is_made_again(store):
    made = []

    def boom():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            store.run(STEP, [*parts(2, made), table("part-00002", boom)])
        (work,) = (store.root / "toy").glob(".work-*")
        victim = work / "part-00001.parquet"
        raw = bytearray(victim.read_bytes())
        raw[8] ^= 1
        victim.write_bytes(raw)
    entry = store.run(STEP, parts(3, made))
    assert made == [0, 1, 1, 1, 2]
    assert entry.frame()["i"].to_list() == [0, 1, 1, 2, 2, 3]


def test_what_is_built_on_is_hashed_while_it_is_read(store):
    entry = store.run(STEP, parts(2, []))
    assert entry.intact() is entry
    raw = bytearray(entry.shards[1].read_bytes())
    raw[8] ^= 1
    entry.shards[1].write_bytes(raw)
    for read in (entry.frame, entry.intact, lambda: entry.read("part-00001.parquet")):
        with pytest.raises(ValueError, match=r"part-00001\.parquet .* does not match its sha256"):
            read()
    entry.read("part-00000.parquet")


def test_a_time_stamp_that_was_set_back_hides_nothing(store):
    entry = store.run(STEP, parts(1, []))
    victim = entry.shards[0]
    stat = victim.stat()
    raw = bytearray(victim.read_bytes())
    raw[8] ^= 1
    victim.write_bytes(raw)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.find(STEP) is None


@pytest.mark.fault("full disk: at any sync of a step")
def test_a_full_disk_at_any_write_is_an_error_of_the_system_and_the_rerun_is_whole(
    tmp_path, monkeypatch, record_property
):
    def run(root, made=None):
        root.mkdir(exist_ok=True)
        return Store(root=root).run(STEP, parts(3, [] if made is None else made))

    truth = contents(run(tmp_path / "calm").path)
    real, left = os.fsync, [10**9]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    run(tmp_path / "count")
    writes = 10**9 - left[0]
    assert writes > 10
    for at in range(writes):
        left[0] = at
        root = tmp_path / f"full-{at}"
        with pytest.raises(OSError, match="No space left") as caught:
            run(root)
        assert caught.value.errno == errno.ENOSPC
        assert not [p for p in walk(root) if p.name.startswith(".tmp-")]
        left[0] = 10**9
        made = []
        assert contents(run(root, made).path) == truth
        assert len(made) <= 3
    record_property("fault", ("refused", writes))


@pytest.mark.parametrize(
    "error",
    [
        pl.exceptions.ComputeError("underlying IO error: No space left on device (os error 28)"),
        RuntimeError("database or disk is full"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
@pytest.mark.fault("full disk: in the words of other libraries", ends="refused")
def test_a_full_disk_is_told_in_whatever_words_it_comes(store, error):
    def boom():
        raise error

    with pytest.raises(OSError, match="No space left") as caught:
        store.run(STEP, [*parts(1, []), table("part-00001", boom)])
    assert caught.value.errno == errno.ENOSPC
    assert "make room and run the same command again" in disk.sentence(caught.value)
    assert store.run(STEP, parts(2, [])).frame().height == 4


def test_errors_without_words_are_judged_by_the_room_that_is_left(store, monkeypatch):
    def boom():
        raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        store.run(STEP, [table("part-00000", boom)])
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OSError, match="No space left"):
        store.run(STEP, [table("part-00000", boom)])


def test_a_torn_line_of_the_journal_swallows_no_other(store):
    store.run(STEP, parts(1, []))
    journal = store.root / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'\xff{"step": "to')
    store.run(Step(name="toy", version=2), parts(1, []))
    assert [line["part"] for line in store.computed()] == ["part-00000.parquet"] * 2


def test_each_writer_has_a_journal_and_all_are_read(store):
    other = Store(root=store.root, writer="host-worker-1")
    store.run(STEP, parts(1, []))
    other.run(Step(name="toy", version=2), parts(2, []))
    assert len((store.root / "journal.jsonl").read_text().splitlines()) == 1
    assert len((store.root / "journal-host-worker-1.jsonl").read_text().splitlines()) == 2
    assert len(store.computed()) == len(other.computed()) == 3
    assert other.run(STEP, parts(1, [])) == store.find(STEP), "a writer is in no key"


def test_an_empty_or_foreign_memo_is_no_hash(store, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    store.file_hash(one)
    (memo,) = walk(store.root / "hashes")
    store.file_hash(two)
    (other,) = set(walk(store.root / "hashes")) - {memo}
    for raw in (b"", b"0" * 64, memo.read_bytes()):
        other.write_bytes(raw)
        assert store.file_hash(two) == sha256(two)

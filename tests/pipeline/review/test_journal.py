"""The journal: written once, whole, in order, and never half."""

import json
import os
import random
import signal
import threading
import time
import warnings

import pytest

from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.review.journal import Journal, annotator, journal, journals, table

LINE = {c: None for c in JUDGEMENTS if c not in ("annotator", "number")}


def line(item="x", judgement="keep"):
    return {**LINE, "item": item, "judgement": judgement}


def test_a_click_that_is_sent_twice_is_written_once(tmp_path):
    own = journal(tmp_path / "journal", "ann")
    first = own.append(line("x"), "k1")
    assert own.append(line("y"), "k1") == first
    assert own.append(line("y"), "k2")["number"] == 1
    again = journal(tmp_path / "journal", "ann")
    assert [(at["item"], at["number"]) for at in again.lines] == [("x", 0), ("y", 1)]
    assert again.append(line("z"), "k2")["item"] == "y", "also after a restart"


def test_a_line_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    seen = []
    path = tmp_path / "ann.jsonl"
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_bytes()))
    Journal(path=path).append(line(), "k")
    assert seen[0].endswith(b"\n")
    assert b'"click":"k"' in seen[0]
    assert len(seen) == 4, "and the folder of a new file, and how many lines it has"


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_nobodys_and_goes(tmp_path, cut):
    own = journal(tmp_path, "ann")
    own.append(line("x"), "k1")
    whole = own.path.read_bytes()
    confirmed = tmp_path / ".ann.confirmed"
    count = confirmed.read_bytes()
    own.append(line("y"), "k2")
    second = own.path.read_bytes()[len(whole) :]
    own.path.write_bytes(whole + second[:cut])
    confirmed.write_bytes(count)  # it was killed before the second one counted
    again = journal(tmp_path, "ann")
    assert [at["item"] for at in again.lines] == ["x"]
    assert again.append(line("z"), "k3")["number"] == 1
    assert [at["item"] for at in journal(tmp_path, "ann").lines] == ["x", "z"]


def test_a_disk_that_is_full_leaves_no_half_line(tmp_path, monkeypatch):
    own = journal(tmp_path, "ann")
    own.append(line("x"), "k1")
    whole = own.path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            own.append(line("y"), "k2")
    assert own.path.read_bytes() == whole
    assert own.append(line("y"), "k2")["number"] == 1, "the same click, sent again"


def test_several_servers_write_to_one_journal(tmp_path):
    """Each of four writers appends 25 lines: all are there, numbered without a gap."""
    own = [journal(tmp_path, "ann") for _ in range(4)]

    def write(number):
        for n in range(25):
            own[number].append(line(f"{number}-{n}"), f"{number}-{n}")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = journal(tmp_path, "ann").lines
    assert [at["number"] for at in found] == list(range(100))
    assert len({at["item"] for at in found}) == 100


def writes_until_it_is_killed(own, told):
    """In a process of its own: append, and tell each number once it counts."""
    for n in range(len(own.lines), 10**9):
        own.append(line(f"item-{n}"), f"click-{n}")
        os.write(told, b"%d\n" % n)


@pytest.mark.fault("killed: a journal of verdicts, at random moments")
def test_a_writer_that_is_killed_at_twenty_moments_loses_nothing_that_it_told(
    tmp_path, record_property
):
    draw = random.Random(3)
    path = tmp_path / "ann.jsonl"
    for _ in range(20):
        read, told = os.pipe()
        own = Journal(path=path).refresh()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it does nothing but write
            child = os.fork()
        if child == 0:
            try:
                writes_until_it_is_killed(own, told)
            finally:
                os._exit(1)
        os.close(told)
        first = os.read(read, 1)
        time.sleep(draw.uniform(0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as rest:
            confirmed = int((first + rest.read()).splitlines()[-1])
        found = Journal(path=path).refresh().lines
        assert [at["number"] for at in found] == list(range(len(found)))
        assert len(found) > confirmed, "a line that was told is not there"
    assert confirmed >= 20
    record_property("fault", ("right", 20))


@pytest.mark.parametrize("damage", ["no json", "{}", '{"item": 1}'])
def test_a_damaged_line_is_named(tmp_path, damage):
    own = journal(tmp_path, "ann")
    own.append(line("x"), "k1")
    own.append(line("y"), "k2")
    first, second = own.path.read_bytes().splitlines(keepends=True)
    own.path.write_bytes(first + damage.encode() + b"\n" + second)
    with pytest.raises(ValueError, match=r"ann\.jsonl, line 2"):
        journal(tmp_path, "ann")
    own.path.write_bytes(first + first)
    with pytest.raises(ValueError, match="bears the number 0, expected 1"):
        journal(tmp_path, "ann")
    own.path.write_bytes(b"")
    with pytest.raises(ValueError, match="became shorter"):
        own.append(line("z"), "k3")


def test_a_word_that_was_changed_and_a_line_that_is_gone_are_seen(tmp_path):
    own = journal(tmp_path, "ann")
    own.append(line("x"), "k1")
    own.append(line("y"), "k2")
    whole = own.path.read_bytes()
    own.path.write_bytes(whole.replace(b'"y"', b'"z"'))
    with pytest.raises(
        ValueError, match=r"ann\.jsonl, line 2: this is no line as a journal has it"
    ):
        journal(tmp_path, "ann")
    own.path.write_bytes(whole.splitlines(keepends=True)[0])
    for read in (lambda: journal(tmp_path, "ann"), lambda: journals(tmp_path)):
        with pytest.raises(ValueError, match="holds 1 judgements, and 2 were given: restore"):
            read()
    (tmp_path / ".ann.confirmed").unlink()
    assert [at["item"] for at in journal(tmp_path, "ann").lines] == ["x"]


def test_lines_of_a_version_without_checksums_are_read_as_they_stand(tmp_path):
    own = journal(tmp_path, "ann")
    own.append(line("x"), "k1")
    (told,) = (json.loads(raw) for raw in own.path.read_bytes().splitlines())
    del told["checksum"]
    own.path.write_text(json.dumps(told) + "\n")
    assert journal(tmp_path, "ann").lines == [told]


@pytest.mark.parametrize("name", ["", "../ann", "a/b", ".ann", "a b", "x" * 65, "a\n", "ä"])
def test_a_name_that_is_no_name_of_a_file_is_refused(name):
    with pytest.raises(ValueError, match="not a valid name of an annotator"):
        annotator(name)


def test_journals_make_one_table(tmp_path):
    journal(tmp_path, "bob").append(line("y"), "k")
    journal(tmp_path, "ann").append(line("x"), "k")
    found = table(journals(tmp_path))
    assert found.columns == list(JUDGEMENTS)
    assert found["annotator"].to_list() == ["ann", "bob"]
    assert table([]).schema == found.schema

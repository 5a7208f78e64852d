"""A store in object storage: what is put when, and what is believed of what is found there."""

import threading

import polars as pl
import pytest
from memory_objects import MemoryObjects

from gristmill.pipeline.export import retention
from gristmill.pipeline.records.lease import leased
from gristmill.pipeline.records.mirror import Mirror
from gristmill.pipeline.records.sealed import seal, unseal
from gristmill.pipeline.records.store import (
    MANIFEST,
    NotMadeError,
    Part,
    Step,
    Store,
    sha256,
    table,
    walk,
)

STEP = Step(name="toy", version=1, shelf="all-1", settings={"a": 1})
PLACE = f"toy/all-1/{STEP.key}"
ENTRY = f"entries/{PLACE}.json"


@pytest.fixture
def objects():
    return MemoryObjects()


@pytest.fixture
def machine(tmp_path, objects):
    """A store on the same objects, in a folder of its own."""

    def made(name, at=objects, **more):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        return Store(root=root, remote=Mirror(root=root, objects=at, seconds=0.5), **more)

    return made


def parts(made, count=3, shift=0):
    def make(i):
        made.append(i)
        return pl.DataFrame({"i": [i, i + shift]})

    return [table(f"part-{i:05d}", lambda i=i: make(i)) for i in range(count)]


def run(store, step=STEP, **more):
    made = []
    return store.run(step, parts(made, **more)), made


def content(entry):
    return {
        p.relative_to(entry.path).as_posix(): sha256(p)
        for p in walk(entry.path)
        if p.name != ".stamps.json"
    }


def one_file(objects, ending="part-00001.parquet"):
    (name,) = [n for n in objects.names("files") if n.endswith(ending)]
    return name


def flip(objects, name):
    raw, tag, when = objects.held[name]
    objects.held[name] = (raw[:-1] + bytes([raw[-1] ^ 1]), tag, when)


class GoneError(BaseException):
    """The machine is gone: nothing that it would have done after it is done."""


def test_another_machine_finds_what_one_has_made(tmp_path, machine, objects):
    plain = Store(root=tmp_path / "plain")
    truth = content(run(plain)[0])
    assert run(machine("a"))[1] == [0, 1, 2]
    entry, made = run(machine("b"))
    assert made == []
    assert content(entry) == truth
    assert unseal(objects.held[ENTRY][0]) is not None
    assert not objects.names("parts")
    assert not objects.names("leases")
    calls = len(objects.calls)
    assert machine("b").find(STEP) == entry
    assert len(objects.calls) == calls  # what is here is not asked for


def test_files_are_put_before_their_mark_and_the_manifest_last(machine, objects):
    run(machine("a"))
    put = [n for c, n in objects.calls if c == "upload" or (c, n) == ("create", ENTRY)]
    assert [n.partition("/")[0] for n in put] == [*["files", "parts"] * 3, "entries"]


def test_a_step_of_one_part_has_no_mark(machine, objects):
    run(machine("a"), count=1)
    assert not [n for _, n in objects.calls if n.endswith("+part-00000.parquet.json")]
    assert [c for c, n in objects.calls if n.startswith("parts/")] == ["sizes"]


def test_shelves_and_racks_are_those_of_all_machines(machine):
    steps = [Step(name="toy", version=v, shelf=f"all-{v}") for v in (1, 2)]
    steps += [Step(name="toy", version=3, shelf="all-1"), Step(name="toy", version=4, shelf="x-1")]
    entries = [run(machine("ab"[i % 2]), step)[0] for i, step in enumerate(steps)]
    keys = [e.key for e in entries]
    for name in "abc":
        here = machine(name)
        assert {e.key for e in here.shelf(steps[0])} == {keys[0], keys[2]}
        assert [e.key for e in here.rack(steps[0])] == [*sorted([keys[0], keys[2]]), keys[1]]
        assert all(here.root in e.path.parents for e in here.rack(steps[0]))


def test_a_path_that_another_entry_names_is_fetched(machine):
    entry, _ = run(machine("a"))
    reference = f"{PLACE}/part-00001.parquet"
    there = machine("b")
    assert sha256(there.path(reference)) == sha256(entry.path / "part-00001.parquet")
    assert not there.path("toy/all-1/nothing/model").exists()


def test_another_machine_goes_on_from_the_parts_that_were_put(machine, objects):
    def gone(call, name):
        if call == "upload" and name.endswith("part-00001.parquet.json"):
            raise GoneError

    objects.before = gone
    with pytest.raises(GoneError):
        run(machine("a"))
    objects.before = None
    assert len(objects.names("parts")) == 1
    assert run(machine("b"))[1] == [1, 2]
    assert not objects.names("parts")
    # the machine that was gone has the second part still, whose mark it did not put
    assert run(machine("a"))[1] == []


def test_a_machine_that_returns_puts_what_it_had_not_put(machine, objects):
    def lost(call, name):
        if call == "upload" and "part-00001" in name:
            raise ConnectionError("no network")

    objects.before = lost
    with pytest.raises(ConnectionError):
        run(machine("a"))
    objects.before = None
    entry, made = run(machine("a"))
    assert made == [2]
    assert content(run(machine("b"))[0]) == content(entry)


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_part_in_flight_that_was_damaged_is_made_again(machine, objects, how):
    def gone(call, name):
        if call == "upload" and "part-00002" in name:
            raise GoneError

    objects.before = gone
    with pytest.raises(GoneError):
        run(machine("a"))
    objects.before = None
    victim = one_file(objects, "part-00000.parquet")
    flip(objects, victim) if how == "flip" else objects.remove(victim)
    (mark,) = [n for n in objects.names("parts") if "part-00001" in n]
    flip(objects, mark)
    assert run(machine("b"))[1] == [0, 1, 2]
    assert run(machine("c"))[1] == []


@pytest.mark.parametrize("how", ["flip", "cut", "remove", "manifest", "no manifest", "foreign"])
def test_a_damaged_entry_there_is_not_believed_and_made_again(machine, objects, how):
    truth = content(run(machine("a"))[0])
    name = one_file(objects)
    if how == "flip":
        flip(objects, name)
    elif how == "cut":
        objects.held[name] = (objects.held[name][0][:-5], "cut", 0.0)
    elif how == "remove":
        objects.remove(name)
    elif how == "manifest":
        flip(objects, ENTRY)
    elif how == "no manifest":
        objects.remove(ENTRY)
    else:
        other = Step(name="toy", version=2, shelf="all-1")
        run(machine("a"), other)
        objects.held[ENTRY] = objects.held[f"entries/toy/all-1/{other.key}.json"]
    assert machine("b").find(STEP) is None
    assert not list((machine("b").root / "toy").rglob("*.parquet"))
    entry, made = run(machine("b"))
    assert made == [0, 1, 2]
    assert content(entry) == truth
    assert run(machine("c"))[1] == []
    assert content(machine("c").find(STEP)) == truth


def test_a_damaged_entry_here_is_fetched_again(machine):
    entry, _ = run(machine("a"))
    entry.shards[0].write_bytes(b"")
    again, made = run(machine("a"))
    assert made == []
    assert again.intact() == entry
    assert list((machine("a").root / "damaged").iterdir())


@pytest.mark.parametrize("path", ["../../out.parquet", "/tmp/out.parquet", MANIFEST])
def test_a_manifest_that_leads_out_of_its_folder_is_not_followed(machine, objects, path):
    run(machine("a"))
    told = unseal(objects.held[ENTRY][0])
    told["files"][0]["path"] = path
    objects.held[ENTRY] = (seal(told).encode(), "other", 0.0)
    before = len(objects.calls)
    assert machine("b").find(STEP) is None
    assert [c for c, _ in objects.calls[before:]] == ["get"]


@pytest.mark.parametrize("same", [True, False])
def test_who_comes_second_with_a_manifest_takes_what_stands(machine, objects, same, caplog):
    """A lease that was slept through: another machine has finished the entry meanwhile."""
    other = {}

    def meanwhile(call, name):
        if (call, name) == ("create", ENTRY):
            objects.before = None
            for name in (*objects.names("leases"), *objects.names("parts")):
                objects.remove(name)
            other["entry"], _ = run(machine("b"), shift=0 if same else 1)

    objects.before = meanwhile
    entry, made = run(machine("a"))
    assert made == [0, 1, 2]
    assert content(entry) == content(other["entry"]) == content(run(machine("c"))[0])
    assert ("with other bytes" in caplog.text) == (not same)
    assert not objects.names("leases")


def test_other_bytes_that_nobody_can_read_do_not_stand(machine, objects):
    def meanwhile(call, name):
        if (call, name) == ("create", ENTRY):
            objects.before = None
            for name in (*objects.names("leases"), *objects.names("parts")):
                objects.remove(name)
            theirs, _ = run(machine("b"), shift=1)
            file = theirs.files[1]
            flip(objects, f"files/{PLACE}/{file['sha256']}/{file['path']}")

    objects.before = meanwhile
    entry, _ = run(machine("a"))
    assert content(run(machine("c"))[0]) == content(entry)


def test_two_at_once_make_each_part_once(machine, tmp_path):
    begin, found = threading.Barrier(2), {}

    def work(name):
        begin.wait()
        found[name] = run(machine(name), count=4)

    both = [threading.Thread(target=work, args=(n,)) for n in "ab"]
    [t.start() for t in both]
    [t.join() for t in both]
    assert sorted(found["a"][1] + found["b"][1]) == [0, 1, 2, 3]
    assert content(found["a"][0]) == content(found["b"][0])


def test_a_process_that_fetches_what_another_is_about_to_rename_harms_nothing(machine, objects):
    def meanwhile(call, name):  # the manifest stands there, and the folder not yet here
        if call == "remove" and name.startswith("parts/"):
            objects.before = None
            found.append(machine("a").find(STEP))

    found, objects.before = [], meanwhile
    entry, _ = run(machine("a"))
    assert found == [entry]
    assert entry.intact().frame().height == 6
    assert not [p for p in entry.path.parent.iterdir() if p.name.startswith((".work", ".fetch"))]


@pytest.fixture
def held(objects):
    """A lease whose holder is gone."""
    told = {"holder": "gone@there", "host": "there", "seconds": 60.0, "token": "t", "turn": 3}
    objects.create("leases/x.json", seal(told).encode())


@pytest.mark.parametrize("why", ["expired", "own", "damaged"])
def test_a_lease_of_who_is_gone_is_taken_over(objects, held, why):
    if why == "expired":
        objects.now = 60.1
    elif why == "damaged":
        flip(objects, "leases/x.json")
    with leased(objects, "leases/x.json", "gone@there" if why == "own" else "me@here"):
        assert unseal(objects.get("leases/x.json").raw)["host"] != "there"
    assert not objects.held


def test_a_lease_is_waited_for_until_its_time_is_over(objects, held, caplog):
    def later(call, name):
        objects.now += 8.0

    objects.now, objects.before = 10.0, later
    with leased(objects, "leases/x.json", "me@here", seconds=0.05):
        pass
    assert objects.now > 60.0
    assert caplog.text.count("x is being made on there") == 1


def test_a_lease_is_renewed_and_one_that_was_taken_over_is_left_alone(objects, caplog):
    turned = threading.Event()
    tried = []

    def seen(call, name):
        if call == "replace":
            tried.append(name)
            if len(tried) == 1:
                raise ConnectionError("no network")  # told, and tried again
            turned.set()

    objects.before = seen
    with leased(objects, "x.json", "me@here", seconds=0.03):
        assert turned.wait(5)
        objects.before = None
        theirs = seal({"holder": "other", "host": "there", "seconds": 1.0, "token": "o"}).encode()
        objects.held["x.json"] = (theirs, "theirs", 0.0)
    assert objects.held["x.json"][0] == theirs
    assert "could not be renewed: no network" in caplog.text


def test_a_put_whose_answer_was_lost_holds_the_lease(objects, monkeypatch):
    create = objects.create

    def unanswered(name, raw):  # it was put by the first attempt, and the second is refused
        create(name, raw)
        return create(name, raw)

    monkeypatch.setattr(objects, "create", unanswered)
    with leased(objects, "x.json", "me@here"):
        assert len([c for c, _ in objects.calls if c == "replace"]) == 0


def test_a_server_without_conditional_puts_is_refused(machine):
    with pytest.raises(ValueError, match=r"whatever condition it is told .*name another, or a"):
        run(machine("a", at=MemoryObjects(ignores_conditions=True)))


def test_a_store_that_only_finds_puts_nothing(machine, objects):
    with pytest.raises(NotMadeError):
        run(machine("a", makes=False))
    assert [c for c, _ in objects.calls] == ["get"]


def test_what_a_killed_fetch_has_left_may_go(machine):
    store = machine("a")
    entry, _ = run(store)
    left = entry.path.with_name(f".fetch-123.abcd-{entry.key}")
    left.mkdir()
    (left / "part-00000.parquet").write_bytes(b"half")
    assert store.shelf(STEP) == [entry]
    found = retention.holdings(store)
    assert [h.kind for h in found if h.path == left] == ["unfinished"]
    retention.collect([h for h in found if h.path == left])
    assert not left.exists()
    assert store.find(STEP) == entry


def test_parts_that_are_folders_go_on_elsewhere(machine, objects):
    made = []

    def write(name, path):
        made.append(name)
        (path / "inner").mkdir(parents=True)
        (path / "a.txt").write_text(name)
        (path / "inner" / "empty").write_text("")

    folders = [
        Part(name=f"models/{n}", write=lambda path, n=n: write(n, path)) for n in ("one", "two")
    ]

    def gone(call, name):
        if call == "upload" and "two" in name:
            raise GoneError

    objects.before = gone
    with pytest.raises(GoneError):
        machine("a").run(STEP, folders)
    objects.before = None
    there = machine("b").run(STEP, folders)
    assert made == ["one", "two", "two"]
    assert [f["path"] for f in there.files] == [
        f"models/{n}/{f}" for n in ("one", "two") for f in ("a.txt", "inner/empty")
    ]

"""Archives of versions: equal bytes, whole again elsewhere, and refused in whatever way they differ."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from published import chats, frame, publish, stored

from gristmill.pipeline.export import verify
from gristmill.pipeline.export.archive import pack
from gristmill.pipeline.export.retention import beside, holdings
from gristmill.pipeline.export.unpack import unpack
from gristmill.pipeline.records.sealed import seal, unseal
from gristmill.pipeline.records.store import Store, sha256, walk


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store, a version published from it, and its archive."""
    root = tmp_path_factory.mktemp("made")
    (root / "store").mkdir()
    store = Store(root=root / "store")
    version = publish(root / "curated", store, n=30, keep=10)
    assert pack(version, root / "toy.tar", store) == 1
    return store, version, root / "toy.tar"


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(m, tar.extractfile(m).read()) for m in tar.getmembers()]


def written(path: Path, found) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, raw in found:
            tar.addfile(member, io.BytesIO(raw))
    return path


def files(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): sha256(p) for p in walk(root)}


def test_a_version_is_whole_again_elsewhere_and_so_is_its_lineage(made, tmp_path):
    store, version, archive = made
    assert pack(version, tmp_path / "again.tar", store) == 1
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    (tmp_path / "store").mkdir()
    other = Store(root=tmp_path / "store")
    found = unpack(archive, tmp_path / "curated", other)
    assert (found.there, found.entries, found.taken) == (False, 1, 1)
    assert verify.verify(found.version) == []
    assert files(found.version) == files(version)
    assert (found.version.parent / "latest").resolve() == found.version
    step = stored(store, frame(chats(30)))
    assert stored(other, frame(chats(30))).entry.content == step.entry.content
    assert len(other.computed()) == 0, "the entry is found, not made"
    again = unpack(archive, tmp_path / "curated", other)
    assert (again.there, again.taken) == (True, 0)
    left = {p.name for p in (tmp_path / "curated").iterdir()}
    assert left == {"toy", ".unpack-lock"}


def test_without_trust_no_entry_enters_a_store_and_alone_none_is_packed(made, tmp_path):
    _, version, archive = made
    found = unpack(archive, tmp_path / "curated")
    assert (found.entries, found.taken) == (1, 0)
    assert pack(version, tmp_path / "alone.tar") == 0
    assert unpack(tmp_path / "alone.tar", tmp_path / "other").entries == 0


def test_a_version_that_is_not_promoted_moves_no_link(made, tmp_path):
    _, version, _ = made
    (version.parent / "latest").rename(tmp_path / "latest")
    try:
        pack(version, tmp_path / "held.tar")
    finally:
        (tmp_path / "latest").rename(version.parent / "latest")
    home = unpack(tmp_path / "held.tar", tmp_path / "curated").version.parent
    assert not (home / "latest").exists()


def edited(change):
    """An archive whose index was changed and sealed again."""

    def hostile(found):
        index = unseal(found[0][1])
        change(index)
        raw = seal(index).encode()
        found[0][0].size = len(raw)
        return [(found[0][0], raw), *found[1:]]

    return hostile


def renamed(name):
    """The first file under another name, in the index and as a member."""

    def hostile(found):
        found = edited(lambda index: index["files"][0].update(path=name))(found)
        found[1][0].name = name
        return found

    return hostile


def linked(kind, to):
    def hostile(found):
        found[1][0].type, found[1][0].linkname = kind, to
        return found

    return hostile


def without_the_mark(found):
    """A version that was never finished."""
    found = [(m, raw) for m, raw in found if not m.name.endswith("_SUCCESS")]
    change = edited(
        lambda index: index.update(
            files=[f for f in index["files"] if not f["path"].endswith("_SUCCESS")]
        )
    )
    return change(found)


HOSTILE = {
    **{
        f"path {name}": renamed(name)
        for name in (
            *("../up.txt", "/etc/up.txt", "version/../../up.txt", "version/./README.md", "up.txt"),
            *("version//README.md", "version/a\\..\\up.txt", "version/C:up.txt", "version/.hidden"),
            *("version/a\nb", "version/\u202eb", "elsewhere/README.md", "version/" + "a/" * 900),
        )
    },
    "link": linked(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": linked(tarfile.LNKTYPE, "archive.json"),
    "device": linked(tarfile.CHRTYPE, ""),
    "pipe": linked(tarfile.FIFOTYPE, ""),
    "folder": linked(tarfile.DIRTYPE, ""),
    "no index": lambda found: found[1:],
    "nothing": lambda found: [],
    "one file less": lambda found: found[:-1],
    "one file more": lambda found: [*found, (tarfile.TarInfo("version/more"), b"")],
    "another order": lambda found: [found[0], found[2], found[1], *found[3:]],
    "a file twice": edited(lambda index: index["files"].append(index["files"][0])),
    "names that differ in case": edited(
        lambda index: index["files"].append({**index["files"][0], "path": "VERSION/readme.MD"})
    ),
    "more bytes than there are": edited(lambda index: index["files"][0].update(bytes=1 << 60)),
    "fewer than none": edited(lambda index: index["files"][0].update(bytes=-1)),
    "a number that is a truth": edited(lambda index: index["files"][0].update(bytes=True)),
    "dataset out of its folder": edited(lambda index: index.update(dataset="../x")),
    "dataset that is hidden": edited(lambda index: index.update(dataset=".x")),
    "dataset of another name": edited(lambda index: index.update(dataset="other")),
    "version of no form": edited(lambda index: index.update(version="v1")),
    "version of another name": edited(lambda index: index.update(version="v9-01234567")),
    "files that are none": edited(lambda index: index.update(files={})),
    "an index that is none": lambda found: [(found[0][0], b"[" * found[0][0].size), *found[1:]],
    "no mark": without_the_mark,
    "another format": edited(lambda index: index.update(format=2)),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_an_archive_that_was_tampered_with_is_refused_in_a_sentence(made, tmp_path, how):
    archive = written(tmp_path / "bad.tar", HOSTILE[how](members(made[2])))
    (tmp_path / "store").mkdir()
    with pytest.raises(ValueError, match=r"bad\.tar") as error:
        unpack(archive, tmp_path / "in" / "curated", Store(root=tmp_path / "store"))
    assert len(str(error.value).splitlines()) == 1
    nothing_came_of(tmp_path)


def nothing_came_of(root: Path) -> None:
    """Only the archive, an empty store and a lock are there."""
    there = {p.relative_to(root).as_posix() for p in walk(root)}
    assert there <= {"bad.tar", "in/curated/.unpack-lock"}


def test_a_damaged_archive_is_refused_wherever_the_damage_is(made, tmp_path):
    """Cut, or with a byte changed that says anything: of a header, of the index, of a file."""
    raw = made[2].read_bytes()
    bad = tmp_path / "bad.tar"
    ends = members(made[2])[-1][0]
    last = ends.offset_data + ends.size
    for at in (0, 1, 511, 600, last // 3, last // 2, last - 1):
        bad.write_bytes(raw[:at])
        with pytest.raises(ValueError, match=r"bad\.tar"):
            unpack(bad, tmp_path / "in" / "curated")
        bad.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with pytest.raises(ValueError, match=r"bad\.tar"):
            unpack(bad, tmp_path / "in" / "curated")
        nothing_came_of(tmp_path)


def test_no_entry_of_an_archive_is_taken_that_does_not_prove_itself(made, tmp_path):
    """Sums of the index are made anew by who tampers; those of the entry are not."""
    found = members(made[2])
    at = next(i for i, (m, _) in enumerate(found) if m.name.endswith("records-00000.parquet"))
    raw = bytearray(found[at][1])
    raw[len(raw) // 2] ^= 1
    found[at] = (found[at][0], bytes(raw))

    def summed(index):
        index["files"][at - 1]["sha256"] = hashlib.sha256(bytes(raw)).hexdigest()

    archive = written(tmp_path / "bad.tar", edited(summed)(found))
    (tmp_path / "store").mkdir()
    with pytest.raises(ValueError, match="does not match its sha256"):
        unpack(archive, tmp_path / "in" / "curated", Store(root=tmp_path / "store"))
    nothing_came_of(tmp_path)


def test_a_link_is_not_followed_and_a_changed_version_not_packed(made, tmp_path):
    store, version, _ = made
    (version / "loaders" / "more.yaml").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"more\.yaml"):
        pack(version, tmp_path / "a.tar", store)
    (version / "loaders" / "more.yaml").unlink()
    card = version / "README.md"
    told = card.read_bytes()
    card.unlink()
    (tmp_path / "told").write_bytes(told)
    card.symlink_to(tmp_path / "told")
    with pytest.raises(ValueError, match=r"README\.md is a link"):
        pack(version, tmp_path / "a.tar", store)
    card.unlink()
    card.write_bytes(told + b" ")
    with pytest.raises(ValueError, match=r"is not whole and was not packed: README\.md"):
        pack(version, tmp_path / "a.tar", store)
    card.write_bytes(told)
    assert list(tmp_path.iterdir()) == [tmp_path / "told"]


def test_another_version_of_the_same_name_stays(made, tmp_path):
    target = unpack(made[2], tmp_path / "curated").version
    (target / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="is there already and is not the version of toy"):
        unpack(made[2], tmp_path / "curated")
    assert (target / "README.md").read_text() == "mine"


def test_what_a_killed_one_left_is_no_hindrance(made, tmp_path):
    curated = tmp_path / "curated"
    (curated / ".unpack" / "version").mkdir(parents=True)
    (curated / ".unpack" / "version" / "README.md").write_text("half")
    assert verify.verify(unpack(made[2], curated).version) == []


@pytest.mark.parametrize(
    "told",
    [
        {"README.md": ""},
        {"README.md": "---\n[]\n---\n"},
        {"README.md": "---\na: " + "[" * 5_000 + "\n---\n"},
        {"README.md": "---\nconfigs: 3\ndataset_info: []\n---\n"},
        {"manifest.json": "[]"},
        {"manifest.json": "[" * 100_000},
        {"manifest.json": '{"rows": {}, "files": [{"path": "../x", "rows": 1}]}'},
        {"ledger/pool-00000-of-00001.parquet": "no table"},
    ],
)
def test_a_folder_of_strangers_whose_sums_are_right_is_refused_in_sentences(made, tmp_path, told):
    folder = shutil.copytree(made[1], tmp_path / "v1-01234567")
    for name, text in told.items():
        (folder / name).write_text(text)
    names = sorted(p.relative_to(folder).as_posix() for p in walk(folder))
    sums = [f"{sha256(folder / n)}  {n}\n" for n in names if n not in verify.OUTSIDE]
    (folder / verify.SUMS).write_text("".join(sums))
    verify.succeed(folder)
    problems = verify.verify(folder)
    assert problems
    assert all(len(p.splitlines()) == 1 and len(p) < 500 for p in problems)


def test_all_that_a_store_holds_is_counted(made):
    store, _, _ = made
    found = holdings(store)
    found += beside(store, found)
    assert sum(h.bytes for h in found) == sum(p.stat().st_size for p in walk(store.root))
    others = {h.step for h in found if h.kind == "other"}
    assert others <= {"journal.jsonl", "hashes"}
    assert "journal.jsonl" in others
    assert all(h.needed for h in found if h.kind == "other")

"""Proof that a published folder is whole: checksums, files, and row counts that must agree.

`seal` writes manifest.json and SHA256SUMS (which `sha256sum -c` reads), and `_SUCCESS` holds the
hash of the sums; `verify` lists whatever is wrong. run.json (times, cost, machine) stands outside
all sums, which are the same for every run, and carries a checksum of its own.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.pipeline.records import json_text, yaml_text
from gristmill.pipeline.records.sealed import read_sealed
from gristmill.pipeline.records.store import sha256, walk, write_text

SUMS = "SHA256SUMS"
SUCCESS = "_SUCCESS"
RUN = "run.json"
OUTSIDE = frozenset({SUMS, SUCCESS, RUN})  # files that SHA256SUMS does not list


def seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest with its list of files, then the checksums of everything, synced."""
    files = []
    for path in sorted(p for p in walk(folder) if p.name not in OUTSIDE):
        name = path.relative_to(folder).as_posix()
        entry = {"path": name, "sha256": sha256(path), "bytes": path.stat().st_size}
        if name.endswith(".parquet"):
            entry["rows"] = pq.read_metadata(path).num_rows
        files.append(entry)
    text = json_text.published({**manifest, "files": files}, indent=1, sort_keys=True)
    write_text(folder / "manifest.json", text + "\n")
    listed = {f["path"]: f["sha256"] for f in files}
    listed["manifest.json"] = sha256(folder / "manifest.json")
    write_text(
        folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(listed.items()))
    )


def succeed(folder: Path) -> None:
    """Mark a folder as complete: `_SUCCESS` holds the hash of its checksums."""
    write_text(folder / SUCCESS, sha256(folder / SUMS) + "\n")


def verify(folder: Path) -> list[str]:
    """What is wrong with a published folder, one sentence each; an empty list means whole."""
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    if not (folder / SUMS).is_file():
        return [f"{folder} has no {SUMS}: it is not a published dataset, or was never finished"]
    mark = folder / SUCCESS
    if not mark.is_file():
        return [f"{SUCCESS} is missing: the publication was never finished", *contents(folder)]
    if mark.read_bytes() != f"{sha256(folder / SUMS)}\n".encode():
        return [f"{SUCCESS} does not match {SUMS}: one of them was changed", *contents(folder)]
    return contents(folder)


def contents(folder: Path) -> list[str]:
    """What is wrong with the files that SHA256SUMS lists and with run.json, the mark aside."""
    listed, found = _sums(folder)
    present = {p.relative_to(folder).as_posix() for p in walk(folder)} - OUTSIDE
    found += [f"{name} is missing" for name in sorted(set(listed) - present)]
    found += [f"{name} is not listed in {SUMS}" for name in sorted(present - set(listed))]
    changed = [n for n in sorted(present & set(listed)) if sha256(folder / n) != listed[n]]
    found += [f"{name} does not match its sha256" for name in changed]
    if read_sealed(folder / RUN) is None:
        found.append(f"{RUN} is missing or does not match its checksum")
    return found or _counts(folder)


def demand(folder: Path, names: Iterable[str]) -> None:
    """Stop unless these files of a published folder are as they were published.

    Raises:
        ValueError: one of them, or the checksums, are not.
    """
    mark = folder / SUCCESS
    listed: dict[str, str] = {}
    if (folder / SUMS).is_file():
        listed, _ = _sums(folder)
        if mark.is_file() and mark.read_bytes() != f"{sha256(folder / SUMS)}\n".encode():
            raise ValueError(_refused(folder, f"{SUCCESS} does not match {SUMS}"))
    for name in names:
        path = folder / name
        if name not in listed or not path.is_file() or sha256(path) != listed[name]:
            raise ValueError(_refused(folder, f"{name} does not match its sha256 in {SUMS}"))


def _refused(folder: Path, problem: str) -> str:
    return (
        f"{folder} is not as it was published ({problem}): put a whole copy in its place, or "
        "remove it, and run the same command again."
    )


def _sums(folder: Path) -> tuple[dict[str, str], list[str]]:
    """SHA256SUMS as path -> sha256, and what is wrong with its lines."""
    listed: dict[str, str] = {}
    found = []
    for line in (folder / SUMS).read_text("utf-8", "replace").splitlines():
        parts = re.fullmatch(r"([0-9a-f]{64})  ([^/].*)", line)
        if parts is None or ".." in parts[2].split("/"):
            found.append(f"{SUMS} has a line that names no file here: {line[:80]!r}")
        else:
            listed[parts[2]] = parts[1]
    return listed, found


def resized(folder: Path) -> str | None:
    """The first file that is gone or has another size than the manifest says; reads no data."""
    try:
        files = json_text.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json is missing or unreadable"
    for file in files:
        path = folder / file["path"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return f"{file['path']} is missing or cut"
    return None


def _counts(folder: Path) -> list[str]:
    """What `_counted` finds; a folder whose files match may yet be another's, of any form."""
    try:
        return _counted(folder)
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        OSError,
        pa.ArrowException,
    ) as error:
        said = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        return [f"its manifest, card and tables are not those of a published version ({said})"]


def _counted(folder: Path) -> list[str]:
    """Rows in files, manifest and card; kept rows in the ledger. Called on files that match."""
    manifest = json_text.loads((folder / "manifest.json").read_text("utf-8"))
    card = yaml_text.read(folder / "README.md")
    header = yaml_text.parse(card.split("---\n")[1])
    carded = {
        f"{info['config_name']}/{split['name']}": split["num_examples"]
        for info in header["dataset_info"]
        for split in info["splits"]
    }
    found = []
    rows: dict[str, int] = {}
    paths = {
        f"{config['config_name']}/{data['split']}": data["path"]
        for config in header["configs"]
        for data in config["data_files"]
    }
    for name, pattern in paths.items():
        if ".." in PurePosixPath(pattern).parts:
            raise ValueError(f"README.md names {pattern!r}, which is not in its folder")
        rows[name] = sum(pq.read_metadata(p).num_rows for p in sorted(folder.glob(pattern)))
    for name in sorted({*rows, *carded, *manifest["rows"]}):
        counts = (rows.get(name), manifest["rows"].get(name), carded.get(name))
        if len(set(counts)) > 1:
            found.append(
                "{}: {} rows in the files, {} in manifest.json, {} in README.md".format(
                    name, *counts
                )
            )
    found += [
        f"{file['path']} does not hold the {file['rows']} rows of manifest.json"
        for file in manifest["files"]
        if "rows" in file and pq.read_metadata(folder / file["path"]).num_rows != file["rows"]
    ]
    verdicts = [_kept(p) for p in sorted(folder.glob("ledger/*.parquet"))]
    shipped = sum(n for name, n in rows.items() if name.startswith("default/"))
    if sum(verdicts) != shipped:
        found.append(f"the ledger keeps {sum(verdicts)} rows and {shipped} are shipped")
    return found


def _kept(path: Path) -> int:
    """Kept rows of a ledger's file, in blocks: a small file may hold very many."""
    with pq.ParquetFile(path) as file:
        blocks = file.iter_batches(65_536, columns=["verdict"])
        return sum(int(pc.sum(pc.equal(b["verdict"], "kept")).as_py() or 0) for b in blocks)

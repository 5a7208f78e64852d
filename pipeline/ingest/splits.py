"""Splits of a folder by the names of its files, as `datasets` sees them, and the choice of one.

`data/<split>-00000-of-00001.parquet` names any split. Elsewhere a folder or a file names train,
validation or test by one of the usual words, set off by a character that is no letter:
`test/a.csv`, `maths_dev.jsonl`, `train.jsonl.gz`. Unlike `datasets` we read a file that names no
split with train, and do not mind upper case.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

T = TypeVar("T")
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"data/(?P<split>\w[\w.-]*?)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_WORD = re.compile(r"[^-._ 0-9]+")  # what is left between the characters that set words off
_NAMES = 3  # files that a sentence names


def sharded(names: Sequence[str]) -> dict[str, list[str]]:
    """The splits of the Hub's own layout, by name; none if the folder is not laid out so."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _SHARD.fullmatch(name):
            found.setdefault(match["split"], []).append(name)
    return found


def by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """The splits that the names of files and of their folders name; files that name none: train.

    A folder that holds all of the files says nothing that tells them apart.
    """
    parts = [PurePosixPath(name).parts for name in names]
    shared = 0
    while parts and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    named = [_named(p[shared:]) for p in parts]
    if not any(named):
        named = [_named(p) for p in parts]
    found: dict[str, list[str]] = {}
    for name, split in zip(names, named, strict=True):
        found.setdefault(split or "train", []).append(name)
    return found


def _named(parts: Sequence[str]) -> str | None:
    """The split that the outermost part names which names one."""
    mixed = None
    for part in parts:
        words = [WORDS[w] for w in _WORD.findall(part.lower()) if w in WORDS]
        if len(set(words)) == 1:
            return words[0]
        if words:  # `train_test`: both, unless a part within tells them apart
            mixed = "train" if "train" in words else words[0]
    return mixed


def choose(
    splits: Mapping[str, T],
    split: str | None,
    where: str,
    say: Callable[[str], None],
    count: Callable[[T], str] | None = None,
) -> T:
    """The split that was asked for, `train`, or the only one: never a test set unasked.

    Args:
        splits: what is there, by name.
        split: the name that was asked for.
        where: the data set, for people.
        say: told which splits are left, and that one that is read is not `train`.
        count: how much a split holds, for people.
    """
    name = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if name not in splits:
        raise ValueError(_no_split(name, list(splits), where))
    left = [
        other if count is None else f"{other} ({count(held)})"
        for other, held in splits.items()
        if other != name
    ]
    if left:
        say(
            f"{where}: the split {name} is read, and {listed(left)} not; another is named by split="
        )
    elif split is None and name != "train":
        say(f"{where}: its only split, {name}, is read")
    return splits[name]


def _no_split(name: str, splits: Sequence[str], where: str) -> str:
    words = {WORDS.get(name.lower(), ""), WORDS.get(name.lower().split("_")[0], "")}
    near = [s for s in splits if s in words or s.split("_")[0] in words]
    near += difflib.get_close_matches(name, [s for s in splits if s not in near], 3)
    meant = f" (near: {', '.join(near)})" if near and len(splits) > len(near) else ""
    return f"{where} has no split {name!r}{meant}; give split= one of {', '.join(splits)}"


def files(names: Sequence[str]) -> str:
    """A few files by name, more by their number."""
    return ", ".join(names) if 0 < len(names) <= _NAMES else f"{len(names)} files"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, with their verb."""
    if len(parts) == 1:
        return f"{parts[0]} is"
    return f"{', '.join(parts[:-1])} and {parts[-1]} are"

"""Which files a path represents: a file, a folder or pattern of files, or a data set with a layout.

Four layouts say which of their files are data: a folder with a data set card (`configs:` in
README.md, as on the Hub and in everything we publish), the Hub's `data/<split>-00000-of-00001`, a
folder written by `save_to_disk`, and whatever else `datasets.load_dataset` reads, a name on the Hub
included. Of a data set with splits one is read, `train` unless another is named.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gristmill.pipeline.ingest import cards, folders, plain_folders, splits
from gristmill.pipeline.ingest.packing import SUFFIXES, ZIP, stem
from gristmill.pipeline.ingest.patterns import is_pattern, matches, root_of
from gristmill.pipeline.ingest.readers import format_of

HUB = "hf://"
_TOLD = 16 << 20  # most bytes of a file about the data


@dataclass(frozen=True, kw_only=True)
class Found:
    """A data file: where it is, and the names by which people and records know it."""

    path: Path
    name: str  # below the folder that was asked for; no machine's path
    source: str
    member: str | None = None  # of an archive; then `path` is the archive
    license: str | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for beside the path.

    Attributes:
        split: of a data set with splits; by default `train`, or its only one.
        revision: of a data set on the Hub, where the path names none.
        cache: folder in which `datasets` may unpack what it loads.
        say: told, in sentences, what is left.
    """

    split: str | None
    revision: str | None
    cache: Path
    say: Callable[[str], None]

    def no_splits(self, name: str) -> None:
        """Refuse a split of what has none."""
        if self.split is not None:
            raise ValueError(f"{name} has no splits: leave split={self.split!r} out")


def find(
    path: str,
    *,
    revision: str | None,
    split: str | None,
    cache: Path,
    say: Callable[[str], None] = lambda _: None,
) -> list[Found]:
    """The data files behind `path`, in order. A folder never reads outside itself.

    Args:
        path: a file, a folder, a pattern of files, or `hf://org/name@revision`.
        revision: of a data set on the Hub, where the path names none.
        split: of a data set with splits; by default `train`, or its only one.
        cache: folder in which `datasets` may unpack what it loads.
        say: told, in sentences, what is left.
    """
    asked = Asked(split=split, revision=revision, cache=cache, say=say)
    if path.startswith(HUB):
        name, _, at = path.removeprefix(HUB).partition("@")
        return _loaded(name, name, asked, hub=True, revision=at or revision)
    place = Path(path).expanduser()
    if not place.exists() and is_pattern(path):
        return _matched(path, asked)
    if not place.exists():
        raise ValueError(
            f"there is nothing at {shown(path)}: give a file, a folder, or {HUB}org/name@revision"
        )
    if place.is_dir():
        place = place.resolve()  # `latest` is a link: the version that it names is what is read
        return _named(_folder(place, asked), place.name)
    found = Found(path=place, name=place.name, source=stem(place.name))
    _named([found], place.parent.name)
    folders.check_regular(place, place.name)
    if place.suffix.lower() == ZIP:
        return _named(_archive(place, asked), place.name)
    asked.no_splits(place.name)
    if format_of(place) is None:
        raise ValueError(f"{place.name} has no known format; known are {', '.join(SUFFIXES)}")
    return [found]


def _matched(path: str, asked: Asked) -> list[Found]:
    """The files of a pattern, each a source by its own name."""
    files = matches(path)
    if not files:
        raise ValueError(f"no file matches {shown(path)}: give a file, a folder, or a pattern")
    asked.no_splits(shown(path))
    fixed = root_of(Path(path).expanduser())
    names = [file.relative_to(fixed).as_posix() for file in files]
    stems = Counter(map(stem, names))
    made = []
    for file, name in zip(files, names, strict=True):
        folders.check_regular(file, name)
        if file.suffix.lower() == ZIP or format_of(file) is None:
            raise ValueError(
                f"{name} has no known format; known are {', '.join(SUFFIXES)}: name them in the "
                "pattern"
            )
        source = name if stems[stem(name)] > 1 else stem(name)
        made.append(Found(path=file, name=name, source=source))
    return _named(made, shown(path))


def shown(name: str) -> str:
    """A path that can be printed: bytes that are not UTF-8 as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _named(found: list[Found], folder: str) -> list[Found]:
    """The files, if their names can be written into a table."""
    for data in found:
        for name in (data.name, data.source):
            if shown(name) != name:
                raise ValueError(
                    f"the name {shown(name)} in {shown(folder)} is not UTF-8: rename it"
                )
    return found


def _folder(folder: Path, asked: Asked) -> list[Found]:
    card = cards.read(folder)
    license = cards.license_of(card)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        inner, names = _saved(folder, asked)
        return _laid_out(folder, names, license or _saved_license(folder, inner))
    if card.get("configs"):
        found = cards.splits(folder, card["configs"])
        if not found or any(
            not plain_folders.is_known(n) for names in found.values() for n in names
        ):
            return _loaded(str(folder), folder.name, asked, license=license)
        names = splits.choose(found, asked.split, folder.name, asked.say, splits.files)
        if names:
            _tell_unnamed(folder, found, asked)
            return _laid_out(folder, names, license)
        return _loaded(str(folder), folder.name, asked, license=license)
    files = plain_folders.data_files(folder, asked.say)
    if not files:
        return _loaded(str(folder), folder.name, asked, license=license)
    if sharded := splits.sharded([name for name, member in files if member is None]):
        _tell_unnamed(folder, sharded, asked)
        names = splits.choose(sharded, asked.split, folder.name, asked.say, splits.files)
        return _laid_out(folder, names, license)
    return _plain(folder, folder.name, files, asked, license)


def _archive(path: Path, asked: Asked) -> list[Found]:
    """The files of a ZIP archive, read as a folder is."""
    files = plain_folders.archive_files(path, asked.say)
    if not files:
        raise ValueError(f"{path.name} holds no file of a known format: {', '.join(SUFFIXES)}")
    return _plain(path.parent, path.name, files, asked, None)


def _plain(
    folder: Path,
    where: str,
    files: Sequence[plain_folders.Name],
    asked: Asked,
    license: str | None,
) -> list[Found]:
    """The files of the split that is read, each a source by its own name."""
    by_label = {
        name if member is None else f"{name}/{member}": (name, member) for name, member in files
    }
    found = splits.by_name(list(by_label))
    if list(found) == ["train"] and asked.split != "train":
        asked.no_splits(where)
    taken = splits.choose(found, asked.split, where, asked.say, splits.files)
    archives = {name for name, member in files if member is not None}
    alone = len(archives) == 1 == len({name for name, _ in files})  # all of it is one archive
    short = {label: by_label[label][1] if alone else label for label in taken}
    stems = Counter(stem(str(name)) for name in short.values())
    made = []
    for label, own in short.items():
        name, member = by_label[label]
        source = stem(str(own))
        if stems[source] > 1:  # a.csv beside a.jsonl: then the extension is the name
            source = str(own)
        elif len(taken) == 1:
            source = stem(where).removesuffix(ZIP) if alone else PurePosixPath(source).name
        made.append(
            Found(path=folder / name, name=label, source=source, member=member, license=license)
        )
    return made


def _laid_out(folder: Path, names: Sequence[str], license: str | None) -> list[Found]:
    """The files of a data set, which is one source."""
    published = (folder / "_SUCCESS").exists()  # one of ours: <name>/<version>
    source = f"{folder.parent.name}/{folder.name}" if published else folder.name
    return [Found(path=folder / name, name=name, source=source, license=license) for name in names]


def _tell_unnamed(folder: Path, found: dict[str, list[str]], asked: Asked) -> None:
    """Say which data files belong to no split; what we publish has tables beside its data."""
    if (folder / "_SUCCESS").exists():
        return
    named = {name for names in found.values() for name in names}
    more = [n for n in folders.names(folder) if n not in named and plain_folders.is_known(n)]
    more = [n for n in more if not plain_folders.is_about(n)]
    if more:
        asked.say(
            f"{folder.name}: {splits.listed([splits.files(more)])} not read, as "
            f"{'it belongs' if len(more) == 1 else 'they belong'} to no split of the data set"
        )


def _saved(folder: Path, asked: Asked) -> tuple[str, list[str]]:
    """The folder and the Arrow files that `save_to_disk` wrote."""
    inner = ""
    if (folder / "dataset_dict.json").is_file():
        names = _told(folder, "dataset_dict.json", "splits")
        found = {str(name): f"{name}/" for name in names}
        inner = splits.choose(found, asked.split, folder.name, asked.say)
    else:
        asked.no_splits(folder.name)
    entries = _told(folder, f"{inner}state.json", "_data_files")
    files = [f"{inner}{e.get('filename')}" for e in entries if isinstance(e, dict)]
    for name in files:
        folders.check_pattern(name, f"{folder.name}/{inner}state.json")
        folders.check_inside(folder, name)
    return inner, files


def _told(folder: Path, name: str, key: str) -> list[Any]:
    """The list that a file of `save_to_disk` holds under `key`."""
    value = _json(folder, name)
    if value is None:
        raise ValueError(f"{folder.name}/{name} is missing, unreadable or no JSON")
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{folder.name}/{name} has no list {key!r}: save the data set again")
    return found


def _json(folder: Path, name: str) -> Any:  # noqa: ANN401  (JSON)
    """The value of a file about the data, or None if it cannot be read."""
    folders.check_pattern(name, folder.name)
    folders.check_inside(folder, name)
    try:
        return json.loads((folder / name).read_bytes()[:_TOLD])
    except (OSError, ValueError, RecursionError):
        return None


def _saved_license(folder: Path, inner: str) -> str | None:
    """The licence that `save_to_disk` noted."""
    name = f"{inner}dataset_info.json"
    told = _json(folder, name) if (folder / name).is_file() else None
    return cards.license_of(told) if isinstance(told, dict) else None


def _loaded(
    name: str,
    source: str,
    asked: Asked,
    *,
    license: str | None = None,
    hub: bool = False,
    revision: str | None = None,
) -> list[Found]:
    """What `datasets` makes of a folder or a name on the Hub: Arrow files, in the cache."""
    import datasets

    place = Path(name)
    if not hub:  # `datasets` follows every link
        for inner in folders.names(place):
            folders.check_inside(place, inner)
    try:
        found = datasets.load_dataset(name, revision=revision, cache_dir=str(asked.cache))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{source} has no file of a known format, and `datasets` says: {reason}"
        ) from error
    files = splits.choose(
        dict(found), asked.split, source, asked.say, lambda table: f"{len(table)} rows"
    ).cache_files
    license = license or (cards.of_hub(name, revision) if hub else None)
    return [
        Found(
            path=Path(file["filename"]),
            name=f"{source}/{number:05d}.arrow",
            source=source,
            license=license,
            revision=revision,
        )
        for number, file in enumerate(files)
    ]

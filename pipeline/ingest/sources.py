"""Which files a path represents: a file, a folder of files, or a data set that has a layout.

Three layouts say which of their files are data: a folder with a data set card (`configs:` in
README.md, as on the Hub and in everything we publish), a folder written by `save_to_disk`, and
whatever else `datasets.load_dataset` reads, a name on the Hub included.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gristmill.pipeline.ingest import folders
from gristmill.pipeline.ingest.readers import PACKED, SUFFIXES, format_of
from gristmill.pipeline.records import yaml_text

HUB = "hf://"
T = TypeVar("T")
_CARD = "README.md"
_TOLD = 16 << 20  # most bytes of a file about the data
# Names of files about the data, passed over in a plain folder.
_ABOUT = {"readme", "license", "licenses", "copying", "notice", "changelog", "dataset_info"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A data file: where it is, and the names by which people and records know it."""

    path: Path
    name: str  # below the folder that was asked for; no machine's path
    source: str
    license: str | None = None
    revision: str | None = None


def find(path: str, *, revision: str | None, split: str | None, cache: Path) -> list[Found]:
    """The data files behind `path`, in order. A folder never reads outside itself.

    Args:
        path: a file, a folder, or `hf://org/name@revision`.
        revision: of a data set on the Hub, where the path names none.
        split: of a data set with splits; by default `train`, or its only one.
        cache: folder in which `datasets` may unpack what it loads.
    """
    if path.startswith(HUB):
        name, _, at = path.removeprefix(HUB).partition("@")
        return _loaded(name, name, split, cache, revision=at or revision)
    place = Path(path).expanduser()
    if not place.exists():
        raise ValueError(
            f"there is nothing at {shown(path)}: give a file, a folder, or {HUB}org/name@revision"
        )
    if place.is_dir():
        place = place.resolve()  # `latest` is a link: the version that it names is what is read
        return _named(_folder(place, split, cache), place.name)
    if split is not None:
        raise ValueError(f"{place.name} has no splits: leave split={split!r} out")
    found = Found(path=place, name=place.name, source=stem(place.name))
    _named([found], place.parent.name)
    folders.check_regular(place, place.name)
    if format_of(place) is None:
        raise ValueError(f"{place.name} has no known format; known are {', '.join(SUFFIXES)}")
    return [found]


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


def _folder(folder: Path, split: str | None, cache: Path) -> list[Found]:
    found = _with_layout(folder, split, cache)
    if found:
        return found
    if split is not None:
        raise ValueError(f"{folder.name} has no splits: leave split={split!r} out")
    return _plain(folder) or _loaded(str(folder), folder.name, split, cache)


def stem(name: str) -> str:
    """A file's name without its extensions, the packed one too; its folders stay."""
    path = PurePosixPath(name)
    path = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)


def _plain(folder: Path) -> list[Found]:
    names = [name for name in folders.names(folder) if _is_data(folder, name)]
    paths = [folder / name for name in names]
    if len(names) == 1:
        return [Found(path=paths[0], name=names[0], source=stem(paths[0].name))]
    stems = Counter(map(stem, names))  # a.csv beside a.jsonl: then the extension is the name
    return [
        Found(path=p, name=n, source=stem(n) if stems[stem(n)] == 1 else n)
        for p, n in zip(paths, names, strict=True)
    ]


def _is_data(folder: Path, name: str) -> bool:
    base = stem(PurePosixPath(name).name)
    if base.lower() in _ABOUT or base == PurePosixPath(name).name:
        return False
    folders.check_inside(folder, name)
    return format_of(folder / name) is not None


def _with_layout(folder: Path, split: str | None, cache: Path) -> list[Found]:
    """The files of a folder with a layout of its own, or none."""
    card = _card(folder)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        names = _saved(folder, split)
    elif card.get("configs"):
        names = _configured(folder, card["configs"], split)
        if not names or any(format_of(folder / name) is None for name in names):
            return _loaded(str(folder), folder.name, split, cache)
    else:
        return []
    published = (folder / "_SUCCESS").exists()  # one of ours: <name>/<version>
    source = f"{folder.parent.name}/{folder.name}" if published else folder.name
    license = card.get("license")
    license = license if isinstance(license, str) and license not in ("other", "unknown") else None
    return [Found(path=folder / name, name=name, source=source, license=license) for name in names]


def _card(folder: Path) -> Mapping[str, Any]:
    """The front matter of the folder's data set card."""
    if not (folder / _CARD).is_file():
        return {}
    folders.check_inside(folder, _CARD)
    parts = yaml_text.read(folder / _CARD, "replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = yaml_text.parse(parts[1])
    except ValueError as error:
        raise ValueError(
            f"{folder.name}/{_CARD} opens with YAML that does not parse: {error}"
        ) from error
    return front if isinstance(front, dict) else {}


def _configured(folder: Path, configs: Any, split: str | None) -> list[str]:  # noqa: ANN401
    """The files of the default config; none where the card is written in a way of its own."""
    configs = [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []
    for config in configs:  # those too that only `datasets` will read
        for pattern in _texts([config.get("data_files"), config.get("data_dir")]):
            folders.check_pattern(pattern, f"{folder.name}/{_CARD}")
    default = [c for c in configs if c.get("default") or c.get("config_name") == "default"]
    if not default and len(configs) > 1:
        names = ", ".join(str(c.get("config_name")) for c in configs)
        raise ValueError(f"{folder.name} has several configs and no default ({names}): give files")
    files = (default or configs or [{}])[0].get("data_files")
    if isinstance(files, str) or (
        isinstance(files, list) and all(isinstance(f, str) for f in files)
    ):
        files = [{"split": "train", "path": files}]
    if not isinstance(files, list) or not all(isinstance(f, dict) for f in files):
        return []
    splits: dict[str, list[str]] = {}
    for entry in files:
        found = splits.setdefault(str(entry.get("split")), [])
        for pattern in _texts(entry.get("path")):
            for path in sorted(folder.glob(pattern)):
                if not path.is_dir():
                    name = path.relative_to(folder).as_posix()
                    folders.check_inside(folder, name)
                    found.append(name)
    return _choose(splits, split, folder.name)


def _texts(value: object) -> Iterator[str]:
    """Every text in a value of lists and mappings."""
    match value:
        case str():
            yield value
        case dict():
            yield from _texts(list(value.values()))
        case list():
            for item in value:
                yield from _texts(item)


def _saved(folder: Path, split: str | None) -> list[str]:
    """The Arrow files that `save_to_disk` wrote."""
    inner = ""
    if (folder / "dataset_dict.json").is_file():
        names = _told(folder, "dataset_dict.json", "splits")
        inner = _choose({str(name): f"{name}/" for name in names}, split, folder.name)
    elif split is not None:
        raise ValueError(f"{folder.name} has no splits: leave split={split!r} out")
    entries = _told(folder, f"{inner}state.json", "_data_files")
    found = [f"{inner}{e.get('filename')}" for e in entries if isinstance(e, dict)]
    for name in found:
        folders.check_pattern(name, f"{folder.name}/{inner}state.json")
        folders.check_inside(folder, name)
    return found


def _told(folder: Path, name: str, key: str) -> list[Any]:
    """The list that a file of `save_to_disk` holds under `key`."""
    folders.check_pattern(name, folder.name)
    folders.check_inside(folder, name)
    try:
        value = json.loads((folder / name).read_bytes()[:_TOLD])
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder.name}/{name} is missing, unreadable or no JSON") from error
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{folder.name}/{name} has no list {key!r}: save the data set again")
    return found


def _loaded(
    name: str, source: str, split: str | None, cache: Path, revision: str | None = None
) -> list[Found]:
    """What `datasets` makes of a folder or a name on the Hub: Arrow files, in `cache`."""
    import datasets

    place = Path(name)
    if place.is_dir():  # `datasets` follows every link
        for inner in folders.names(place):
            folders.check_inside(place, inner)
    try:
        splits = datasets.load_dataset(name, revision=revision, cache_dir=str(cache))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{source} has no file of a known format, and `datasets` says: {reason}"
        ) from error
    files = _choose(dict(splits), split, source).cache_files
    return [
        Found(
            path=Path(file["filename"]),
            name=f"{source}/{number:05d}.arrow",
            source=source,
            revision=revision,
        )
        for number, file in enumerate(files)
    ]


def _choose(splits: Mapping[str, T], split: str | None, where: str) -> T:
    """The split that was asked for, `train`, or the only one: never a test set unasked."""
    name = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if name not in splits:
        raise ValueError(f"{where} has no split {name!r}; give split= one of {', '.join(splits)}")
    return splits[name]

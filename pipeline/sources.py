"""Which files a path stands for: a file, a folder of files, or a data set that has a layout.

Three layouts say which of their files are data: a folder with a data set card (`configs:` in
README.md, as on the Hub and in everything we publish), a folder written by `save_to_disk`, and
whatever else `datasets.load_dataset` reads, a name on the Hub included.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import yaml

from gristmill.pipeline.readers import PACKED, SUFFIXES, format_of

HUB = "hf://"
T = TypeVar("T")
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
    """The data files behind `path`, in order.

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
            f"there is nothing at {path}: give a file, a folder, or {HUB}org/name@revision"
        )
    if place.is_dir():
        place = place.resolve()  # `latest` is a link: the version that it names is what is read
        found = _with_layout(place, split, cache)
        if found:
            return found
    if split is not None:
        raise ValueError(f"{place.name} has no splits: leave split={split!r} out")
    if place.is_dir():
        return _plain(place) or _loaded(str(place), place.name, split, cache)
    if format_of(place) is None:
        raise ValueError(f"{place.name} has no known format; known are {', '.join(SUFFIXES)}")
    return [Found(path=place, name=place.name, source=stem(place.name))]


def stem(name: str) -> str:
    """A file's name without its extensions, the packed one too; its folders stay."""
    path = PurePosixPath(name)
    path = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)


def _plain(folder: Path) -> list[Found]:
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and _is_data(p, folder)]
    names = [p.relative_to(folder).as_posix() for p in paths]
    if len(names) == 1:
        return [Found(path=paths[0], name=names[0], source=stem(paths[0].name))]
    stems = Counter(map(stem, names))  # a.csv beside a.jsonl: then the extension is the name
    return [
        Found(path=p, name=n, source=stem(n) if stems[stem(n)] == 1 else n)
        for p, n in zip(paths, names, strict=True)
    ]


def _is_data(path: Path, folder: Path) -> bool:
    if any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
        return False
    return stem(path.name).lower() not in _ABOUT and format_of(path) is not None


def _with_layout(folder: Path, split: str | None, cache: Path) -> list[Found]:
    """The files of a folder with a layout of its own, or none."""
    card = _card(folder)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        paths = _saved(folder, split)
    elif card.get("configs"):
        paths = _configured(folder, card["configs"], split)
        if not paths or any(format_of(p) is None for p in paths):
            return _loaded(str(folder), folder.name, split, cache)
    else:
        return []
    published = (folder / "_SUCCESS").exists()  # one of ours: <name>/<version>
    source = f"{folder.parent.name}/{folder.name}" if published else folder.name
    license = card.get("license")
    license = license if isinstance(license, str) and license not in ("other", "unknown") else None
    return [
        Found(path=p, name=p.relative_to(folder).as_posix(), source=source, license=license)
        for p in paths
    ]


def _card(folder: Path) -> Mapping[str, Any]:
    """The front matter of the folder's data set card."""
    readme = folder / "README.md"
    text = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(f"{folder.name}/README.md opens with YAML that does not parse") from error
    return front if isinstance(front, dict) else {}


def _configured(folder: Path, configs: Any, split: str | None) -> list[Path]:  # noqa: ANN401
    """The files of the default config; none where the card is written in a way of its own."""
    configs = [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []
    default = [c for c in configs if c.get("default") or c.get("config_name") == "default"]
    if not default and len(configs) > 1:
        names = ", ".join(str(c.get("config_name")) for c in configs)
        raise ValueError(f"{folder.name} has several configs and no default ({names}): give files")
    files = (default or configs or [{}])[0].get("data_files")
    if isinstance(files, str) or (isinstance(files, list) and isinstance(files[0], str)):
        files = [{"split": "train", "path": files}]
    if not isinstance(files, list):
        return []
    splits: dict[str, list[Path]] = {}
    for entry in files:
        patterns = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
        found = [p for pattern in patterns for p in sorted(folder.glob(pattern))]
        splits.setdefault(str(entry["split"]), []).extend(found)
    return _choose(splits, split, folder.name)


def _saved(folder: Path, split: str | None) -> list[Path]:
    """The Arrow files that `save_to_disk` wrote."""
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
        folder = _choose({name: folder / name for name in names}, split, folder.name)
    elif split is not None:
        raise ValueError(f"{folder.name} has no splits: leave split={split!r} out")
    state = json.loads((folder / "state.json").read_text("utf-8"))
    return [folder / file["filename"] for file in state["_data_files"]]


def _loaded(
    name: str, source: str, split: str | None, cache: Path, revision: str | None = None
) -> list[Found]:
    """What `datasets` makes of a folder or a name on the Hub: Arrow files, in `cache`."""
    import datasets

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

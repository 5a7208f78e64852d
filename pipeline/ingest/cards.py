"""Data set cards: the front matter of README.md, the licence it declares and its `configs:`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gristmill.pipeline.ingest import folders
from gristmill.pipeline.records import yaml_text

CARD = "README.md"
_FRONT = re.compile(r"\s*---[ \t]*\n(?P<yaml>.*?\n)?---[ \t]*(\n|$)", re.DOTALL)
_NO_LICENSE = ("other", "unknown", "per-source")  # words that name none


def read(folder: Path) -> Mapping[str, Any]:
    """The front matter of the folder's card; empty without a card."""
    if not (folder / CARD).is_file():
        return {}
    folders.check_inside(folder, CARD)
    return front_matter(folder / CARD, f"{folder.name}/{CARD}")


def front_matter(path: Path, name: str) -> Mapping[str, Any]:
    """The front matter of a card.

    Args:
        path: the card.
        name: its name, for people.
    """
    text = re.sub(r"\r\n?", "\n", yaml_text.read(path, "replace"))
    found = _FRONT.match(text)
    if found is None:
        return {}
    try:
        front = yaml_text.parse(found["yaml"] or "")
    except ValueError as error:
        raise ValueError(f"{name} opens with YAML that does not parse: {error}") from error
    return front if isinstance(front, dict) else {}


def of_hub(name: str, revision: str | None) -> str | None:
    """The licence that the card of a data set on the Hub declares, where it can be had."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        path = huggingface_hub.hf_hub_download(name, CARD, repo_type="dataset", revision=revision)
    except (OSError, ValueError, HfHubHTTPError):  # no card, or offline
        return None
    return license_of(front_matter(Path(path), f"{name}/{CARD}"))


def license_of(front: Mapping[str, Any]) -> str | None:
    """The licence that a card declares; of several all, of `other` the name that it is given."""
    declared = front.get("license")
    names = declared if isinstance(declared, list) else [declared]
    told = [n.strip() for n in names if isinstance(n, str)]
    if "other" in [n.lower() for n in told] and isinstance(front.get("license_name"), str):
        told.append(front["license_name"].strip())
    told = [n for n in told if n and n.lower() not in _NO_LICENSE]
    return ", ".join(told) or None


def splits(folder: Path, configs: Any) -> dict[str, list[str]]:  # noqa: ANN401  (YAML)
    """The files of the default config, by split; none where it is written in a way of its own."""
    configs = [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []
    for config in configs:  # those too that only `datasets` will read
        for pattern in _texts([config.get("data_files"), config.get("data_dir")]):
            folders.check_pattern(pattern, f"{folder.name}/{CARD}")
    default = [c for c in configs if c.get("default") or c.get("config_name") == "default"]
    if not default and len(configs) > 1:
        names = ", ".join(str(c.get("config_name")) for c in configs)
        raise ValueError(f"{folder.name} has several configs and no default ({names}): give files")
    config = (default or configs or [{}])[0]
    home = config["data_dir"].strip("/") + "/" if isinstance(config.get("data_dir"), str) else ""
    found: dict[str, list[str]] = {}
    for split, patterns in _data_files(config.get("data_files")):
        held = found.setdefault(split, [])
        for pattern in _texts(patterns):
            for path in sorted(folder.glob(home + pattern)):
                name = path.relative_to(folder).as_posix()
                if not path.is_dir() and name not in held:
                    folders.check_inside(folder, name)
                    held.append(name)
    return found


def _data_files(files: object) -> list[tuple[str, object]]:
    """Split and patterns, in the forms in which cards are written."""
    match files:
        case str():
            return [("train", files)]
        case dict():
            return [(str(split), patterns) for split, patterns in files.items()]
        case list() if all(isinstance(f, str) for f in files):
            return [("train", files)]
        case list() if all(isinstance(f, dict) for f in files):
            return [(str(entry.get("split", "train")), entry.get("path")) for entry in files]
    return []


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

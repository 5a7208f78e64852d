"""Versions of a dataset: folders `v<N>-<key8>` and the relative link `latest`."""

from pathlib import Path

from gristmill.pipeline.export import verify
from gristmill.pipeline.store import remove


def versions(home: Path) -> list[Path]:
    """The version folders of a dataset, in no order."""
    return [p for p in home.glob("v*-*") if p.is_dir() and p.name[1:].split("-")[0].isdigit()]


def newest(home: Path) -> Path | None:
    """The version with the highest number."""
    return max(versions(home), key=number, default=None)


def number(version: Path | None) -> int:
    """The N of `v<N>-<key8>`; 0 for none."""
    return 0 if version is None else int(version.name[1:].split("-")[0])


def finished(home: Path, key: str) -> Path | None:
    """The version with this key, if it is whole.

    A marked version that is not as it was published is the user's to look at. One without
    its mark was cut off after the rename: if its sums match it is marked now,
    else it is removed and made again.
    """
    for folder in versions(home):
        if not folder.name.endswith(f"-{key[:8]}"):
            continue
        if (folder / verify.SUCCESS).exists():
            problem = verify.resized(folder) or next(iter(verify.verify(folder)), None)
            if problem is not None:
                raise ValueError(f"{folder} is damaged ({problem}): remove it and export again.")
            return folder
        if (folder / verify.SUMS).exists() and not verify.contents(folder):
            verify.succeed(folder)
            return folder
        remove(folder)
    return None


def point(home: Path, version: Path) -> None:
    """Let `latest` name a version, in one rename. Call it under the lock of `home`."""
    link = home / ".latest"
    remove(link)
    link.symlink_to(version.name)
    link.rename(home / "latest")

"""Push: a published folder to a dataset repository of the hub, with one tag a version."""

from pathlib import Path
from typing import Any, Protocol

from gristmill.pipeline.export.verify import verify


class Hub(Protocol):
    """The part of `huggingface_hub.HfApi` that is used."""

    def create_repo(self, repo_id: str, **options: Any) -> Any: ...  # noqa: ANN401

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: Any) -> Any: ...  # noqa: ANN401

    def create_tag(self, repo_id: str, *, tag: str, **options: Any) -> Any: ...  # noqa: ANN401


def push(
    folder: Path, repo: str, *, tag: str | None = None, private: bool = True, api: Hub | None = None
) -> str:
    """Upload a published version and tag the commit; return the tag, which readers pin.

    The token comes from the environment (HF_TOKEN) or the hub's own login; it is never a parameter,
    so it enters no log. A folder that does not verify is not sent.

    Args:
        folder: a published version (or its `latest` link).
        repo: "owner/name".
        tag: name of the tag; by default the version.
        private: whether a repository that does not exist yet is made private.
        api: the hub; by default the real one.
    """
    if repo.count("/") != 1:
        raise ValueError(f"repo={repo!r} must be owner/name.")
    folder = Path(folder).resolve()
    if problems := verify(folder):
        raise ValueError(f"{folder.name} is not whole and was not pushed: {problems[0]}.")
    hub = _hub() if api is None else api
    tag = tag or folder.name
    hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        repo_type="dataset",
        commit_message=f"Publish {folder.name}",
        delete_patterns=["data/*", "ledger/*", "conversation/*", "single/*"],  # of older versions
    )
    hub.create_tag(repo, tag=tag, revision=commit.oid, repo_type="dataset", exist_ok=False)
    return tag


def _hub() -> Hub:
    from huggingface_hub import HfApi

    hub: Any = HfApi()
    return hub  # type: ignore[no-any-return]

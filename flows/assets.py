"""Assets: a published dataset, and a model that was trained on one, as Prefect's assets.

The open-source server has no page of assets; it keeps their events, which say what was made of
what. A dataset is one asset, of which each version is a materialization; so is a model by its
folder. What is true of a version stands in its manifest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE

from gristmill.flows import publishing
from gristmill.flows.config import PoolConfig


def dataset(config: PoolConfig, folder: Path) -> None:
    """A published version, and the files or data sets that it was made from."""
    sources = [key(s.path) for s in config.sources]
    _made(key(str(folder.parent)), config.name, sources, publishing.facts(folder))


def model(reference: str, version: str) -> None:
    """A trained model, and the version that it was trained on."""
    folder = Path(version)
    facts = {"reference": reference, "trained_on": folder.name}
    _made(key(reference), f"model of {folder.parent.name}", [key(str(folder.parent))], facts)


def key(path: str) -> str:
    """The key of a path, or of an address: what events of the asset have as their resource."""
    if "://" in path:
        return path
    return f"file://{quote(str(Path(path).expanduser().absolute()))}"


def _made(asset: str, name: str, of: Sequence[str], facts: Mapping[str, Any]) -> None:
    """One materialization, as a task of the run that goes on."""
    made = Asset(key=asset, properties=AssetProperties(name=name))

    @materialize(
        made,
        name="asset",
        task_run_name=f"asset-{name}",
        asset_deps=list(dict.fromkeys(of)),
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def tell() -> None:
        add_asset_metadata(made, dict(facts))

    tell()

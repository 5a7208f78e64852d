"""Assets: a published dataset, and a model that was trained on one, as Prefect's assets.

The open-source server has no page of assets; it keeps their events, which say what was made of
what. A dataset is one asset, of which each version is a materialization; so is a model by its
folder. What is true of a version stands in its manifest.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE

from gristmill.flows import publishing
from gristmill.flows.config import PoolConfig

_REFUSED = re.compile(r"""[\s\0#?&%"'<>\[\]{}|\\^`]""")
_LONGEST = 500


def dataset(config: PoolConfig, folder: Path) -> None:
    """A published version, and the files or data sets that it was made from."""
    sources = [key(s.path) for s in config.sources]
    _made(key(str(folder.parent)), config.name, sources, publishing.facts(folder))


def model(reference: str, version: Path) -> None:
    """A trained model, and the version that it was trained on."""
    facts = {"reference": reference, "trained_on": version.name}
    of = [key(str(version.parent))]
    _made(key(reference), f"model of {version.parent.name}", of, facts)


def key(path: str) -> str:
    """The key of a path, or of an address: what events of the asset have as their resource.

    Prefect refuses some characters, and long keys: what is replaced is told apart by a hash.
    """
    whole = path if "://" in path else f"file://{Path(path).expanduser().absolute()}"
    plain = _REFUSED.sub("_", whole)[:_LONGEST]
    if plain == whole:
        return whole
    return f"{plain}-{hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()}"


def _made(asset: str, name: str, of: Sequence[str], facts: Mapping[str, Any]) -> None:
    """One materialization, as a task of the run that goes on."""
    made = Asset(key=asset, properties=AssetProperties(name=name))
    upstream: list[str | Asset] = list(dict.fromkeys(of))

    @materialize(
        made,
        name="asset",
        task_run_name=f"asset-{name}",
        asset_deps=upstream,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def tell() -> None:
        add_asset_metadata(made, dict(facts))

    tell()

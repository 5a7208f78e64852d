"""Files of settings: which flow one is for, and what it says."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.config import (
    CleanConfig,
    CleanRunConfig,
    CurateConfig,
    RunConfig,
    checked,
    settings_in,
    validated,
)
from gristmill.flows.evaluate_config import EvaluateConfig
from gristmill.flows.finetune_config import FinetuneRunConfig
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.flows.prefer_config import PreferConfig
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.settings import Settings
from gristmill.flows.synthesis_config import SynthesizeConfig
from gristmill.pipeline.records.build import did_you_mean

S = TypeVar("S", bound=Settings)
# In the order in which their own keys are looked for.
FLOWS: dict[str, type[Settings]] = {
    "curate": CurateConfig,
    "synthesize": SynthesizeConfig,
    "prefer": PreferConfig,
    "refine-pairs": RefineConfig,
    "finetune": FinetuneRunConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "nightly": NightlyConfig,  # what it shares with a curate run is a curate run's
    "clean": CleanRunConfig,
}
SHARED = set(RunConfig.model_fields)
# A clean run has no key of its own: it is what is left.
OWN = {flow: set(c.model_fields) - SHARED for flow, c in FLOWS.items() if flow != "clean"}


def flow_of(values: Mapping[Any, Any]) -> str:
    """The flow that settings are for, by their keys; a key may be misspelt.

    "cleaners" are the settings of `gristmill clean --config`, which name no rows.
    """
    keys = [str(key) for key in values]
    if keys and set(keys) <= set(CleanConfig.model_fields):
        return "cleaners"
    told = [key for key in keys if key not in SHARED]  # `models` is no misspelt `model`
    counts = {flow: _hits(told, own) for flow, own in OWN.items()}
    best = max(counts, key=lambda flow: counts[flow])
    if counts[best]:
        return best
    return "clean" if _hits(keys, {"sources"}) else "curate"


def read_any(path: Path) -> tuple[str, Settings]:
    """The flow that a YAML file is for, and its settings.

    Raises:
        Problems: what is wrong with it, a sentence each.
    """
    values = settings_in(path, "`name:`, `sources:` ... (`gristmill init` writes a file)")
    flow = flow_of(values)
    model = CleanConfig if flow == "cleaners" else FLOWS[flow]
    return flow, validated(model, values, str(path))


def read_as(path: Path, flow: str) -> Settings:
    """The settings of a YAML file for a flow that is named."""
    if flow not in FLOWS:
        meant = did_you_mean(flow, FLOWS)
        raise ValueError(f"there is no flow {flow!r}; there are: {', '.join(FLOWS)}{meant}")
    return checked(FLOWS[flow], path)


def _hits(keys: Iterable[str], own: Iterable[str]) -> int:
    known = list(own)
    return sum(bool(difflib.get_close_matches(key, known, n=1, cutoff=0.8)) for key in keys)


def called(flow: str) -> str:
    """What a file is, in words."""
    words = {
        "evaluate": "an evaluation",
        "clean": "a clean run: no method is named, all that cleaning leaves is published",
        "cleaners": "cleaners for `gristmill clean --config`",
    }
    return words.get(flow, f"a {flow} run")


def limited(settings: S, rows: int | None) -> S:
    """The same run on the first rows of every file of its sources, published under another name.

    Args:
        settings: of a flow.
        rows: of each file; None: all.

    Raises:
        ValueError: the run has no sources.
    """
    if rows is None:
        return settings
    if isinstance(settings, EvaluateConfig):
        return settings.limited(rows)
    if "sources" not in vars(settings):
        raise ValueError("--limit reads fewer rows of every source, and this run has no sources.")
    sources = [s.model_copy(update={"limit": rows}) for s in vars(settings)["sources"]]
    name = f"{vars(settings)['name'][:76]}-try"
    return settings.model_copy(update={"sources": sources, "name": name})


def capped(settings: S, caps: Mapping[str, float | None], where: str) -> S:
    """The same run with these caps in the place of the file's.

    Args:
        settings: of a flow.
        caps: by name; None: as the file says.
        where: how sentences about them begin: the file.
    """
    given = {name: value for name, value in caps.items() if value is not None}
    if not given:
        return settings
    values = settings.model_dump(exclude_unset=True)
    asked = {**values.get("limits", {}), **given}
    return validated(type(settings), {**values, "limits": asked}, where)

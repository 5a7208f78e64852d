"""What runs that make records share: money they can count, and the curate run over the records."""

from typing import Any, Protocol

from pydantic import ValidationError

from gristmill.flows.config import CurateConfig
from gristmill.flows.problems import sentences
from gristmill.flows.settings import LimitsConfig


class Makes(Protocol):
    """The settings of a run that makes records."""

    name: str
    store: str
    limits: LimitsConfig
    curate: dict[str, Any] | None


def curation(config: Makes, records: str) -> CurateConfig | None:
    """The curate run over what a run makes, if one is wanted.

    Args:
        config: of the run that makes them.
        records: file of the records.
    """
    if config.curate is None:
        return None
    given: dict[str, Any] = {
        "name": config.name,
        "sources": [{"path": records}],
        "store": config.store,
    }
    if config.limits.any:  # of the run as a whole
        hours = {**config.limits.model_dump(), "max_money": None}
        given["limits"] = config.limits.model_dump() if config.limits.hour_price else hours
    return CurateConfig.model_validate({**given, **config.curate})


def demand_curation(config: Makes) -> None:
    """Say now what would fail after hours.

    Raises:
        ValueError: the settings of the curate run are wrong.
    """
    try:
        curation(config, "records")
    except ValidationError as error:
        told = " ".join(f"curate: {s}" for s in sentences(error, CurateConfig))
        raise ValueError(told) from None


def demand_prices(limits: LimitsConfig, *, priced: bool) -> None:
    """Refuse a cap on money where nothing has a price.

    Args:
        limits: of the run.
        priced: whether answers have a price.

    Raises:
        ValueError: nothing does.
    """
    if limits.max_money is not None and not (limits.hour_price or priced):
        raise ValueError(
            "limits.max_money caps nothing here: give price_in and price_out, or limits.hour_price"
        )

"""Likelihood: what a language model's loss on a record says of it.

l_t = -log p(x_t | x_<t), in nats, one value per predicted token; a score is a mean, a ratio or a
difference of such values under one or several models and views.
"""

from collections.abc import Mapping
from typing import Any

from gristmill.pipeline.records.schema import digest


def question(row: Mapping[str, Any]) -> str:
    """Names what stands before the last assistant turn of an example: equal for equal questions."""
    turns = row["messages"]
    last = max((i for i, m in enumerate(turns) if m["role"] == "assistant"), default=len(turns))
    return digest([[[m["role"], m["content"], m.get("extra")] for m in turns[:last]], row["tools"]])

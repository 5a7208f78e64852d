"""Truncation: what a trainer sees of an answer, by the target's template, tokens and limit."""

from collections.abc import Callable, Mapping
from typing import Any

from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.signals.views import Dialogue
from gristmill.synthesis.preference.prompts import Prompt


def truncation(
    files: ModelFiles, passes: Passes, prompts: Mapping[str, Prompt]
) -> Callable[[str, str], Any]:
    """Prompt id and answer to the token ids that are left of both under the limit.

    Args:
        files: the target.
        passes: the limit.
        prompts: by id.
    """
    chat, view = passes.chat(files), Dialogue()

    def shown(prompt: str, text: str) -> Any:  # noqa: ANN401  (compared, never read)
        asked = prompts[prompt]
        reply = {"role": "assistant", "content": text.strip(), "extra": None}
        record = {"messages": [*asked.messages, reply], "tools": asked.tools}
        encoded = view.encode(record, chat)
        return tuple(encoded.ids) if encoded.reason is None else encoded.reason.partition(":")[0]

    return shown

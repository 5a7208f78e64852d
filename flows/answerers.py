"""Who answers: settings of a back end to the back end itself."""

from pathlib import Path

from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.models.completion.requests import CompletionBackend
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records import json_text


def answerer(role: str, who: AnswererConfig, models: Models, passes: Passes) -> CompletionBackend:
    """The back end that the settings name: recorded answers, an endpoint, or a model in memory.

    Args:
        role: what it is asked for; the model in memory is bound to it.
        who: the settings.
        models: of the run.
        passes: how the model in memory is run.
    """
    if who.recorded is not None:
        from gristmill.pipeline.models.completion.recorded import Recorded

        path = Path(who.recorded)
        if not path.is_file():
            raise ValueError(f"{role}.recorded: there is no file {path}.")
        return Recorded(answers=_recorded(path, role), model=path.stem, role=role)
    assert who.model is not None, "checked by the settings"
    if who.url is not None:
        from gristmill.pipeline.models.completion.endpoint import Endpoint

        return Endpoint(
            url=who.url, model=who.model, key_variable=who.key_variable, workers=who.workers
        )
    from gristmill.pipeline.models.completion.local import Local

    (files,) = models.files(role)
    return Local(loaded=models.load(files, passes))


def _recorded(path: Path, role: str) -> dict[str, str]:
    """The answers in a file, by the id of their request."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line.decode())
            found[row["id"]] = row["text"]
        except (ValueError, LookupError, TypeError):
            raise ValueError(
                f"{role}.recorded: line {number} of {path} is not a JSON object with `id` and "
                "`text`: mend the line, or record the answers again."
            ) from None
    return found

"""Who answers: settings of a back end to the back end itself."""

import json
from pathlib import Path

from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.models.completion.requests import CompletionBackend
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models


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
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
        answers = {r["id"]: r["text"] for r in rows}
        return Recorded(answers=answers, model=path.stem, role=role)
    assert who.model is not None, "checked by the settings"
    if who.url is not None:
        from gristmill.pipeline.models.completion.endpoint import Endpoint

        return Endpoint(
            url=who.url, model=who.model, key_variable=who.key_variable, workers=who.workers
        )
    from gristmill.pipeline.models.completion.local import Local

    (files,) = models.files(role)
    return Local(loaded=models.load(files, passes))

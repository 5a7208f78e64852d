"""The settings of benchmarks: which tasks, on which files."""

from pydantic import ConfigDict, Field

from gristmill.flows.settings import Settings


class TasksConfig(Settings):
    """Benchmarks through lm-evaluation-harness, on local files."""

    model_config = ConfigDict(extra="forbid", title="Tasks")
    names: list[str] = Field(
        min_length=1, description="arc_easy, gsm8k, bbh ..., or the path of a task file"
    )
    data: str | None = Field(
        None, description="folder of the tasks' data files; default: eval of GRISTMILL_DATA"
    )
    limit: int | None = Field(None, ge=1, description="the first so many items of each task")
    subsets: list[str] = Field(
        default_factory=list,
        description="files of `gristmill compress`: their tasks are asked a few items, which tell "
        "the figure on all of them",
    )
    chat_template: bool = Field(False, description="prompts are turns of a chat")
    batch_size: int = Field(
        1, ge=1, description="any but 1 may change the last digits of the figures"
    )

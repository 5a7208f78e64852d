"""How each trainer loads the folder: files it can take as they are, and lines for the card.

TRL's file names the config whose masks were checked (`trainer_rows`), where there is one. Its file
for other models leaves masks to TRL, and lets it stop rather than train on prompts.

The rules that TRL, LLaMA-Factory, axolotl and open-instruct apply in silence are checked here by
`problems`, since a row that breaks them would be dropped or masked without a word.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import yaml

from gristmill.pipeline.export import trainer_rows
from gristmill.pipeline.records import json_text
from gristmill.pipeline.report.facts import Config, Facts
from gristmill.pipeline.report.markdown import cell
from gristmill.pipeline.report.rendered import TrainerRows

_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function",
    "system_tag": "system",
}


def files(facts: Facts) -> dict[str, str]:
    """Path -> text of the loader files, which work from within the folder."""
    hub = "# On the Hub: path: OWNER/NAME, name: {}, revision: TAG, and no data_files."
    read = _read_by_trl(facts).name
    made = {
        "loaders/trl.yaml": f"{hub.format(read)}\n{_yaml(trl(facts))}",
        "loaders/open_instruct.txt": open_instruct(facts) + "\n",
        "dataset_info.json": json_text.published(llama_factory(facts), indent=1) + "\n",
    }
    if "completion" not in facts.default.columns:  # axolotl reads chats, pairs and texts
        made["loaders/axolotl.yaml"] = f"{hub.format('default')}\n{_yaml(axolotl(facts))}"
    for name, config in _further(facts).items():
        made[f"loaders/trl_{name}.yaml"] = (
            f"{hub.format(config.name)}\n{_yaml(further(facts, name))}"
        )
    if facts.trainer_rows is not None:
        made[OTHER_MODELS] = f"{hub.format('default')}\n{_yaml(trl_rendered_by_itself(facts))}"
    return made


def trl(facts: Facts) -> dict[str, Any]:
    """A config file of TRL's commands: the rows whose masks were checked, where there are any."""
    ready = facts.trainer_rows
    if ready is None:
        return {**trl_rendered_by_itself(facts), **_model(facts)}
    made = _for_trl(facts, _read_by_trl(facts), trainer_rows.columns(ready.config))
    return {**made, **_model(facts), "max_length": ready.limit}


def trl_rendered_by_itself(facts: Facts) -> dict[str, Any]:
    """The same where TRL renders the chats, with the template of whatever model it trains."""
    made = _for_trl(facts, facts.default, [c for c in facts.default.columns if c in _CONTENT])
    if "messages" in facts.default.columns:
        made["assistant_only_loss"] = True  # else the prompts would be trained as well
    return made


def further(facts: Facts, name: str) -> dict[str, Any]:
    """A config file of `trl reward`, `trl kto` or `trl grpo`, which renders with its model."""
    config = _further(facts)[name]
    columns = [c for c in config.columns if c in _CONTENT + _VERIFIED[name]]
    return {**_for_trl(facts, config, columns), **_model(facts)}


def _further(facts: Facts) -> dict[str, Config]:
    """TRL's further commands, and the config that each reads."""
    found = {c.name: c for c in facts.configs}
    reads = {
        "reward": found.get("reward", found.get("conversation")),
        "kto": found.get("kto"),
        "grpo": found.get("grpo"),
    }
    return {name: config for name, config in reads.items() if config is not None}


def _for_trl(facts: Facts, config: Config, columns: list[str]) -> dict[str, Any]:
    """`path: .` is nothing that `datasets` loads; results go beside the versions."""
    pattern = f"{config.folder}/train-*.parquet"
    block = {"path": "parquet", "data_files": pattern, "split": "train", "columns": columns}
    # TRL's own default for bf16, true, stops where there is no GPU
    return {"datasets": [block], "output_dir": f"../trained-{facts.version}", "bf16": False}


def _read_by_trl(facts: Facts) -> Config:
    ready = facts.trainer_rows
    return next((c for c in facts.configs if ready and c.name == ready.config), facts.default)


def _model(facts: Facts) -> dict[str, str]:
    """The target as TRL finds it anywhere: on the Hub, or a folder by its full name."""
    found = re.fullmatch(
        r"([\w.-]+/[\w.-]+)(?:@(.+))?|(/.+)", str(facts.tokenizer.get("model", ""))
    )
    if found is None:
        return {}
    named = {"model_name_or_path": found[1] or found[3]}
    return named | ({"model_revision": found[2]} if found[2] else {})


def trl_command(facts: Facts, file: str = "loaders/trl.yaml", verb: str | None = None) -> str:
    """The command of the card, to be given from within the folder."""
    verb = verb or ("dpo" if facts.kind == "pair" else "sft")
    command = f"trl {verb} --config {file}"
    known = file != OTHER_MODELS and "model_name_or_path" in trl(facts)
    return command if known else f"{command} --model_name_or_path MODEL"


def axolotl(facts: Facts) -> dict[str, Any]:
    """The `datasets` block of axolotl: loss on assistant turns and on their end tokens."""
    block: dict[str, Any] = {
        "path": facts.default.folder,
        "ds_type": "parquet",
        "data_files": _train(facts.default.splits),
        "split": "train",
    }
    if facts.kind == "document":
        return {"datasets": [{**block, "type": "completion", "field": "text"}]}
    if facts.kind == "pair":
        pair = {**block, "type": "chat_template.default", "field_messages": "prompt"}
        return {"rl": "dpo", "datasets": [pair]}
    return {
        "datasets": [
            {
                **block,
                "type": "chat_template",
                "field_messages": "messages",
                "roles_to_train": ["assistant"],
                "train_on_eos": "turn",
            }
        ]
    }


def llama_factory(facts: Facts) -> dict[str, Any]:
    """dataset_info.json; `dataset_dir` is this folder by its full name. Pairs need `single`.

    No entry is made where it would drop or empty rows in silence: pairs whose answers are lists,
    and turns with tool calls (its sharegpt reader takes their text alone).
    """
    name = re.sub(r"\W+", "_", facts.title.lower()).strip("_") or "curated"
    entry: dict[str, Any] = {"script_url": ".", "subset": "default", "split": "train"}
    if facts.kind == "document":
        return {name: {**entry, "columns": {"prompt": "text"}}}
    if facts.kind == "pair":
        if _rich(facts):
            return {}
        shapes: dict[str, dict[str, Any]] = {
            "single": {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"},
            "kto_messages": {"messages": "messages", "kto_tag": "label"},
        }
        entry |= {"formatting": "sharegpt", "tags": _TAGS}
        ranking = {"single": {"ranking": True}, "kto_messages": {}}
        called = {"single": name, "kto_messages": f"{name}_kto"}
        return {
            called[c.name]: {
                **entry,
                "subset": c.name,
                **ranking[c.name],
                "columns": shapes[c.name],
            }
            for c in facts.configs
            if c.name in shapes
        }
    if "messages" not in facts.default.columns or _rich(facts):
        return {}
    columns = {"messages": "messages"}
    if "tools" in facts.default.columns:
        columns["tools"] = "tools"
    return {name: {**entry, "formatting": "sharegpt", "columns": columns, "tags": _TAGS}}


def open_instruct(facts: Facts) -> str:
    """open-instruct's mixer arguments: no config can be named, so pairs name one file."""
    if facts.kind == "pair":
        whole = [c for c in facts.configs if c.name == "conversation"]
        if not whole:
            return "open-instruct trains on whole conversations: export with the view conversation."
        return f"--mixer_list {' '.join(f'{p} 1.0' for p in _train(whole[0].splits))}"
    return f"--dataset_mixer_list {' '.join(f'{p} 1.0' for p in _train(facts.default.splits))} " + (
        "--dataset_mixer_list_splits train"
    )


def section(facts: Facts) -> str:
    """The card's lines, one a trainer."""
    lines = [
        ("datasets", 'load_dataset("OWNER/NAME"), or this folder; config "ledger" has the ledger'),
        ("polars", f'pl.read_parquet("{facts.default.folder}/train-*.parquet")'),
        ("TRL", trl_command(facts)),
        ("open-instruct", open_instruct(facts)),
    ]
    lines += [
        (f"TRL, {name}", trl_command(facts, f"loaders/trl_{name}.yaml", name))
        for name in _further(facts)
    ]
    lines += [
        ("LLaMA-Factory", f"dataset_dir: this folder, by its full name; dataset: {name}")
        for name in llama_factory(facts)
    ]
    if facts.trainer_rows is not None:
        lines.insert(3, ("TRL, others", trl_command(facts, OTHER_MODELS)))
    if "loaders/axolotl.yaml" in files(facts):
        lines.append(("axolotl", "loaders/axolotl.yaml"))
    text = "```text\n" + "\n".join(f"{who:14} {how}" for who, how in lines) + "\n```"
    warnings = [
        f"{count:,} shipped rows break a rule of some trainers ({rule}): LLaMA-Factory drops them."
        for rule, count in sorted(facts.misfits.items())
    ]
    if _rich(facts):
        warnings.append(
            "Some turns hold tool calls or other fields, so turns are JSON: `datasets` reads them "
            "as they were from 4.7 on; older releases, and trainers that pin one, cannot."
        )
    return "\n\n".join([text, _masks(facts), *warnings])


def _masks(facts: Facts) -> str:
    """What the commands for TRL train, in sentences."""
    where = (
        "Commands are given from within this folder; MODEL is the model to train, results go to "
        f"`../trained-{facts.version}`. On a GPU add `--bf16 true`."
    )
    ready = facts.trainer_rows
    if ready is None:
        return f"{where} {_by_itself(facts)}"
    return f"{where} {_as_checked(facts, ready)} TRL, others: {_by_itself(facts)}"


def _as_checked(facts: Facts, ready: TrainerRows) -> str:
    name = facts.tokenizer.get("id", "the target")
    left = ", ".join(f"{reason} {n:,}" for reason, n in ready.left_out.items())
    out = f" Left out of it: {left}." if left else ""
    return (
        f"TRL reads the config `{ready.config}` ({ready.rows:,} rows), made for the tokenizer of "
        f"{cell(name)} alone: its masks are those of the render check, and {ready.trained:,} of "
        f"{ready.tokens:,} tokens ({ready.share:.1%}) carry loss.{out}"
    )


def _by_itself(facts: Facts) -> str:
    """What TRL does with chats that it renders."""
    if facts.kind == "document":
        return "Every token of a document carries loss."
    if facts.kind == "pair":
        return (
            "TRL renders the pairs with the model's template: all that follows the prompt is the "
            "answer, the line break behind an end marker included."
        )
    if "messages" in facts.default.columns:
        return (
            "TRL renders the chats, and `assistant_only_loss` keeps the loss on answers; it knows "
            "how for the templates of common families, and stops at others."
        )
    return (
        "TRL renders the chats with the model's template: all that follows the prompt is the "
        "answer, the line break behind an end marker included."
    )


def problems(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """(id, rule) of the rows that a trainer would drop or misread in silence.

    LLaMA-Factory wants user or tool turns to alternate with assistant turns after an optional
    system turn, ending with the assistant; axolotl and TRL take one assistant message as answer.
    """
    column = next(c for c in ("messages", "prompt", "text") if c in frame.columns)
    if column == "text":
        return []
    pair = "rejected" in frame.columns
    found = []
    for row in frame.iter_rows(named=True):
        turns = list(row[column])
        if "completion" in row:
            turns += list(row["completion"])
        roles = [_role(t) for t in turns]
        roles = roles[1:] if roles[:1] == ["system"] else roles
        asked = {"user", "tool"}
        steps = all((r in asked) == (i % 2 == 0) for i, r in enumerate(roles))
        if not steps or bool(roles) is False or (len(roles) % 2 == 0) == pair:
            found.append((row["id"], "turns do not alternate"))
        for side in ("chosen", "rejected") if pair else ():
            answer = row[side] if isinstance(row[side], list) else [row[side]]
            if [_role(a) for a in answer] != ["assistant"]:
                found.append((row["id"], f"{side} is not one assistant message"))
    return found


OTHER_MODELS = "loaders/trl_other_models.yaml"
_CONTENT = ("messages", "prompt", "completion", "chosen", "rejected", "text", "tools")
_VERIFIED = {"reward": ("margin",), "kto": ("label",), "grpo": ("answer",)}


def _rich(facts: Facts) -> bool:
    return any("json" in kind for kind in facts.default.columns.values())


def _role(turn: Mapping[str, Any] | str) -> str:
    return str((json.loads(turn) if isinstance(turn, str) else turn)["role"])


def _train(splits: Iterable[Any]) -> list[str]:
    return [path for split in splits if split.name == "train" for path in split.paths]


def _yaml(value: object) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False)
    return text

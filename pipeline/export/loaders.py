"""How each trainer loads the folder: files it can take as they are, and lines for the card.

The rules that TRL, LLaMA-Factory, axolotl and open-instruct apply in silence are checked here by
`problems`, since a row that breaks them would be dropped or masked without a word.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import yaml

from gristmill.pipeline.records import json_text
from gristmill.pipeline.report.facts import Facts

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
    hub = "# On the Hub: path: OWNER/NAME, name: default, revision: TAG, and no data_files."
    made = {
        "loaders/trl.yaml": f"{hub}\n{_yaml(trl(facts))}",
        "loaders/open_instruct.txt": open_instruct(facts) + "\n",
        "dataset_info.json": json_text.published(llama_factory(facts), indent=1) + "\n",
    }
    if "completion" not in facts.default.columns:  # axolotl reads chats, pairs and texts
        made["loaders/axolotl.yaml"] = f"{hub}\n{_yaml(axolotl(facts))}"
    return made


def trl(facts: Facts) -> dict[str, Any]:
    """The `datasets` block of TRL's scripts: `path: .` is nothing that `datasets` loads."""
    columns = [c for c in facts.default.columns if c in _CONTENT]
    pattern = f"{facts.default.folder}/train-*.parquet"
    block = {"path": "parquet", "data_files": pattern, "split": "train", "columns": columns}
    return {"datasets": [block]}


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
        if "single" not in {c.name for c in facts.configs} or _rich(facts):
            return {}
        columns = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}
        entry |= {"subset": "single", "formatting": "sharegpt", "ranking": True}
        return {name: {**entry, "columns": columns, "tags": _TAGS}}
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
    stage = "dpo" if facts.kind == "pair" else "sft"
    lines = [
        ("datasets", 'load_dataset("OWNER/NAME"), or this folder; config "ledger" has the ledger'),
        ("polars", f'pl.read_parquet("{facts.default.folder}/train-*.parquet")'),
        ("TRL", f"trl {stage} --config loaders/trl.yaml"),
        ("open-instruct", open_instruct(facts)),
    ]
    lines += [
        ("LLaMA-Factory", f"dataset_dir: this folder, by its full name; dataset: {name}")
        for name in llama_factory(facts)
    ]
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
    return "\n\n".join([text, *warnings])


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


_CONTENT = ("messages", "prompt", "completion", "chosen", "rejected", "text", "tools")


def _rich(facts: Facts) -> bool:
    return any("json" in kind for kind in facts.default.columns.values())


def _role(turn: Mapping[str, Any] | str) -> str:
    return str((json.loads(turn) if isinstance(turn, str) else turn)["role"])


def _train(splits: Iterable[Any]) -> list[str]:
    return [path for split in splits if split.name == "train" for path in split.paths]


def _yaml(value: object) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False)
    return text

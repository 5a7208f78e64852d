"""What a record says: one definition for cleaners, embedders, export and statistics.

A message says its content and all of its further fields (reasoning, tool calls, names, ids): a
model is trained on them, and readers of the published data set see them. Further fields stand
beside role and content and never replace them (`OURS`).

| reader | turns | fields |
|---|---|---|
| privacy, secrets, toxicity, template leaks, n-grams of benchmarks | all, and tools | everything |
| near duplicates | all but system turns and tools, which many rows share | everything |
| exact duplicates, reference rows, identity | all, and tools | everything, as JSON |
| embedders, length, predicates (`where`) | as each says | everything |
| language, repetition, shape of prose | as each says | prose: content and reasoning, no JSON |
| refusals, benchmarks' shortest prompts | answer; prompt | content: where words begin and end |
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.records.schema import kind_of

Part = Literal["all", "dialogue", "prompt", "answer"]
Fields = Literal["everything", "prose", "content"]

# A message's own fields, under our names and those of other forms: no further field bears one.
OURS = frozenset(("role", "from", "content", "value", "extra"))
REASONING = ("reasoning_content", "reasoning", "thinking")
CALLS = ("tool_calls", "function_call")
LOSS = "weight"  # 0: the turn is shown and not trained on; it says nothing
# Keys that belong to the form of calls and tools and not to what they say.
_FORM = frozenset(
    (
        *REASONING,
        *CALLS,
        "function",
        "arguments",
        "name",
        "type",
        "id",
        "index",
        "tool_call_id",
        "description",
        "parameters",
        "properties",
        "required",
    )
)


def further(extra: str | None) -> dict[str, Any]:
    """A message's further fields, from the JSON of its `extra`."""
    found = json.loads(extra) if extra else None
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if k not in OURS}


def whole(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the object that chat templates and readers of a published data set are given."""
    own = {"role": message["role"], "content": message["content"]}
    return own | further(message.get("extra"))


def is_context(message: Mapping[str, Any]) -> bool:
    """Whether an assistant's turn is shown only, and carries no loss."""
    return bool(message.get("extra")) and further(message["extra"]).get(LOSS) == 0


def fields_of(message: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """Those of the named further fields that a message has and that say something."""
    found = further(message.get("extra"))
    return tuple(n for n in names if any(leaves(found.get(n))))


def message_text(message: Mapping[str, Any], fields: Fields = "everything") -> str:
    """What one message says, its content first."""
    parts = [message["content"]]
    if message.get("extra") and fields != "content":
        parts.append(_TOLD[fields](message["extra"]))
    return "\n".join(p for p in parts if p)


def texts(
    records: pl.DataFrame, part: Part = "dialogue", fields: Fields = "everything"
) -> pl.Series:
    """One string per record, never null; a record without such a part gives "".

    Args:
        records: examples, pairs or documents.
        part: "all" messages and the tools; the "dialogue" without system messages and tools (a long
            system prompt or tool list that rows share would make them all near duplicates); the
            "prompt" (user turns; of a pair the prompt); the "answer" (assistant turns; of a pair
            the chosen ones). A document is one text whatever the part.
        fields: "everything" that a message says, its "prose" (content and reasoning), or its
            "content" alone.
    """
    match kind_of(records.columns):
        case "document":
            columns = [pl.col("text").fill_null("")]
        case "pair":
            prompt = _message_text("prompt", None if part == "all" else "not system", fields)
            chosen, rejected = (_message_text(c, None, fields) for c in ("chosen", "rejected"))
            columns = {"prompt": [prompt], "answer": [chosen]}.get(part, [prompt, chosen, rejected])
        case "example":
            who = {"all": None, "dialogue": "not system", "prompt": "user", "answer": "assistant"}
            columns = [_message_text("messages", who[part], fields)]
    if part == "all" and fields == "everything" and "tools" in records.columns:
        columns.append(pl.col("tools").map_elements(_offered, return_dtype=pl.String))
    text = pl.concat_str(columns, separator="\n", ignore_nulls=True)
    return records.select(text.alias("text")).to_series()


def _message_text(column: str, who: str | None, fields: Fields) -> pl.Expr:
    role, content = pl.element().struct.field("role"), pl.element().struct.field("content")
    if fields != "content":
        extra = pl.element().struct.field("extra")
        told = extra.map_elements(_TOLD[fields], return_dtype=pl.String)  # nulls are left out
        content = pl.concat_str([content, told], separator="\n", ignore_nulls=True)
    if who == "not system":
        content = pl.when(~role.is_in(["system", "developer"])).then(content)
    elif who is not None:
        content = pl.when(role == who).then(content)
    return pl.col(column).list.eval(content.drop_nulls()).list.join("\n").fill_null("")


def _everything(extra: str) -> str | None:
    found = further(extra)
    if found.get(LOSS) == 0:  # it says that the turn is not trained on, and no more
        del found[LOSS]
    return "\n".join(leaves(found)) or None


def _prose(extra: str) -> str | None:
    found = further(extra)
    return "\n".join(leaves([found[k] for k in REASONING if k in found])) or None


def _offered(tools: str) -> str:
    return "\n".join(leaves(json.loads(tools)))


_TOLD: Mapping[str, Callable[[str], str | None]] = {"everything": _everything, "prose": _prose}


def leaves(value: object) -> Iterator[str]:
    """Every text and number in a JSON value, and the keys that its author chose, in order.

    Arguments are often JSON inside a string. Such a string is given as it stands and, where escapes
    hide what it says, a second time piece by piece.
    """
    stack = [value]
    while stack:
        match stack.pop():
            case str(text):
                yield text
                stack.append(_inside(text))
            case dict(mapping):
                for key, inner in reversed(mapping.items()):
                    stack += [inner] if key in _FORM else [inner, key]
            case list(items):
                stack += reversed(items)
            case None:
                pass
            case scalar:
                yield json.dumps(scalar)


def _inside(text: str) -> list[Any] | str | None:
    """What a JSON text with escapes holds; an object as the list of its keys and values."""
    if "\\" not in text or text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        found: list[Any] | str = _PAIRS.decode(text.strip())
    except (ValueError, RecursionError):
        return None
    return found


def _flat(pairs: list[tuple[str, Any]]) -> list[Any]:
    return [item for pair in pairs for item in pair]  # a key that stands twice is read twice


_PAIRS = json.JSONDecoder(object_pairs_hook=_flat)

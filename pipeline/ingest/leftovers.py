"""What a file's rows say beside what is trained on: text that stays in `meta`, named in a sentence.

Bookkeeping (ids, times, scores, names) is left in silence; a text of several words that the record
itself does not say is not.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gristmill.pipeline.ingest.columns import folded, some
from gristmill.pipeline.ingest.pairs import within
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.shapes import Shape
from gristmill.pipeline.records.schema import CONTENT

_WORDS = 4  # from which on a text says something
_SHARE = 0.1  # of the rows that must leave a text
# Words of columns that speak of a row: where it is from, what it is about, how it was judged.
_BOOKKEEPING = frozenset(
    (
        *("id", "ids", "uid", "uuid", "hash", "key", "index", "idx", "url", "urls", "link", "path"),
        *("file", "filename", "date", "time", "timestamp", "created", "updated", "author", "model"),
        *("models", "source", "license", "licence", "dataset", "split", "category", "categories"),
        *("topic", "topics", "task", "type", "tag", "tags", "label", "labels", "lang", "language"),
        *("title", "name", "names", "doc", "focus", "score", "scores", "rating", "ratings"),
        *("annotator", "annotators", "annotations", "critique", "comment", "comments", "feedback"),
        *("chapter", "section", "unit", "book", "judge", "reason", "metadata", "meta", "version"),
        *("template", "app", "domain", "parents"),
    )
)
_THOUGHTS = frozenset(
    ("thought", "thoughts", "reasoning", "rationale", "explanation", "cot", "thinking", "analysis")
)
_ANSWERS = frozenset(
    (
        *("answer", "answers", "response", "responses", "solution", "solutions", "completions"),
        *("output", "outputs", "target", "targets", "truth", "aliases", "reference", "references"),
        *("chosen", "rejected", "messages", "code", "test", "tests"),
    )
)


def sentences(name: str, shape: Shape, sample: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What there is to say of a file's columns that no field claims."""
    left: Counter[str] = Counter()
    records = 0
    for row in sample:
        try:
            record = shape.record(row, source="", license=None, revision=None)
        except BadRow:
            continue
        records += 1
        said = json.dumps([record[c] for c in CONTENT[shape.kind]], ensure_ascii=False)
        said = said.replace("\\n", " ")
        for column, value in json.loads(record["meta"]).items():
            if not set(folded(column).split("_")) & _BOOKKEEPING:
                left[column] += any(not within(_quoted(t), said) for t in _texts(value))
    named = sorted(column for column, rows in left.items() if rows > _SHARE * records)
    if not named:
        return
    what = f"the column{'s' * (len(named) > 1)} {some(named)}"
    hint = next((h for column in named if (h := _hint(column, shape)) is not None), "")
    yield f"{name}: text in {what} is not trained on and stays in meta{hint}"


def _hint(column: str, shape: Shape) -> str | None:
    """The mapping that would use a column; none for further answers, which a prompt gives away."""
    words = set(folded(column).split("_"))
    if words & _ANSWERS:
        return None
    if words & _THOUGHTS:
        field, place = "reasoning", "before the answer"
    else:
        field = "input" if "input" in shape.options else "system"
        place = "into the prompt"
    if field not in shape.options:
        return None
    return f"; to put it {place}, say columns: {{{field}: {column}}}"


def _texts(value: object) -> Iterator[str]:
    """The texts of a value that say something."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if len(node.split()) >= _WORDS:
                yield node
        elif isinstance(node, dict):
            stack += [v for k, v in node.items() if not set(folded(k).split("_")) & _BOOKKEEPING]
        elif isinstance(node, list):
            stack += node


def _quoted(text: str) -> str:
    """A text as it stands in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\\n", " ")

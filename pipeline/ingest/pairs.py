"""Preference pairs: a prompt and two answers, however much of the dialogue each column repeats."""

from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.pipeline.ingest.chat_formats import Message, as_context, turn
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.verdicts import desirable, number_of
from gristmill.pipeline.records.text import is_context

# What one of several answers is called, and the marks by which they are ranked: higher is better.
_ANSWERS = ("response", "answer", "solution", "completion", "output", "text", "content", "value")
_MARKS = ("overall_score", "score", "rating", "reward", "is_correct", "correct", "label")


def pair(
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    *,
    systems: Sequence[str] = (),
    earlier: bool = False,
) -> Mapping[str, list[Message]]:
    """Prompt and two answers, which may have been given as whole conversations.

    Whole conversations are cut where they first differ. That must be at an assistant turn: two
    answers to different questions are no preference. What stands beside them (system prompts,
    earlier turns, a longer form of the question) is kept in the prompt.

    Args:
        prompt: what other columns say of the prompt.
        chosen: the better answer, or the conversation that ends with it.
        rejected: the worse one.
        systems: what system prompts stand beside them.
        earlier: `prompt` is nothing but turns that come before the conversations.
    """
    if chosen == rejected:
        raise BadRow("chosen_equals_rejected")
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        same = 0
        while chosen[same : same + 1] == rejected[same : same + 1]:  # they differ somewhere
            same += 1
        shared, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
        if not shared:
            raise BadRow("missing_field: prompt")
        prompt, systems = _merged(prompt, shared, (chosen, rejected), systems, earlier)
    for side in (chosen, rejected):  # the prompt may be a conversation that ends with an answer
        if side and list(prompt[-len(side) :]) == list(side):
            prompt = prompt[: -len(side)]
            break
    if not prompt:
        raise BadRow("missing_field: prompt")
    for tail in (chosen, rejected):
        if not tail or tail[0]["role"] != "assistant":
            raise BadRow("prompts_differ")
        if tail[-1]["role"] != "assistant":
            raise BadRow("no_assistant_turn")
        if all(is_context(t) for t in tail if t["role"] == "assistant"):
            raise BadRow("no_trained_turn")
    prompt = with_system([as_context(t) for t in prompt], *systems)
    return {"prompt": prompt, "chosen": list(chosen), "rejected": list(rejected)}


def _merged(
    given: Sequence[Message],
    shared: Sequence[Message],
    answers: Sequence[Sequence[Message]],
    systems: Sequence[str],
    earlier: bool,
) -> tuple[list[Message], list[str]]:
    """One prompt from what was given as one and from what two conversations share."""
    own, one = _split_system(given)
    theirs, two = _split_system(shared)
    texts = [*systems, *own, *theirs]
    if _contained(one, two):
        return two, texts
    if earlier:
        return [*one, *two], texts
    ends = one[max(0, len(one) - len(two)) :]
    if len(ends) == len(two) and all(_says(a, b) for a, b in zip(ends, two, strict=True)):
        return one, texts  # earlier turns, or more of the question than the conversations repeat
    if any(_contained(one, [*two, *answer]) for answer in answers):  # it repeats one of them whole
        return two, texts
    raise BadRow("prompts_differ")


def _split_system(turns: Sequence[Message]) -> tuple[list[str], list[Message]]:
    """The text of a leading system turn, and the other turns."""
    first = int(bool(turns) and turns[0]["role"] == "system")
    return [t["content"] or "" for t in turns[:first]], list(turns[first:])


def _contained(turns: Sequence[Message], whole: Sequence[Message]) -> bool:
    """Whether each turn is said in the whole, in order."""
    rest = iter(whole)
    return all(any(_says(other, t) for other in rest) for t in turns)


def _says(one: Message, other: Message) -> bool:
    """Whether a turn says what another one does, and perhaps more around it."""
    return one["role"] == other["role"] and within(other["content"] or "", one["content"] or "")


def within(part: str, whole: str) -> bool:
    """Whether a text stands in another, white space aside and word by word."""
    part, whole = " ".join(part.split()), " ".join(whole.split())
    at = whole.find(part)
    while at >= 0:
        before, after = whole[at - 1 : at], whole[at + len(part) : at + len(part) + 1]
        if not (before.isalnum() and part[:1].isalnum()) and not (
            after.isalnum() and part[-1:].isalnum()
        ):
            return True
        at = whole.find(part, at + 1)
    return False


def with_system(turns: list[Message], *texts: str) -> list[Message]:
    """The turns with one system turn that says all of these texts and its own, each once."""
    own = turns[0]["content"] or "" if turns and turns[0]["role"] == "system" else ""
    wanted: list[str] = []
    for text in texts:
        if text.strip() and not any(within(text, said) for said in (own, *wanted)):
            wanted.append(text)
    if not wanted:
        return turns
    if turns and turns[0]["role"] == "system":
        content = "\n\n".join(t for t in (*wanted, own) if t.strip())
        return [{**turns[0], "content": content}, *turns[1:]]
    return [turn("system", "\n\n".join(wanted)), *turns]


def best_and_worst(
    candidates: Sequence[Mapping[str, Any]], column: str
) -> tuple[str, str | None, list[Any]]:
    """The best of several marked answers, the worst if it is worse, and the others.

    Raises:
        BadRow: no answer is marked.
    """
    marked = [(m, i) for i, c in enumerate(candidates) if (m := mark_of(c)) is not None]
    if not marked:
        raise BadRow(f"bad_field: {column}")
    high, low = max(m for m, _ in marked), min(m for m, _ in marked)
    best = next(i for m, i in marked if m == high)
    worst = next((i for m, i in marked if m == low and low < high), None)
    others = [c for i, c in enumerate(candidates) if i not in (best, worst)]
    rejected = None if worst is None else text_of(candidates[worst])
    chosen = text_of(candidates[best])
    assert chosen is not None, "an answer that is marked is a text"
    return chosen, rejected, others


def mark_of(candidate: object) -> float | None:
    """How good an answer is said to be; None for one without a mark or a text."""
    if not isinstance(candidate, Mapping) or text_of(candidate) is None:
        return None
    for name in _MARKS:
        value = candidate.get(name)
        number = number_of(value)
        if number is not None:
            return number if number == number else None  # NaN is none
        good = desirable(value, binary=False)
        if good is not None:
            return float(good)
    return None


def text_of(candidate: Mapping[str, Any]) -> str | None:
    """The text of one of several answers."""
    found = next((candidate[n] for n in _ANSWERS if isinstance(candidate.get(n), str)), None)
    return found if found and found.strip() else None

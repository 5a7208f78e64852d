"""Prompts that are written as one text: plain, in Alpaca's wrapper, or as a transcript."""

import re

from gristmill.pipeline.ingest.chat_formats import Message, turn
from gristmill.pipeline.ingest.raw_rows import BadRow

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_TRANSCRIPT = re.compile(r"\s*Human:.*?\n\nAssistant:", re.DOTALL)
_ALPACA = re.compile(r"\s*(?:Below is an instruction[^\n]*\n+)?###\s*Instruction:(?P<gap>\s*\n)")
_INPUT = re.compile(r"\n###\s*Input:\s*\n")


def question(text: str, context: str | None = None) -> list[Message]:
    """The turns of a prompt given as text: plain, in Alpaca's wrapper, or a transcript."""
    if text.lstrip().startswith(("### Instruction:", "Below is an instruction")):
        text, inside = _unwrapped(text)
        context = "\n\n".join(c for c in (inside, context) if c and c.strip())
    elif is_transcript(text):
        return about(transcript(text), context)
    if not text.strip():
        raise BadRow("empty_field: prompt")
    return about([turn("user", text)], context)


def about(turns: list[Message], context: str | None) -> list[Message]:
    """The turns, with what they are about at the end of the last user turn."""
    if not context or not context.strip():
        return turns
    last = max((i for i, t in enumerate(turns) if t["role"] == "user"), default=None)
    if last is None:
        raise BadRow("missing_field: prompt")
    asked = {**turns[last], "content": f"{turns[last]['content']}\n\n{context}"}
    return [*turns[:last], asked, *turns[last + 1 :]]


def _unwrapped(text: str) -> tuple[str, str | None]:
    """Instruction and input of a prompt in Alpaca's wrapper; any other text as it is.

    The wrapper is looked for from both ends: one pattern over all of it takes quadratic time on a
    text that is nothing but line ends.
    """
    head = _ALPACA.match(text)
    rest = text.rstrip()
    before = rest.removesuffix("Response:").rstrip()
    if head is None or before == rest or not before.endswith("\n###"):
        return text, None
    end = len(before) - len("\n###")
    if end <= text.index("\n", head.start("gap")):  # the only line end after the title
        return text, None
    inner = _INPUT.search(text, head.end(), end)
    if inner is None:
        return text[head.end() : end].strip(), None
    return text[head.end() : inner.start()].strip(), text[inner.end() : end].rstrip("\n")


def is_transcript(text: str) -> bool:
    """Whether a text is a dialogue of Human and Assistant."""
    return text.startswith("\n\nHuman:") or _TRANSCRIPT.match(text) is not None


def transcript(text: str) -> list[Message]:
    """The turns of a dialogue written as one text: Human and Assistant, each after a blank line.

    A last "Assistant:" with nothing after it is only the cue for the answer.
    """
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise BadRow("no_turns")
    spoken = [(who, said.strip()) for who, said in zip(pieces[1::2], pieces[2::2], strict=True)]
    if len(spoken) > 1 and spoken[-1] == ("Assistant", ""):
        spoken.pop()
    if not all(said for _, said in spoken):
        raise BadRow("empty_content: turn")
    return [turn("user" if who == "Human" else "assistant", said) for who, said in spoken]

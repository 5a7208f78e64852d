"""A chat tokenizer of bytes, and records for it"""

from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.tiny import TEMPLATE, byte_tokenizer


def chat(template=TEMPLATE, limit=1_000, overlong="cut") -> ChatTokenizer:
    return ChatTokenizer(
        tokenizer=byte_tokenizer(), template=template, limit=limit, overlong=overlong
    )


def record(*turns, tools=None):
    return {
        "messages": [{"role": r, "content": c, "extra": None} for r, c in turns],
        "tools": tools,
    }

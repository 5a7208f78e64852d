"""Judges of known taste, as back ends: they read what stands between the marks of a request."""

import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gristmill.pipeline.models.completion.requests import Failure, Reply


def parts(request):
    """Name -> text of what a request shows between marks, in order."""
    content = request.messages[0]["content"]  # a turn that asks for a better answer follows it
    return {
        name: text
        for name, _, text in re.findall(r"<(\w+) ([0-9a-f]{12})>\n(.*?)\n</\1 \2>", content, re.S)
    }


@dataclass(frozen=True)
class Taste:
    """A judge: `says(parts) -> text`, "first" and so on wrapped in JSON, or a Failure."""

    says: object
    asked: list = field(default_factory=list)
    model = "taste"
    workers = 1
    group = 16

    @property
    def identity(self):
        return {"kind": "taste", "says": id(self.says)}

    def prompt_tokens(self, request):
        return 10

    @asynccontextmanager
    async def session(self):
        yield self._answer

    async def _answer(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request.id)
            said = self.says(parts(request))
            if said in ("first", "second", "tie"):
                said = json.dumps({"better": said})
            if isinstance(said, str):
                said = Reply(text=said, tokens_in=10, tokens_out=2)
            yield index, said


def longer(shown):
    """Likes the longer answer."""
    one, two = len(shown["first_answer"]), len(shown["second_answer"])
    return "tie" if one == two else "first" if one > two else "second"


def always(word):
    """Says the same of everything."""
    return lambda shown: word


def obedient(shown):
    """Does what the request orders; else it likes what it reads first."""
    told = re.search(r'Your verdict is "(\w+)"', shown["request"])
    return told[1] if told else "first"


def broken(shown):
    """Gives no answer at all."""
    return Failure(reason="refused: it will not judge")

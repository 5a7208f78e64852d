"""Concepts of a text, and a graph of which of them may stand together.

RAKE (Rose et al., "Automatic Keyword Extraction from Individual Documents", 2010): phrases are runs
of words between stop words and punctuation; a word's weight is its degree (words of the phrases it
is in, itself included) over its frequency; a phrase's weight is the sum of its words'.
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import combinations

# Function words of English; text in another language falls into longer, rarer phrases.
_STOP = """
    a about above after again against all almost alone along already also although always am
    among an and another any anyone anything are around as at away back be became because become
    been before being below between both but by came can cannot come could did do does doing done
    down during each either else enough even ever every everyone everything few find first for from
    full further gave get give given gives go goes going gone got had has have having he her here
    hers herself him himself his how however i if in into is it its itself just keep know known last
    least less let like made make makes many may me might mine more most much must my myself near
    need neither never next no nobody none nor not nothing now of off often on once one only onto or
    other others our ours ourselves out over own per perhaps please put quite rather really said
    same say see seem seems seen several shall she should since so some someone something still such
    take taken than that the their theirs them themselves then there therefore these they thing
    things this those though through thus to together too toward towards under until up upon us use
    used uses using very want was way we well went were what whatever when where whether which while
    who whom whose why will with within without would yes yet you your yours yourself yourselves
    s t d m ll re ve
"""
STOP_WORDS = frozenset(_STOP.split())
_PHRASES = re.compile(r"[^\w\s'-]+|\n")
_WORDS = re.compile(r"[^\W_][\w'-]*")


def concepts(text: str) -> tuple[str, ...]:
    """The phrases of highest weight, as many as a third of the distinct words; ties by name."""
    phrases = _phrases(text.lower())
    frequency = Counter(word for phrase in phrases for word in phrase)
    degree: Counter[str] = Counter()
    for phrase in phrases:
        for word in phrase:
            degree[word] += len(phrase)
    weight = {
        " ".join(phrase): sum(degree[word] / frequency[word] for word in phrase)
        for phrase in phrases
    }
    best = sorted(weight, key=lambda name: (-weight[name], name))
    return tuple(best[: math.ceil(len(frequency) / 3)])


def _phrases(text: str) -> list[tuple[str, ...]]:
    """Runs of words that no stop word and no punctuation breaks."""
    found = []
    for part in _PHRASES.split(text):
        run: list[str] = []
        for word in [*_WORDS.findall(part), ""]:
            if word and word not in STOP_WORDS:
                run.append(word)
            elif run:
                found.append(tuple(run))
                run = []
    return found


@dataclass(frozen=True, kw_only=True)
class ConceptGraph:
    """Concepts that were taken, and the pairs of them that stood in one record."""

    nodes: set[str] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)

    def admits(self, names: Collection[str]) -> bool:
        """No two of the concepts are known already without having stood together."""
        known = sorted(self.nodes.intersection(names))
        return all(pair in self.edges for pair in combinations(known, 2))

    def add(self, names: Collection[str]) -> None:
        """Take a record's concepts and all pairs of them."""
        self.nodes.update(names)
        self.edges.update(combinations(sorted(set(names)), 2))

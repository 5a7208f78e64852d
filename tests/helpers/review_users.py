"""Eight users who judge reviews by sentiment and length: their preference is a rule, so a test can
know it without a model."""

from dataclasses import dataclass
from itertools import product

from gristmill.pipeline.evaluate.judging import Judged
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.personas import Label, User, Versus
from gristmill.synthesis.preference.prompts import Prompt

GOOD = ("splendid", "warm", "clever", "moving")
BAD = ("dull", "clumsy", "cold", "noisy")
_LIKES = {1: "positive", -1: "negative", 0: ""}
_SIZES = {1: "verbose", -1: "concise", 0: ""}


@dataclass(frozen=True, kw_only=True)
class ReviewUser(User):
    """Likes praise or blame (or neither), long or short reviews (or either)."""

    sentiment: int
    length: int

    def worth(self, text: str) -> float:
        said = [w.strip(".,") for w in text.split()]
        tone = sum(w in GOOD for w in said) - sum(w in BAD for w in said)
        sign = (tone > 0) - (tone < 0)
        return 1_000 * self.sentiment * sign + self.length * len(said)


def users() -> list[ReviewUser]:
    """All but the one who minds nothing."""
    return [
        ReviewUser(
            id=" ".join(filter(None, (_LIKES[s], _SIZES[n]))),
            description=f"Likes {_LIKES[s] or 'any'} reviews, {_SIZES[n] or 'of any length'}.",
            sentiment=s,
            length=n,
        )
        for s, n in product((1, -1, 0), repeat=2)
        if (s, n) != (0, 0)
    ]


def reviews(count: int) -> tuple[dict[str, Prompt], list[Versus]]:
    """Films, and two reviews of each: one praises, one blames, either may be the longer."""
    prompts, pairs = {}, []
    for i in range(count):
        name = f"m{i}"
        text = f"Write a review of film number {i}."
        turns = [{"role": "user", "content": text, "extra": None}]
        prompts[name] = Prompt(
            id=name,
            source="films",
            row=i,
            license="MIT",
            messages=turns,
            tools=None,
            text=text,
            answer=None,
        )
        more = " It goes on for a while" * (1 + i % 3)
        good = f"Film {i} is {GOOD[i % 4]}.{more if i % 2 else ''}"
        bad = f"Film {i} is {BAD[i % 4]}.{'' if i % 2 else more}"
        one, two = sorted(
            (Candidate(prompt=name, text=t, role="r") for t in (good, bad)), key=lambda c: c.id
        )
        pairs.append(Versus(prompt=name, one=one, two=two))
    return prompts, pairs


def ask_by_rule(user: ReviewUser, pairs: list[Versus]) -> list[Label]:
    """Labels as the user's rule gives them, the same in both orders."""
    found = []
    for v in pairs:
        one, two = user.worth(v.one.text), user.worth(v.two.text)
        value = 0.5 if one == two else float(one > two)
        found.append(
            Label(user=user.id, of=v, said=Judged(id=v.key, one_first=value, two_first=value))
        )
    return found

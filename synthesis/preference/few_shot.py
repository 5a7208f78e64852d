"""Few-shot: a user's labelled pairs as prompts of N examples and one pair to learn from (FSPO).

The pairs of a user are put in an order that a recorded seed draws, and cut into windows of N + 1
that never overlap: the first N are the examples, the last is the pair itself, so no pair is an
example of its own, and no row repeats. A prompt that is too long loses its oldest examples, and
never its question. Users are whole on one side of a split: their name is the cluster of their rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gristmill.pipeline.records.schema import uniform
from gristmill.synthesis.preference.building import Pair
from gristmill.synthesis.preference.candidates import Candidate, prompt_id
from gristmill.synthesis.preference.personas import Label, User
from gristmill.synthesis.preference.prompts import Prompt

HEAD = "Below are questions of one person, with the answer that this person preferred."
TASK = "Answer the last question as this person would like it best."
RAT_TASK = (
    "First write a section '## User description' that says who the person is and what they like, "
    "as far as the examples tell. Then write a section '## Response' that answers the last "
    "question as this person would like it best."
)


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """How prompts are made of a user's pairs.

    Attributes:
        shots: examples in a prompt.
        both: show the answer that was not preferred as well, in an order drawn for each example.
        describe: both sides begin with a description of the user: the chosen side with the true
            one, the rejected side with that of another user ("other") or the same ("own"); None:
            answers stand alone.
        most_tokens: of a prompt, as `count` counts them.
        seed: of all draws.
    """

    shots: int = 8
    both: bool = False
    describe: Literal["other", "own"] | None = None
    most_tokens: int = 8_192
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ValueError(f"shots is {self.shots}; give at least 1.")
        if self.most_tokens < 1:
            raise ValueError(f"most_tokens is {self.most_tokens}; give at least 1.")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A row: a prompt of examples, and the pair that it ends in.

    Attributes:
        user: whose.
        asked: id of the prompt that is its question.
        prompt: with the examples; its source and row are those of its question.
        pair: of answers to it.
        shots: (winner, loser) ids of the examples shown.
        cut: examples that did not fit.
    """

    user: str
    asked: str
    prompt: Prompt
    pair: Pair
    shots: tuple[tuple[str, str], ...]
    cut: int


def windows(labels: Sequence[Label], shots: int, seed: int) -> list[tuple[Label, ...]]:
    """Windows of `shots` + 1 decided labels of one user; what does not fill one is left.

    Of several pairs of one prompt the first drawn counts: a question is no example of itself.
    """
    decided = [x for x in labels if x.winner is not None]
    drawn = sorted(decided, key=lambda x: (uniform(seed, f"shots of {x.user}", x.of.key), x.of.key))
    once: dict[str, Label] = {}
    for label in drawn:
        once.setdefault(label.of.prompt, label)
    order, size = list(once.values()), shots + 1
    return [tuple(order[at : at + size]) for at in range(0, len(order) - shots, size)]


def few_shot(
    users: Sequence[User],
    labels: Sequence[Label],
    prompts: Mapping[str, Prompt],
    settings: FewShot,
    count: Callable[[str], int],
) -> tuple[list[Shown], list[dict[str, Any]]]:
    """The rows of all users, and what is set aside (user, prompt, reason).

    Args:
        users: with their descriptions.
        labels: of all of them.
        prompts: by id.
        settings: how.
        count: tokens of a text.
    """
    rows: list[Shown] = []
    aside: list[dict[str, Any]] = []
    for user in users:
        own = [x for x in labels if x.user == user.id]
        cut = windows(own, settings.shots, settings.seed)
        for window in cut:
            made = _row(user, users, window, prompts, settings, count)
            if isinstance(made, str):
                aside.append({"user": user.id, "prompt": window[-1].of.prompt, "reason": made})
            else:
                rows.append(made)
        used = {x.of.key for window in cut for x in window}
        aside += [
            {
                "user": user.id,
                "prompt": x.of.prompt,
                "reason": x.reason or f"no_window: fewer than {settings.shots + 1} pairs are left",
            }
            for x in own
            if x.of.key not in used
        ]
    return rows, aside


def _row(
    user: User,
    users: Sequence[User],
    window: Sequence[Label],
    prompts: Mapping[str, Prompt],
    settings: FewShot,
    count: Callable[[str], int],
) -> Shown | str:
    *shots, last = window
    question = prompts[last.of.prompt]
    text = ""
    for cut in range(len(shots) + 1):
        text = shown(shots[cut:], question, prompts, settings)
        if count(text) <= settings.most_tokens:
            break
    else:
        return f"too_long: the question alone exceeds {settings.most_tokens:,} tokens"
    turns = [{"role": "user", "content": text, "extra": None}]
    licenses = {prompts[x.of.prompt].license for x in window}
    prompt = replace(
        question,
        id=prompt_id(turns),
        messages=turns,
        tools=None,
        text=text,
        license=question.license if len(licenses) == 1 else None,  # examples are of others
    )
    chosen, rejected = last.winner, last.loser
    assert chosen is not None, "windows hold decided labels"
    assert rejected is not None, "windows hold decided labels"
    said = last.said if last.side == "one" else last.said.turned
    sides = _described(user, users, (chosen, rejected), last, settings)
    return Shown(
        user=user.id,
        asked=question.id,
        prompt=prompt,
        pair=Pair(
            prompt=prompt.id,
            group=user.id,
            decided_by="judge",
            chosen=replace(sides[0], prompt=prompt.id),
            rejected=replace(sides[1], prompt=prompt.id),
            verdict=said,
            judging=last.cost,
        ),
        shots=tuple((x.winner.id, x.loser.id) for x in shots[cut:] if x.winner and x.loser),
        cut=cut,
    )


def shown(
    shots: Sequence[Label], question: Prompt, prompts: Mapping[str, Prompt], settings: FewShot
) -> str:
    """The text of a prompt: numbered examples, then the question to answer."""
    parts = [HEAD] if shots else []
    for number, label in enumerate(shots, start=1):
        assert label.winner is not None, "windows hold decided labels"
        assert label.loser is not None, "windows hold decided labels"
        lines = [f"### Example {number}", f"Question: {prompts[label.of.prompt].text}"]
        said = [f"Preferred answer: {label.winner.text.strip()}"]
        if settings.both:
            said.append(f"Other answer: {label.loser.text.strip()}")
            if uniform(settings.seed, f"order of {label.user}", label.of.key) < 0.5:
                said.reverse()
        parts.append("\n".join([*lines, *said]))
    parts.append(f"### Question\n{question.text}")
    parts.append(RAT_TASK if settings.describe else TASK)
    return "\n\n".join(parts)


def _described(
    user: User,
    users: Sequence[User],
    sides: tuple[Candidate, Candidate],
    label: Label,
    settings: FewShot,
) -> tuple[Candidate, Candidate]:
    """Both answers, behind a description each where that is asked."""
    if settings.describe is None:
        return sides
    other = user
    if settings.describe == "other":
        others = sorted((u for u in users if u.id != user.id), key=lambda u: u.id)
        if not others:
            raise ValueError("describe: other needs at least two users; give more, or own.")
        draw = uniform(settings.seed, f"description of {user.id}", label.of.key)
        other = others[int(draw * len(others))]
    chosen, rejected = (
        replace(c, text=f"## User description\n{u.whole}\n\n## Response\n{c.text.strip()}")
        for c, u in zip(sides, (user, other), strict=True)
    )
    return chosen, rejected

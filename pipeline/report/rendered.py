"""What a trainer will see of shipped rows: the nouns of the render check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TRUNCATED_LIMIT = 0.1
HIDDEN_LIMIT = 0.05
REPEATED_LIMIT = 0.05  # an answer may open with its question now and then; a column mix-up always
REMEDY = {
    "empty_mask": "no token of them is trained; drop them or use a template that shows the answer",
    "full_mask": "every token of them is trained, the prompt too; use another chat template",
    "stop_untrained": "the end-of-turn token carries no loss; use a template that ends each turn",
    "bos": "they do not start with exactly one BOS; mend the template or the tokenizer's add_bos",
    "answer_hidden": "the template shows no reasoning of their last turn, or chosen and rejected "
    "alike; use one that shows it, or leave out what it hides",
    "prompt_repeated": "the chosen answer begins with the prompt; remove it from chosen",
    "typed_markers": "they hold control markers as text, which trainers that render chats "
    "themselves read as markers; drop them with the filter template_leak",
    "truncated": "they exceed the length limit; raise max_length or select shorter rows",
}


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """One record as its trainer sees it.

    Attributes:
        tokens: the text of each token, T of them.
        trained: which tokens carry loss, T of them.
        cut: tokens lost to the length limit.
        problems: keys of `REMEDY`.
        reason: why the record has no mask, if it has none.
    """

    tokens: Sequence[str] = ()
    trained: Sequence[bool] = ()
    cut: int = 0
    problems: tuple[str, ...] = ()
    reason: str | None = None


Render = Callable[[Mapping[str, Any]], Rendered]


@dataclass(frozen=True, kw_only=True)
class TrainerRows:
    """What the config holds that a trainer takes as it is.

    Attributes:
        config: its name.
        rows: in it.
        tokens: of all its sequences; a pair has two.
        trained: of them, those that carry loss.
        left_out: why shipped rows are not in it, with their number.
        limit: tokens at which its sequences are cut.
    """

    config: str
    rows: int
    tokens: int
    trained: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    limit: int

    @property
    def share(self) -> float:
        """Of the tokens, those that carry loss."""
        return self.trained / self.tokens


@dataclass(frozen=True, kw_only=True)
class RenderCheck:
    """What the check found.

    Attributes:
        rows: rows rendered.
        shipped: rows that will be shipped.
        found: problem -> ids of the rows that have it.
        examples: up to three (id, rendered), short, middling and long.
        trained_share: trained tokens over all tokens.
        limit: the tokenizer's length limit, if there is one.
    """

    rows: int
    shipped: int
    found: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examples: tuple[tuple[str, Rendered], ...] = ()
    trained_share: float = 0.0
    limit: int | None = None

    def summary(self) -> dict[str, Any]:
        """The counts, for manifest and card."""
        return {
            "rows_rendered": self.rows,
            "rows_shipped": self.shipped,
            "trained_token_share": round(self.trained_share, 4),
            "max_length": self.limit,
            "problems": {name: len(self.found.get(name, ())) for name in REMEDY},
        }

    def demand(self) -> None:
        """Raise one sentence if a row would train wrongly."""
        allowed = {
            "truncated": TRUNCATED_LIMIT,
            "answer_hidden": HIDDEN_LIMIT,
            "prompt_repeated": REPEATED_LIMIT,
            "typed_markers": 1.0,
        }
        for name, remedy in REMEDY.items():
            ids = self.found.get(name, ())
            if len(ids) > allowed.get(name, 0.0) * self.rows:
                raise ValueError(
                    f"the render check stops the export ({name}): {len(ids):,} of {self.rows:,} "
                    f"rows, first {ids[0]}: {remedy}."
                )

"""Publication: what is asked of an export, as one request; its settings are the step's."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export.drift import Limits
from gristmill.pipeline.export.shards import SHARD_BYTES
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.rendered import Render

Report = Callable[[Facts], bytes]


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A dataset to publish.

    Attributes:
        root: where curated datasets live.
        name: name of the dataset; its versions are in `root/name`.
        selection: scorers, settings, rule, budget, reference, papers: what was asked.
        models: role, id, model_sha and dtype of each model.
        tokenizer: id, sha256 and chat_template_sha of the target's; `model` if the target bears a
            name that other tools find from any folder.
        seeds: purpose -> seed; "split" keys the validation split.
        run: times, cost, hardware, package versions: run.json, outside all sums.
        validation_fraction: share of split groups held out.
        references: ids of reference rows, which must not be among the kept.
        contamination: `sets` that were checked and the settings; None says "not checked".
        evaluation: `task_hashes`, `gate` and `approval` that speak for this selection; one that a
            gate did not promote is held: published, and not named by `latest`.
        languages: for the card, if known.
        tags: further tags of the card ("synthetic").
        sft_view: "messages" or "prompt_completion".
        pair_views: any of "conversation", "single", "reward" (a conversation a side, and `margin`),
            "kto" (`prompt`, `completion`, `label`) and "kto_messages" (`messages`, `label`), each a
            config of its own.
        margin: column of the ledger with the margins of pairs, for the view "reward".
        grpo: a further config of examples: `prompt`, and the `answer` that a verifier checks.
        in_order: ship rows in the rule's order (a curriculum), not in the order of their ids, which
            is as good as shuffled.
        render: the target's rendering; a bad mask stops the export.
        max_length: what `render` cuts at.
        trainer_rows: ship a further config that trainers take as it is, with the masks of `render`;
            it is about as large as the rows themselves (see `export.trainer_rows`).
        report: makes report.html from the facts.
        files: further tables and texts of the folder, by file name; in no config of the dataset.
        limits: how far it may lie from the version before it: the page of what changed says what
            is beyond them; None: nobody asked.
        shard_bytes: about how large a file grows.
    """

    root: Path
    name: str
    selection: Mapping[str, Any]
    models: Sequence[Mapping[str, Any]] = ()
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    validation_fraction: float = 0.0
    references: Collection[str] = ()
    contamination: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    languages: Sequence[str] = ()
    tags: Sequence[str] = ()
    sft_view: str = "messages"
    pair_views: Sequence[str] = ()
    margin: str | None = None
    grpo: bool = False
    in_order: bool = False
    render: Render | None = None
    max_length: int | None = None
    trainer_rows: bool = True
    report: Report | None = None
    files: Mapping[str, pl.DataFrame | str] = field(default_factory=dict)
    limits: Limits | None = None
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"name={self.name!r} must be letters, digits, dots, dashes and underscores."
            )

    @property
    def home(self) -> Path:
        """The folder of the dataset's versions."""
        return Path(self.root) / self.name

    @property
    def held(self) -> bool:
        """Whether a gate did not promote it."""
        return (self.evaluation.get("gate") or {}).get("promoted") is False

    @property
    def declared(self) -> dict[str, Any]:
        """What the publication says of itself: fields of `Facts`."""
        return {
            "selection": dict(self.selection),
            "models": [dict(m) for m in self.models],
            "tokenizer": dict(self.tokenizer),
            "seeds": dict(self.seeds),
            "contamination": None if self.contamination is None else dict(self.contamination),
            "evaluation": dict(self.evaluation),
            "languages": list(self.languages),
            "tags": list(self.tags),
        }

    @property
    def shape(self) -> dict[str, Any]:
        """What decides the folder's files besides the rows and `declared`."""
        shape = {
            "validation_fraction": self.validation_fraction,
            "sft_view": self.sft_view,
            "pair_views": sorted(self.pair_views),
            "in_order": self.in_order,
            "rendered": self.render is not None,
            "max_length": self.max_length,
            "trainer_rows": self.trainer_rows,
            "reported": self.report is not None,
            "shard_bytes": self.shard_bytes,
            "references": digest(sorted(self.references)),
        }
        shape |= {k: vars(self)[k] for k in ("margin", "grpo") if vars(self)[k]}
        if self.limits is not None:
            shape["drift"] = vars(self.limits)
        if self.files:
            held = {
                name: content if isinstance(content, str) else [content.columns, content.rows()]
                for name, content in self.files.items()
            }
            shape["files"] = digest(held)
        return shape

"""Contrast: make the classifier that tells strong answers from weak ones (method `cpqs`).

The contrast set is, in this order: rows of a file or of the reference set that are marked strong or
weak; or else strong answers (the reference set's, or a draw from the pool) and the answers of the
models in the role `weak` to the same prompts. Damaged strong answers join the weak ones, or stand
for them. A mark is the field `quality` or `label` of a row's `meta`, with the text "strong" or
"weak".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Context, Prepared, Recipe, settings_of
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.load import pick_device, pick_dtype
from gristmill.pipeline.prepare.prepare import draw
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Part, Step
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.hidden._contrast_classifier import FACTS, answer_span, made_at, prompt_key
from gristmill.selectors.hidden._contrast_set import damaged, marks, weak_answers
from gristmill.selectors.hidden._contrast_training import Labelled, Training, fit

VERSION = 3
Damage = Literal["added", "alone", "none"]
LEAST_STEPS = 300  # optimizer steps below which a small contrast set is passed over again
MOST_PASSES = 9


@dataclass(frozen=True, kw_only=True)
class ContrastClassifier(Recipe):
    """Gather the contrast set, have weak answers written where they are missing, train.

    It makes the artifact "classifier".

    Attributes:
        base: the role whose hidden states are read.
        weak: the role whose models write weak answers; it may hold several.
        contrast: path of a marked contrast set; "" takes the reference set or the pool.
        rows: strong answers drawn from the pool, or from unmarked rows.
        damage: damaged strong answers are "added" to the weak ones, "alone" where nobody has any,
            or there are "none".
        training: see there.
        seed: of the draw, and of training.
    """

    artifact: ClassVar[str] = "classifier"
    base: str = "target"
    weak: str = "weak"
    contrast: str = ""
    rows: int = 5_000
    damage: Damage = "added"
    training: Training = field(default_factory=Training)
    seed: int = 0

    def cost(self, rows: int, targets: int) -> float:
        return 2.0 * min(self.rows, targets or rows)  # a strong and a weak answer, read once

    def make(self, context: Context) -> Prepared:
        models = context.models
        rows, notes = self._contrast_set(context)
        (base,) = models.files(self.base)
        passes = context.passes
        chat = passes.chat(base)
        taken, lost = _shown(rows, chat)
        notes += lost
        training, overrides = _enough(self.training, taken)
        notes += overrides
        dtype = pick_dtype(passes.dtype, pick_device(passes.device))
        step = Step(
            name="contrast",
            version=VERSION,
            settings={"training": settings_of(training), "seed": self.seed, "dtype": dtype},
            inputs={
                "answers": digest([[r.id, r.strong, r.damaged] for r in taken]),
                "limit": f"{chat.limit} {chat.overlong}",
                "model": base.fingerprint,
            },
        )

        def write(path: Path) -> None:
            fit(taken, models.load(base, passes), training, path, context.progress, self.seed)
            context.caps.spend(sum(len(row.encoded.ids) for row in taken))

        entry = models.store.run(
            step, [Part(name="classifier", write=write)], note=lambda w: _note(w / "classifier")
        )
        notes.append(_verdict(entry.note))
        context.log_all(notes)
        return Prepared(artifact=made_at(str(entry.path / "classifier")), notes=tuple(notes))

    def _contrast_set(self, context: Context) -> tuple[pl.DataFrame, list[str]]:
        """Columns `id`, the content of an example, `strong`, `damaged`; sorted by id."""
        models = context.models
        given = context.reference
        if self.contrast:
            source = Source(path=self.contrast)
            given = ingest(models.store, [source], allow_network=models.allow_network)
        if given is not None and given.kind != "example":
            raise ValueError(
                f"the contrast set holds {given.kind} records: give examples, marked strong or "
                "weak."
            )
        notes: list[str] = []
        known = None if given is None else marks(given)
        if known is not None and known["strong"].is_not_null().any():
            if left := known["strong"].null_count():
                notes.append(f"{left:,} rows of the contrast set carry no mark and are left out.")
            marked = known.drop_nulls("strong")
            parts = [marked.with_columns(damaged=pl.lit(False))]
            strong = marked.filter("strong").drop("strong")
        else:
            strong = draw(given or context.pool, self.rows, self.seed, "contrast")
            parts = [strong.with_columns(strong=pl.lit(True), damaged=pl.lit(False))]
        if parts[0]["strong"].all():
            if self.weak in models.roles:
                written, told = weak_answers(
                    strong, models, self.weak, context.passes, context.caps
                )
                parts.append(written.with_columns(damaged=pl.lit(False)))
                notes += told
            elif self.damage != "alone":
                raise ValueError(
                    f"no answer is marked weak, and the role {self.weak!r} has no model to write "
                    "weak answers: give a contrast set marked strong and weak (--reference), pass "
                    f"--model {self.weak}=REF, or learn from damaged answers alone with "
                    "damage=alone."
                )
        if self.damage != "none":
            parts.append(damaged(strong, self.seed).with_columns(damaged=pl.lit(True)))
        return pl.concat(parts).unique("id", keep="first", maintain_order=True).sort("id"), notes


def _shown(rows: pl.DataFrame, chat: Any) -> tuple[list[Labelled], list[str]]:  # noqa: ANN401
    """The answers as the model reads them; those that it cannot be shown are counted."""
    shown = []
    for row in rows.iter_rows(named=True):
        encoded = Dialogue().encode(row, chat)
        if encoded.reason is None and len(answer_span(encoded, "answer")):
            marks = {"strong": row["strong"], "damaged": row["damaged"]}
            shown.append(Labelled(id=row["id"], **marks, encoded=encoded))
    lost = rows.height - len(shown)
    notes = [f"{lost:,} of {rows.height:,} answers of the contrast set cannot be shown."]
    return shown, notes if lost else []


def _enough(training: Training, rows: Sequence[Labelled]) -> tuple[Training, list[str]]:
    """Refuse what nothing can be learnt from; pass more often over a small set."""
    prompts = {k: {prompt_key(r.encoded) for r in rows if r.strong == k} for k in (True, False)}
    if min(map(len, prompts.values())) < training.folds:
        raise ValueError(
            f"the contrast set has strong answers to {len(prompts[True])} prompts and weak ones to "
            f"{len(prompts[False])}: give both, to at least {training.folds} prompts each."
        )
    steps = math.ceil(len(rows) / training.batch_size)
    passes = max(training.passes, min(MOST_PASSES, math.ceil(LEAST_STEPS / steps)))
    if passes == training.passes:
        return training, []
    notes = (
        f"{passes} passes over the contrast set, not {training.passes}: {len(rows):,} answers make "
        f"{steps} steps a pass."
    )
    return replace(training, passes=passes), [notes]


def _note(folder: Path) -> dict[str, Any]:
    """What the manifest says of a classifier: its facts without the list of prompts."""
    facts = json.loads((folder / FACTS).read_text("utf-8"))
    return {**{k: v for k, v in facts.items() if k != "prompts"}, "prompts": len(facts["prompts"])}


def _verdict(note: Mapping[str, Any]) -> str:
    rho = note["spearman_length"]
    follows = "not defined" if rho is None else f"{rho:+.2f}"
    over = {"weak": note["auc_weak"], "damaged": note["auc_damaged"]}
    told = " and ".join(f"{a:.3f} over {k} answers" for k, a in over.items() if a is not None)
    return (
        f"contrast classifier on {note['answers']:,} answers to {note['prompts']:,} prompts: "
        f"held-out AUC {told} (answer length alone: {note['auc_length']:.3f}), "
        f"Spearman of score and answer length {follows}."
    )

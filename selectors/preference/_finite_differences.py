"""Finite differences: two copies of a model, a little along and against the validation gradient.

With g_v the mean gradient of the validation pairs' losses at theta, over the adapter's weights (or
all weights of a model without one), the copies are theta + eps g_v and theta - eps g_v. The loss of
any pair under both gives its influence by a central difference, in forward passes alone.

eps is relative to the gradient: eps = nats / |g_v|^2, so that to first order the copies' mean
validation losses lie `nats` above and below. A fixed eps would drown in rounding where gradients
are small and leave the linear range where they are large. All arithmetic is in float32.
"""

# M = validation pairs, T = tokens

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Artifact, Context, Prepared, Recipe, settings_of
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.checkpoints import settle
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import effective_limit, load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.prepare.preference import LOSSES, settings_for
from gristmill.pipeline.prepare.prepare import count_read
from gristmill.pipeline.records.schema import CONTENT, digest
from gristmill.pipeline.records.store import Part, Step, write_text
from gristmill.pipeline.signals.forward_signals import scored
from gristmill.pipeline.signals.pair_signals import VIEWS, Objective, log_probs

VERSION = 2
ABOUT = "perturbation.json"


@dataclass(frozen=True, kw_only=True)
class FiniteDifferenceCopies(Recipe):
    """Fills a role with theta + eps g_v and theta - eps g_v, in this order.

    The artifact "perturbation" tells `epsilon`.

    Attributes:
        role: the role that the two copies fill.
        base: the role of theta; its last model.
        settings: whose loss, beta and gamma are differentiated.
        nats: how far the mean validation loss is to move, to first order.
    """

    artifact: ClassVar[str] = "perturbation"
    role: str = "proxy"
    base: str = "target"
    settings: Dpo = field(default_factory=lambda: settings_for(Objective()))
    nats: float = 0.005

    def cost(self, rows: int, targets: int) -> float:
        return 2.0 * 4 * targets  # both sides: a pass with all gradients, one under the reference

    def makes(self, rows: int, targets: int) -> int:
        return 2

    def make(self, context: Context) -> Prepared:
        objective = objective_of(self.settings)
        frame = context.target_rows("the finite-difference copies").sort("id")
        models = context.models
        files = models.files(self.base)[-1]
        reference = models.files("reference")[-1] if objective.reads_reference else None
        inputs = {"rows": data.fingerprint(frame), "model": files.fingerprint}
        step = Step(
            name="perturb",
            version=VERSION,
            settings={
                "objective": settings_of(objective),
                "nats": self.nats,
                "limit": effective_limit(files, context.passes.max_length),
                "overlong": context.passes.overlong,
            },
            inputs=inputs | ({"reference": reference.fingerprint} if reference else {}),
        )

        def write(target: Path) -> None:
            known = None
            if reference is not None:
                assert context.reference is not None
                passes = replace(context.passes, dtype="float32")
                seen = observe(
                    RunContext(models=models, passes=passes, caps=context.caps),
                    context.reference,
                    log_probs("reference"),
                )
                known = seen.frame()
            about = _write(target, files, frame, known, objective, self.nats, context.passes)
            count_read(context, files, frame, 1)
            write_text(target / ABOUT, json.dumps(about, indent=1, sort_keys=True) + "\n")

        entry = models.store.run(step, [Part(name="models", write=write)])
        folder = entry.path / "models"
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        notes = (
            f"theta + eps g_v and theta - eps g_v: eps {about['epsilon']:.3g}, |g_v| "
            f"{about['norm']:.3g} over {about['pairs']:,} validation pairs.",
        )
        context.log_all(notes)
        references = tuple(str(folder / name) for name in ("plus", "minus"))
        facts = {"epsilon": float(about["epsilon"])}
        # what it tells, not the copies' files: an adapter's name the folder of its base
        step_size = Artifact(name=self.artifact, content=digest(about), path=folder, facts=facts)
        return Prepared(references=references, weights=(0.5, 0.5), artifact=step_size, notes=notes)


def objective_of(settings: Dpo) -> Objective:
    """The objective that a training run's settings name."""
    names = {loss: name for name, loss in LOSSES.items()}
    if settings.loss not in names:
        known = ", ".join(sorted(names))
        raise ValueError(f"the loss {settings.loss!r} has no influence here; choose of {known}.")
    return Objective(name=names[settings.loss], beta=settings.beta, gamma=settings.gamma)


def _write(
    target: Path,
    files: ModelFiles,
    frame: pl.DataFrame,
    known: pl.DataFrame | None,
    objective: Objective,
    nats: float,
    passes: Passes,
) -> Mapping[str, Any]:
    import torch

    chat = passes.chat(files)
    loaded = load(files, chat, device=passes.device, dtype="float32")
    moved = {
        name: p
        for name, p in loaded.model.named_parameters()
        if files.layout != "adapter" or "lora_" in name
    }
    for p in moved.values():
        p.requires_grad_(True)
    pairs = mean_gradient(loaded, frame, known, objective)
    gradients = {name: p.grad.detach().clone() for name, p in moved.items() if p.grad is not None}
    square = sum(float(g.double().square().sum()) for g in gradients.values())
    if not (square > 0 and np.isfinite(square)):
        raise ValueError(
            f"the mean gradient of the {pairs} validation pairs has the squared norm {square}: "
            "there is no direction to move in; check that these pairs differ in their sides."
        )
    epsilon = nats / square
    target.mkdir(parents=True)
    loaded.model.requires_grad_(False)
    at = {name: moved[name].detach().clone() for name in gradients}
    for name, sign in (("plus", 1.0), ("minus", -1.0)):
        with torch.no_grad():
            for key, g in gradients.items():
                moved[key].copy_(at[key] + sign * epsilon * g)
        with TemporaryDirectory(dir=target.parent) as folder:
            loaded.model.save_pretrained(folder)
            settle(Path(folder), target / name, files)
    return {"epsilon": epsilon, "norm": float(np.sqrt(square)), "pairs": pairs}


def mean_gradient(
    loaded: Any,  # noqa: ANN401  (LoadedModel with weights that ask for a gradient)
    frame: pl.DataFrame,
    known: pl.DataFrame | None,
    objective: Objective,
) -> int:
    """Leave the gradient of the mean loss over the pairs in the weights; returns their number.

    Args:
        loaded: the model.
        frame: pairs, by content.
        known: log-probabilities of both sides under the reference, by id; None without one.
        objective: the loss.
    """
    columns = [s.column for s in log_probs("reference")]
    reference = (
        {} if known is None else {r[0]: r[1:] for r in known.select("id", *columns).iter_rows()}
    )
    rows = []
    for row in frame.select("id", *CONTENT["pair"]).iter_rows(named=True):
        sides = [view.encode(row, loaded.chat) for view in VIEWS]
        fit = all(s.reason is None for s in sides)
        if fit and (known is None or None not in reference[row["id"]]):
            rows.append((sides, reference.get(row["id"])))
    if not rows:
        raise ValueError(f"none of the {frame.height} validation pairs can be shown to the model.")
    for sides, ref in rows:
        (_mean_loss(loaded, sides, ref, objective) / len(rows)).backward()
    return len(rows)


def _mean_loss(loaded: Any, sides: Sequence[Any], ref: Any, objective: Objective) -> Any:  # noqa: ANN401
    import torch
    from torch.nn.functional import cross_entropy, relu, softplus

    s, n = [], []
    for encoded in sides:
        ids_T = torch.tensor(list(encoded.ids), device=loaded.device)
        label_T = torch.from_numpy(scored(np.asarray(encoded.turn), "answer"))
        logits_TV = loaded.model(input_ids=ids_T[None], use_cache=False).logits[0]
        at_T = torch.nonzero(label_T)[:, 0].to(loaded.device)
        s.append(-cross_entropy(logits_TV[at_T - 1], ids_T[at_T], reduction="sum"))
        n.append(len(at_T))
    if objective.reads_reference:
        margin = objective.beta * ((s[0] - ref[0]) - (s[1] - ref[1]))
    else:
        margin = objective.beta * (s[0] / n[0] - s[1] / n[1]) - objective.gamma
    return relu(1 - margin) if objective.name == "slic" else softplus(-margin)

"""How a low-rank proxy is built: rows, probe tokens, factors, alignment, and what came of it."""

# N = rows, T = tokens, W = width of a feature

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.forward import batches
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.layers import Layer, linear_layers
from gristmill.pipeline.models.gradients.projections import Factored
from gristmill.pipeline.models.gradients.random_bits import random_words
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.low_rank import LowRankLinear, put
from gristmill.pipeline.numerics.ranks import spearman
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.signals.gradient_signals import tensors
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.influence._alignment import align
from gristmill.selectors.influence._low_rank_layers import (
    ProbeTokens,
    Ridge,
    Weighting,
    alignment_rate,
    kept_rank,
    low_rank_layers,
    multiple_for,
)

HELD_OUT = 16  # rows that the result is measured on
LEAST_DRAWN = 256  # rows beside them, if the pool has them
LEAST_PROBES = 16  # rows that probe tokens are taken from
LEAST_ALIGNED = 16  # rows of alignment: a step costs as much as a dozen forward passes
PROBE_SHARE = 0.1  # of the share of the pool that is drawn
LEAST_TOKENS = 1_024
TOKENS_PER_RANK = 12  # fewer leave the noise of the moments in the factors
NUMBERS_AT_ONCE = 2**29  # of probes: 2 GiB in float32
BATCH_TOKENS = 4_096


class Settings(Protocol):
    """The settings of `LowRankProxy` that building reads; see there."""

    @property
    def rho(self) -> float: ...

    @property
    def rank_multiple(self) -> int | None: ...

    @property
    def weighting(self) -> Weighting: ...

    @property
    def ridge(self) -> Ridge: ...

    @property
    def gamma(self) -> float: ...

    @property
    def share(self) -> float | None: ...

    @property
    def part(self) -> float: ...

    @property
    def tokens(self) -> int | None: ...

    @property
    def epochs(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def learning_rate(self) -> float | None: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def kl_weight(self) -> float: ...

    @property
    def temperature(self) -> float: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The rows of a build, encoded, by id.

    Attributes:
        held: to measure the result on.
        probes: to take probe tokens from.
        at_most: probe tokens of a row; None = all of them.
        aligned: to align on.
        notes: small-pool overrides.
    """

    held: dict[str, Encoded]
    probes: dict[str, Encoded]
    at_most: int | None
    aligned: dict[str, Encoded]
    notes: tuple[str, ...]


def build(
    recipe: Settings, frame: pl.DataFrame, wanted: int, loaded: LoadedModel
) -> tuple[Any, Mapping[str, Any]]:
    """The low-rank form of a model, and the facts about it.

    Args:
        recipe: the settings.
        frame: rows, in the order of the draw.
        wanted: how many of them the settings ask for, small-pool overrides apart.
        loaded: the dense model; it stays as it is.
    """
    target = loaded.model
    every = linear_layers(target)  # of them, experts and shared weights stay as they are
    layers = [x for x in every if len(x.modules) == 1]
    multiple = recipe.rank_multiple or multiple_for(loaded.hidden_size)
    ranks = {x.name: kept_rank(x.outputs, x.inputs, recipe.rho, multiple) for x in layers}
    chosen = {name: rank for name, rank in ranks.items() if rank is not None}
    if not chosen:
        raise ValueError(
            f"at rho={recipe.rho:g} and ranks in multiples of {multiple} no layer of "
            f"{loaded.files.reference!r} gets smaller: raise rho, or lower rank_multiple."
        )
    factored = [x for x in layers if x.name in chosen]
    tokens = recipe.tokens or max(LEAST_TOKENS, TOKENS_PER_RANK * max(chosen.values()))
    rows = _rows(recipe, frame, wanted, tokens, loaded.chat)
    picks = _picks(rows, recipe.seed)
    put_in: dict[str, LowRankLinear] = {}
    for group in _groups(factored, sum(map(len, picks.values()))):
        probes = None
        if recipe.weighting != "none":
            probes = _collect(target, group, rows.probes, picks)
        put_in |= low_rank_layers(
            group,
            chosen,
            probes,
            weighting=recipe.weighting,
            gamma=recipe.gamma,
            ridge=recipe.ridge,
        )
    proxy = _with(target, put_in)
    facts = {
        "ranks": chosen,
        "dense_layers": len(every) - len(chosen),
        "weights_kept": _weights_kept(factored, every, chosen),
        "probe_rows": len(picks),
        "probe_tokens": sum(map(len, picks.values())),
        "held_out_rows": len(rows.held),
        "aligned_rows": len(rows.aligned) if recipe.epochs else 0,
    }
    expected = _features(target, loaded.chat, rows.held)
    facts["factored"] = _agreement(expected, _features(proxy, loaded.chat, rows.held))
    if recipe.epochs and rows.aligned:
        steps = align(
            target,
            proxy,
            factored,
            _batches(recipe, rows.aligned, loaded),
            learning_rate=recipe.learning_rate or alignment_rate(loaded.hidden_size),
            weight_decay=recipe.weight_decay,
            kl_weight=recipe.kl_weight,
            temperature=recipe.temperature,
        )
        epoch = math.ceil(len(rows.aligned) / recipe.batch_size)
        for name, part in (("first_epoch", steps[:epoch]), ("last_epoch", steps[-epoch:])):
            gradients, predictions = np.mean(part, axis=0)
            facts[name] = {"gradients": float(gradients), "predictions": float(predictions)}
        facts["aligned"] = _agreement(expected, _features(proxy, loaded.chat, rows.held))
    return proxy, {**facts, "notes": [*rows.notes, *_summary(facts)]}


def _rows(
    recipe: Settings, frame: pl.DataFrame, wanted: int, tokens: int, chat: ChatTokenizer
) -> Drawn:
    """Sort the drawn rows by what they serve for: disjoint, if there are enough."""
    view = Dialogue()
    encoded = {row["id"]: view.encode(row, chat) for row in frame.iter_rows(named=True)}
    fit = {i: e for i, e in encoded.items() if e.reason is None}
    if len(fit) < 4:
        raise ValueError(
            f"{len(fit)} of {len(encoded)} rows drawn for the proxy can be shown to the model, "
            "and at least 4 are needed: look at the reasons in a scores table of these rows."
        )
    ids = list(fit)
    held, rest = ids[: min(HELD_OUT, len(ids) // 4)], ids[min(HELD_OUT, len(ids) // 4) :]
    notes = []
    least = max(LEAST_PROBES, math.ceil(PROBE_SHARE * wanted))
    at_most: int | None = math.ceil(tokens / least)
    count, found = 0, 0
    while count < len(rest) and (count < least or found < tokens):
        found += min(at_most or 0, len(fit[rest[count]].ids))
        count += 1
    if found < tokens:  # all rows, all of their tokens
        at_most, found = None, sum(len(fit[i].ids) for i in rest)
    if recipe.weighting != "none" and count > math.ceil(PROBE_SHARE * wanted):
        notes.append(
            f"{found:,} probe tokens of {count:,} rows: {PROBE_SHARE * recipe.part:.1%} of the "
            f"pool would be {math.ceil(PROBE_SHARE * wanted):,} rows."
        )
    share = aligned_rows(1.0, wanted)
    taken = aligned_rows(recipe.share, wanted)
    aligned = [*rest[count:], *rest[:count]][:taken]
    if recipe.epochs and len(aligned) > share:
        shared = max(0, len(aligned) - (len(rest) - count))
        notes.append(
            f"alignment on {len(aligned):,} rows: {(1 - PROBE_SHARE) * recipe.part:.1%} of the "
            f"pool would be {share:,}"
            + (f"; {shared:,} of them gave probe tokens too." if shared else ".")
        )
    return Drawn(
        held={i: fit[i] for i in held},
        probes={i: fit[i] for i in rest[:count]},
        at_most=at_most,
        aligned={i: fit[i] for i in aligned},
        notes=tuple(notes),
    )


def aligned_rows(share: float | None, wanted: int) -> int:
    """Rows of alignment, of so many that are wanted for all; as given, or at least a few."""
    rows = math.ceil((1 - PROBE_SHARE) * wanted)
    return max(rows, LEAST_ALIGNED) if share is None else rows


def _picks(rows: Drawn, seed: int) -> dict[str, Tensor]:
    """Probe tokens of each row: positions keyed by (seed, id)."""
    picks = {}
    for ident, row in rows.probes.items():
        order = np.argsort(random_words(len(row.ids), seed, "probe tokens", ident), kind="stable")
        picks[ident] = torch.from_numpy(np.sort(order[: rows.at_most]))
    return picks


def _groups(layers: Sequence[Layer], tokens: int) -> list[list[Layer]]:
    """Layers whose probes fit into memory together; each group has a pass of its own."""
    groups: list[list[Layer]] = [[]]
    numbers = 0
    for layer in layers:
        numbers += tokens * (layer.inputs + layer.outputs)
        if groups[-1] and numbers > NUMBERS_AT_ONCE:
            groups.append([])
            numbers = tokens * (layer.inputs + layer.outputs)
        groups[-1].append(layer)
    return groups


def _collect(
    target: Any,  # noqa: ANN401
    layers: Sequence[Layer],
    rows: Mapping[str, Encoded],
    picks: Mapping[str, Tensor],
) -> ProbeTokens:
    """Inputs and output gradients of the probe tokens; every token but the first carries loss."""
    probes = ProbeTokens()
    engine = gradient_engine(target, probes, layers=[x.name for x in layers])
    for ident, row in rows.items():
        probes.picks[:] = [picks[ident].to(layers[0].device)]
        ids_1T = torch.tensor([list(row.ids)])
        reason = engine.run(ids_1T, torch.ones_like(ids_1T), ids_1T).reason_R[0]
        if reason is not None:
            raise ValueError(f"row {ident} was drawn for probes and has no gradient: {reason}.")
    return probes


def _with(target: Any, layers: Mapping[str, LowRankLinear]) -> Any:  # noqa: ANN401
    """A model that shares all weights with `target` but those of `layers`."""
    replaced = {id(target.get_submodule(name)) for name in layers}
    # what is replaced is not copied at all, and of the rest only what holds it together
    kept: dict[int, Any] = dict.fromkeys(replaced)
    for tensor in (*target.parameters(), *target.buffers()):
        kept[id(tensor)] = tensor
    proxy = copy.deepcopy(target, kept)
    put(proxy, layers)
    return proxy.eval().requires_grad_(False)


def _weights_kept(
    factored: Sequence[Layer], layers: Sequence[Layer], ranks: Mapping[str, int]
) -> float:
    """Share of the layers' weights, and so of their FLOPs, that the low-rank form has."""
    before = sum(x.inputs * x.outputs for x in layers)
    saved = sum(x.inputs * x.outputs - ranks[x.name] * (x.inputs + x.outputs) for x in factored)
    return 1 - saved / before


def _batches(
    recipe: Settings, rows: Mapping[str, Encoded], loaded: LoadedModel
) -> list[tuple[Tensor, Tensor]]:
    """Epochs one after another, each in an order of its own that depends on (seed, id) alone."""
    made = []
    for epoch in range(recipe.epochs):
        order = sorted(rows, key=lambda i: (uniform(recipe.seed, f"alignment {epoch}", i), i))
        for first in range(0, len(order), recipe.batch_size):
            members = [rows[i] for i in order[first : first + recipe.batch_size]]
            ids_BT, _, labels_BT = tensors(members, loaded.chat)
            made.append((ids_BT.to(loaded.device), labels_BT.to(loaded.device)))
    return made


def _features(model: Any, chat: ChatTokenizer, rows: Mapping[str, Encoded]) -> Tensor:  # noqa: ANN401
    """Projected gradients of the answers' mean loss, N x W, in float64; NaN where there is none."""
    engine = gradient_engine(model, Factored(k=16))
    encoded = list(rows.values())
    feature_NW = torch.full((len(encoded), engine.widths[0]), math.nan, dtype=torch.float64)
    for at in batches([len(e.ids) for e in encoded], BATCH_TOKENS):
        out = engine.run(*tensors([encoded[i] for i in at], chat))
        feature_NW[torch.from_numpy(at)] = out.features[0].double().cpu()
    return feature_NW


def _agreement(target_NW: Tensor, proxy_NW: Tensor) -> dict[str, float | int]:
    """Correlation of the influence of rows on each other, over all pairs of two."""
    fine_N = target_NW.isfinite().all(1) & proxy_NW.isfinite().all(1)
    one, two = (x[fine_N] @ x[fine_N].T for x in (target_NW, proxy_NW))
    upper = torch.triu_indices(len(one), len(one), 1)
    x, y = (m[upper[0], upper[1]].numpy() for m in (one, two))
    rho = spearman(x, y)
    if rho is None:
        return {"pairs": len(x)}
    return {"pairs": len(x), "spearman": rho, "pearson": float(np.corrcoef(x, y)[0, 1])}


def _summary(facts: Mapping[str, Any]) -> list[str]:
    before, after = facts["factored"], facts.get("aligned")
    notes = [
        f"the proxy has {facts['weights_kept']:.0%} of the target's weights in linear layers; "
        f"{facts['dense_layers']} layers stay dense."
    ]
    last = after or before
    if "spearman" not in last:
        return [*notes, f"{facts['held_out_rows']} held-out rows are too few to measure it on."]
    told = f"influence of {facts['held_out_rows']} held-out rows on each other, proxy and target: "
    told += f"Spearman {last['spearman']:.3f}, Pearson {last['pearson']:.3f}"
    if after:
        told += f" (before alignment {before['spearman']:.3f}, {before['pearson']:.3f})"
    return [*notes, told + "."]

"""The influence scores that the fidelity benchmark compares, on the gradient engine.

Each method yields (setting, scores N x J); the first setting is its default. "mean" and "sum" say
how a pool row's token losses make its loss. Read at the last checkpoint of a training on the whole
pool; TracIn and LESS at the end of each epoch, weighted by their mean learning rates.
"""

# N = pool rows, J = target rows, W = width of a feature, O, I = layer outputs, inputs

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gristmill.pipeline.models.checkpoint import moments
from gristmill.pipeline.models.forward import batches
from gristmill.pipeline.models.gradients.adam_state import AdafactorScales, AdamUpdate
from gristmill.pipeline.models.gradients.engine import FisherLabels, gradient_engine
from gristmill.pipeline.models.gradients.fisher import Damping, datainf, fit_fisher
from gristmill.pipeline.models.gradients.inner_products import ExactInner
from gristmill.pipeline.models.gradients.kfac import fit_kronecker
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.projections import CountSketched, Factored, Full
from gristmill.pipeline.numerics.similarity import unit
from lds_parts.truth import open_model, row_losses, tensors

LOSSES = ("mean", "sum")
DAMPINGS = (0.1, 1e-3, 1e-2, 1.0)  # the default first
TOKENS = 2_048  # of a batch, padding included; bergson's default


@dataclass(frozen=True, kw_only=True)
class Study:
    """Models, rows and target rows.

    Attributes:
        models: one per checkpoint, in order.
        states: Adam's state at each.
        weights: of the checkpoints; they add up to 1.
        rows: pool rows as tokens.
        held: target rows as tokens.
    """

    models: tuple
    states: tuple
    weights: tuple
    rows: list
    held: list

    @property
    def last(self):
        return self.models[-1]

    def read(self, feature, rows, model=None, loss="mean", fisher=False):
        """The feature of every row, N x W."""
        engine = gradient_engine(model or self.last, feature, loss=loss)
        found = np.zeros((len(rows), engine.widths[0]))
        for group in batches([len(r.ids) for r in rows], TOKENS):
            labels = FisherLabels(seed=0, ids=[str(i) for i in group]) if fisher else None
            result = engine.run(*tensors([rows[i] for i in group]), fisher=labels)
            assert not any(result.reason_R), result.reason_R
            found[group] = result.features[0].numpy()
        return found

    def pair(self, feature, loss="mean", model=None):
        """The feature of pool and target rows."""
        return self.read(feature, self.rows, model, loss), self.read(feature, self.held, model)

    def target_gradients(self):
        """Whole gradients of the target rows by layer, J x O x I."""
        layers = linear_layers(self.last)
        flat = torch.from_numpy(self.read(Full(), self.held)).float()
        parts = flat.split([x.outputs * x.inputs for x in layers], dim=1)
        return {
            x.name: part.reshape(-1, x.outputs, x.inputs)
            for x, part in zip(layers, parts, strict=True)
        }


def open_study(folder, rows, held):
    kept = json.loads((folder / "index.json").read_text())["checkpoints"]
    rates = np.array([c["learning_rate"] for c in kept])
    paths = [folder / c["name"] for c in kept]
    return Study(
        models=tuple(open_model(p).model for p in paths),
        states=tuple(map(moments, paths)),
        weights=tuple(rates / rates.sum()),
        rows=rows,
        held=held,
    )


def control(study, values_N):
    yield "", np.repeat(np.asarray(values_N, dtype=np.float64)[:, None], len(study.held), axis=1)


def loss_of_row(study):
    values = [row_losses(study.last, [row])[0] for row in study.rows]
    yield from control(study, values)


def gradient_cosine(study):
    x_NW, y_JW = study.pair(Factored(k=16))
    yield "", unit(x_NW, zero=np.nan) @ unit(y_JW, zero=np.nan).T


def projected_inner(study):
    for loss in LOSSES:
        x_NW, y_JW = study.pair(Factored(k=16), loss)
        yield loss, x_NW @ y_JW.T


def exact_inner(study):
    for loss in LOSSES:
        yield loss, study.read(ExactInner(targets=study.target_gradients()), study.rows, loss=loss)


def tracin(study):
    for loss in LOSSES:
        total = np.zeros((len(study.rows), len(study.held)))
        for model, weight in zip(study.models, study.weights, strict=True):
            x_NW, y_JW = study.pair(Factored(k=16), loss, model)
            total += weight * (x_NW @ y_JW.T)
        yield loss, total


def less(study):
    total = np.zeros((len(study.rows), len(study.held)))
    for model, state, weight in zip(study.models, study.states, study.weights, strict=True):
        x_NW = study.read(CountSketched(update=AdamUpdate(state=state)), study.rows, model)
        y_JW = study.read(CountSketched(), study.held, model)
        total += weight * (unit(x_NW, zero=np.nan) @ unit(y_JW, zero=np.nan).T)
    yield "", total


def ekfac(study):
    for loss in reversed(LOSSES):

        def run(feature, loss=loss):
            return len(study.read(feature, study.rows, loss=loss, fisher=True))

        curvature, targets = fit_kronecker(run), study.target_gradients()
        for value in DAMPINGS:
            solved = curvature.solve(targets, Damping(value=value))
            scores = study.read(ExactInner(targets=solved), study.rows, loss=loss)
            yield f"{loss}/{value:g}", scores


def widths(study):
    return [min(16, x.inputs) * min(16, x.outputs) for x in linear_layers(study.last)]


def fisher(study):
    for loss in LOSSES:
        x_NW, y_JW = study.pair(Factored(k=16), loss)
        curvature = fit_fisher([x_NW], widths(study))
        for value in DAMPINGS:
            yield f"{loss}/{value:g}", x_NW @ curvature.solve(y_JW, Damping(value=value)).T


def data_influence(study):
    for loss in LOSSES:
        x_NW, y_JW = study.pair(Factored(k=16), loss)
        for value in DAMPINGS:
            solved = datainf(lambda x=x_NW: [x], y_JW, widths(study), Damping(value=value))
            yield f"{loss}/{value:g}", x_NW @ solved.T


def whitened_cosine(study):
    """Adafactor-scaled features, whitened by the pool's second moments: TrackStar's form."""
    scales = AdafactorScales(state=study.states[-1])
    x_NW, y_JW = study.pair(Factored(k=16, scales=scales))
    curvature = fit_fisher([x_NW], widths(study))
    for value in DAMPINGS:
        x_white, y_white = (curvature.whiten(z, Damping(value=value)) for z in (x_NW, y_JW))
        yield f"{value:g}", unit(x_white, zero=np.nan) @ unit(y_white, zero=np.nan).T


def methods(folder, rows, held):
    """Name to the work, which yields settings and scores; models are loaded here."""
    study = open_study(folder, rows, held)
    draw_N = np.random.default_rng(0).random(len(rows))
    labels_N = [sum(i != -100 for i in row.labels) for row in rows]
    work = {
        "random": partial(control, values_N=draw_N),
        "length": partial(control, values_N=labels_N),
        "loss": loss_of_row,
        "gradient cosine, projected 16": gradient_cosine,
        "inner product, projected 16": projected_inner,
        "inner product, exact": exact_inner,
        "tracin, every epoch": tracin,
        "less, every epoch": less,
        "ekfac": ekfac,
        "projected Fisher": fisher,
        "datainf, projected 16": data_influence,
        "whitened cosine": whitened_cosine,
    }
    return {name: partial(do, study) for name, do in work.items()}

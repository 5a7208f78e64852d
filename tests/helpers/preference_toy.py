"""A policy in closed form: pi(k|x) ~ exp(theta . phi[x, k]), with everything a pair method reads."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Artifact, Frames, Given
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.pipeline.signals.pair_signals import VIEWS, Objective, log_probs
from gristmill.pipeline.signals.reward import RewardScore

BETA = 0.5
LOSS = Objective(beta=BETA)
STEPS, RATE = 30, 0.5


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Prompts, a reference policy, and pairs as rows (x, chosen, rejected, flipped)."""

    phi: np.ndarray
    reference: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    def difference(self, pairs):
        x, w, lost = pairs[:, 0], pairs[:, 1], pairs[:, 2]
        return self.phi[x, w] - self.phi[x, lost]

    def log_prob(self, theta, pairs, side):
        logit = self.phi[pairs[:, 0]] @ theta
        logp = logit - np.log(np.exp(logit).sum(1, keepdims=True))
        return logp[np.arange(len(pairs)), pairs[:, 1 + side]]

    def score_gradient(self, theta, pairs, side):
        """Gradient of log pi by theta."""
        phi = self.phi[pairs[:, 0]]
        logit = phi @ theta
        p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
        return phi[np.arange(len(pairs)), pairs[:, 1 + side]] - np.einsum("nk,nkd->nd", p, phi)

    def margin(self, theta, pairs):
        return BETA * self.difference(pairs) @ (theta - self.reference)

    def loss(self, theta, pairs):
        return np.logaddexp(0, -self.margin(theta, pairs))

    def gradient(self, theta, pairs):
        slope = BETA / (1 + np.exp(self.margin(theta, pairs)))
        return -slope[:, None] * self.difference(pairs)

    def trained(self, theta, pairs, steps=STEPS):
        for _ in range(steps):
            theta = theta - RATE * self.gradient(theta, pairs).mean(0)
        return theta

    def observed(self, pairs, **thetas):
        """What the signals would hold, the policies by role; `proxy` may be a list of policies."""
        columns = {"id": [f"{i:04d}" for i in range(len(pairs))]}
        for role, theta in ({"reference": self.reference} | thetas).items():
            several = isinstance(theta, list)
            for k, one in enumerate(theta if several else [theta]):
                for side, signal in enumerate(log_probs(role)):
                    name = signal.column + (f"@{k}" if several else "")
                    columns[name] = self.log_prob(one, pairs, side)
        frame = pl.DataFrame(columns)
        if "target" in thetas:
            for side, view in enumerate(VIEWS):
                of = Backward(layers="lora", loss="sum")
                signal = ProjectedGradient(view=view, of=of)
                values = -self.score_gradient(thetas["target"], pairs, side)
                frame = frame.with_columns(
                    pl.Series(signal.column, values, dtype=pl.Array(pl.Float64, 5))
                )
        several = [t for t in thetas.values() if isinstance(t, list)]
        weights = {"proxy": (1 / len(several[0]),) * len(several[0])} if several else {}
        half = len(pairs) // 2
        return Frames(parts=(frame[:half], frame[half:]), weights=weights)


def closed_form():
    """The specification's toy: labels by Bradley and Terry, a fifth of the training ones flipped."""
    draw = np.random.default_rng(0)
    phi = draw.normal(size=(60, 4, 5))
    reference = draw.normal(size=5) * 0.3
    wanted = draw.normal(size=5)

    def pairs(count, flip):
        rows = []
        for _ in range(count):
            x = draw.integers(60)
            a, b = draw.choice(4, 2, replace=False)
            p = 1 / (1 + np.exp(-2 * (phi[x, a] - phi[x, b]) @ wanted))
            w, lost = (a, b) if draw.random() < p else (b, a)
            flipped = draw.random() < flip
            rows.append((x, lost, w, 1) if flipped else (x, w, lost, 0))
        return np.array(rows, dtype=np.int64)

    train, validation = pairs(400, 0.2), pairs(100, 0.0)
    return Toy(phi=phi, reference=reference, train=train, validation=validation)


def tuned_world():
    """The toy, its warmed-up theta, and what models before and after validation say of its pairs."""
    world = closed_form()
    theta = world.trained(world.reference, world.train)
    tuned = world.trained(theta, world.validation)
    pool = world.observed(world.train, target=theta, validation=tuned)
    targets = world.observed(world.validation, target=theta, validation=tuned)
    return world, theta, pool, targets


def label_noise(seed):
    """Labels without noise of their own, a fifth of the training ones flipped; theta_ref = 0."""
    draw = np.random.default_rng(seed)
    phi = draw.normal(size=(60, 4, 5))
    wanted = draw.normal(size=5)

    def pairs(count, flip):
        rows = []
        for _ in range(count):
            x = draw.integers(60)
            a, b = draw.choice(4, 2, replace=False)
            w, lost = (a, b) if (phi[x, a] - phi[x, b]) @ wanted > 0 else (b, a)
            flipped = draw.random() < flip
            rows.append((x, lost, w, 1) if flipped else (x, w, lost, 0))
        return np.array(rows, dtype=np.int64)

    train, validation = pairs(400, 0.2), pairs(100, 0.0)
    return Toy(phi=phi, reference=np.zeros(5), train=train, validation=validation)


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


def values(scores):
    return scores["score"].to_numpy()


def toy(name):
    """What a run would hand over; nothing reads it here."""
    return Given(artifacts={name: Artifact(name=name, content="toy", path=Path("toy"))})


def frame(ids, columns):
    return Frames(parts=(pl.DataFrame({"id": list(ids)} | columns),))


def rewards(chosen, rejected, role="reward"):
    names = [RewardScore(role=role, view=view).column for view in VIEWS]
    return dict(zip(names, (chosen, rejected), strict=True))

"""The posterior of one arm of a linear bandit: r = <h, w> + noise, w normal.

precision += h h' / noise, moment += r h / noise, mean = precision^-1 moment.
"""

# D = features

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

Floats = NDArray[np.float64]
WIDEST = 256  # features: a Cholesky factor an update costs D^3


@dataclass(kw_only=True, eq=False)
class Posterior:
    """What is believed of an arm; `update` changes it.

    Attributes:
        precision_DD: inverse of the covariance.
        moment_D: precision times mean.
        noise: variance of a reward.
    """

    precision_DD: Floats
    moment_D: Floats
    noise: float = 1.0
    _cached: list[tuple[Floats, Floats]] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def prior(cls, mean_D: Floats, *, strength: float = 1.0, noise: float = 1.0) -> "Posterior":
        """Before any reward: a mean, and how strongly it is believed (lambda_0).

        Raises:
            ValueError: the features are too many, or a setting is not positive.
        """
        if len(mean_D) > WIDEST:
            raise ValueError(
                f"{len(mean_D)} features are too many for a posterior an arm: project them to at "
                f"most {WIDEST}."
            )
        if strength <= 0 or noise <= 0:
            raise ValueError(f"strength and noise are above 0; found {strength} and {noise}.")
        mean_D = np.asarray(mean_D, dtype=np.float64)
        return cls(
            precision_DD=strength * np.eye(len(mean_D)), moment_D=strength * mean_D, noise=noise
        )

    def update(self, h_D: Floats, reward: float) -> None:
        """Take in one reward."""
        self.precision_DD = self.precision_DD + np.outer(h_D, h_D) / self.noise
        self.moment_D = self.moment_D + reward * np.asarray(h_D) / self.noise
        self._cached.clear()

    @property
    def mean_D(self) -> Floats:
        """Where the weights lie in the mean."""
        return self._known()[1]

    def sample(self, normal_D: Floats) -> Floats:
        """A draw of the weights, made of a standard normal one."""
        lower_DD, mean_D = self._known()
        spread_D = solve_triangular(lower_DD, normal_D, lower=True, trans="T")
        return np.asarray(mean_D + spread_D, dtype=np.float64)

    def _known(self) -> tuple[Floats, Floats]:
        """The Cholesky factor of the precision, and the mean; both once an update."""
        if not self._cached:
            lower_DD: Floats = np.linalg.cholesky(self.precision_DD).astype(np.float64)
            mean_D = cho_solve((lower_DD, True), self.moment_D)
            self._cached.append((lower_DD, np.asarray(mean_D, dtype=np.float64)))
        return self._cached[0]

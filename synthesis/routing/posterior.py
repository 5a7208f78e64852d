"""The posterior of one arm of a linear bandit: r = <h, w> + noise, w normal.

precision += h h' / noise, moment += r h / noise, mean = precision^-1 moment.
"""

# D = features

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
    _factor: list[Floats] = field(default_factory=list, init=False, repr=False)

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
        self._factor.clear()

    @property
    def mean_D(self) -> Floats:
        """Where the weights lie in the mean."""
        lower_DD = self._cholesky()
        half_D = np.linalg.solve(lower_DD, self.moment_D)
        return np.asarray(np.linalg.solve(lower_DD.T, half_D), dtype=np.float64)

    def sample(self, normal_D: Floats) -> Floats:
        """A draw of the weights, made of a standard normal one."""
        spread_D = np.linalg.solve(self._cholesky().T, normal_D)
        return np.asarray(self.mean_D + spread_D, dtype=np.float64)

    def _cholesky(self) -> Floats:
        if not self._factor:
            self._factor.append(np.linalg.cholesky(self.precision_DD))
        return self._factor[0]

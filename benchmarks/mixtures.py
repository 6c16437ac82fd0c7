"""Random Gaussian mixtures in very different units: data whose density is known, and that nobody has tuned to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, ortho_group

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """Weights (K,), means (K, d) and covariances (K, d, d) of u, where a row is x = origin + units · u."""

    weights: Array
    means: Array
    covariances: Array
    units: Array
    origin: Array

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Rows (n, d)."""
        component = rng.choice(len(self.weights), size=n, p=self.weights)
        noise = rng.normal(size=(n, self.means.shape[1]))
        moved = np.einsum("nij,nj->ni", np.linalg.cholesky(self.covariances)[component], noise)
        return self.origin + self.units * (self.means[component] + moved)

    def log_prob(self, x: Array) -> Array:
        """log p (n,) in nats of rows (n, d)."""
        u = (x - self.origin) / self.units
        each = [multivariate_normal(m, c).logpdf(u) for m, c in zip(self.means, self.covariances, strict=True)]
        return logsumexp(np.stack(each, axis=1) + np.log(self.weights), axis=1) - np.log(self.units).sum()


def random_mixture(seed: int, dim: int = 5, components: int = 6) -> Mixture:
    """A mixture drawn from `seed`: unequal weights, components with axes from 0.15 to 1 in any direction, means about
    two apart, and columns in units from a thousandth to a hundred thousand."""
    rng = np.random.default_rng([seed, 2410])
    weights = rng.dirichlet(np.full(components, 3.0))
    means = rng.normal(size=(components, dim)) * 1.5
    axes = ortho_group.rvs(dim, size=components, random_state=rng)
    lengths = np.exp(rng.uniform(np.log(0.15), 0.0, (components, dim)))
    covariances = np.einsum("kij,kj,klj->kil", axes, lengths**2, axes)
    units = 10.0 ** rng.uniform(-3, 5, dim)
    return Mixture(weights, means, covariances, units, rng.normal(size=dim) * 3 * units)

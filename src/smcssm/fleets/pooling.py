"""Partial pooling by empirical Bayes: a prior for further series, learned from those that a fleet has.

    maximise over (m, C)   prod_s  integral N(z_s; m, C) p(y_s | z_s) dz_s          z: unconstrained hyperparameters
    E                      w_sn <- w_sn N(z_sn; m, C) / p_0(z_sn)                   of the particles of each series
    M                      m, C <- mean and covariance of z under these, series weighted alike

p_0 is the prior that the particles were weighted under (Morris, 1983, doi:10.1080/01621459.1983.10477920; the integrals
by importance sampling). Empirical Bayes: the data of these series are in it, so it is no prior *for them*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm.core import AbstractPrior, Theta
from smcssm.errors import ModelError
from smcssm.fleets.runtime import FleetRuntime
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, at_full_exponent, log_prior

STEPS, CLOSE = 500, 1e-6


class Pooled(AbstractPrior):
    """A normal law of the unconstrained hyperparameters of another prior; names and transforms are that one's."""

    base: AbstractPrior
    mean: tuple[float, ...]
    chol_rows: tuple[tuple[float, ...], ...]

    def __init__(self, base: AbstractPrior, mean: tuple[float, ...], chol_rows: tuple[tuple[float, ...], ...]) -> None:
        self.base, self.mean, self.chol_rows = base, mean, chol_rows

    @property
    def names(self) -> tuple[str, ...]:
        """As before."""
        return self.base.names

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """As before."""
        return self.base.shapes

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """As before."""
        return self.base.dims

    @property
    def coords(self) -> Mapping[str, tuple[Any, ...]]:
        """As before."""
        return self.base.coords

    @property
    def size(self) -> int:
        """As before."""
        return self.base.size

    def sample(self, key: Array, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of the normal law."""
        e = np.asarray(jax.random.normal(key, (self.size, n)), float)
        return np.asarray(self.mean)[:, None] + np.asarray(self.chol_rows) @ e, np.zeros(n)

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Of the normal law: z is its own scale, no Jacobian is missing."""
        chol = jnp.asarray(self.chol_rows)
        e = jax.scipy.linalg.solve_triangular(chol, z - jnp.asarray(self.mean), lower=True)
        return -0.5 * jnp.sum(e**2) - jnp.sum(jnp.log(jnp.diagonal(chol))) - 0.5 * self.size * jnp.log(2 * jnp.pi)

    def constrain(self, z: Float[Array, " z"]) -> dict[str, Array]:
        """As before."""
        return self.base.constrain(z)

    def unconstrain(self, theta: Theta) -> Float[Array, " z"]:
        """As before."""
        return self.base.unconstrain(theta)


def pooled(runtime: FleetRuntime) -> Pooled:
    """The prior that makes the data of all series of a fleet most probable, among normal laws of z.

    Raises:
        ModelError: series are too few to tell a covariance.
    """
    prior, population = runtime.smc.prior, runtime.state.population
    if len(runtime.state.names) < 2 * (prior.size + 1):
        raise ModelError(
            f"refresh_prior: {len(runtime.state.names)} series tell too little of the law of {prior.size} "
            f"hyperparameters: at least {2 * (prior.size + 1)} are needed"
        )
    with jax.enable_x64(True):
        z = np.asarray(population.z, float)
        log_weight, density = (np.asarray(a, float) for a in compiled(_weights, runtime.smc)(population))
    mean, cov = most_probable(z, log_weight, density)
    rows = np.linalg.cholesky(cov).tolist()
    return Pooled(prior, tuple(mean.tolist()), tuple(map(tuple, rows)))


def _weights(smc: SMC2, population: Any) -> tuple[Array, Array]:
    return at_full_exponent(population), log_prior(smc, population.z)


def most_probable(
    z: Float[np.ndarray, "z s n"], log_weight: Float[np.ndarray, "s n"], log_density: Float[np.ndarray, "s n"]
) -> tuple[Float[np.ndarray, " z"], Float[np.ndarray, "z z"]]:
    """Mean and covariance, by EM from the moments of all particles."""
    usable = np.isfinite(log_weight) & np.isfinite(log_density)
    ratio = np.where(usable, log_weight - np.where(usable, log_density, 0.0), -np.inf)
    mean, cov = _moments(z, _normalised(np.where(usable, log_weight, -np.inf)))
    for _ in range(STEPS):
        e = np.linalg.solve(np.linalg.cholesky(cov), (z - mean[:, None, None]).reshape(len(z), -1)).reshape(z.shape)
        before, (mean, cov) = (mean, cov), _moments(z, _normalised(ratio - 0.5 * np.sum(e**2, axis=0)))
        if max(np.abs(mean - before[0]).max(), np.abs(cov - before[1]).max()) < CLOSE * np.trace(cov):
            break
    return mean, cov


def _normalised(log_weight: Float[np.ndarray, "s n"]) -> Float[np.ndarray, "s n"]:
    """Each series sums to one over the number of series."""
    w = np.exp(log_weight - log_weight.max(axis=-1, keepdims=True))
    return w / w.sum(axis=-1, keepdims=True) / len(w)


def _moments(z: Float[np.ndarray, "z s n"], w: Float[np.ndarray, "s n"]) -> tuple[np.ndarray, np.ndarray]:
    mean = np.einsum("zsn,sn->z", z, w)
    off = z - mean[:, None, None]
    return mean, np.einsum("zsn,ysn,sn->zy", off, off, w)

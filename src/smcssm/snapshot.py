"""An immutable view of an engine at one moment: what every read-out is a function of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.core import Observation, at_each_particle
from smcssm.smc2 import relabel
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, at_full_exponent


class Snapshot(NamedTuple):
    """The population (device arrays) and its configuration; independent runs lie on the series axis.

    ``data`` reads the observations, of which there may be more than fit into memory; rows are never altered. ``when``
    reads their time stamps, in the order of arrival; it gives None where there are none.
    """

    smc: SMC2
    population: Population
    t: int
    record: dict[str, np.ndarray] | None
    data: Callable[[], Observation] | None
    when: Callable[[], np.ndarray | None]
    last_move: Any
    log_evidences: np.ndarray

    def weights(self) -> np.ndarray:
        """Normalised weights ``[runs, n]`` under the whole posterior, each run summing to one."""
        with jax.enable_x64(True):
            w = np.asarray(compiled(_weights, self.smc)(self.population))
        w = np.exp(w - w.max(axis=-1, keepdims=True))
        return w / w.sum(axis=-1, keepdims=True)

    def average(self, values: np.ndarray) -> np.ndarray:
        """Weighted mean over particles and runs of values ``[..., runs, n]``; particles of weight zero may be NaN."""
        w = self.weights() / self.population.log_weight.shape[0]
        return np.sum(np.where(w > 0, w * values, 0.0), axis=(-2, -1))

    def theta(self) -> dict[str, np.ndarray]:
        """Every named quantity of the prior at the particles, ``[..., runs, n]``."""
        with jax.enable_x64(True):
            values = compiled(_constrain, self.smc)(self.population.z)
            return {name: np.asarray(v) for name, v in values.items()}

    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """Filtered mean and sd of every state at the particles, ``[x, runs, n]``."""
        with jax.enable_x64(True):
            mean, sd = compiled(_moments, self.smc)(self.population.belief)
            return np.asarray(mean), np.asarray(sd)

    def regimes(self) -> np.ndarray | None:
        """Filtered probability of every regime at the particles, ``[k, runs, n]``; None of a model without."""
        with jax.enable_x64(True):
            found = compiled(_regimes, self.smc)(self.population.belief)
            return None if found is None else np.asarray(found)

    def in_order(self, key: str) -> Snapshot:
        """The same posterior with each particle's regimes in ascending order of a hyperparameter, say ``"sigma_obs"``.

        Where regimes are exchangeable, means over all of their orders say nothing; those in one order do.

        Raises:
            ModelError: the model's regimes are not exchangeable, or the prior or ``key`` does not allow for it.
        """
        with jax.enable_x64(True):
            relabel.check_order(self.smc, key, np.asarray(self.smc.prior.sample(jax.random.key(0), 4)[0]))
            return self._replace(population=compiled(relabel.in_order, self.smc, key)(self.population))

    def log_evidence(self) -> np.ndarray:
        """log p(y_1:t) of each run."""
        return self.log_evidences


def _weights(smc: SMC2, population: Population) -> jnp.ndarray:
    del smc
    return at_full_exponent(population)


def _constrain(smc: SMC2, z: Any) -> dict[str, jnp.ndarray]:
    return at_each_particle(smc.prior.constrain)(z)


def _regimes(smc: SMC2, belief: Any) -> Any:
    return smc.filter.regimes(belief)


def _moments(smc: SMC2, belief: Any) -> Any:
    return smc.filter.moments(belief)

"""Counts whose log intensity is a sum of components (West & Harrison 1997, Bayesian Forecasting, chapter 14).

y_t ~ Poisson(exp(log_mean + H x_t)), and x_t linear and Gaussian.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaincc, gammaln
from jaxtyping import Array, Bool, Float

from smcssm.core import AbstractNonlinear, AbstractPrior, Observation, Theta
from smcssm.errors import ModelError
from smcssm.gaussian import affine
from smcssm.linalg import matvec, rows, stack
from smcssm.models.ar import AR
from smcssm.models.structural import AbstractComponent, Structural
from smcssm.priors.base import Independent, Normal

FEW = 64  # counts up to which probabilities are added up


class PoissonCounts(AbstractNonlinear):
    """Counts y with log intensity log_mean + the sum of ``signal``: ``PoissonCounts(AR(1))``.

    Args:
        signal: a component or a sum of several, without ``Noise()``; ``AR(1)`` by default.
        mean: whether there is a hyperparameter ``log_mean``; False for a signal that has a level of its own:
            ``PoissonCounts(Level(), mean=False)``.

    Components whose states never change (``Regression``, a ``Seasonal`` without noise) are not for particles: they
    would die out to one value.
    """

    signal: Structural
    mean: bool

    channel_names: ClassVar[tuple[str, ...]] = ("y",)
    guided: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def __init__(self, signal: Any = None, *, mean: bool = True) -> None:
        given = AR(1) if signal is None else signal
        if isinstance(given, AbstractComponent):
            given = Structural((given,))
        if not isinstance(given, Structural):
            raise ModelError(f"PoissonCounts(signal): expected a component or a sum of them, got {signal!r}")
        if given.noise is not None:
            raise ModelError("PoissonCounts(signal): counts have no Noise(): leave it out")
        self.signal, self.mean = given, bool(mean)

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the signal, and the mean."""
        return (*(("log_mean",) if self.mean else ()), *self.signal.names)

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """Those of the signal; a scalar."""
        return (*(((),) if self.mean else ()), *self.signal.shapes)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The log intensity, and the states of the signal."""
        return ("log_intensity", *self.signal.state_names)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Those of the signal."""
        return self.signal.input_names

    @property
    def continuous_time(self) -> bool:
        """Whether the signal is exact for any dt."""
        return self.signal.continuous_time

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """That of the signal."""
        return self.signal.support(theta)

    def default_prior(self, scale: float) -> AbstractPrior:
        """Log intensities that vary by about ``scale``."""
        prior = self.signal.default_prior(scale)
        assert isinstance(prior, Independent)
        laws = dict(zip(prior.names, prior.laws, strict=True))
        return Independent(({"log_mean": Normal(0.0, 3.0)} if self.mean else {}) | laws)

    def sample_initial(self, key: Array, params: Theta, obs: Observation, n_inner: int) -> Float[Array, "x m s n"]:
        """The initial law of the signal."""
        m0, chol_P0 = self.signal.initial(params, obs)
        like = jnp.zeros((n_inner, *jax.tree.leaves(params)[0].shape[-2:]), obs.y.dtype)
        x = affine(key, [[]] * len(m0), jnp.zeros((0, *like.shape)), m0, chol_P0, like)
        return self._with_intensity(params, x, obs)

    def sample_transition(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """That of the signal."""
        system = self.signal.matrices(params, obs)
        return self._with_intensity(params, affine(key, system.F, x[1:], system.c, system.chol_Q, x[0]), obs)

    def log_observation(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "m s n"]:
        """The log probability of a count; -inf of what is none."""
        y, x = obs.y[0], self.settle(params, x, obs)
        count = (y >= 0) & (y == jnp.round(y))
        found = jnp.where(count, _log_probability(y, x[0]), -jnp.inf)
        return jnp.where(obs.mask[0], found, 0.0)

    def sample_observation(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "y m s n"]:
        """Poisson numbers."""
        rate = jnp.moveaxis(jnp.exp(self.settle(params, x, obs)[:1]), -2, 0)
        return jnp.moveaxis(jax.vmap(jax.random.poisson)(key, rate), 0, -2).astype(x.dtype)

    def predictive(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Array, Array, Array, Array]:
        """Poisson(exp(log intensity))."""
        x = self.settle(params, x, obs)[:1]
        rate, y = jnp.exp(x), jnp.where(obs.mask, obs.y, 0.0)

        def added_up() -> Array:
            def more(k: Array, total: Array) -> Array:
                k = k.astype(x.dtype)
                return total + jnp.where(k <= y, jnp.exp(_log_probability(k, x)), 0.0)

            return jax.lax.fori_loop(0, jnp.max(y).astype(jnp.int32) + 1, more, jnp.zeros_like(x))

        upto = jax.lax.cond(jnp.max(y) < FEW, added_up, lambda: gammaincc(y + 1, rate))
        return rate, jnp.sqrt(rate), upto - jnp.exp(_log_probability(y, x)), upto

    def settle(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "x m s n"]:
        """The log intensity under the inputs of this row: of the first, and over dt = 0, there were others before."""
        return self._with_intensity(params, x[1:], obs) if self.input_names else x

    def _with_intensity(self, params: Theta, x: Float[Array, "k m s n"], obs: Observation) -> Float[Array, "x m s n"]:
        signal = stack(matvec(rows(self.signal.matrices(params, obs).H), list(x)), x[0])
        return jnp.concatenate([signal + params["log_mean"][None] if self.mean else signal, x])


def _log_probability(count: Array, log_rate: Array) -> Array:
    return count * log_rate - jnp.exp(log_rate) - gammaln(count + 1)

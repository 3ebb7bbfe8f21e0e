"""Student t observation noise for any linear Gaussian model, as a scale mixture (West 1984; Harvey & Luati 2014).

    y_t = H x_t + d + sqrt(u_t) chol_R n_t,   1 / u_t ~ Gamma(df / 2, rate df / 2) independently,   n_t ~ N(0, I)

so that the noise has a (multivariate) t law with df degrees of freedom and scale chol_R, while given u_t the model is
linear and Gaussian. The filter draws u_t from its law, and an outlier finds the draws that are large; or from a guide
that has seen y_t, of innovations v with variances S without noise, k channels that are present and r = diag chol_R:

    1 / u_t ~ Gamma((df + k) / 2, rate (df + sum max(v² - S, 0) / r²) / 2)  or from its law, half of the time each

(weights are at most 2, whatever the guide).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.arguments import number
from smcssm.core import (
    AbstractConditionallyGaussian,
    AbstractLinearGaussian,
    AbstractPrior,
    Matrix,
    Observation,
    System,
    Theta,
)
from smcssm.errors import ModelError
from smcssm.linalg import rows, stack, vector
from smcssm.linalg.entries import multiply
from smcssm.models.linear_gaussian import LinearGaussian
from smcssm.models.regimes import lift
from smcssm.priors.base import Independent, LogNormal


class StudentT(AbstractConditionallyGaussian):
    """A linear Gaussian model made robust: ``StudentT(LocalLevel())``.

    Args:
        model: the model; its observation noise becomes the scale of the t law, the same factor for all channels.
        df: degrees of freedom; None makes them a hyperparameter, ``df``.
        guided: whether scales are drawn with the observation in sight.

    Every row has a scale of its own, simultaneous ones too.
    """

    model: AbstractLinearGaussian
    df: float | None = None
    guided: bool = True

    def __check_init__(self) -> None:
        """A model that has room for it."""
        if not isinstance(self.model, AbstractLinearGaussian):
            raise ModelError(f"StudentT(model): expected a linear Gaussian model, got {self.model!r}")
        if self.df is not None:
            told = "a positive number of degrees of freedom, or None"
            number("StudentT(df)", self.df, told, lambda df: 0 < df < math.inf)
        if "df" in self.model.names:
            raise ModelError("StudentT(model): the model has a hyperparameter of the name df already")

    @property
    def names(self) -> tuple[str, ...]:
        """The model's, and ``df`` where it is not given."""
        return (*self.model.names, *(("df",) if self.df is None else ()))

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """In the same order."""
        return (*self.model.shapes, *(((),) if self.df is None else ()))

    @property
    def state_names(self) -> tuple[str, ...]:
        """The model's."""
        return self.model.state_names

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The model's."""
        return self.model.channel_names

    @property
    def input_names(self) -> tuple[str, ...]:
        """The model's."""
        return self.model.input_names

    @property
    def continuous_time(self) -> bool:
        """As the model's."""
        return self.model.continuous_time

    @property
    def regime_names(self) -> tuple[str, ...]:
        """None: u is a positive number."""
        return ()

    @property
    def reads(self) -> frozenset[str]:
        """The fields of the step that the model reads."""
        return getattr(self.model, "reads", frozenset())

    def complaint(self, theta: Theta) -> str | None:
        """What is wrong with the model at theta, where it is of a user's own function."""
        return self.model.complaint(theta) if isinstance(self.model, LinearGaussian) else None

    def params(self, theta: Theta) -> PyTree[Array]:
        """The model's, and half the degrees of freedom."""
        inner = self.model.params({name: theta[name] for name in self.model.names})
        df = jnp.asarray(theta["df"] if self.df is None else float(self.df))
        return {"model": inner, "half": 0.5 * df}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where the model has one, and df is positive."""
        inside = self.model.support({name: theta[name] for name in self.model.names})
        return inside & (theta["df"] > 0) if self.df is None else inside

    def default_prior(self, scale: float) -> AbstractPrior:
        """The model's, and degrees of freedom around 5: heavy tails."""
        prior = self.model.default_prior(scale)
        if self.df is not None:
            return prior
        if not isinstance(prior, Independent):
            raise ModelError(f"StudentT: give a prior for {', '.join(self.names)}")
        return Independent({**dict(zip(prior.names, prior.laws, strict=True)), "df": LogNormal(5.0, 0.75)})

    def start(
        self, key: Array, params: PyTree[Array], obs: Observation, m: int
    ) -> tuple[Float[Array, "m s n"], Float[Array, "m s n"]]:
        """Nothing is random before there is a row."""
        del key, obs
        one = jnp.ones((m, *params["half"].shape), params["half"].dtype)
        return one, jnp.log(one / m)

    def successors(
        self, key: Array, params: PyTree[Array], u: Float[Array, "m s n"], obs: Observation
    ) -> tuple[Float[Array, "1 m s n"], Float[Array, "1 m s n"]]:
        """Draws from the law of u."""
        del obs
        drawn = _scales(key, params["half"], u)[None]
        return drawn, jnp.zeros_like(drawn)

    def propose(
        self,
        key: Array,
        params: PyTree[Array],
        u: Float[Array, "m s n"],
        obs: Observation,
        ahead: tuple[Float[Array, "y m s n"], Float[Array, "y m s n"]],
    ) -> tuple[Float[Array, "1 m s n"], Float[Array, "1 m s n"]]:
        """Draws from an even mixture of the law of u and the guide."""
        (mean, sd), half = ahead, params["half"]
        chol_R = stack(rows(self.model.matrices(params["model"], obs).chol_R), half)
        r2, seen = jnp.sum(chol_R**2, axis=1)[:, None], obs.mask[:, None]
        excess = (obs.y[:, None] - mean) ** 2 - jnp.maximum(sd**2 - u[None] * r2, 0.0)
        noisy = seen & (r2 > 0)
        scaled = jnp.where(noisy, jnp.maximum(excess, 0.0) / jnp.where(noisy, r2, 1.0), 0.0)
        prior = half[None] + jnp.zeros_like(u)
        shape, rate = prior + 0.5 * jnp.sum(noisy, axis=0), prior + 0.5 * jnp.sum(scaled, axis=0)
        key_v, key_c = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        from_law = _uniform(key_c, u) < 0.5
        a, b = jnp.where(from_law, prior, shape), jnp.where(from_law, prior, rate)
        log_v = _log_gamma(key_v, a) - jnp.log(b)

        def log_density(a: Array, b: Array) -> Array:
            return a * (jnp.log(b) + log_v) - b * jnp.exp(log_v) - gammaln(a)

        log_f = log_density(prior, prior)
        log_q = jnp.logaddexp(log_f, log_density(shape, rate)) - jnp.log(2.0)
        return jnp.exp(-log_v)[None], (log_f - log_q)[None]

    def transit(
        self, key: Array, params: PyTree[Array], u: Float[Array, "s n"], obs: Observation
    ) -> Float[Array, "s n"]:
        """A draw from the law of u."""
        del obs
        return _scales(key, params["half"], u)

    def initial(self, params: PyTree[Array], u: Array, obs: Observation) -> tuple[Matrix, Matrix]:
        """The model's."""
        m0, chol_P0 = self.model.initial(params["model"], obs)
        return lift(vector(m0), u.ndim), lift(rows(chol_P0), u.ndim)

    def matrices(self, params: PyTree[Array], u: Array, obs: Observation) -> System:
        """The model's, its noise scaled."""
        F, c, chol_Q, H, d, chol_R = self.model.matrices(params["model"], obs)
        noise = [[multiply(e, jnp.sqrt(u)) for e in row] for row in lift(rows(chol_R), u.ndim)]
        F, chol_Q, H = (lift(rows(M), u.ndim) for M in (F, chol_Q, H))
        return System(F, lift(vector(c), u.ndim), chol_Q, H, lift(vector(d), u.ndim), noise)


def _scales(key: Array, half: Float[Array, "s n"], like: Float[Array, "*m s n"]) -> Float[Array, "*m s n"]:
    """Draws of u from its law."""
    shape = jnp.broadcast_to(half, like.shape).astype(like.dtype)
    return jnp.exp(jnp.log(shape) - _log_gamma(key, shape))


def _log_gamma(key: Array, shape: Float[Array, "*m s n"]) -> Float[Array, "*m s n"]:
    """Logarithms of draws from Gamma laws of rate 1, of each series by its own key."""

    def one(key: Array, shape: Any) -> Float[Array, "*m n"]:
        return jax.random.loggamma(key, shape, dtype=shape.dtype)

    return jnp.moveaxis(jax.vmap(one)(key, jnp.moveaxis(shape, -2, 0)), 0, -2)


def _uniform(key: Array, like: Float[Array, "m s n"]) -> Float[Array, "m s n"]:
    """Numbers in [0, 1), of each series by its own key."""
    shape = (*like.shape[:-2], like.shape[-1])
    return jnp.moveaxis(jax.vmap(lambda k: jax.random.uniform(k, shape, like.dtype))(key), 0, -2)

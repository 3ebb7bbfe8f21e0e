"""Student t observation noise for any linear Gaussian model, as a scale mixture (West 1984; Harvey & Luati 2014).

    y_t = H x_t + d + sqrt(u_t) chol_R n_t,   1 / u_t ~ Gamma(df / 2, rate df / 2) independently,   n_t ~ N(0, I)

so that the noise has a (multivariate) t law with df degrees of freedom and scale chol_R, while given u_t the model is
linear and Gaussian. The filter draws u_t from its law; an outlier finds the draws that are large.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

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
from smcssm.linalg import rows, vector
from smcssm.linalg.entries import multiply
from smcssm.models.regimes import lift
from smcssm.priors.base import Independent, LogNormal


class StudentT(AbstractConditionallyGaussian):
    """A linear Gaussian model made robust: ``StudentT(LocalLevel())``.

    Args:
        model: the model; its observation noise becomes the scale of the t law, the same factor for all channels.
        df: degrees of freedom; None makes them a hyperparameter, ``df``.

    Every row has a scale of its own, simultaneous ones too.
    """

    model: AbstractLinearGaussian
    df: float | None = None

    def __check_init__(self) -> None:
        """A model that has room for it."""
        if not isinstance(self.model, AbstractLinearGaussian):
            raise ModelError(f"StudentT(model): expected a linear Gaussian model, got {self.model!r}")
        if self.df is not None and not self.df > 0:
            raise ModelError(f"StudentT(df={self.df!r}): expected a positive number of degrees of freedom, or None")
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
    """Draws of u, of each series by its own key."""
    shape = (*like.shape[:-2], like.shape[-1])

    def one(key: Array, half: Float[Array, " n"]) -> Float[Array, "*m n"]:
        spread: Any = jnp.broadcast_to(half, shape)
        return jnp.exp(jnp.log(spread) - jax.random.loggamma(key, spread, dtype=like.dtype))

    return jnp.moveaxis(jax.vmap(one)(key, half), 0, -2)

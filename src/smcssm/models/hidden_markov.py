"""Finite hidden Markov models: Gaussian observations of each regime, or your own.

    u_1 ~ p0,   u_t | u_t-1 ~ P[u_t-1, .] over dt_t > 0,   y_t | u_t ~ p(y | u_t, theta)

Rabiner (1989, doi:10.1109/5.18626).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import AbstractHiddenMarkov, AbstractPrior, Observation, Theta
from smcssm.errors import ModelError
from smcssm.gaussian import normal_cdf
from smcssm.models.arguments import count, labels, numbered, regime_axes
from smcssm.models.linear_gaussian import shapes_of
from smcssm.models.regimes import Chain, checked
from smcssm.models.structural import nonnegative
from smcssm.models.try_out import label, try_out_regimes
from smcssm.models.user_function import Step
from smcssm.priors.base import Beta, Dirichlet, HalfNormal, Independent, Normal

Told = tuple[Float[Array, "k y s n"], Float[Array, "k y s n"], Float[Array, "k y s n"]]


class GaussianRegimes(AbstractHiddenMarkov):
    """y_t = mean[u] + sigma[u] n_t: observations around a mean of the regime, with its standard deviation.

    Hyperparameters: ``mean`` and ``sigma``, a value for each regime; of two regimes ``stay``, the probability of each
    to stay where it is; of more, ``transition``, the matrix of probabilities from a regime (row) to a regime (column).
    All regimes are equally probable at first. One observation is one step of the chain.
    """

    n_regimes: int
    regime_names: tuple[str, ...]

    channel_names: ClassVar[tuple[str, ...]] = ("y",)
    input_names: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False

    def __init__(self, n_regimes: int = 2, regime_names: Sequence[str] | None = None) -> None:
        self.n_regimes = count("GaussianRegimes(n_regimes)", n_regimes, 2)
        self.regime_names = names_of("GaussianRegimes(regime_names)", regime_names, n_regimes)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the hyperparameters."""
        return ("mean", "sigma", "stay" if self.n_regimes == 2 else "transition")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """A value, or a row, for each regime."""
        K = self.n_regimes
        return (K,), (K,), (2,) if K == 2 else (K, K)

    @property
    def per_regime(self) -> Mapping[str, int]:
        """How many leading axes of a hyperparameter count regimes."""
        return {name: len(shape) for name, shape in zip(self.names, self.shapes, strict=True)}

    @property
    def state_names(self) -> tuple[str, ...]:
        """Indicators of the regimes."""
        return self.regime_names

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Whether no standard deviation is negative, and probabilities are some."""
        P = _matrix(theta)
        return nonnegative(theta, ("sigma",)) & ~jnp.any(jnp.isnan(checked(P, axis=1)))

    def default_prior(self, scale: float) -> AbstractPrior:
        """Means and sds of a size of about ``scale``, regimes that last: the same law for each."""
        K = self.n_regimes
        if K == 2:
            stays = {"stay": Beta(8.0, 2.0, (2,))}
        else:
            stays = {"transition": Dirichlet([[8.0 if i == j else 2.0 / (K - 1) for j in range(K)] for i in range(K)])}
        return Independent({"mean": Normal(0.0, scale, (K,)), "sigma": HalfNormal(scale, (K,)), **stays})

    def initial_probabilities(self, params: Theta, obs: Observation) -> Float[Array, "k s n"]:
        """Equal."""
        return jnp.full_like(params["mean"], 1 / self.n_regimes)

    def transition(self, params: Theta, obs: Observation) -> Float[Array, "k k s n"]:
        """From row to column; the identity over dt = 0."""
        return _unless_now(obs, checked(_matrix(params), axis=1))

    def log_observation(self, params: Theta, obs: Observation) -> Float[Array, "k s n"]:
        """Gaussian."""
        log_p = norm.logpdf(obs.y, params["mean"], self._sd(params, obs))
        return jnp.where(obs.mask, log_p, 0.0)

    def emission(self, params: Theta, obs: Observation) -> Told:
        """Mean, sd and distribution function."""
        mean, sd = params["mean"], self._sd(params, obs)
        return mean[:, None], sd[:, None], normal_cdf((obs.y - mean) / sd)[:, None]

    def sample_observation(
        self, key: Array, params: Theta, u: Int[Array, "s n"], obs: Observation
    ) -> Float[Array, "y s n"]:
        """Of the regime u."""
        mean, sd = (jnp.take_along_axis(a, u[None], axis=0) for a in (params["mean"], self._sd(params, obs)))
        e = jax.vmap(lambda k: jax.random.normal(k, u.shape[-1:], mean.dtype))(key)
        return mean + sd * e[None]

    def _sd(self, params: Theta, obs: Observation) -> Float[Array, "k s n"]:
        sd = params["sigma"]
        return sd if obs.noise_sd is None else jnp.sqrt(sd**2 + obs.noise_sd**2)


class HiddenMarkov(AbstractHiddenMarkov):
    """Your own observations of the regimes of a hidden Markov chain.

    Args:
        log_observation: (theta, y, step) -> log p(y | regime) of every regime and channel,
            ``[regimes, channels]``, or ``[regimes]`` of one channel; for one particle, with jax.numpy. Channels are
            independent given the regime; what is missing is left out here.
        transition: the matrix of probabilities from a regime (row) to a regime (column), or a function of theta or of
            (theta, step) that returns it.
        names: the hyperparameters that the functions read.
        initial: probabilities at the first observation, or a function of theta; equal by default.
        sample: (key, theta, regime, step) -> one draw of y, ``[channels]``; forecasts need it.
        moments: (theta, step) -> mean and sd of every regime and channel, each ``[regimes, channels]``.
        cdf: (theta, y, step) -> distribution function at y, ``[regimes, channels]``. Without ``moments`` and ``cdf``
            one-step predictions and PIT values are NaN.
        n_regimes: how many there are.
        regime_names: their names.
        channels: names of the channels.
        shapes: name -> shape of each hyperparameter that is not a scalar.
        example: name -> a value at which the functions are tried out; 0.5 by default.
        per_regime: name -> number of its leading axes that count regimes, where regimes are exchangeable.
    """

    log_p: Callable[..., Any]
    sample: Callable[..., Any] | None
    moments: Callable[..., Any] | None
    cdf: Callable[..., Any] | None
    chain: Chain
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    regime_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    exchangeable: tuple[tuple[str, int], ...]
    reads: frozenset[str]
    """The fields of the step that the functions read."""

    input_names: ClassVar[tuple[str, ...]] = ()

    def __init__(  # noqa: PLR0913
        self,
        log_observation: Callable[..., Any],
        *,
        transition: Any,
        names: Sequence[str],
        initial: Any = None,
        sample: Callable[..., Any] | None = None,
        moments: Callable[..., Any] | None = None,
        cdf: Callable[..., Any] | None = None,
        n_regimes: int = 2,
        regime_names: Sequence[str] | None = None,
        channels: Sequence[str] = ("y",),
        shapes: Mapping[str, int | tuple[int, ...]] | None = None,
        per_regime: Mapping[str, int] | None = None,
        example: Mapping[str, Any] | None = None,
    ) -> None:
        own = {"log_observation": log_observation, "sample": sample, "moments": moments, "cdf": cdf}
        for what, given in own.items():
            if given is not None and not callable(given):
                raise ModelError(f"HiddenMarkov({what}): expected a function, got {type(given).__name__}")
        self.log_p, self.sample, self.moments, self.cdf = log_observation, sample, moments, cdf
        self.names = labels("HiddenMarkov(names)", names)
        self.shapes = shapes_of("HiddenMarkov(shapes)", self.names, shapes or {})
        K = count("HiddenMarkov(n_regimes)", n_regimes, 2)
        self.regime_names = names_of("HiddenMarkov(regime_names)", regime_names, K)
        self.channel_names = labels("HiddenMarkov(channels)", channels)
        self.chain = Chain(initial, transition, self.names, self.shapes, K)
        shaped = dict(zip(self.names, self.shapes, strict=True))
        self.exchangeable = regime_axes("HiddenMarkov(per_regime)", per_regime, shaped, K)
        given = {name: function for name, function in own.items() if function is not None}
        self.reads = self.chain.reads | try_out_regimes(given, shaped, (K, len(self.channel_names)), example or {})

    @property
    def continuous_time(self) -> bool:
        """Whether the transition looks at dt."""
        return "dt" in self.chain.reads

    @property
    def per_regime(self) -> Mapping[str, int]:
        """How many leading axes of a hyperparameter count regimes."""
        return dict(self.exchangeable)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Indicators of the regimes."""
        return self.regime_names

    def params(self, theta: Theta) -> PyTree[Array]:
        """The hyperparameters, and the chain's."""
        own = {name: jnp.asarray(theta[name]) for name in self.names}
        return {"theta": own, "chain": self.chain.params(own)}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where probabilities are some."""
        return self.chain.support(theta)

    def complaint(self, theta: Theta) -> str | None:
        """What is wrong with the probabilities at theta; None where nothing is."""
        return self.chain.complaint(theta)

    def function_named(self, method: str, arguments: tuple, broken: Callable[[Any], bool]) -> str:
        """The user's function that a method calls."""
        if method == "log_observation":
            return label(method, self.log_p)
        return self.chain.function_named(method == "initial_probabilities")

    def default_prior(self, scale: float) -> AbstractPrior:
        """There is none: only its author knows what a name means.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"a model from your own functions has no default prior: give one for {', '.join(self.names)}, "
            "a pm.Model() or ss.priors.FromFunctions(...)"
        )

    def initial_probabilities(self, params: PyTree[Array], obs: Observation) -> Float[Array, "k s n"]:
        """By the user's function."""
        return self.chain.initial_probabilities(params["chain"], self._like(params, obs))

    def transition(self, params: PyTree[Array], obs: Observation) -> Float[Array, "k k s n"]:
        """By the user's function; the identity over dt = 0."""
        return self.chain.transition(params["chain"], obs, self._like(params, obs))

    def log_observation(self, params: PyTree[Array], obs: Observation) -> Float[Array, "k s n"]:
        """By the user's function, over the channels that are present."""
        if obs.noise_sd is not None and "noise_sd" not in self.reads:
            raise ModelError("noise_sd was given, but no function of the model reads step.noise_sd")
        log_p = self._each(params, obs, self.log_p, "log_observation")
        return jnp.sum(jnp.where(obs.mask[None], log_p, 0.0), axis=1)

    def emission(self, params: PyTree[Array], obs: Observation) -> Told:
        """By the user's functions."""
        like = self._like(params, obs)
        unknown = jnp.full((len(self.regime_names), len(self.channel_names), *like.shape), jnp.nan, like.dtype)
        mean, sd = unknown, unknown
        if (moments := self.moments) is not None:

            def moment(i: int) -> Float[Array, "k y s n"]:
                return self._each(params, obs, lambda theta, y, step: moments(theta, step)[i], "moments")

            mean, sd = moment(0), moment(1)
        return mean, sd, unknown if self.cdf is None else self._each(params, obs, self.cdf, "cdf")

    def sample_observation(
        self, key: Array, params: PyTree[Array], u: Int[Array, "s n"], obs: Observation
    ) -> Float[Array, "y s n"]:
        """By the user's function."""
        if self.sample is None:
            raise ModelError("HiddenMarkov: give sample=, a function (key, theta, regime, step), to draw observations")
        sample, keys = self.sample, jax.vmap(lambda k: jax.random.split(k, u.shape[-1]))(key)

        def one(theta: Theta, key: Array, u: Array, step: Step) -> Array:
            return jnp.reshape(sample(key, theta, u, step), len(self.channel_names))

        return _map(one, 3)(params["theta"], keys, u, _step(obs))

    def _each(self, params: PyTree[Array], obs: Observation, f: Callable, what: str) -> Float[Array, "k y s n"]:
        """What f(theta, y, step) is at every particle."""
        shape = (len(self.regime_names), len(self.channel_names))
        scalar = shape[1] == 1
        y = obs.y[..., 0]

        def one(theta: Theta, y_and_step: Any) -> Array:
            y, step = y_and_step
            out = jnp.asarray(f(theta, y[0] if scalar else y, step))
            if out.shape not in (shape, *((shape[:1],) if scalar else ())):
                raise ModelError(f"HiddenMarkov({what}): got shape {out.shape}, expected {shape}, regimes by channels")
            return out.reshape(shape)

        return _map(one, 1)(params["theta"], (y, _step(obs)))

    def _like(self, params: PyTree[Array], obs: Observation) -> Float[Array, "s n"]:
        return jnp.zeros(jax.tree.leaves(params)[0].shape[-2:], obs.y.dtype)


def names_of(what: str, given: Sequence[str] | None, n: int) -> tuple[str, ...]:
    """Names of n regimes."""
    names = numbered("regime", n) if given is None else labels(what, given)
    if len(names) != n:
        raise ModelError(f"{what}: got {len(names)} names for {n} regimes")
    return names


def _matrix(theta: Theta) -> Array:
    """P[from, to]."""
    if "transition" in theta:
        return jnp.asarray(theta["transition"])
    stay = jnp.asarray(theta["stay"])
    return jnp.stack([jnp.stack([stay[0], 1 - stay[0]]), jnp.stack([1 - stay[1], stay[1]])])


def _unless_now(obs: Observation, P: Float[Array, "k k s n"]) -> Float[Array, "k k s n"]:
    same = jnp.eye(len(P), dtype=P.dtype)[:, :, None, None]
    return jnp.where((obs.dt == 0)[None, None], same, P)


def _step(obs: Observation) -> Step:
    """Leaves [..., s]."""
    return jax.tree.map(lambda leaf: leaf[..., 0], Step(obs.index, obs.dt, obs.inputs, obs.noise_sd))


def _map(f: Callable, n_particle: int) -> Callable:
    """Map f over [s, n]: so many arguments of particles, [..., s, n], then one of series, [..., s]."""
    over_n = jax.vmap(f, in_axes=(-1,) * n_particle + (None,), out_axes=-1)
    return jax.vmap(over_n, in_axes=(-2,) * n_particle + (-1,), out_axes=-2)

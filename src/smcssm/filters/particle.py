"""Particle filters of nonlinear models: bootstrap, guided and auxiliary.

Gordon, Salmond & Smith (1993, doi:10.1049/ip-f-2.1993.0015); Pitt & Shephard (1999, doi:10.2307/2670179); Chopin &
Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapter 10. For each outer particle:

    v_i = W_i eta(x_i, y_t)                        eta: the look-ahead; 1 without
    if 1 / sum (v_i / sum v)^2 < threshold * M:    a_j resampled by v;   V_j = (sum v) / (M eta(x_{a_j}, y_t))
    else:                                          a_j = j;              V_j = W_j
    x'_j ~ q(. | x_{a_j}, y_t);   w_j = V_j f(x'_j | x_{a_j}) g(y_t | x'_j) / q(x'_j | x_{a_j}, y_t)
    p(y_t | y_1:t-1) is estimated by L_t = sum w_j;   W'_j = w_j / L_t

Without bias, whatever eta > 0, q and the threshold: whether to resample is known before anything is drawn, and
resampling takes i for v_i M / (sum v) of the slots on average, so that for any h, in both cases,

    E[sum_j w_j h(x'_j) | particles at t-1] = sum_i W_i int f(x' | x_i) g(y_t | x') h(x') dx' = sum_i W_i (Q_t h)(x_i).

So L_1 ... L_t sum_j W_j h(x_j) has the mean p(x_1) Q_1 ... Q_t h, by going back from t to 1; h = 1 is the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from smcssm.arguments import number, whole
from smcssm.core import AbstractNonlinear, AbstractRandomFilter, FilterInfo, Observation, Status
from smcssm.errors import ModelError
from smcssm.filters.collapse import fold_in
from smcssm.filters.inner import SCHEMES, normalise, running_sum, take, uniform
from smcssm.gaussian import mixture_moments

METHODS = ("auto", "bootstrap", "guided", "auxiliary")
RESAMPLING = (*SCHEMES, "sorted")


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Particles:
    """Inner particles and their log weights, which sum to one; ``path`` are their states before, the latest first."""

    x: Float[Array, "x m s n"]
    log_weight: Float[Array, "m s n"]
    path: Float[Array, "l x m s n"] | None = None


class Particle(AbstractRandomFilter):
    """Inner particles for every outer particle, resampled each by themselves when they need it.

    Args:
        model: a nonlinear model; that of the engine by default.
        n_particles: inner particles of each outer particle, M.
        method: "bootstrap" draws from the dynamics; "guided" from the model's proposal; "auxiliary" looks ahead before
            it resamples, and uses the proposal too, if there is one; "auto" uses what the model has.
        resampling: "systematic"; "stratified"; or "sorted", systematic after sorting by the first state, with which
            the likelihood depends more smoothly on hyperparameters and random numbers.
        ess_threshold: resample where the effective sample size falls below this share of M; 1 for always, 0 for never.
        max_inner: how many inner particles there may ever be.
        lag: how many past states are kept with each particle, for ``lagged``.
    """

    model: Any = None
    n_particles: int = 512
    method: str = "auto"
    resampling: str = "systematic"
    ess_threshold: float = 0.5
    max_inner: int = 1 << 14
    lag: int = 0

    def __check_init__(self) -> None:
        """Complain about options."""
        for name, least in (("n_particles", 2), ("max_inner", self.n_particles), ("lag", 0)):
            whole(f"Particle({name})", getattr(self, name), least)
        for name, known in (("method", METHODS), ("resampling", RESAMPLING)):
            if (value := getattr(self, name)) not in known:
                raise ModelError(f"Particle({name}={value!r}): expected one of {', '.join(map(repr, known))}")
        number("Particle(ess_threshold)", self.ess_threshold, "a share between 0 and 1", lambda v: 0 <= v <= 1)
        if self.model is not None:
            _check_model(self.model, self.method)

    def init(
        self, key: Array, params: PyTree[Array], obs: Observation, like: Particles | None = None
    ) -> Particles:
        """x_1, equally weighted."""
        m = self.n_particles if like is None else self.inner(like)
        x = self.model.sample_initial(key, _wide(params), _wide(obs), m)
        log_weight = jnp.full(x.shape[1:], -jnp.log(m), x.dtype)
        return Particles(x, log_weight, jnp.broadcast_to(x, (self.lag, *x.shape)) if self.lag else None)

    def step(
        self, key: Array, params: PyTree[Array], belief: Particles, obs: Observation
    ) -> tuple[Particles, FilterInfo]:
        """One observation."""
        params, obs = _wide(params), _wide(obs)
        of_slots, of_moves, of_prediction = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(key), 1, 0)
        start, log_weight = self._resample(of_slots, params, belief, obs)
        x, log_ratio = self._move(of_moves, params, start.x, obs)
        seen = jnp.any(obs.mask, axis=0)
        log_g = self.model.log_observation(params, x, obs) + log_ratio
        dead = jnp.isneginf(log_weight)  # whatever has become of their states
        new_weight, total = normalise(jnp.where(dead, -jnp.inf, log_weight + log_g))
        told = self._predictive(of_prediction, params, (start.x, x, log_weight), obs)
        log_lik = jnp.where(seen[0], total, 0.0)
        path = None if start.path is None else jnp.concatenate([start.x[None], start.path[:-1]])
        new = Particles(self.model.settle(params, x, obs), new_weight, path)
        mean, sd, pit, draw = told
        return new, FilterInfo(log_lik, mean, sd, pit, jnp.full(total.shape, Status.OK, jnp.int8), draw)

    def _resample(
        self, key: Array, params: PyTree[Array], belief: Particles, obs: Observation
    ) -> tuple[Particles, Float[Array, "m s n"]]:
        """x_a, and log V."""
        first, look, total = belief.log_weight, None, jnp.zeros(belief.x.shape[-2:], belief.x.dtype)
        if self._looks_ahead:
            knows = jnp.all(obs.mask, axis=0) & (obs.dt > 0)
            look = jnp.where(knows, self.model.look_ahead(params, belief.x, obs), 0.0)
            look = jnp.where(jnp.isnan(look) | jnp.isneginf(first), 0.0, look)  # of the dead it may be anything
            first, total = normalise(first + look)
        weight = jnp.exp(first)
        m = len(weight)
        poor = jnp.sum(weight**2, axis=0) * (self.ess_threshold * m) > 1
        stay = jnp.arange(m, dtype=jnp.int32)[:, None, None]
        ancestor = jnp.where(poor[None], self._ancestors(key, weight, belief.x), stay)
        moved = jax.tree.map(lambda a: take(a, ancestor), replace(belief, log_weight=None))
        fresh = total[None] - jnp.log(jnp.asarray(m, weight.dtype)) - (0.0 if look is None else take(look, ancestor))
        return moved, jnp.where(poor[None], fresh, belief.log_weight)

    def _ancestors(self, key: Array, weight: Float[Array, "m s n"], x: Array) -> Int[Array, "m s n"]:
        if self.resampling != "sorted":
            return SCHEMES[self.resampling](key, weight)
        order = jnp.argsort(x[0], axis=0).astype(jnp.int32)
        return take(order, SCHEMES["systematic"](key, take(weight, order)))

    def _move(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Float[Array, "x m s n"], Float[Array, "m s n"]]:
        """x' and log f / q; over dt = 0 the state stays. A row with a missing value is no guide."""
        moves, none = obs.dt > 0, jnp.zeros(x.shape[1:], x.dtype)
        if not self._guided:
            return jnp.where(moves[None], self.model.sample_transition(key, params, x, obs), x), none
        guides = jnp.all(obs.mask, axis=0) & moves

        def some() -> tuple[Array, Array]:
            proposed, log_ratio = self.model.propose(key, params, x, obs)
            drawn = jnp.where(moves[None], self.model.sample_transition(key, params, x, obs), x)
            return jnp.where(guides[None], proposed, drawn), jnp.where(guides, log_ratio, 0.0)

        return jax.lax.cond(jnp.all(guides), lambda: self.model.propose(key, params, x, obs), some)

    def _predictive(
        self, key: Array, params: PyTree[Array], cloud: tuple[Array, Array, Array], obs: Observation
    ) -> tuple[Array, Array, Array, Array | None]:
        """Mean, sd, PIT and a draw of y_t, from the x' before they are weighted, or others if those have seen y_t."""
        start, x, log_weight = cloud
        of_x, of_y, of_pit = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(key), 1, 0)
        if self._guided:
            x = jnp.where((obs.dt > 0)[None], self.model.sample_transition(of_x, params, start, obs), x)
        told = self.model.predictive(of_y, params, x, obs)
        if told is None:
            nothing = jnp.full((len(obs.y), *x.shape[-2:]), jnp.nan, x.dtype)
            return nothing, nothing, nothing, None
        w = jnp.exp(normalise(log_weight)[0])
        mean, sd, below, upto = told

        centre, spread = mixture_moments(w[None], mean, sd, 1)
        low, high = (jnp.sum(jnp.where(w[None] > 0, w[None] * a, 0.0), axis=1) for a in (below, upto))
        pit = low + uniform(of_pit, centre[..., :1]) * (high - low)  # the same number for all: a mixture's PIT
        one = take(x, self._drawn(fold_in(of_pit, 1), w))
        draw = self.model.sample_observation(fold_in(of_y, 1), params, one, obs)
        return centre, spread, jnp.where(obs.mask[:, 0], pit, jnp.nan), None if draw is None else draw[:, 0]

    def _drawn(self, key: Array, weight: Float[Array, "m s n"]) -> Int[Array, "1 s n"]:
        """One of the particles, by its weight."""
        total = running_sum(weight)
        last = total[-1:]
        index = jnp.sum(total <= uniform(key, last) * last, axis=0, keepdims=True, dtype=jnp.int32)
        return jnp.minimum(index, len(total) - 1)

    @property
    def _guided(self) -> bool:
        return self.model.guided and self.method != "bootstrap"

    @property
    def _looks_ahead(self) -> bool:
        return self.model.looks_ahead and self.method in ("auto", "auxiliary")

    def moments(self, belief: Particles) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"]]:
        """Of the weighted particles."""
        return _moments(belief.x, belief.log_weight)

    def inner(self, belief: Particles) -> int:
        """M."""
        return len(belief.log_weight)

    def draw(self, key: Array, belief: Particles) -> Float[Array, "x s n"]:
        """One of the particles, by its weight."""
        return take(belief.x, self._drawn(key, jnp.exp(belief.log_weight)))[:, 0]

    def simulate(
        self, key: Array, params: PyTree[Array], state: Float[Array, "x s n"], obs: Observation
    ) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"], Float[Array, "y s n"]]:
        """The state after ``obs.dt``, and an observation of it."""
        params, obs, x = _wide(params), _wide(obs), state[:, None]
        key_x, key_y = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        x = jnp.where((obs.dt > 0)[None], self.model.sample_transition(key_x, params, x, obs), x)
        y = self.model.sample_observation(key_y, params, x, obs)
        if y is None:
            raise ModelError(f"{type(self.model).__name__} cannot draw observations: give it sample_observation=")
        return x[:, 0], x[:, 0], y[:, 0]


def _check_model(model: Any, method: str) -> None:
    """A nonlinear model, with what the method needs."""
    if not isinstance(model, AbstractNonlinear):
        raise ModelError(f"Particle(model): expected a nonlinear model, got {model!r}")
    if method == "guided" and not model.guided:
        raise ModelError(f'Particle(method="guided"): {type(model).__name__} has no proposal')
    if method == "auxiliary" and not model.looks_ahead:
        raise ModelError(f'Particle(method="auxiliary"): {type(model).__name__} has no look_ahead')


def lagged(belief: Particles, first: int = 0) -> tuple[Float[Array, "l x s n"], Float[Array, "l x s n"]]:
    """Mean and sd of x_{t-first}, ..., x_{t-lag} given y_1:t, from the ancestors of today's particles.

    Fixed-lag smoothing (Kitagawa & Sato 2001, doi:10.1007/978-1-4757-3437-9_9): a bias where observations later than
    t tell something of x_{t-lag}, which a longer lag makes less (Olsson, Cappé, Douc & Moulines 2008,
    doi:10.3150/07-BEJ6150); an error that grows with the lag, as today's particles have ever fewer ancestors. Before
    the first row there is only the state at it.
    """
    if belief.path is None:
        raise ModelError("lagged: this filter keeps no past states: give it lag=")
    of_each = jnp.concatenate([belief.x[None], belief.path])[first:]
    mean, sd = jax.vmap(_moments, (0, None))(of_each, belief.log_weight)
    return mean, sd


def _moments(x: Float[Array, "x m s n"], log_weight: Float[Array, "m s n"]) -> tuple[Array, Array]:
    return mixture_moments(jnp.exp(log_weight)[None], x, jnp.zeros((), x.dtype), 1)


def _wide(tree: PyTree[Array]) -> PyTree[Array]:
    """Room for inner particles: ``[..., 1, s, n]``."""
    return jax.tree.map(lambda a: jnp.expand_dims(a, -3), tree)

"""Rao-Blackwellised inner filter of conditionally linear Gaussian models (Chen & Liu 2000, 10.1111/1467-9868.00246).

An inner particle is a value u of the hidden chain, a weight W and the Gaussian of x given the path that led to u:

    for each particle j and each u' that may follow u_j:              all K regimes, or one draw from P or a guide q
        w_j,u' = W_j P(u' | u_j)  or  W_j P(u' | u_j) / q(u')         predictive weights
        (m, L)_j,u', l_j,u' = one Kalman step of (m, L)_j with the matrices of u'
    log_lik = log sum w exp(l)
    reduce the K M candidates, weights w exp(l), to M                 see `collapse`; divide by exp(log_lik)

The weights add up to one and every reduction is unbiased, so that by induction sum_j W_j f(u_j, m_j, L_j) times
exp(sum of log_lik) has the expectation it would have over all K^t paths: the likelihood estimate has no bias. Up to
M paths it is exact. A missing value costs no likelihood, but regimes move on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PyTree

from smcssm import kalman
from smcssm.arguments import whole
from smcssm.core import (
    AbstractConditionallyGaussian,
    AbstractRandomFilter,
    FilterInfo,
    Observation,
    Status,
    System,
)
from smcssm.errors import ModelError
from smcssm.filters import collapse
from smcssm.filters.collapse import taken
from smcssm.filters.kalman import simulate
from smcssm.gaussian import Gaussian, mixture_moments, normal, normal_cdf
from smcssm.linalg import rows, stack, vector

TOGETHER = 4096
"""Candidates that go through a Kalman step side by side."""

_REDUCTIONS: dict[str, Callable] = {"optimal": collapse.optimal, "systematic": collapse.systematic}


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branches:
    """M weighted Gaussians N(mean, chol chol') of x, each with its u; weights add up to one, empty places have none.

    ``path`` are the values of u before, the latest first.
    """

    u: Int[Array, "m s n"] | Float[Array, "m s n"]
    log_weight: Float[Array, "m s n"]
    mean: Float[Array, "x m s n"]
    chol: Float[Array, "x x m s n"]
    path: Int[Array, "l m s n"] | Float[Array, "l m s n"] | None = None


class Hybrid(NamedTuple):
    """One draw of the whole state."""

    u: Array
    x: Float[Array, "x s n"]


class RaoBlackwell(AbstractRandomFilter):
    """M Kalman filters for each outer particle, one for each of M paths of regimes.

    Args:
        model: a conditionally linear Gaussian model; that of the engine by default.
        n_particles: M, the number of inner particles to start with.
        max_inner: how many there may be.
        resampling: "optimal" (Fearnhead & Clifford) or "systematic"; of regimes that are enumerated.
        lag: how many past values of u are kept with each particle, for ``lagged``.
    """

    model: Any = None
    n_particles: int = 256
    max_inner: int = 4096
    resampling: str = "optimal"
    lag: int = 0

    def __check_init__(self) -> None:
        """Sizes that can work."""
        if not isinstance(self.model, AbstractConditionallyGaussian | None):
            raise ModelError(f"RaoBlackwell(model): expected a conditionally linear Gaussian model, got {self.model!r}")
        regimes = 0 if self.model is None else len(self.model.regime_names)
        least, m = max(2, regimes), self.n_particles
        if isinstance(m, bool) or not isinstance(m, int) or m < least:
            raise ModelError(
                f"RaoBlackwell(n_particles={m!r}): expected a whole number >= {least}; one inner particle estimates "
                "nothing, and at the start there is one for each regime"
            )
        whole("RaoBlackwell(lag)", self.lag, 0)
        whole("RaoBlackwell(max_inner)", self.max_inner, m)
        if self.resampling not in _REDUCTIONS:
            raise ModelError(f'RaoBlackwell(resampling={self.resampling!r}): expected "optimal" or "systematic"')

    def init(
        self, key: Array, params: PyTree[Array], obs: Observation, like: Branches | None = None
    ) -> Branches:
        """The law of (u_1, x_1)."""
        zero = jnp.zeros(jax.tree.leaves(params)[0].shape[-2:], obs.y.dtype)
        m = self.n_particles if like is None else self.inner(like)
        u, log_weight = self.model.start(key, params, obs, m)
        m0, chol_P0 = self.model.initial(params, u, obs)
        every = jnp.broadcast_to(zero, (m, *zero.shape))
        mean, chol = stack(vector(m0), every), stack(rows(chol_P0), every)
        path = jnp.broadcast_to(u, (self.lag, *u.shape)) if self.lag else None
        return Branches(u, log_weight.astype(zero.dtype), mean, chol, path)

    def step(
        self, key: Array, params: PyTree[Array], belief: Branches, obs: Observation
    ) -> tuple[Branches, FilterInfo]:
        """Every successor of every particle, then M of them."""
        new, info, _ = self.traced(key, params, belief, obs)
        return new, info

    def traced(
        self, key: Array, params: PyTree[Array], belief: Branches, obs: Observation
    ) -> tuple[Branches, FilterInfo, Int[Array, "m s n"]]:
        """A step, and the number of the particle that each of the new ones comes from."""
        key_u, key_m = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        here = inside(obs)
        u, log_factor = self._successors(key_u, params, belief, obs)
        before = belief.log_weight[None] + log_factor
        system = self.model.matrices(params, u, obs)
        after, innovation = _kalman(Gaussian(belief.mean, belief.chol), system, here, before)
        weight = jnp.where(jnp.isneginf(before), -jnp.inf, before + innovation.log_lik)
        log_lik = logsumexp(weight, axis=(0, 1))
        info = _mixture(before, innovation, here, log_lik, collapse.fold_in(key_m, 1))
        places, log_weight = self._reduce(key_m, _flat(weight), self.inner(belief))
        log_weight = log_weight - jnp.where(jnp.isfinite(log_lik), log_lik, 0.0)[None]
        u = taken(_flat(jnp.broadcast_to(u, before.shape)), places)
        mean = taken(_flat(after.mean), places)
        lower = [taken(_flat(column[j:]), places) for j, column in enumerate(jnp.unstack(after.chol, axis=1))]
        above = [jnp.zeros((j, *mean.shape[1:]), mean.dtype) for j in range(len(mean))]
        chol = jnp.stack([jnp.concatenate(pair) for pair in zip(above, lower, strict=True)], axis=1)
        ancestor = places % self.inner(belief)  # of each branch candidates are numbered alike
        path = None if belief.path is None else taken(jnp.concatenate([belief.u[None], belief.path[:-1]]), ancestor)
        return Branches(u, log_weight, mean, chol, path), info, ancestor

    def _successors(
        self, key: Array, params: PyTree[Array], belief: Branches, obs: Observation
    ) -> tuple[Array, Float[Array, "k m s n"]]:
        """From the dynamics of u, or from the model's guide."""
        if not self.model.guided:
            return self.model.successors(key, params, belief.u, obs)
        system, like = self.model.matrices(params, belief.u[None], obs), belief.log_weight[None]
        _, innovation = _kalman(Gaussian(belief.mean, belief.chol), system, inside(obs), like)
        ahead = innovation.mean[:, 0], innovation.sd[:, 0]
        return self.model.propose(key, params, belief.u, obs, ahead)

    def _reduce(self, key: Array, log_weight: Float[Array, "c s n"], m: int) -> collapse.Reduced:
        if len(log_weight) == m:
            return collapse.when_degenerate(key, log_weight)
        return _REDUCTIONS[self.resampling](key, log_weight, m)

    def moments(self, belief: Branches) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"]]:
        """Mean and sd of the mixture."""
        w = jnp.exp(belief.log_weight)[None]
        sd = jnp.sqrt(jnp.sum(belief.chol**2, axis=1))
        return mixture_moments(w, belief.mean, sd, 1)

    def regimes(self, belief: Branches) -> Float[Array, "k s n"] | None:
        """Their filtered probabilities; None where u is a number drawn at random."""
        if not self.model.regime_names:
            return None
        w = jnp.exp(belief.log_weight)
        return jnp.stack([jnp.sum(jnp.where(belief.u == k, w, 0.0), axis=0) for k in range(self._K)])

    def relabel(self, belief: Branches, permutation: Int[Array, "k s n"]) -> Branches:
        """The belief of the same model with its regimes called otherwise: k is what ``permutation[k]`` was."""
        called = jnp.argsort(permutation, axis=0).astype(belief.u.dtype)

        def otherwise(u: Array) -> Array:
            return jnp.take_along_axis(called, u, axis=0)

        path = None if belief.path is None else jax.vmap(otherwise)(belief.path)
        return replace(belief, u=otherwise(belief.u), path=path)

    def inner(self, belief: Branches) -> int:
        """M."""
        return belief.log_weight.shape[0]

    def draw(self, key: Array, belief: Branches) -> Hybrid:
        """A branch by its weight, and x from its Gaussian."""
        key_u, key_x = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        j = _one_of(key_u, jnp.exp(belief.log_weight))

        def of_branch(a: Array) -> Array:
            return taken(a, j)[..., 0, :, :]

        mean, chol = of_branch(belief.mean), of_branch(belief.chol)
        return Hybrid(of_branch(belief.u), mean + jnp.sum(chol * normal(key_x, mean)[None], axis=1))

    def simulate(
        self, key: Array, params: PyTree[Array], state: Hybrid, obs: Observation
    ) -> tuple[Hybrid, Float[Array, "x s n"], Float[Array, "y s n"]]:
        """The chain moves on, then state and observation by its matrices."""
        key_u, key_x = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        u = self.model.transit(key_u, params, state.u, obs)
        x, y = simulate(key_x, self.model.matrices(params, u, obs), state.x, obs)
        return Hybrid(u, x), x, y

    @property
    def _K(self) -> int:
        return len(self.model.regime_names)


def lagged(belief: Branches, n_regimes: int, first: int = 0) -> Float[Array, "l k s n"]:
    """Probabilities of the regimes u_{t-first}, ..., u_{t-lag} given y_1:t, from the paths of today's branches.

    As of ``particle.lagged``; exact while no path has been left out.
    """
    u = belief.u[None] if belief.path is None else jnp.concatenate([belief.u[None], belief.path])
    w = jnp.exp(belief.log_weight)[None]
    return jnp.stack([jnp.sum(jnp.where(u[first:] == k, w, 0.0), axis=1) for k in range(n_regimes)], axis=1)


def inside(obs: Observation) -> Observation:
    """What a Kalman step reads of a record, with axes for k and m: [..., 1, 1, s, 1]."""

    def spread(a: Array) -> Array:
        return a.reshape(*a.shape[:-2], 1, 1, *a.shape[-2:])

    return replace(obs, y=spread(obs.y), mask=spread(obs.mask), dt=spread(obs.dt))


def _flat(a: Array) -> Array:
    """Candidates on one axis: of [..., k, m, s, n]."""
    return a.reshape(*a.shape[:-4], -1, *a.shape[-2:])


def _kalman(
    belief: Gaussian, system: System, obs: Observation, like: Float[Array, "k m s n"]
) -> tuple[Gaussian, kalman.Innovation]:
    """One step of every candidate, so many inner particles at a time as a CPU's cache can hold: 3 times as fast."""
    k, m, *_ = like.shape
    size = min(m, max(1, TOGETHER * m // like.size)) if jax.default_backend() == "cpu" else m
    arrays, rebuild = _arrays(system)

    def at(start: Array | int, belief: Gaussian, arrays: list[Array]) -> tuple[Gaussian, kalman.Innovation]:
        def part(a: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(a, start, size, axis=a.ndim - 3) if a.shape[-3] == m > 1 else a

        mean, chol = (part(a)[..., None, :, :, :] for a in (belief.mean, belief.chol))
        mean, chol = (jnp.broadcast_to(a, (*a.shape[:-4], k, *a.shape[-3:])) for a in (mean, chol))
        return kalman.step(Gaussian(mean, chol), rebuild([part(a) for a in arrays]), obs.y, obs.mask, obs.dt)

    if size == m:
        return at(0, belief, arrays)

    def body(i: Array, out: PyTree) -> PyTree:
        start = jnp.minimum(i * size, m - size)  # the last part overlaps the one before where it must

        def put(whole: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, new, start, axis=whole.ndim - 3)

        return jax.tree.map(put, out, at(start, belief, arrays))

    def room(a: Any) -> Array:
        return jnp.zeros((*a.shape[:-3], m, *a.shape[-2:]), a.dtype)

    out = jax.tree.map(room, jax.eval_shape(lambda: at(0, belief, arrays)))
    return jax.lax.fori_loop(0, -(-m // size), body, out)


def _arrays(system: System) -> tuple[list[Array], Callable[[list[Array]], System]]:
    """The entries that are no numbers, and the system from such a list."""
    F, c, chol_Q, H, d, chol_R = system
    entries = System(rows(F), vector(c), rows(chol_Q), rows(H), vector(d), rows(chol_R))
    leaves, structure = jax.tree.flatten(entries)
    known = [isinstance(e, float) for e in leaves]

    def rebuild(arrays: list[Array]) -> System:
        rest = iter(arrays)
        return jax.tree.unflatten(structure, [e if k else next(rest) for e, k in zip(leaves, known, strict=True)])

    return [e for e, k in zip(leaves, known, strict=True) if not k], rebuild


def _mixture(
    before: Float[Array, "k m s n"], innovation: Any, obs: Observation, log_lik: Float[Array, "s n"], key: Array
) -> FilterInfo:
    """The one-step predictive: a mixture with the weights before y_t was used."""
    w = jnp.exp(before - logsumexp(before, axis=(0, 1), keepdims=True))[None]
    mean, sd = mixture_moments(w, innovation.mean, innovation.sd, (1, 2))
    below = normal_cdf((obs.y - innovation.mean) / innovation.sd)
    pit = jnp.sum(jnp.where(w > 0, w * below, 0.0), axis=(1, 2))
    pit = jnp.where(obs.mask[:, 0, 0], pit, jnp.nan)
    singular = jnp.any(~innovation.positive & (before > -jnp.inf), axis=(0, 1))
    status = jnp.where(singular, Status.NOT_POSITIVE_DEFINITE, Status.OK).astype(jnp.int8)
    one = _one_of(collapse.fold_in(key, 0), _flat(w[0]))
    centre, spread = (taken(_flat(a), one)[:, 0] for a in (innovation.mean, innovation.sd))
    draw = centre + spread * normal(collapse.fold_in(key, 1), centre)
    return FilterInfo(log_lik, mean, sd, pit, status, draw)


def _one_of(key: Array, weight: Float[Array, "m s n"]) -> Int[Array, "1 s n"]:
    """The number of one of m, by its weight."""
    cumulative = jnp.cumsum(weight, axis=0)
    point = collapse.uniform(key, cumulative[-1]) * cumulative[-1]
    return jnp.minimum(jnp.sum(cumulative <= point[None], axis=0, dtype=jnp.int32), len(cumulative) - 1)[None]

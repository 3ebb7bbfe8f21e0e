"""The population over hyperparameters: what an engine is made of, its particles, and their streams of randomness."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from smcssm.core import (
    AbstractFilter,
    AbstractKernel,
    AbstractPrior,
    AbstractSchedule,
    Observation,
    at_each_particle,
)
from smcssm.history import CHUNK
from smcssm.resampling import log_mean_weight


class SMC2(eqx.Module):
    """The parts of one engine. Hashable: programs are compiled once per configuration.

    ``groups`` populations within the population are resampled each by itself, so that the spread between them shows
    the Monte Carlo error. Proposals that move one of ``folds`` are fitted to the others; folds are the groups, if there
    are several. Particles of a group or fold are neighbours, and there are as many in each. Observations may be up to
    ``horizon`` rows late; 0 for never. Moves go through history ``chunk`` rows at a time.
    """

    prior: AbstractPrior
    filter: AbstractFilter
    kernel: AbstractKernel
    schedule: AbstractSchedule
    ess_threshold: float = 0.5
    groups: int = 1
    folds: int = 1
    resampling: str = "systematic"
    forgetting: float = 1.0
    impossible: str = "error"
    horizon: int = 0
    record: bool = True
    dtype: str = "float64"
    chunk: int = CHUNK



class Lag(NamedTuple):
    """What a particle believed, and its log-likelihood, before the last ``horizon`` rows: where late rows go in."""

    belief: PyTree[Array]
    log_lik: Float[Array, "s n"]


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Population:
    """N weighted particles for each of S series. Log weights are not normalised; ``key`` is raw key data.

    ``lost`` adds up 1 / ESS - 1 / N over resamplings: the relative variance of the evidence if every move forgot
    where its particles came from. ``eve`` is the particle that each one descends from, ``resamplings`` ago.
    ``log_mass`` is the log of the share of the prior that the model's support and the prior's factors leave,
    ``evidence_variance`` the relative variance that groups had gathered before they were last mixed, ``centre`` and
    ``scale`` the middle and half of the width of the central 68% of the prior's draws. ``lag`` is None where no row
    can be late.
    """

    key: UInt[Array, "s k"]
    t: Int[Array, " s"]
    z: Float[Array, "z s n"]
    params: PyTree[Array]
    belief: PyTree[Array]
    log_weight: Float[Array, "s n"]
    log_lik: Float[Array, "s n"]
    pending: Float[Array, "s n"]
    phi: Float[Array, " s"]
    log_evidence: Float[Array, " s"]
    evidence_variance: Float[Array, " s"]
    lost: Float[Array, " s"]
    eve: Int[Array, "s n"]
    resamplings: Int[Array, " s"]
    log_mass: Float[Array, " s"]
    centre: Float[Array, "z s 1"]
    scale: Float[Array, "z s 1"]
    order: Int[Array, "h s n"]
    ordered: Float[Array, "h s n"]
    lag: Lag | None = None



class Stream(enum.IntEnum):
    """What a key is for: streams of randomness that never meet."""

    PRIOR = 0
    INIT = 1
    FILTER = 2
    MOVE = 3
    FORECAST = 4
    CHALLENGERS = 5



def stream(key: UInt[Array, "s k"], purpose: Stream, *counters: Any) -> Array:
    """One key per series for one purpose at one time. Each is split further, or used, by one caller alone."""
    return fold_in(jax.random.wrap_key_data(key), int(purpose), *counters)



def prior_draws(smc: SMC2, key: Array, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The draws z ``[z, s, n]`` that a population of these keys starts from, and their log weights. On the host."""
    draws = [smc.prior.sample(k, n) for k in stream(key, Stream.PRIOR)]
    return np.stack([np.asarray(z, float) for z, _ in draws], axis=1), np.stack([np.asarray(w) for _, w in draws])



def fold_in(key: Array, *data: Any) -> Array:
    """One key per series, made specific by counters."""
    for d in data:
        key = jax.vmap(jax.random.fold_in)(key, jnp.broadcast_to(jnp.asarray(d, jnp.uint32), key.shape))
    return key



def log_prior(smc: SMC2, z: Float[Array, "z s n"]) -> Float[Array, "s n"]:
    """Log prior density, -inf outside the model's support."""

    def one(z: Float[Array, " z"]) -> Float[Array, ""]:
        inside = smc.filter.model.support(smc.prior.constrain(z))
        return jnp.where(inside, smc.prior.log_prob(z), -jnp.inf)

    return at_each_particle(one)(z)



def particles(
    smc: SMC2, key: Array, z: Float[Array, "z s n"], blank: Observation, like: PyTree | None = None
) -> tuple[PyTree, PyTree]:
    """Cached parameters and initial beliefs at z, these with as many inner particles as the belief ``like``."""
    theta = at_each_particle(smc.prior.constrain)(z)
    params = at_each_particle(smc.filter.model.params)(theta)
    params = jax.tree.map(lambda a: a.astype(smc.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, params)
    return params, smc.filter.init(key, params, at_particles(blank), like)



def at_particles(obs: Observation) -> Observation:
    """The record with one more trailing axis, to broadcast over particles."""
    return jax.tree.map(lambda leaf: leaf[..., None], obs)



def init(
    smc: SMC2, key: Array, z: Float[Array, "z s n"], log_weight: Float[Array, "s n"], blank: Observation
) -> Population:
    """A population from prior draws; evidence starts at 0 relative to the normalised, truncated prior."""
    zero = jnp.zeros_like(log_weight)
    theta = at_each_particle(smc.prior.constrain)(z)
    inside = at_each_particle(smc.filter.model.support)(theta)
    log_weight = jnp.where(inside, log_weight, -jnp.inf)
    params, belief = particles(smc, stream(key, Stream.INIT), z, blank)
    series, log_mass = jnp.zeros(z.shape[1]), log_mean_weight(log_weight)
    low, centre, high = jnp.quantile(z, jnp.asarray([0.16, 0.5, 0.84]), axis=-1, keepdims=True)
    population = Population(
        key=key,
        t=series.astype(jnp.int64),
        z=z,
        params=params,
        belief=belief,
        log_weight=log_weight - log_mass[:, None],
        log_lik=zero,
        pending=zero,
        phi=series + 1.0,
        log_evidence=series,
        evidence_variance=series,
        lost=series,
        eve=jnp.broadcast_to(jnp.arange(z.shape[-1]), zero.shape),
        resamplings=series.astype(jnp.int64),
        log_mass=log_mass,
        centre=centre,
        scale=0.5 * (high - low),
        order=jnp.zeros((0, *zero.shape), jnp.int32),
        ordered=jnp.zeros((0, *zero.shape)),
        lag=Lag(belief, zero) if smc.horizon else None,
    )
    return sort_marginals(smc, population)



def sort_marginals(smc: SMC2, population: Population) -> Population:
    """Sort every hyperparameter once per move, so that its weighted quantiles cost O(N) per step."""
    if not smc.record:
        return population
    theta = at_each_particle(smc.prior.constrain)(population.z)
    flat = jnp.concatenate([theta[n].reshape(-1, *population.log_weight.shape) for n in smc.filter.model.names])
    order = jnp.argsort(flat, axis=-1).astype(jnp.int32)
    ordered = jnp.take_along_axis(flat, order, axis=-1)
    return eqx.tree_at(lambda p: (p.order, p.ordered), population, (order, ordered))



def times(exponent: Float[Array, "s #n"], log_factor: Float[Array, "s n"]) -> Float[Array, "s n"]:
    """exponent * log_factor, where 0 * -inf is still -inf: a zero likelihood stays zero at any exponent."""
    return jnp.where(jnp.isneginf(log_factor), -jnp.inf, exponent * log_factor)



def at_full_exponent(population: Population) -> Float[Array, "s n"]:
    """Log weights under the whole posterior: what is still pending let in at once. What read-outs report."""
    return population.log_weight + times(1 - population.phi[:, None], population.pending)


def select(series: Bool[Array, " s"], new: PyTree, old: PyTree) -> PyTree:
    """``new`` in the series marked, ``old`` in the others; the series axis of a leaf is its only or last but one."""

    def one(a: Array, b: Array) -> Array:
        mask = series if a.ndim == 1 else series[:, None]
        return jnp.where(mask.reshape((1,) * (a.ndim - mask.ndim) + mask.shape), a, b)

    return jax.tree.map(one, new, old)

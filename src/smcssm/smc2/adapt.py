"""Between observations: resampling, raising the tempering exponent, and how well a move has mixed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.resampling import effective_sample_size, log_mean_weight, multinomial, normalise, systematic
from smcssm.smc2.population import SMC2, Population, Stream, at_full_exponent, fold_in, select, stream, times
from smcssm.smc2.step import tempering_exponent


@lru_cache(maxsize=512)
def compiled(function: Callable[..., Any], smc: SMC2, *constants: Any) -> Callable[..., Any]:
    """``function(smc, *constants, ...)`` compiled, once per configuration and shape."""
    return jax.jit(partial(function, smc, *constants))


def move_key(population: Population, rung: Any, sweep: Any) -> Array:
    """The key of one sweep of a move at the current time; its users fold in a number of their own."""
    return stream(population.key, Stream.MOVE, population.t, rung, sweep)


def gather(leaves: PyTree, ancestors: Int[Array, "s n"]) -> PyTree:
    """Particles by number, series by series, in every ``[..., s, n]`` leaf."""

    def one(a: Array) -> Array:
        index = ancestors.reshape((1,) * (a.ndim - 2) + ancestors.shape)
        return jnp.take_along_axis(a, index, axis=-1)

    return jax.tree.map(one, leaves)


def carried(at: Any) -> tuple:
    """What belongs to a particle, of a population or challengers, and moves with it, but for its weight."""
    lag = () if at.lag is None else (at.lag,)
    return at.z, at.params, at.belief, at.log_lik, at.pending, *lag


def resample(smc: SMC2, population: Population, due: Bool[Array, " s"], rung: Int[Array, ""]) -> Population:
    """Resample the series that are due, group by group.

    A group keeps its share of the weight, which is that of its evidence; its particles become equal. When the shares
    have drifted apart, or a group has died, particles are drawn from all of them and the groups start anew.
    """
    g, w = smc.groups, population.log_weight
    draw = multinomial if smc.resampling == "multinomial" else systematic
    grouped = w.reshape(len(w), g, -1)
    keys = jax.vmap(lambda k: jax.random.split(k, g + 1))(fold_in(move_key(population, rung, 0), 0))
    within = jax.vmap(jax.vmap(draw))(keys[:, :g], grouped)
    within = within + (jnp.arange(g) * grouped.shape[-1])[None, :, None]
    mass = log_mean_weight(grouped)
    apart = 1 / jnp.sum(normalise(mass) ** 2, axis=-1) < 0.5 * g
    mixed = (apart | jnp.any(jnp.isneginf(mass), axis=-1))[:, None]
    ancestors = jnp.where(mixed, jax.vmap(draw)(keys[:, g], w), within.reshape(w.shape))
    relative = (mass - log_mean_weight(w)[:, None])[..., None]
    weight = jnp.where(mixed, 0.0, jnp.broadcast_to(relative, grouped.shape).reshape(w.shape))
    gathered = population.evidence_variance + jnp.where(mixed[:, 0], group_variance(smc, w), 0.0)
    lost = population.lost + 1 / effective_sample_size(w) - 1 / w.shape[-1]
    *chosen, eve = gather((*carried(population), population.eve), ancestors)
    eve = jnp.where(mixed, jnp.arange(w.shape[-1]), eve)
    resamplings = jnp.where(mixed[:, 0], 0, population.resamplings + 1)
    new = eqx.tree_at(
        lambda p: (*carried(p), p.log_weight, p.evidence_variance, p.lost, p.eve, p.resamplings),
        population,
        (*chosen, weight, gathered, lost, eve, resamplings),
    )
    return select(due, new, population)


def group_variance(smc: SMC2, log_weight: Float[Array, "s n"]) -> Float[Array, " s"]:
    """Variance of the log evidence, from the spread between groups; 0 for one group alone.

    The relative variance of the evidence cannot be above 1, even if one group has all of it: then the variance of the
    groups' log evidences is larger, and says so.
    """
    if smc.groups == 1:
        return jnp.zeros(len(log_weight))
    mass = log_mean_weight(log_weight.reshape(len(log_weight), smc.groups, -1))
    relative = jnp.var(smc.groups * normalise(mass), axis=-1, ddof=1)
    alive = jnp.all(jnp.isfinite(mass), axis=-1)
    of_logs = jnp.var(jnp.where(alive[:, None], mass, 0.0), axis=-1, ddof=1)
    return jnp.maximum(relative, of_logs) / smc.groups


def lineage_variance(smc: SMC2, population: Population) -> tuple[Float[Array, " s"], Int[Array, " s"]]:
    """Relative variance of the evidence from who descends from whom, and how many ancestors survive.

    Lee & Whiteley (2018, doi:10.1093/biomet/asy028), for multinomial resampling; group by group, since the groups were
    last mixed. NaN with fewer than 20 surviving ancestors.
    """
    n, g = population.z.shape[-1], smc.groups
    w, m = normalise(at_full_exponent(population)), n // g

    def one(w: Float[Array, " n"], eve: Int[Array, " n"], k: Int[Array, ""]) -> tuple[Array, Array]:
        shares = jnp.zeros(n).at[eve].add(w)
        of_group = w.reshape(g, m).sum(axis=-1)
        collide = (shares**2).reshape(g, m).sum(axis=-1)
        variance = jnp.sum(of_group**2 - (m / (m - 1)) ** (k + 1) * (of_group**2 - collide))
        return variance, jnp.sum(shares > 0)

    variance, survive = jax.vmap(one)(w, population.eve, population.resamplings)
    total = population.evidence_variance + variance
    proved = smc.resampling == "multinomial"
    return jnp.where((survive >= 20) & proved, total, jnp.nan), survive


def in_folds(smc: SMC2, a: Float[Array, "*z s n"]) -> Float[Array, "f *z m"]:
    """Folds of all series one after the other, first."""
    a = a.reshape(*a.shape[:-2], a.shape[-2] * smc.folds, -1)
    return jnp.moveaxis(a, -2, 0)


def from_folds(a: Float[Array, "f *z m"], n_series: int) -> Float[Array, "*z s n"]:
    """Back to the axes of a population."""
    a = jnp.moveaxis(a, 0, -2)
    return a.reshape(*a.shape[:-2], n_series, -1)


def the_others(smc: SMC2, a: Float[Array, "*z s n"]) -> Float[Array, "f *z m"]:
    """For each fold of each series, in the order of ``in_folds``, the particles that are not in it (or all)."""
    number = np.arange(a.shape[-1]) // (a.shape[-1] // smc.folds)
    rest = np.stack([np.flatnonzero((number != fold) | (smc.folds == 1)) for fold in range(smc.folds)])
    a = jnp.moveaxis(a[..., rest], (-3, -2), (0, 1))
    return a.reshape(-1, *a.shape[2:])


def climb(
    smc: SMC2, population: Population, due: Bool[Array, " s"]
) -> tuple[Population, Bool[Array, " s"]]:
    """Raise phi as far as half of the ESS allows, towards 1, where nothing is pending any more.

    Not even after a move at phi = 1, whose challengers keep apart what was pending. Returns also which series need a
    move at the new phi: those that are not at 1 yet, or short of ESS there.
    """
    room = 1 - population.phi
    most = tempering_exponent(population.log_weight, population.pending, jnp.where(room > 0, room, 1.0))
    part = jnp.where(room > 0, most, 0.0)
    arrived = part >= room
    weight = population.log_weight + times(part[:, None], population.pending)
    gain = log_mean_weight(weight) - log_mean_weight(population.log_weight)
    phi = jnp.where(arrived, 1.0, population.phi + part)
    settled = population.log_lik + jnp.where(arrived[:, None], population.pending, 0.0)
    pending = jnp.where(arrived[:, None], 0.0, population.pending)
    changed = (weight, settled, population.log_evidence + gain, phi, pending)
    new = eqx.tree_at(lambda p: (p.log_weight, p.log_lik, p.log_evidence, p.phi, p.pending), population, changed)
    new = select(due, new, population)
    ess = effective_sample_size(new.log_weight)
    short = ess < smc.ess_threshold * new.log_weight.shape[-1]
    return new, due & ((new.phi < 1) | short)


def mixing(
    smc: SMC2, start: Float[Array, "z s n"], population: Population
) -> tuple[Float[Array, " s"], Float[Array, " s"], Int[Array, " s"]]:
    """How much of ``start`` is left, and the number of distinct particles.

    Left are the largest correlation of a component with its value at ``start``, and the share that has not moved.
    Values far out count as if they were two standard deviations out: a few particles that stay in a long tail, where
    they may be right to stay, would make up most of the plain correlation.
    """
    del smc
    z = population.z
    low, high = bulk(start)
    a, b = (jnp.clip(x, low, high) for x in (start, z))
    a, b = (x - jnp.mean(x, axis=-1, keepdims=True) for x in (a, b))
    norm = jnp.sqrt(jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1))
    correlation = jnp.where(norm > 0, jnp.abs(jnp.sum(a * b, axis=-1)) / jnp.where(norm > 0, norm, 1.0), 1.0)
    ordered = jnp.sort(z[0], axis=-1)
    distinct = 1 + jnp.sum(ordered[:, 1:] != ordered[:, :-1], axis=-1)
    stayed = jnp.mean(jnp.all(z == start, axis=0), axis=-1)
    return jnp.max(correlation, axis=0), stayed, distinct


def bulk(z: Float[Array, "z s n"]) -> tuple[Float[Array, "z s 1"], Float[Array, "z s 1"]]:
    """Two standard deviations around the mean of each component, of values clipped to such bounds before, twice."""
    low, high = (f(z, axis=-1, keepdims=True) for f in (jnp.min, jnp.max))
    for _ in range(3):
        x = jnp.clip(z, low, high)
        mean, sd = (f(x, axis=-1, keepdims=True) for f in (jnp.mean, jnp.std))
        low, high = mean - 2 * sd, mean + 2 * sd
    return low, high

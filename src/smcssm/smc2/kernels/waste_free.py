"""Waste-free moves (Dau & Chopin 2022, doi:10.1111/rssb.12475, arXiv 2011.02328, algorithm 3).

    resample M = N / P ancestors, in each group of the population by itself
    run each through P - 1 Metropolis steps
    the P states of the M chains are the new population, equally weighted

One step replays M particles, so that a move costs as much as one sweep over the population. Where P is large beside
the autocorrelation time, chains are nearly independent and nearly stationary, and their autocovariances tell the Monte
Carlo error of one run (section 3 there; ``variance``): of N means over the particles, and of each factor of the
evidence, whose relative variances add up.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smcssm.arguments import whole
from smcssm.core import AbstractKernel, AbstractProposal, Status
from smcssm.errors import ModelError
from smcssm.history import History
from smcssm.resampling import normalise
from smcssm.smc2.adapt import carried, compiled, gather, mixing, move_key, resample
from smcssm.smc2.challengers import accept, replay
from smcssm.smc2.kernels.metropolis import draw, fit, in_turn
from smcssm.smc2.population import SMC2, Population, fold_in, select
from smcssm.smc2.sweeps import Moved, Variance, remembers


class WasteFree(AbstractKernel):
    """Chains of ``length`` states, all of which are kept; ``proposal`` as in ``Metropolis``.

    ``length`` must divide the number of particles in each group. The variance estimate of a move is in its report.
    """

    length: int
    proposals: tuple[AbstractProposal, ...]

    def __init__(self, length: int = 16, proposal: str | AbstractProposal = "auto") -> None:
        self.length, self.proposals = whole("WasteFree(length)", length, 2), in_turn(proposal)

    def check(self, smc: SMC2, n_particles: int) -> None:
        """Refuse where the particles cannot be divided into chains of this length, and lineages, which chains lose."""
        if smc.resampling == "multinomial":
            raise ModelError(
                'WasteFree() with resampling="multinomial": states of a chain have no lineage of their own. Leave it '
                "out: chains tell the variance of the evidence"
            )
        size = n_particles // smc.folds
        if size % self.length or size // self.length < 2:
            fitting = ", ".join(str(p) for p in range(2, size // 2 + 1) if size % p == 0) or "none"
            raise ModelError(
                f"WasteFree(length={self.length}): {n_particles} particles are {smc.folds} part(s) of {size}, which "
                f"are not two or more chains of that length; lengths that fit: {fitting}"
            )

    def move(
        self,
        smc: SMC2,
        population: Population,
        history: History,
        since: Int[np.ndarray, " s"],
        due: Bool[np.ndarray, " s"],
        *,
        rung: int,
        max_sweeps: int,
    ) -> tuple[Population, Moved]:
        """Resample, run the chains, keep every state."""
        del max_sweeps  # passes over history of a small part of the population
        resampled, chains, tunings, gained = compiled(begin, smc, self)(population, due, np.int64(rung))
        states, rate, status = [chains], np.zeros(due.shape), np.zeros(due.shape, int)
        for number in range(self.length - 1):
            counters, turn = (np.int64(rung), np.int64(number)), number % len(self.proposals)
            step = compiled(draw, smc, self.proposals[turn])
            challengers, backward, forward = step(tunings[turn], chains, history.first, *counters)
            challengers = replay(smc, chains, challengers, history, since, *counters)
            chains, accepted, told = compiled(accept, smc)(chains, challengers, backward - forward, due, *counters)
            states.append(chains)
            rate, status = rate + np.asarray(accepted), np.maximum(status, told)
        kept = tuple(carried(state) for state in states)
        population, mean, *mixed = compiled(end, smc, self)(resampled, kept, due)
        correlation, stayed, distinct, gained, mean = jax.device_get((*mixed, gained, mean))
        slow = remembers(correlation, stayed, chains.z.shape[-1])  # its beginning at its end: the chain is too short
        status = np.where(due, np.maximum(status, np.where(slow, Status.SLOW_MIXING, Status.OK)), Status.OK)
        variance = Variance(np.where(due, gained, 0.0), mean)  # others gain it when they are resampled
        return population, Moved(rate * due, correlation, distinct, (self.length - 1) * due, status, variance)

    def warmup(self, smc: SMC2, population: Population, history: History) -> Population:
        """Compile every program of a move."""
        due, since = np.ones(population.t.shape, bool), np.full(population.t.shape, len(history))
        return self.move(smc, population, history, since, due, rung=0, max_sweeps=1)[0]


def begin(
    smc: SMC2, kernel: WasteFree, population: Population, due: Bool[Array, " s"], rung: Int[Array, ""]
) -> tuple[Population, Population, tuple, Float[Array, " s"]]:
    """Resample: the population, those of it that chains start from, proposals fitted before, and what was gained.

    Every P-th particle of a systematic sample of N, from one of the first P drawn at random, is one of N / P.
    """
    tunings = tuple(fit(smc, proposal, population) for proposal in kernel.proposals)
    weight = len(population.z[0, 0]) * normalise(population.log_weight)
    gained = chain_variance(weight, kernel.length)
    new = resample(smc, population, due, rung)
    s, n = weight.shape
    key = fold_in(move_key(population, rung, 0), 8)
    first = jax.vmap(lambda k: jax.random.randint(k, (smc.groups, 1), 0, kernel.length))(key)
    starts = (jnp.arange(n).reshape(smc.groups, -1, kernel.length)[None, ..., 0] + first).reshape(s, -1)
    leaves = gather((*carried(new), new.log_weight), starts)
    return new, eqx.tree_at(lambda p: (*carried(p), p.log_weight), new, leaves), tunings, gained


def end(
    smc: SMC2, kernel: WasteFree, population: Population, states: tuple[tuple, ...], due: Bool[Array, " s"]
) -> tuple[Population, Float[Array, "z s"], Float[Array, " s"], Float[Array, " s"], Int[Array, " s"]]:
    """All states of all chains as a population, chain after chain; the variance of its means, and how it mixed."""

    def together(*leaves: Float[Array, "*x s m"]) -> Float[Array, "*x s n"]:
        return jnp.stack(leaves, axis=-1).reshape(*leaves[0].shape[:-1], -1)

    new = eqx.tree_at(carried, population, jax.tree.map(together, *states))
    new = select(due, new, population)
    w = new.z.shape[-1] * normalise(new.log_weight)[None]
    mean = jnp.mean(w * new.z, axis=-1, keepdims=True)
    variance = chain_variance(w * (new.z - mean), kernel.length)
    chains = eqx.tree_at(lambda p: p.z, new, states[-1][0])
    correlation, stayed, _ = mixing(smc, states[0][0], chains)
    return new, variance, correlation, stayed, mixing(smc, new.z, new)[2]


def chain_variance(x: Float[Array, "*x s n"], length: int) -> Float[Array, "*x s"]:
    """Variance of the mean over particles that are chains of ``length`` states, one chain after the other.

    Autocovariances g_k about the common mean, divided by the length, as far as Geyer's initial monotone sequence goes
    (1992, doi:10.1214/ss/1177011137): pairs g_2m + g_2m+1 until one is negative, none taken above the one before it.
    """
    chains = (x - jnp.mean(x, axis=-1, keepdims=True)).reshape(*x.shape[:-1], -1, length)
    spectrum = jnp.mean(jnp.abs(jnp.fft.rfft(chains, 2 * length)) ** 2, axis=-2)
    covariance = jnp.fft.irfft(spectrum, 2 * length)[..., : length + length % 2] / length
    covariance = jnp.where(jnp.arange(covariance.shape[-1]) < length, covariance, 0.0)
    pairs = covariance.reshape(*covariance.shape[:-1], -1, 2).sum(axis=-1)
    pairs = jax.lax.cummin(jnp.maximum(pairs, 0.0), axis=pairs.ndim - 1)
    return jnp.maximum(2 * jnp.sum(pairs, axis=-1) - covariance[..., 0], 0.0) / x.shape[-1]

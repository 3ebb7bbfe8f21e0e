"""Particle Metropolis-Hastings over the hyperparameters, the likelihood replayed from the journal.

    z' ~ q(. | z);  log_lik', belief' by one pass of the filter over y_1:t at z'
    accept with probability  min(1, prior(z') L'(z') q(z | z') / prior(z) L(z) q(z' | z)),
    L(z) = exp(log_lik + phi pending)

The current likelihood is the one that the particle carries, never recomputed: with a random inner filter this is the
pseudo-marginal move of Andrieu & Roberts (2009).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smcssm.core import AbstractKernel, AbstractProposal, Observation
from smcssm.history import History
from smcssm.smc2.adapt import compiled, move_key
from smcssm.smc2.challengers import Challengers, accept, replay
from smcssm.smc2.proposals import RandomWalk, StudentT
from smcssm.smc2.step import SMC2, Population, fold_in, particles


class Metropolis(AbstractKernel):
    """Sweeps of the given proposals in turn; ``"auto"`` is two independent sweeps for each random-walk sweep."""

    proposals: tuple[AbstractProposal, ...]

    def __init__(self, proposal: str | AbstractProposal = "auto") -> None:
        named = {
            "auto": (StudentT(), StudentT(), RandomWalk()),
            "independent": (StudentT(),),
            "random_walk": (RandomWalk(),),
        }
        if isinstance(proposal, str) and proposal not in named:
            raise ValueError(f"proposal={proposal!r}: expected one of {', '.join(map(repr, named))} or a proposal")
        self.proposals = named[proposal] if isinstance(proposal, str) else (proposal,)

    @property
    def cycle(self) -> int:
        """One program per proposal."""
        return len(self.proposals)

    def sweep(
        self,
        smc: SMC2,
        population: Population,
        history: History,
        pool: Int[Any, "s k"],
        due: Bool[Any, " s"],
        rung: int,
        sweep: int,
    ) -> tuple[Population, Float[Array, " s"], Int[Array, " s"]]:
        """One proposal per particle, replayed and judged."""
        which = sweep % self.cycle
        first = jax.tree.map(lambda leaf: leaf[0], history.rows(0, 1))
        counters = np.int64(rung), np.int64(sweep)
        challengers, log_ratio = compiled(propose, smc, self.proposals[which])(population, first, *counters)
        challengers = replay(smc, population, challengers, history, pool, *counters)
        return compiled(accept, smc)(population, challengers, log_ratio, due, *counters)


def propose(
    smc: SMC2,
    proposal: AbstractProposal,
    population: Population,
    first: Observation,
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Challengers, Float[Array, "s n"]]:
    """Fit a proposal to each series, draw from it, and start the filters at the draws."""
    key = move_key(population, rung, sweep)
    z = jnp.moveaxis(population.z, 1, 0)
    tuning = jax.vmap(proposal.fit)(z, population.log_weight, population.scale[..., 0].T)
    z_new = jax.vmap(proposal.propose)(fold_in(key, 1), tuning, z)
    backward, forward = (jax.vmap(proposal.log_density)(tuning, *pair) for pair in ((z, z_new), (z_new, z)))
    z_new = jnp.moveaxis(z_new, 0, 1)
    params, belief = particles(smc, fold_in(key, 2), z_new, blank_like(first))
    zero = jnp.zeros_like(population.log_lik)
    return Challengers(z_new, params, belief, zero, zero), backward - forward


def blank_like(obs: Observation) -> Observation:
    """A record in which nothing was observed and no time has passed."""
    return jax.tree.map(jnp.zeros_like, obs)

"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011, arXiv 1206.1901), by blackjax."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcssm.arguments import share, whole
from smcssm.smc2.kernels.gradient import AbstractGradient, Outcome, Point

DIVERGED = 30.0  # standard deviations of the population: no trajectory goes so far


class HMC(AbstractGradient):
    """Trajectories of ``n_steps`` leapfrog steps, each a pass over history and its adjoint for the whole population.

    A trajectory is at most a quarter of a turn of a normal posterior, which forgets where it began; the step is
    shortened where that is accepted too seldom.
    """

    n_steps: int
    goal: float

    def __init__(self, n_steps: int = 8, goal: float = 0.8) -> None:
        self.n_steps, self.goal = whole("HMC(n_steps)", n_steps), share("HMC(goal)", goal)

    def steps(self, size: int) -> tuple[float, float]:
        """A quarter turn, or what d^(-1/4) allows (Beskos et al. 2013, doi:10.3150/12-BEJ414)."""
        longest = 0.5 * math.pi / self.n_steps
        return min(size**-0.25, longest), longest

    def transition(self, key: Array, point: Point, log_density: Any, step: Float[Array, ""]) -> Outcome:
        """Leapfrog, then accept or reject the end."""
        return leapfrog(key, point, log_density, step, self.n_steps)


def leapfrog(key: Array, point: Point, log_density: Any, step: Float[Array, ""], n_steps: int) -> Outcome:
    """A transition of Hamiltonian Monte Carlo with the identity as mass matrix."""
    from blackjax.mcmc import hmc

    kernel: Any = hmc.build_kernel()
    state, info = kernel(key, point, log_density, step, jnp.ones_like(point.position), n_steps)
    return Outcome(Point(*state), info.acceptance_rate, broken(info.proposal, point))


def broken(end: Any, start: Point) -> Bool[Array, ""]:
    """Whether a log density is NaN or +inf where a trajectory ends; -inf is a density of zero.

    Not where the trajectory has diverged: a standard deviation of exp(-1000) is 0, and that tells nothing of a model.
    """
    near = jnp.max(jnp.abs(end.position - start.position)) < DIVERGED
    return near & (jnp.isnan(end.logdensity) | jnp.isposinf(end.logdensity))

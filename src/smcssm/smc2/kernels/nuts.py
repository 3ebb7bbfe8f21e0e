"""The no-U-turn sampler (Hoffman & Gelman 2014, arXiv 1111.4246; multinomial, Betancourt 2017), by blackjax."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.arguments import share, whole
from smcssm.smc2.kernels.gradient import AbstractGradient, Outcome, Point
from smcssm.smc2.kernels.hmc import broken


class NUTS(AbstractGradient):
    """Trajectories that double until they turn back, of at most 2**max_depth - 1 leapfrog steps.

    All particles take each leapfrog step together, also those that have turned: a sweep costs as much as its longest
    trajectory, and one deeper tree costs twice as much for all. In coordinates in which the posterior is about a
    standard normal, half a turn is 3 to 7 steps.
    """

    max_depth: int
    goal: float

    def __init__(self, max_depth: int = 3, goal: float = 0.9) -> None:
        self.max_depth, self.goal = whole("NUTS(max_depth)", max_depth), share("NUTS(goal)", goal)

    def steps(self, size: int) -> tuple[float, float]:
        """d^(-1/4)."""
        return min(size**-0.25, 0.9), 1.2

    def transition(self, key: Array, point: Point, log_density: Any, step: Float[Array, ""]) -> Outcome:
        """A tree, and a point drawn from it."""
        from blackjax.mcmc import nuts

        kernel: Any = nuts.build_kernel()
        state, info = kernel(key, point, log_density, step, jnp.ones_like(point.position), self.max_depth)
        ends = info.trajectory_leftmost_state, info.trajectory_rightmost_state
        return Outcome(Point(*state), info.acceptance_rate, broken(ends[0], point) | broken(ends[1], point))

"""The Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996, doi:10.2307/3318418), by blackjax."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from smcssm.arguments import share
from smcssm.smc2.kernels.gradient import AbstractGradient, Outcome, Point
from smcssm.smc2.kernels.hmc import leapfrog


class MALA(AbstractGradient):
    """One step up the gradient and one of noise: Hamiltonian Monte Carlo of a single leapfrog step.

    The two are the same transition (Neal 2011, section 5.2): z' = z + step²/2 gradient + step e.
    """

    goal: float

    def __init__(self, goal: float = 0.6) -> None:
        self.goal = share("MALA(goal)", goal)

    def steps(self, size: int) -> tuple[float, float]:
        """1.65 d^(-1/6) where d is large (Roberts & Rosenthal 1998, doi:10.1111/1467-9868.00123), 1.5 at most."""
        return min(1.65 * size ** (-1 / 6), 1.2), 1.5

    def transition(self, key: Array, point: Point, log_density: Any, step: Float[Array, ""]) -> Outcome:
        """A Langevin step, then accept or reject."""
        return leapfrog(key, point, log_density, step, 1)

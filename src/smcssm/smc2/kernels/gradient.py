"""What moves along gradients share: coordinates and steps tuned from the population, and a replay that settles it.

    chol chol' = covariance of each group                the inverse mass matrix, as coordinates u = chol^-1 z
    u' ~ kernel(u, step)                                 by blackjax, for all particles together
    z' = chol u';  log_lik', pending', belief'           by one pass of the filter, as in every other move
    step <- step exp(2 (acceptance - goal))              for the next sweep of this move

Kernels of blackjax are written for one particle. Vmapped over all of them, each of their evaluations of the density
is one pass over history for the whole population (``target.of_one_particle``).
"""

from __future__ import annotations

import abc
import importlib.util
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smcssm.core import AbstractKernel, Status
from smcssm.errors import ModelError
from smcssm.history import History, View
from smcssm.smc2.adapt import compiled, from_folds, in_folds, move_key, resample
from smcssm.smc2.challengers import Challengers, accept, replay
from smcssm.smc2.kernels.metropolis import fit
from smcssm.smc2.population import SMC2, Population, fold_in, particles
from smcssm.smc2.proposals import RandomWalk
from smcssm.smc2.sweeps import Moved, decorrelate
from smcssm.smc2.target import of_one_particle, value_and_gradient

JITTER = 0.2  # steps vary by this share, particle by particle: no trajectory closes on itself for all of them


class Point(NamedTuple):
    """Where a particle is, in its coordinates u, with the log density there and its gradient; a state of blackjax."""

    position: Float[Array, "*p z"]
    logdensity: Float[Array, "*p"]
    logdensity_grad: Float[Array, "*p z"]


class Outcome(NamedTuple):
    """What one transition says: the next point, the acceptance probability, and whether it met a NaN or +inf."""

    point: Point
    acceptance: Float[Array, ""]
    broken: Bool[Array, ""]


class Slope(NamedTuple):
    """Density and gradient at particles, under the target of one rung."""

    value: Float[Array, "s n"]
    gradient: Float[Array, "z s n"]


class Proposed(NamedTuple):
    """What the transitions of one sweep say of every particle."""

    slope: Slope
    moved: Bool[Array, "s n"]
    acceptance: Float[Array, " s"]
    broken: Bool[Array, " s"]


class AbstractGradient(AbstractKernel):
    """A kernel that follows the gradient of the log posterior, through all of history.

    ``goal`` is the acceptance that steps are tuned to.
    """

    goal: eqx.AbstractVar[float]

    @abc.abstractmethod
    def steps(self, size: int) -> tuple[float, float]:
        """The step to begin with and the longest one, for a standard normal posterior of u in ``size`` dimensions."""

    @abc.abstractmethod
    def transition(self, key: Array, point: Point, log_density: Any, step: Float[Array, ""]) -> Outcome:
        """One transition of one particle, to be vmapped; the mass matrix is the identity."""

    def check(self, smc: SMC2, n_particles: int) -> None:
        """Refuse where there is no blackjax, or no gradient of prior and parameters."""
        del n_particles
        if smc.forgetting < 1:
            raise ModelError(f"{self} with forgetting={smc.forgetting}: its density forgets nothing. Metropolis() does")
        if importlib.util.find_spec("blackjax") is None:
            raise ModelError(f"{self} needs blackjax, which is not installed; Metropolis() does not")

        def smooth(z: Float[Array, " z"]) -> Float[Array, ""]:
            params = smc.filter.model.params(smc.prior.constrain(z))
            return smc.prior.log_prob(z) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

        try:
            with jax.enable_x64(True):
                jax.eval_shape(jax.grad(smooth), jax.ShapeDtypeStruct((smc.prior.size,), jnp.float64))
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ModelError(f"{self} needs gradients of prior and model: {error}. Metropolis() does not") from error

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
        """Resample, then one transition per particle and sweep."""
        population = compiled(resample, smc)(population, due, np.int64(rung))
        view = jax.device_put(history.view(since))
        slope = compiled(slope_at, smc)(population, view, np.int64(rung))
        first, longest = self.steps(len(population.z))
        step = np.full(due.shape, first)

        def sweep(population: Population, due: Bool[np.ndarray, " s"], number: int) -> Any:
            nonlocal slope, step
            counters = (np.int64(rung), np.int64(number))
            challengers, proposed = compiled(propose, smc, self)(population, view, slope, step, *counters)
            challengers = replay(smc, population, challengers, history, since, *counters)
            population, slope, status = compiled(settle, smc)(population, slope, challengers, proposed, due, *counters)
            rate = np.asarray(proposed.acceptance)
            step = np.minimum(step * np.exp(2 * (rate - self.goal)), longest)
            return population, rate, status

        return decorrelate(smc, population, sweep, due, max_sweeps)

    def warmup(self, smc: SMC2, population: Population, history: History) -> Population:
        """Compile every program of a move, for a history of up to a segment."""
        due, since = np.ones(population.t.shape, bool), np.full(population.t.shape, len(history))
        return self.move(smc, population, history, since, due, rung=0, max_sweeps=1)[0]


def slope_at(smc: SMC2, population: Population, view: View, rung: Int[Array, ""]) -> Slope:
    """Density and gradient where the particles are."""
    key = fold_in(move_key(population, rung, 0), 5)
    return Slope(*value_and_gradient(smc, key, view, population.phi, population.z))


def propose(
    smc: SMC2,
    kernel: AbstractGradient,
    population: Population,
    view: View,
    slope: Slope,
    step: Float[Array, " s"],
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Challengers, Proposed]:
    """One transition of every particle, and filters started where it ends."""
    key, (s, n) = move_key(population, rung, sweep), population.log_lik.shape
    chol = fit(smc, RandomWalk(factor=len(population.z) ** 0.5), population)  # the population's own
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, jnp.eye(len(c)), lower=True))(chol)

    def together(context: Any, u: Float[Array, "p z"]) -> tuple[Float[Array, " p"], Float[Array, "p z"]]:
        chol, key, view, phi = context
        value, gradient = value_and_gradient(smc, key, view, phi, _unturned(smc, chol, u))
        return value.reshape(-1), _turned(smc, chol.mT, gradient)

    log_density = of_one_particle(together, (chol, fold_in(key, 5), view, population.phi))

    def transition(key: Array, point: Point, step: Float[Array, ""]) -> Outcome:
        return kernel.transition(key, point, log_density, step)

    here = Point(_turned(smc, inverse, population.z), slope.value.reshape(-1), _turned(smc, chol.mT, slope.gradient))
    keys = jax.vmap(lambda k: jax.random.split(k, n))(fold_in(key, 6))
    jitter = jax.vmap(lambda k: jax.random.uniform(k, (n,), jnp.float64, 1 - JITTER, 1 + JITTER))(fold_in(key, 7))
    there, acceptance, broken = jax.vmap(transition)(keys.reshape(-1), here, (step[:, None] * jitter).reshape(-1))

    moved = jnp.any(there.position != here.position, axis=-1).reshape(s, n)
    z = jnp.where(moved[None], _unturned(smc, chol, there.position), population.z)
    new = Slope(there.logdensity.reshape(s, n), _unturned(smc, inverse.mT, there.logdensity_grad))
    acceptance, broken = jnp.mean(acceptance.reshape(s, n), axis=-1), jnp.any(broken.reshape(s, n), axis=-1)
    blank = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0, 0]), view.rows)
    params, belief = particles(smc, fold_in(key, 2), z, blank)
    zero = jnp.zeros_like(population.log_lik)
    return Challengers(z, params, belief, zero, zero), Proposed(new, moved, acceptance, broken)


def _turned(smc: SMC2, A: Float[Array, "f z z"], a: Float[Array, "z s n"]) -> Float[Array, "p z"]:
    """A a for every particle, by its fold; particles of all series one after the other, first."""
    return jnp.moveaxis(A @ in_folds(smc, a), 1, 2).reshape(-1, len(a))


def _unturned(smc: SMC2, A: Float[Array, "f z z"], a: Float[Array, "p z"]) -> Float[Array, "z s n"]:
    """A a for every particle, with the axes of a population."""
    return from_folds(A @ jnp.moveaxis(a.reshape(len(A), -1, a.shape[-1]), 2, 1), len(A) // smc.folds)


def settle(
    smc: SMC2,
    population: Population,
    slope: Slope,
    challengers: Challengers,
    proposed: Proposed,
    due: Bool[Array, " s"],
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Population, Slope, Int[Array, " s"]]:
    """Take the particles that have moved, with what their replay says; not those whose density is not finite there."""
    decided = jnp.where(proposed.moved, jnp.inf, -jnp.inf)
    new, _, status = accept(smc, population, challengers, decided, due, rung, sweep)
    taken = proposed.moved & jnp.all(new.z == challengers.z, axis=0)
    slope = jax.tree.map(lambda a, b: jnp.where(taken, a, b), proposed.slope, slope)
    return new, slope, jnp.maximum(status, jnp.where(proposed.broken, Status.NOT_FINITE, Status.OK))

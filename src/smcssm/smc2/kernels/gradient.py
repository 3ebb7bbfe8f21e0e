"""What moves along gradients share: coordinates and steps tuned from the population, and a replay that settles it.

    z <- one sweep of ``Metropolis("independent")``      which carries particles far, and from mode to mode
    chol chol' = covariance of each group, within modes  the inverse mass matrix, as coordinates u = chol^-1 z
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
from smcssm.smc2.batch import some
from smcssm.smc2.challengers import Challengers, accept, replay
from smcssm.smc2.kernels.metropolis import fitting, of_the_others, sweep_once
from smcssm.smc2.population import SMC2, Population, fold_in, particles
from smcssm.smc2.proposals.mixture import Mixture, within_modes
from smcssm.smc2.sweeps import Moved, decorrelate
from smcssm.smc2.target import of_one_particle, value_and_gradient

INDEPENDENT = Mixture()
SIZES = (1, 8, 64)  # of batches: gradients are dear, and programs for them take long to compile
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


class Proposed(NamedTuple):
    """What the transitions of one sweep say of every particle."""

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
        """Resample; each sweep is an independent proposal and then a transition, of those series alone that are due."""
        population = compiled(resample, smc)(population, due, np.int64(rung))
        first, longest = self.steps(len(population.z))
        step, seen = np.full(due.shape, first), (np.zeros(0, int), None)

        def sweep(population: Population, due: Bool[np.ndarray, " s"], number: int) -> Any:
            nonlocal seen
            far, near = ((np.int64(rung), np.int64(2 * number + k)) for k in (0, 1))
            few = some(due, SIZES)
            part, past, lengths = few.part(population, history, since)
            if not np.array_equal(seen[0], few.series):
                seen = few.series, jax.device_put(past.view(lengths))
            tuning = fitting(smc, INDEPENDENT, part)
            part, _, told = sweep_once(smc, INDEPENDENT, tuning, part, past, lengths, few.due, far)
            challengers, proposed = compiled(propose, smc, self)(part, seen[1], step[few.series], *near)
            challengers = replay(smc, part, challengers, past, lengths, *near)
            part, status = compiled(settle, smc)(part, challengers, proposed, few.due, *near)
            population, rate, status = few.whole(population, part, proposed.acceptance, np.maximum(told, status))
            step[due] = np.minimum(step * np.exp(2 * (np.asarray(rate) - self.goal)), longest)[due]
            return population, np.asarray(rate), status

        return decorrelate(smc, population, sweep, due, max_sweeps)

    def warmup(self, smc: SMC2, population: Population, history: History) -> Population:
        """Compile every program of a move, for a history of up to a segment."""
        n = len(population.t)
        for size in (*(few for few in SIZES if few < n), n):
            due, since = np.arange(n) < size, np.full(n, len(history))
            population, _ = self.move(smc, population, history, since, due, rung=0, max_sweeps=1)
        return population


def propose(
    smc: SMC2,
    kernel: AbstractGradient,
    population: Population,
    view: View,
    step: Float[Array, " s"],
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Challengers, Proposed]:
    """One transition of every particle, and filters started where it ends."""
    key, (s, n) = move_key(population, rung, sweep), population.log_lik.shape
    chol = of_the_others(smc, within_modes, population)
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, jnp.eye(len(c)), lower=True))(chol)

    def together(context: Any, u: Float[Array, "p z"]) -> tuple[Float[Array, " p"], Float[Array, "p z"]]:
        chol, key, view, phi = context
        value, gradient = value_and_gradient(smc, key, view, phi, _unturned(smc, chol, u))
        return value.reshape(-1), _turned(smc, chol.mT, gradient)

    context = chol, fold_in(key, 5), view, population.phi
    log_density = of_one_particle(together, context)

    def transition(key: Array, point: Point, step: Float[Array, ""]) -> Outcome:
        return kernel.transition(key, point, log_density, step)

    u = _turned(smc, inverse, population.z)
    here = Point(u, *together(context, u))
    keys = jax.vmap(lambda k: jax.random.split(k, n))(fold_in(key, 6))
    jitter = jax.vmap(lambda k: jax.random.uniform(k, (n,), jnp.float64, 1 - JITTER, 1 + JITTER))(fold_in(key, 7))
    there, acceptance, broken = jax.vmap(transition)(keys.reshape(-1), here, (step[:, None] * jitter).reshape(-1))

    moved = jnp.any(there.position != here.position, axis=-1).reshape(s, n)
    z = jnp.where(moved[None], _unturned(smc, chol, there.position), population.z)
    acceptance, broken = jnp.mean(acceptance.reshape(s, n), axis=-1), jnp.any(broken.reshape(s, n), axis=-1)
    blank = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0, 0]), view.rows)
    params, belief = particles(smc, fold_in(key, 2), z, blank)
    zero = jnp.zeros_like(population.log_lik)
    return Challengers(z, params, belief, zero, zero), Proposed(moved, acceptance, broken)


def _turned(smc: SMC2, A: Float[Array, "f z z"], a: Float[Array, "z s n"]) -> Float[Array, "p z"]:
    """A a for every particle, by its fold; particles of all series one after the other, first."""
    return jnp.moveaxis(A @ in_folds(smc, a), 1, 2).reshape(-1, len(a))


def _unturned(smc: SMC2, A: Float[Array, "f z z"], a: Float[Array, "p z"]) -> Float[Array, "z s n"]:
    """A a for every particle, with the axes of a population."""
    return from_folds(A @ jnp.moveaxis(a.reshape(len(A), -1, a.shape[-1]), 2, 1), len(A) // smc.folds)


def settle(
    smc: SMC2,
    population: Population,
    challengers: Challengers,
    proposed: Proposed,
    due: Bool[Array, " s"],
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Population, Int[Array, " s"]]:
    """Take the particles that have moved, with what their replay says; not those whose density is not finite there."""
    decided = jnp.where(proposed.moved, jnp.inf, -jnp.inf)
    new, _, status = accept(smc, population, challengers, decided, due, rung, sweep)
    return new, jnp.maximum(status, jnp.where(proposed.broken, Status.NOT_FINITE, Status.OK))

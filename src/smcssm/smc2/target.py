"""The posterior as a density with a gradient, over all of history, in bounded memory: what gradient moves see.

    log pi(z) = log prior(z) + log_lik(z) + phi pending(z)

by reverse differentiation with checkpoints (Griewank & Walther 2000, doi:10.1145/347837.347846):

    forward     filter all of history; keep the belief at the start of every chunk
    backward    for every chunk, last first:
                    filter it once more; keep the belief before every row
                    for every row, last first:  adjoints of params and belief through one step of the filter

Three passes of the filter and one of its adjoint. Rows and the population stay together: time is the loop, particles
are the last axis, and nothing is computed for rows past the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from smcssm.core import Observation
from smcssm.history import CHUNK, View
from smcssm.smc2.population import SMC2, at_particles, fold_in, log_prior, particles, select

ValueAndGradient = Callable[[Float[Array, "z s n"]], tuple[Float[Array, "s n"], Float[Array, "z s n"]]]


def value_and_gradient(
    smc: SMC2, key: Array, view: View, phi: Float[Array, " s"], z: Float[Array, "z s n"]
) -> tuple[Float[Array, "s n"], Float[Array, "z s n"]]:
    """Log density of every particle, and its gradient; 0 where the density is not finite.

    Where the prior is zero so is the density, whatever the filter makes of such a model.
    """
    prior, pull_prior = jax.vjp(partial(log_prior, smc), z)
    blank = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0, 0]), view.rows)
    (params, belief), pull_start = jax.vjp(lambda z: particles(smc, fold_in(key, 0), z, blank), z)
    step = partial(_step, smc, fold_in(key, 1), phi)
    log_lik, starts = _forward(step, params, belief, view, jnp.zeros_like(prior))
    adjoints = _backward(step, params, starts, view, jnp.ones_like(prior))
    value = jnp.where(jnp.isneginf(prior), -jnp.inf, prior + log_lik)
    gradient = pull_prior(jnp.ones_like(prior))[0] + pull_start(adjoints)[0]
    return value, jnp.where(jnp.isfinite(value)[None], gradient, 0.0)


def _step(
    smc: SMC2, key: Array, phi: Float[Array, " s"], params: PyTree, belief: PyTree, row: tuple[Observation, Any]
) -> tuple[PyTree, Float[Array, "s n"]]:
    """One row: the belief after it, and what it adds to the log density."""
    obs, pooled = row
    new, info = smc.filter.step(fold_in(key, obs.index), params, belief, at_particles(obs))
    increment = jnp.where(pooled, phi, 1.0)[:, None] * info.log_lik.astype(jnp.float64)
    if obs.reported is None:
        return new, increment
    return select(obs.reported, new, belief), jnp.where(obs.reported[:, None], increment, 0.0)


def _forward(
    step: Callable, params: PyTree, belief: PyTree, view: View, zero: Float[Array, "s n"]
) -> tuple[Float[Array, "s n"], PyTree]:
    """The log likelihood, and the belief at the start of every chunk ``[c, ...]``."""

    def chunk(i: Array, carry: tuple) -> tuple:
        belief, total, starts = carry
        rows, length = _chunk(view, i)

        def row(j: Array, carry: tuple) -> tuple:
            belief, increment = step(params, carry[0], _at(rows, j))
            return belief, carry[1] + increment

        starts = _put(starts, i, belief)
        return *jax.lax.fori_loop(0, length, row, (belief, total)), starts

    start = (belief, zero, _room(len(view.pooled), belief))
    _, total, starts = jax.lax.fori_loop(0, -(-view.length // CHUNK), chunk, start)
    return total, starts


def _backward(
    step: Callable, params: PyTree, starts: PyTree, view: View, one: Float[Array, "s n"]
) -> tuple[PyTree, PyTree]:
    """Adjoints of the parameters and of the belief before the first row."""
    chunks = -(-view.length // CHUNK)

    def chunk(back: Array, carry: tuple) -> tuple:
        adjoints, beliefs = carry
        i = chunks - 1 - back
        rows, length = _chunk(view, i)

        def again(j: Array, carry: tuple) -> tuple:
            belief, beliefs = carry
            return step(params, belief, _at(rows, j))[0], _put(beliefs, j, belief)

        def row(back: Array, adjoints: tuple) -> tuple:
            j = length - 1 - back
            _, pull = jax.vjp(lambda params, belief: step(params, belief, _at(rows, j)), params, _at(beliefs, j))
            of_params, of_belief = pull((adjoints[1], one))
            return jax.tree.map(jnp.add, adjoints[0], of_params), of_belief

        _, beliefs = jax.lax.fori_loop(0, length, again, (_at(starts, i), beliefs))
        return jax.lax.fori_loop(0, length, row, adjoints), beliefs

    zero = jax.tree.map(jnp.zeros_like, (params, _at(starts, 0)))
    adjoints, _ = jax.lax.fori_loop(0, chunks, chunk, (zero, _room(CHUNK, _at(starts, 0))))
    return adjoints


def _chunk(view: View, i: Array) -> tuple[tuple[Observation, Any], Array]:
    """Rows of a chunk and their marks, and how many count."""
    return _at((view.rows, view.pooled), i), jnp.minimum(CHUNK, view.length - i * CHUNK)


def _at(tree: PyTree, i: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _put(tree: PyTree, i: Any, value: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, new: leaf.at[i].set(new), tree, value)


def _room(size: int, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), tree)


def of_one_particle(
    together: Callable[[PyTree, Float[Array, "p z"]], tuple[Float[Array, " p"], Float[Array, "p z"]]],
    context: PyTree,
) -> Callable[[Float[Array, " z"]], Float[Array, ""]]:
    """A log density of one particle, to be vmapped over all of them: ``together`` then runs once for all.

    Value and gradient come from the same pass. Arrays that ``together`` needs are in ``context``: it is traced
    elsewhere and may not close over any.
    """

    @jax.custom_batching.custom_vmap
    def both(context: PyTree, z: Float[Array, " z"]) -> tuple[Float[Array, ""], Float[Array, " z"]]:
        del context
        return jnp.full((), jnp.nan, z.dtype), jnp.full_like(z, jnp.nan)  # one alone is never evaluated

    @both.def_vmap
    def _(size: int, batched: Any, context: PyTree, z: Float[Array, "p z"]) -> tuple[tuple, tuple[bool, bool]]:
        del size, batched
        return together(context, z), (True, True)

    @jax.custom_vjp
    def log_density(context: PyTree, z: Float[Array, " z"]) -> Float[Array, ""]:
        return both(context, z)[0]

    log_density.defvjp(both, lambda gradient, cotangent: (None, cotangent * gradient))
    return partial(log_density, context)

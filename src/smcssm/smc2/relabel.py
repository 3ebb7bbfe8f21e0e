"""A move between the names of exchangeable regimes (Frühwirth-Schnatter 2001, doi:10.1198/016214501750333036).

    draw a permutation s of the K regimes, uniformly, whatever theta is
    z' = unconstrain(s theta),   belief' = s belief,   L' = L,   pending' = pending
    accept with probability  min(1, prior(z') / prior(z))

The model at s theta is that at theta with its regimes called otherwise, so that both have the same likelihood, and the
belief of one is that of the other renamed. With a fixed s, z -> z' is a bijection; it only permutes elements of z, or
is linear of determinant 1 or -1 (``check`` looks), and its inverse, by the inverse permutation, is drawn as often. So
the move leaves prior(z) L(z) exp(phi pending(z)) invariant for every phi, and the joint law of z and what is carried.
With an estimated likelihood the estimate is carried as well: renamed, it is one by the filter that has its candidates
in another order. Its mean is the same; that its law is, too, holds where reductions do not look at the order of
candidates, and to a good approximation for systematic points (M = 8, 40 rows, 20,000 estimates under either name: the
laws of log L cannot be told apart, Kolmogorov-Smirnov p = 0.6 and 0.8).

No pass over history is needed, but a symmetric population has K! modes that proposals have to be fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import at_each_particle
from smcssm.errors import ModelError
from smcssm.relabelling import permuted
from smcssm.smc2.adapt import carried, move_key
from smcssm.smc2.exchangeable import POINTS, check_model, compiled_once
from smcssm.smc2.population import SMC2, Population, fold_in, log_prior, select

CLOSE = 1e-6  # how far a hyperparameter may be from itself after it was unconstrained and constrained


def relabel(smc: SMC2, key: Array, population: Population) -> Population:
    """One such move of every particle; ``key`` is [s] keys. Weights stay; marginals have to be sorted again."""
    permutation = _permutations(fold_in(key, 0), len(_regimes(smc)), population.log_weight)
    new = renamed(smc, population, permutation)
    log_ratio = log_prior(smc, new.z) - log_prior(smc, population.z)
    uniform = _uniform(fold_in(key, 1), population.log_weight[None])[0]
    named = jnp.arange(len(permutation))[:, None, None]
    moves = jnp.any(permutation != named, axis=0) & (jnp.log(uniform) < log_ratio)  # a NaN stays where it is

    def chosen(a: Array, b: Array) -> Array:
        return jnp.where(moves.reshape((1,) * (a.ndim - 2) + moves.shape), a, b)

    return eqx.tree_at(carried, population, jax.tree.map(chosen, carried(new), carried(population)))


def renamed(smc: SMC2, population: Population, permutation: Int[Array, "k s n"]) -> Population:
    """Every particle with its regimes called otherwise: k is what ``permutation[k]`` was."""
    z = at_each_particle(lambda z, p: _renamed(smc, z, p), 2)(population.z, permutation)
    params = at_each_particle(smc.filter.model.params)(at_each_particle(smc.prior.constrain)(z))
    params = jax.tree.map(lambda new, old: new.astype(old.dtype), params, population.params)
    belief, lag = _called(smc, population.belief, permutation), population.lag
    lag = None if lag is None else lag._replace(belief=_called(smc, lag.belief, permutation))
    return replace(population, z=z, params=params, belief=belief, lag=lag)


def in_order(smc: SMC2, key: str, population: Population) -> Population:
    """Every particle with its regimes in ascending order of the hyperparameter ``key``: what summaries can be of."""

    def order(z: Float[Array, " z"]) -> Int[Array, " k"]:
        return jnp.argsort(smc.prior.constrain(z)[key])

    return renamed(smc, population, at_each_particle(order)(population.z))


def anew(
    smc: SMC2, population: Population, due: Bool[Array, " s"], rung: Int[Array, ""], sweep: Int[Array, ""]
) -> Population:
    """The move in the series that are due, after the last sweep."""
    return select(due, relabel(smc, fold_in(move_key(population, rung, sweep), 5), population), population)


def check(smc: SMC2, z: Float[np.ndarray, "z n"]) -> None:
    """Raise where the argument above does not hold at some of the points z, one column each. On the host.

    Of the model it is looked at where the prior admits z under all names: elsewhere the move is not made.

    Raises:
        ModelError: a model or filter that cannot rename its regimes; a prior under which renamed hyperparameters are
            not those of any z (they are ordered, or not free), or whose transforms differ between regimes; a model
            that is not the same under other names.
    """
    for at, swap in _swaps(smc, z[:, :POINTS]):
        _check_names(smc, at, swap)
        _check_volume(smc, at, swap)
    smc, swaps = replace(smc, dtype="float64"), np.stack([np.arange(K := len(_regimes(smc)))] * 2 + _exchanges(K), -1)
    under_all, density = compiled_once(_under_all_names, smc)(np.asarray(z, float), swaps)
    admitted = np.flatnonzero(np.isfinite(density).all(axis=-1))[:POINTS]
    if len(admitted):
        check_model(smc, np.asarray(under_all)[:, admitted], swaps)


def check_order(smc: SMC2, key: Any, z: Float[np.ndarray, "z n"]) -> None:
    """Raise where regimes cannot be put in the order of ``key``. On the host.

    Raises:
        ModelError: likewise; or a key that is no hyperparameter with one value for each regime.
    """
    _regimes(smc)
    model: Any = smc.filter.model
    known = [name for name, axes in model.per_regime.items() if axes == 1]
    if key not in known:
        raise ModelError(f"order={key!r}: expected a hyperparameter with a value for each regime: {', '.join(known)}")
    for at, swap in _swaps(smc, z):
        _check_names(smc, at, swap)


def _swaps(smc: SMC2, z: Float[np.ndarray, "z n"]) -> Iterator[tuple[Float[Array, " z"], Int[Array, " k"]]]:
    """Points, and exchanges of neighbours, which make all permutations."""
    for swap in _exchanges(len(_regimes(smc))):
        for at in z.T:
            yield jnp.asarray(at), jnp.asarray(swap)


def _exchanges(K: int) -> list[Int[np.ndarray, " k"]]:
    swaps = np.tile(np.arange(K), (K - 1, 1))
    for k, swap in enumerate(swaps):
        swap[[k, k + 1]] = k + 1, k
    return list(swaps)


def _under_all_names(
    smc: SMC2, z: Float[Array, "z p"], swaps: Int[Array, "k n"]
) -> tuple[Float[Array, "z p n"], Float[Array, "p n"]]:
    """Points with their regimes called otherwise, and their prior density."""
    shape = len(z), z.shape[1], swaps.shape[1]
    permutation = jnp.broadcast_to(swaps[:, None], (len(swaps), *shape[1:]))
    new = at_each_particle(lambda z, p: _renamed(smc, z, p), 2)(jnp.broadcast_to(z[..., None], shape), permutation)
    return new, log_prior(smc, new)


def _check_names(smc: SMC2, z: Float[Array, " z"], swap: Int[Array, " k"]) -> None:
    model, constrain = smc.filter.model, smc.prior.constrain
    wanted, there = permuted(model, constrain(z), swap), constrain(_renamed(smc, z, swap))
    for name in model.names:
        if not np.allclose(there[name], wanted[name], rtol=CLOSE, atol=CLOSE):
            raise ModelError(
                f"regimes cannot be renamed: under this prior no z gives {name}={np.asarray(wanted[name]).tolist()}. "
                "Give it a law of its own, of exchangeable elements without an order"
            )


def _check_volume(smc: SMC2, z: Float[Array, " z"], swap: Int[Array, " k"]) -> None:
    sign, log_volume = np.linalg.slogdet(jax.jacfwd(lambda z: _renamed(smc, z, swap))(z))
    if sign == 0 or not abs(log_volume) < CLOSE:
        raise ModelError(
            "regimes cannot be renamed: this prior transforms the hyperparameters of one regime otherwise than those "
            f"of another (a volume of {np.exp(log_volume):.3g} for 1)"
        )


def _regimes(smc: SMC2) -> tuple[str, ...]:
    """Names of the regimes, of a model in which they are exchangeable."""
    model: Any = smc.filter.model
    if not getattr(model, "per_regime", None) or not hasattr(smc.filter, "relabel"):
        raise ModelError(
            f"{type(model).__name__} does not say that its regimes are exchangeable: give per_regime=, a mapping from "
            "hyperparameters to their number of axes that count regimes"
        )
    return model.regime_names


def _renamed(smc: SMC2, z: Float[Array, " z"], permutation: Int[Array, " k"]) -> Float[Array, " z"]:
    return smc.prior.unconstrain(permuted(smc.filter.model, smc.prior.constrain(z), permutation))


def _called(smc: SMC2, belief: PyTree, permutation: Int[Array, "k s n"]) -> PyTree:
    inner: Any = smc.filter
    return inner.relabel(belief, permutation)


def _permutations(key: Array, K: int, like: Float[Array, "s n"]) -> Int[Array, "k s n"]:
    """All equally likely."""
    return jnp.argsort(_uniform(key, jnp.broadcast_to(like, (K, *like.shape))), axis=0)


def _uniform(key: Array, like: Float[Array, "k s n"]) -> Float[Array, "k s n"]:
    def of_series(key: Array) -> Float[Array, "k n"]:
        return jax.random.uniform(key, (like.shape[0], like.shape[-1]), like.dtype)

    return jnp.moveaxis(jax.vmap(of_series)(key), 0, 1)

"""Whether a model's regimes are exchangeable: filtered at a point, and where its regimes are called otherwise.

    rows drawn from the model at theta; filter them at theta and at s theta, s an exchange of two regimes
    for each row:  the log-likelihoods are equal;   the belief at s theta is that at theta, renamed by s

This is what ``relabel`` rests on, and any model for which it does not hold (unequal probabilities at first, a constant
of one regime, a hyperparameter that is missing in ``per_regime``) gets a posterior that is plausible and wrong. So few
rows are taken that inner particles follow every path of regimes: the filter is exact then, and a difference beyond
rounding is one of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import Observation
from smcssm.errors import ModelError
from smcssm.smc2.population import SMC2, Stream, at_particles, particles, stream

POINTS = 4
EACH = 4  # series for each point
PATHS = 64  # of regimes; but two rows there are always
CLOSE = 1e-5  # relative; hyperparameters may be 1e-6 from themselves after they were unconstrained and constrained

_WHERE = (
    "regimes may swap their names only in a model that treats them alike: equal probabilities at first (initial=), the "
    "same constants in the function of every regime, and every hyperparameter that belongs to regimes in per_regime=, "
    "with all its axes that count them (now {per_regime}). Give what differs a hyperparameter with a value for each "
    "regime, or leave out relabel=True"
)


class Followed(NamedTuple):
    """What a filter said: of each row its log-likelihood, and before each the belief, with regimes named alike."""

    log_lik: Float[Any, "t s n"]
    regimes: Float[Any, "t k s n"] | None
    mean: Float[Any, "t x s n"]
    sd: Float[Any, "t x s n"]


def check_model(smc: SMC2, z: Float[np.ndarray, "z p n"], swaps: Int[np.ndarray, "k n"]) -> None:
    """Raise where the model at some of p points is not the same under all n names. On the host, in float64.

    Args:
        smc: the parts of an engine.
        z: points. The first two columns of each are the same: they differ where the filter is not exact after all, and
            then nothing is compared. In the others regime k is what ``swaps[k]`` is in the first.
        swaps: exchanges of two regimes; none in the first two columns.

    Raises:
        ModelError: naming two regimes that the model tells apart.
    """
    key = jax.random.key_data(jax.random.split(jax.random.key(0), EACH * z.shape[1]))
    given, rows = (key, jnp.repeat(z, EACH, axis=1), jnp.asarray(swaps)), _rows(smc, z.shape[1], len(swaps))
    try:
        told = compiled_once(_followed, smc)(*given, rows)
    except Exception:  # of functions that cannot do without a noise_sd
        if "noise_sd" not in getattr(smc.filter.model, "reads", ()):
            raise
        told = compiled_once(_followed, smc)(*given, replace(rows, noise_sd=np.full(rows.y.shape, 0.5)))
    for what, apart in _differences(jax.tree.map(np.asarray, told)):
        if apart.any():
            model: Any = smc.filter.model
            which = np.flatnonzero(swaps[:, 2 + int(np.argmax(apart.any(axis=0)))] != np.arange(len(swaps)))
            one, other = (model.regime_names[k] for k in which)
            where = _WHERE.format(per_regime=dict(model.per_regime))
            raise ModelError(f"the model tells {one} and {other} apart: renamed, {what} not the same. {where}")


@lru_cache(maxsize=64)
def compiled_once(function: Callable[..., Any], smc: SMC2) -> Callable[..., Any]:
    """``function(smc, ...)``, to be run once on few numbers: compiled in a fifth of the time, without optimisations."""
    return jax.jit(partial(function, smc), compiler_options={"xla_backend_optimization_level": 0})


def _rows(smc: SMC2, points: int, K: int) -> Observation:
    """Records without values, ``[t, ..., s]``: of the series for each point every other has irregular time and gaps."""
    model, T = smc.filter.model, max(t for t in (2, 3, 4) if t == 2 or K ** (t - 1) <= PATHS)
    ny, nv, t = len(model.channel_names), len(model.input_names), np.arange(T)
    plain, odd = (t > 0).astype(float), np.array([0.0, 0.5, 2.0, 0.25])[:T]
    switch = (t[:, None] + np.arange(nv)) % 2.0
    gap = np.ones((T, ny), bool)
    gap[T // 2, : max(1, ny // 2)] = False

    def both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.tile(np.stack([one, other], axis=-1), EACH // 2 * points)

    return Observation(
        y=np.zeros((T, ny, EACH * points)),
        mask=both(np.ones((T, ny), bool), gap),
        dt=both(plain, odd if model.continuous_time else plain),
        index=both(t, 5 * t),
        inputs=both(switch, 0.3 + 0.7 * ((t[:, None] + 2 * np.arange(nv)) % 4)) if nv else None,
    )


def _followed(
    smc: SMC2, key: Array, z: Float[Array, "z s n"], swaps: Int[Array, "k n"], rows: Observation
) -> Followed:
    inner: Any = smc.filter
    keys = stream(key, Stream.INIT), stream(key, Stream.FILTER), stream(key, Stream.FORECAST)
    blank = jax.tree.map(lambda a: jnp.zeros_like(a[0]), rows)
    params, belief = particles(smc, keys[0], z, blank)
    if not inner.exact:  # a place for every path
        size = len(swaps) ** (len(rows.dt) - 1)
        like = jax.tree.map(lambda a: jnp.zeros((*a.shape[:-3], size, *a.shape[-2:]), a.dtype), belief)
        belief = inner.init(keys[0], params, at_particles(blank), like)
    permutation = jnp.broadcast_to(swaps[:, None], (len(swaps), *z.shape[1:]))
    state = inner.draw(keys[2], belief)

    def row(carry: tuple, obs: Observation) -> tuple[tuple, tuple]:
        belief, state = carry
        state, y = _drawn(inner, stream(key, Stream.FORECAST, obs.index), params, state, obs)
        seen = at_particles(_with(obs, y))
        new, info = inner.step(stream(key, Stream.FILTER, obs.index), params, belief, seen)
        named = inner.relabel(belief, permutation)  # an exchange is its own inverse
        return (new, state), (info.log_lik, inner.regimes(named), *inner.moments(named))

    return Followed(*jax.lax.scan(row, (belief, state), rows)[1])


def _drawn(
    inner: Any, key: Array, params: PyTree, state: PyTree, obs: Observation
) -> tuple[PyTree, Float[Array, "y s"]]:
    """A value of every channel, from the model under its own names.

    Where the model cannot draw they are small counts, or fractions in half of the series: most laws know one of them.
    """
    try:
        state, _, y = inner.simulate(key, params, state, at_particles(obs))
    except ModelError:
        counts = ((obs.index + 2)[None] + jnp.arange(len(obs.y))[:, None]) % 3.0
        return state, jnp.where(jnp.arange(counts.shape[1]) % EACH < EACH // 2, counts, 0.25 * (counts + 1))
    return state, y[..., 0]


def _with(obs: Observation, y: Float[Array, "y s"]) -> Observation:
    return Observation(jnp.where(obs.mask, y, 0.0), obs.mask, obs.dt, obs.index, obs.inputs, obs.noise_sd)


def _differences(told: Followed) -> Iterator[tuple[str, Bool[np.ndarray, "s n"]]]:
    """In the order of time: what it is, and in which series and under which names it is not the same."""
    for t in range(len(told.log_lik)):
        after = "before the first row" if t == 0 else f"after row {t}"
        if told.regimes is not None:
            yield f"the probabilities of regimes {after} are", _apart(told.regimes[t]).any(axis=0)
        spread = np.abs(told.mean[t]) + told.sd[t]
        yield f"the mean of the state {after} is", _apart(told.mean[t], spread).any(axis=0)
        yield f"the spread of the state {after} is", _apart(told.sd[t], spread).any(axis=0)
        yield f"the likelihood of row {t + 1} is", _apart(told.log_lik[t])


def _apart(
    a: Float[np.ndarray, "*k s n"], size: Float[np.ndarray, "*k s n"] | None = None
) -> Bool[np.ndarray, "*k s m"]:
    """Where names after the first two do not have the number that the first two agree on. A NaN says nothing."""
    first, again, others = a[..., :1], a[..., 1:2], a[..., 2:]
    scale = 1 + np.abs(first if size is None else size[..., :1])

    def same(b: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (b == first) | (np.abs(b - first) <= CLOSE * np.where(np.isfinite(scale), scale, 1.0))

    return ~np.isnan(first) & same(again) & ~same(others)

"""What a step reports of each observation, and its way to the host as one array."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smcssm.resampling import Sums, weighted_quantile
from smcssm.smc2.population import Population, at_full_exponent

RECORDED_QUANTILES = (0.05, 0.5, 0.95)



class Row(NamedTuple):
    """What is reported of one observation of every series; ``log_evidence`` is the running sum, this one included.

    All of it is under the whole posterior, but for ``least_ess``: of what a move would be fitted to, while a part is
    pending. ``pooled`` marks observations that are partly pending. ``crps`` is NaN where the filter draws none.
    """

    log_evidence: Float[Any, " s"]
    predictive_mean: Float[Any, "y s"]
    predictive_sd: Float[Any, "y s"]
    pit: Float[Any, "y s"]
    crps: Float[Any, "y s"]
    ess: Float[Any, " s"]
    least_ess: Float[Any, " s"]
    status: Int[Any, " s"]
    pooled: Bool[Any, " s"]
    quantiles: Float[Any, "h q s"]



def recorded_quantiles(population: Population, whole: Sums) -> Float[Array, "h q s"]:
    """Weighted quantiles of every hyperparameter entry, from the order kept since the last move.

    ``whole`` are the sums of weights under the whole posterior.
    """
    w = jnp.take_along_axis(whole.normalise(at_full_exponent(population))[None], population.order, axis=-1)
    levels = jnp.asarray(RECORDED_QUANTILES)
    return jnp.moveaxis(weighted_quantile(population.ordered, w, levels), -1, 1)



def pack(rows: Row, done: Int[Array, ""], due: Bool[Array, " s"]) -> Float[Array, "t1 c"]:
    """Rows as a table of float64, and a last line that says how many count and which series are due."""
    table = jnp.concatenate([leaf.reshape(len(leaf), -1).astype(jnp.float64) for leaf in rows], axis=1)
    last = jnp.concatenate([done[None].astype(jnp.float64), due.astype(jnp.float64)])
    return jnp.concatenate([table, jnp.pad(last, (0, table.shape[1] - len(last)))[None]])



def unpack(table: np.ndarray, n_channels: int, n_series: int) -> tuple[Row, np.ndarray]:
    """The rows that count, and which series are due. On the host."""
    done, due = int(table[-1, 0]), table[-1, 1 : 1 + n_series] > 0
    wide, start, leaves = (n_channels, n_series), 0, []
    for shape in ((n_series,), *4 * [wide], *4 * [(n_series,)]):
        width = math.prod(shape)
        leaves.append(table[:done, start : start + width].reshape(done, *shape).copy())
        start += width
    quantiles = table[:done, start:].reshape(done, -1, len(RECORDED_QUANTILES), n_series).copy()
    *numbers, status, pooled = leaves
    return Row._make([*numbers, status.astype(int), pooled > 0, quantiles]), due

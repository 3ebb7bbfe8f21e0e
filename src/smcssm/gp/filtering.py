"""The matrices of all rows at once, then the Kalman filter over them.

What matrices are made of differs from row to row by the time that passes and, where there are exposures, by what is
open: it is computed for all rows side by side, where it is vectorised, and not one after the other in the filter.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from smcssm import kalman
from smcssm.core import Observation, System
from smcssm.gaussian import Gaussian
from smcssm.gp import state
from smcssm.gp.kernel import Kernel
from smcssm.gp.state import Slot
from smcssm.kalman import parallel
from smcssm.kalman.sequential import SystemOf
from smcssm.linalg import stack
from smcssm.linalg.panels import fence

CHUNK = 1024  # rows whose averages over exposures are worked out together: all that this takes stays in the cache


def slots_of(obs: Observation) -> tuple[Array, Array | None, list[Slot]]:
    """Of rows: the output that is observed; whether it is no average (None: it never is one); the averages."""
    assert obs.inputs is not None
    rows = [obs.inputs[..., i, :, :] for i in range(obs.inputs.shape[-3])]
    return rows[0], rows[1] if rows[1:] else None, [Slot(*rows[i : i + 4]) for i in range(2, len(rows), 4)]


def system(kernel: Kernel, obs: Observation) -> System:
    """The matrices of rows side by side; leaves of ``obs`` end in ``[s, 1]``."""
    label, plain, slots = slots_of(obs)
    F, chol_Q = state.transition(kernel, obs.dt, slots)
    h = state.row(kernel, label if kernel.n_outputs > 1 else None)
    if plain is not None:
        h = [jnp.where(plain > 0, e, 0.0) for e in h] + [slot.seen for slot in slots]
    assert obs.noise_sd is not None
    return System(F, [0.0] * len(F), [e or [0.0] for e in chol_Q], [h], [0.0], [[obs.noise_sd[0]]])


def prepared(kernel: Kernel, given: Observation) -> tuple[SystemOf, PyTree, Observation]:
    """A function of the rows' matrices, its parameters, and rows whose ``inputs`` are what it puts together."""
    n, known, trees = len(given.dt), {}, []
    size = min(CHUNK, n & -n) if slots_of(given)[2] and n > CHUNK else n

    def some(rows: Observation) -> dict[int, Array]:
        leaves, tree = jax.tree.flatten(system(kernel, beside(rows)))
        known.update({i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, float)})
        trees.append(tree)
        return fence({i: leaf for i, leaf in enumerate(leaves) if i not in known})

    if size == n:
        found = some(given)
    else:
        parts = jax.lax.map(some, jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), given))
        found = {i: e.reshape(-1, 1) if e.shape[1] == size else e[0] for i, e in parts.items()}
    moving = [i for i, leaf in found.items() if jnp.shape(leaf) == (n, 1)]
    params = {i: leaf for i, leaf in found.items() if i not in moving}

    def of_row(params: dict[int, Array], obs: Observation) -> System:
        assert obs.inputs is not None
        every = known | params | dict(zip(moving, obs.inputs, strict=True))
        return jax.tree.unflatten(trees[0], [every[i] for i in range(len(every))])

    return of_row, params, eqx.tree_at(lambda o: o.inputs, given, [found[i][..., None] for i in moving])


def beside(given: Observation) -> Observation:
    """Rows ``[t, ..., 1, 1]`` on the series axis, ``[..., t, 1]``."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf[..., 0, 0], 0, -1)[..., None], given)


def stationary(kernel: Kernel, given: Observation, like: Array) -> Gaussian:
    """The belief before the first of such rows."""
    L = state.stationary_root(kernel, len(slots_of(given)[2]))
    return Gaussian(stack([0.0] * len(L), like), stack(L, like))


def filtered(kernel: Kernel, given: Observation, blocks: int, keep: kalman.sequential.Keep) -> Any:
    """The system, the belief before the rows and after them, and what is kept of each row."""
    of_row = prepared(kernel, given)
    start = stationary(kernel, given, given.y[0, 0])
    return of_row, start, *parallel.filter(of_row[0], of_row[1], start, of_row[2], keep, blocks)

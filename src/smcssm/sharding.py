"""One big population over several devices: its particles are spread, programs and numbers stay what they are.

The programs of an engine are compiled for whatever layout their arguments have (GSPMD): what is done to each particle
is done where the particle is, and where particles meet (weights, resampling, proposals) the compiler inserts what has
to be sent. What comes out is laid out as what went in, so that placing the population once is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from smcssm.errors import ModelError
from smcssm.runtime import Runtime, alone

AXIS = "particles"


def shard(runtime: Runtime, devices: Sequence[Any] | None) -> None:
    """Of an engine: all at once, or not at all."""
    with alone(runtime), jax.enable_x64(True):
        state = runtime.state
        population, pending = _spread((state.population, state.pending), runtime.n_particles, devices)
        runtime.state = state._replace(population=population, pending=pending)


def _spread(tree: PyTree, n_particles: int, devices: Sequence[Any] | None) -> PyTree:
    """A population with an equal share of its particles, the last axis, on each device; what is no particle on all.

    Raises:
        ModelError: shares would not be equal.
    """
    devices = list(jax.devices() if devices is None else devices)
    if not devices or n_particles % len(devices):
        raise ModelError(
            f"shard: {n_particles} particles cannot be shared equally by {len(devices)} devices: take a multiple"
        )
    mesh = Mesh(np.asarray(devices), (AXIS,))

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        particles = leaf.ndim > 0 and leaf.shape[-1] == n_particles
        names = (*[None] * (leaf.ndim - 1), AXIS) if particles else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*names)))

    return jax.tree.map(one, tree)

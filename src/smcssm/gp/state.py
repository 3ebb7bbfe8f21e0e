"""The state of a kernel: its blocks side by side, as the matrices of one step."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.gp.kernel import Kernel, Sum
from smcssm.linalg.entries import Rows, block_diagonal


def admissible(kernel: Kernel) -> Bool[Array, ""]:
    """Whether all hyperparameters of a kernel are such as its processes can have."""
    return reduce(operator.and_, [jnp.asarray(b.admissible()) for b in kernel.blocks()], jnp.asarray(True))


def stationary_root(kernel: Kernel) -> Rows:
    """The square root of the covariance of the whole state."""
    return block_diagonal([b.stationary_root() for b in kernel.blocks()])


def transition(kernel: Kernel, dt: Any) -> tuple[Rows, Rows]:
    """F and chol_Q of the whole state, for any dt >= 0; what they are at 0 does not count, but derivatives exist."""
    later = jnp.where(dt > 0, dt, 1)
    blocks = kernel.blocks()
    F = block_diagonal([b.transition(later) for b in blocks])
    return F, block_diagonal([b.noise_root(later) for b in blocks])


def row(kernel: Kernel, output: Any = None, only: int | None = None) -> list[Any]:
    """h of the whole state; ``only``: of one summand of a sum, by number, zero for the others."""
    parts = kernel.parts if isinstance(kernel, Sum) else (kernel,)
    entries = [(i, e) for i, part in enumerate(parts) for b in part.blocks() for e in b.row(output)]
    return [e if only is None or i == only else 0.0 for i, e in entries]

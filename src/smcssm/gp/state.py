"""The state of a kernel: its blocks side by side, and averages over exposures, as the matrices of one step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.gp.exposure import averaged
from smcssm.gp.kernel import Block, Kernel, Sum
from smcssm.linalg.entries import Rows, block_diagonal, dot, multiply, transpose
from smcssm.linalg.panels import fence, triangularise


class Slot(NamedTuple):
    """An average in the making: 1 / exposure while open, whether it goes on, of which output, whether it is seen."""

    rate: Any
    carry: Any
    label: Any
    seen: Any


def admissible(kernel: Kernel) -> Bool[Array, ""]:
    """Whether all hyperparameters of a kernel are such as its processes can have."""
    return reduce(operator.and_, [jnp.asarray(b.admissible()) for b in kernel.blocks()], jnp.asarray(True))


def stationary_root(kernel: Kernel, averages: int = 0) -> Rows:
    """The square root of the covariance of the whole state; averages are zero at first."""
    L = block_diagonal([b.stationary_root() for b in kernel.blocks()])
    return [row + [0.0] * averages for row in L] + [[0.0] * (len(L) + averages) for _ in range(averages)]


def transition(kernel: Kernel, dt: Any, slots: Sequence[Slot] = ()) -> tuple[Rows, Rows]:
    """F and chol_Q of the whole state, for any dt >= 0; what they are at 0 does not count, but derivatives exist.

    With ``slots`` the averages follow the state: z <- carry z + dt rate (average of f over dt).
    """
    later = jnp.where(dt > 0, dt, 1)
    blocks = kernel.blocks()
    if not slots:
        F, root = zip(*together(blocks, lambda b, dt: (b.transition(dt), b.noise_root(dt)), later), strict=True)
        return block_diagonal(F), block_diagonal(root)
    opened = reduce(operator.or_, [slot.rate > 0 for slot in slots])
    labels = [slot.label for slot in slots] if kernel.n_outputs > 1 else [None]
    parts = []
    for block in blocks:
        G, U = averaged(block, jnp.where(opened, later, 0), [block.row(label) for label in labels])
        parts.append((block.transition(later), G, _either(opened, U, block.noise_root(later))))
    F, G, noise, of_averages = _side_by_side(parts)
    own = [(slot, dt * slot.rate, 0 if len(G) == 1 else j) for j, slot in enumerate(slots)]
    below = [
        [multiply(share, e) for e in G[k]] + [slot.carry if i == j else 0.0 for i in range(len(slots))]
        for j, (slot, share, k) in enumerate(own)
    ]
    F = [row + [0.0] * len(slots) for row in F] + below
    return F, noise + [[multiply(share, e) for e in of_averages[k]] for _, share, k in own]


def together(blocks: Sequence[Block], of_block: Callable[[Block, Any], Any], dt: Any) -> list[Any]:
    """Nested entries of each block over ``dt``; those of blocks of one kind by one formula, compiled once."""
    kinds: dict[Any, list[int]] = {}
    for k, block in enumerate(blocks):
        kinds.setdefault(jax.tree.structure(block), []).append(k)
    found: dict[int, Any] = {}
    for kind, group in kinds.items():
        if len(group) == 1:
            found[group[0]] = of_block(blocks[group[0]], dt)
            continue
        same = zip(*(jax.tree.leaves(blocks[k]) for k in group), strict=True)
        side = [_side(leaves, jnp.ndim(dt)) for leaves in same]
        entries, nested = jax.tree.flatten(of_block(jax.tree.unflatten(kind, side), dt[None]))
        entries = [e if isinstance(e, float) else fence(e) for e in entries]
        for place, k in enumerate(group):
            own = [e if isinstance(e, float) else e[min(place, len(e) - 1)] for e in entries]
            found[k] = jax.tree.unflatten(nested, own)
    return [found[k] for k in range(len(blocks))]


def _side(leaves: Sequence[Any], axes: int) -> Array:
    """On a new axis, numbers as arrays of size 1."""
    dtype = jnp.result_type(float)
    arrays = [jnp.full((1,) * axes, v, dtype) if jnp.ndim(v) == 0 else v for v in leaves]
    return jnp.stack(jnp.broadcast_arrays(*arrays))


def _either(opened: Any, U: Rows, chol_Q: Rows) -> Rows:
    """The root of (x, averages) while any is open, else that of x alone, which is exact for steps of any length."""
    n, width = len(chol_Q), len(U)
    if not U[0]:
        return U
    closed = [row + [0.0] * (width - n) for row in chol_Q] + [[0.0] * width] * (width - n)
    return _where(opened, U, closed)


def averaging(kernel: Kernel, dt: Any, exposure: Any, output: Any = None) -> tuple[Rows, Rows]:
    """F and chol_Q of (x, z) over dt, z being the average of f over the last ``exposure`` <= dt of it; f at 0."""
    gap = jnp.maximum(dt - exposure, 0)
    parts = [_after_gap(block, gap, exposure, block.row(output)) for block in kernel.blocks()]
    F, (G,), noise, (of_average,) = _side_by_side(parts)
    return [[*row, 0.0] for row in [*F, G]], [row or [0.0] for row in [*noise, of_average]]


def _after_gap(block: Block, gap: Any, exposure: Any, h: list[Any]) -> tuple[Rows, Rows, Rows]:
    """Of one block: over a gap, then over an exposure, either of which may be of length 0."""
    n, later = len(h), jnp.where(gap > 0, gap, 1)
    first, noise = block.transition(later), block.noise_root(later)
    G, U = averaged(block, exposure, [h])
    on, both = exposure > 0, [*block.transition(jnp.where(exposure > 0, exposure, 1)), *G]
    still = [[float(i == j) for j in range(n)] for i in range(n)]
    both = _where(on, both, [*still, h])
    first, noise = _where(gap > 0, first, still), _where(gap > 0, noise, [[0.0] * len(row) for row in noise])
    moved = _multiply(both, first)
    if not noise[0]:
        return moved[:n], moved[n:], [[]] * (n + 1)
    U = _where(on, U, [[0.0] * (n + 1)] * (n + 1))
    root = triangularise([a + b for a, b in zip(_multiply(both, noise), U, strict=True)])
    return moved[:n], moved[n:], root


def _side_by_side(parts: list[tuple[Rows, Rows, Rows]]) -> tuple[Rows, Rows, Rows, Rows]:
    """Of independent blocks: F, and G of the averages of their sum; roots of the noise of states and of averages.

    What is the averages' own noise in all blocks takes one column for each of them.
    """
    m = len(parts[0][1])
    F = block_diagonal([F for F, _, _ in parts])
    G = [[e for _, G, _ in parts for e in G[k]] for k in range(m)]
    sizes = [len(F) if U[0] else 0 for F, _, U in parts]
    noise = block_diagonal([[row[:size] for row in U[: len(F)]] for (F, _, U), size in zip(parts, sizes, strict=True)])
    own = [[e for F, _, U in parts for e in U[len(F) + k][len(F) :]] for k in range(m)]
    tail = triangularise(own) if own[0] else [[0.0] * m] * m
    of_averages = [[e for F, _, U in parts for e in U[len(F) + k][: len(F)]] + tail[k] for k in range(m)]
    return F, G, [row + [0.0] * m for row in noise], of_averages


def _multiply(A: Rows, B: Rows) -> Rows:
    if not B[0]:
        return [[] for _ in A]
    return [[dot(row, column) for column in transpose(B)] for row in A]


def _where(condition: Any, A: Rows, B: Rows) -> Rows:
    """Entries that are the same known number stay known."""

    def one(a: Any, b: Any) -> Any:
        return a if isinstance(a, float) and isinstance(b, float) and a == b else jnp.where(condition, a, b)

    return [[one(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(A, B, strict=True)]


def row(kernel: Kernel, output: Any = None, only: int | None = None) -> list[Any]:
    """h of the whole state; ``only``: of one summand of a sum, by number, zero for the others."""
    parts = kernel.parts if isinstance(kernel, Sum) else (kernel,)
    entries = [(i, e) for i, part in enumerate(parts) for b in part.blocks() for e in b.row(output)]
    return [e if only is None or i == only else 0.0 for i, e in entries]

"""Several things seen of one process: linear combinations of it and its derivatives.

Rajpaul, Aigrain, Osborne, Reece & Roberts (2015), doi:10.1093/mnras/stv1428: radial velocities and activity indicators
as combinations of one process and its derivative. With f = h x and x' = A x, the derivative of order k is h A^k x,
without noise as long as it exists in the mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from smcssm.errors import ModelError
from smcssm.gp.kernel import AbstractWrapper, Block, Kernel
from smcssm.linalg.entries import is_zero, matvec, multiply, transpose


class Outputs(Kernel):
    """``Outputs(kernel, [(1.0,), (0.0, 1.0)])``: output 0 is the process, output 1 its derivative.

    Each output is a sequence of coefficients of f, f', f'', ...; every observation says which output it is of. In a sum
    of such kernels each part brings its own coefficients, and a part without ``Outputs`` is seen alike in all.
    """

    kernel: Kernel
    coefficients: tuple[tuple[Any, ...], ...]

    def __init__(self, kernel: Kernel, coefficients: Sequence[Sequence[Any]]) -> None:
        if kernel.n_outputs > 1:
            raise ModelError("Outputs of a kernel that has several outputs already: give its coefficients at once")
        self.kernel, self.coefficients = kernel, tuple(tuple(c) for c in coefficients)
        longest = max((len(c) for c in self.coefficients), default=0)
        if not longest or not all(self.coefficients):
            raise ModelError(f"Outputs({coefficients!r}): expected for each output the coefficients of f, f', ...")
        if longest - 1 > kernel.derivatives:
            raise ModelError(
                f"Outputs: coefficients of {longest - 1} derivatives, but the process has only {kernel.derivatives} in "
                "the mean square; take a smoother kernel"
            )

    @property
    def derivatives(self) -> int | float:
        """Those that are left."""
        return self.kernel.derivatives - max(len(c) for c in self.coefficients) + 1

    @property
    def n_outputs(self) -> int:
        """As many as there are rows of coefficients."""
        return len(self.coefficients)

    def blocks(self) -> tuple[Block, ...]:
        """Those of the kernel, seen so."""
        return tuple(Combined(block, self.coefficients) for block in self.kernel.blocks())


class Combined(AbstractWrapper):
    """A block of which combinations of derivatives are seen."""

    block: Block
    coefficients: tuple[tuple[Any, ...], ...]

    def row(self, output: Any = None) -> list[Any]:
        """The combination of number ``output``."""
        rows = [self._combination(c) for c in self.coefficients]
        if output is None:
            return rows[0]
        return [_choose(output, list(column)) for column in zip(*rows, strict=True)]

    def _combination(self, coefficients: Sequence[Any]) -> list[Any]:
        h, A = self.block.row(), transpose(self.block.drift())
        total: list[Any] = [0.0] * len(h)
        for c in coefficients:
            total = [t if is_zero(e) else multiply(c, e) + t for t, e in zip(total, h, strict=True)]
            h = matvec(A, h)
        return total


def _choose(output: Array, values: list[Any]) -> Any:
    if all(isinstance(v, float) and v == values[0] for v in values):
        return values[0]
    chosen = values[0]
    for number, value in enumerate(values[1:], 1):
        chosen = jnp.where(output == number, value, chosen)
    return chosen

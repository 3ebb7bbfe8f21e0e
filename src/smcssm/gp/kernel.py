"""Gaussian process kernels as linear stochastic differential equations: what every kernel says of itself.

Hartikainen & Särkkä (2010), Kalman filtering and smoothing solutions to temporal Gaussian process regression models,
doi:10.1109/MLSP.2010.5589113. A kernel is a sum of independent blocks, each a stationary process

    dx = A x dt + B dW,  x ~ N(0, L L'),  f = h x,       k(lag) = h exp(A |lag|) L L' h'

that gives L, exp(A dt) and a square root of the noise over dt in closed form. The square root is never that of a
difference: at small dt that would lose what is small in it, even positive definiteness.

Hyperparameters are numbers, arrays, or arrays over a population ``[s, n]``: all formulas go entry by entry.
"""

from __future__ import annotations

import abc
import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from smcssm.errors import ModelError
from smcssm.linalg.entries import Rows, dot, matvec, multiply, transpose
from smcssm.linalg.panels import triangularise


class Kernel(eqx.Module):
    """A covariance function of the time lag. ``k1 + k2``, ``k1 * k2`` and ``2.0 * k1`` are kernels too."""

    @abc.abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The independent summands."""

    @property
    @abc.abstractmethod
    def derivatives(self) -> int | float:
        """How many derivatives the process has in the mean square."""

    @property
    @abc.abstractmethod
    def n_outputs(self) -> int:
        """How many different things of the process can be observed."""

    def covariance(self, lag: Any) -> Array:
        """k(lag), of the first output; ``lag`` of any shape."""
        dt = jnp.abs(jnp.asarray(lag))
        later = jnp.where(dt > 0, dt, 1.0)
        total = jnp.zeros(dt.shape)
        for block in self.blocks():
            h, L = block.row(), transpose(block.stationary_root())
            hL, moved = matvec(L, h), matvec(L, matvec(transpose(block.transition(later)), h))
            total = total + jnp.where(dt > 0, dot(moved, hL), dot(hL, hL))
        return total

    def __add__(self, other: object) -> Kernel:
        """The sum of two independent processes."""
        return Sum((self, other)) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other: object) -> Kernel:
        """The product of two kernels, or a kernel with its variance multiplied by a number."""
        if isinstance(other, (list, tuple)):
            return NotImplemented
        return Product(self, other) if isinstance(other, Kernel) else Scaled(self, other)

    __rmul__ = __mul__


class Block(Kernel):
    """One stationary process with a state of its own."""

    signs: ClassVar[Mapping[str, str]] = {}
    """For each hyperparameter: "positive", "nonnegative" or "any"."""

    def __check_init__(self) -> None:
        """Refuse numbers that no such process has."""
        for name, sign in self.signs.items():
            value = getattr(self, name)
            if isinstance(value, (Tracer, str)) or not isinstance(value, (int, float, np.ndarray, jax.Array)):
                continue
            if not bool(np.all(np.isfinite(value))) or not bool(np.all(_obeys(sign, np.asarray(value)))):
                raise ModelError(f"{type(self).__name__}({name}={value!r}): expected a {_WORDS[sign]}")

    def blocks(self) -> tuple[Block, ...]:
        """Itself."""
        return (self,)

    def admissible(self) -> Bool[Array, ""] | bool:
        """Whether the hyperparameters are such as the process can have."""
        obeyed = [jnp.all(_obeys(sign, jnp.asarray(getattr(self, name)))) for name, sign in self.signs.items()]
        return reduce(operator.and_, obeyed, jnp.asarray(True))

    @property
    def n_outputs(self) -> int:
        """One, but for ``Outputs``."""
        return 1

    @abc.abstractmethod
    def stationary_root(self) -> Rows:
        """L, lower triangular."""

    @abc.abstractmethod
    def transition(self, dt: Any) -> Rows:
        """exp(A dt), for dt > 0."""

    @abc.abstractmethod
    def noise_root(self, dt: Any) -> Rows:
        """A square root of the covariance of the noise over dt > 0; rows are empty where there is none."""

    @abc.abstractmethod
    def drift(self) -> Rows:
        """A."""

    @abc.abstractmethod
    def diffusion(self) -> Rows:
        """B, a column for each white noise that drives the state; rows are empty where there is none."""

    @abc.abstractmethod
    def row(self, output: Any = None) -> list[Any]:
        """h; where there are several outputs, that of number ``output``, the first one by default."""


_WORDS = {"positive": "positive number", "nonnegative": "number >= 0", "any": "finite number"}


def _obeys(sign: str, value: Any) -> Any:
    return {"positive": value > 0, "nonnegative": value >= 0, "any": jnp.isfinite(value)}[sign]


class Sum(Kernel):
    """Independent processes added up; their blocks side by side."""

    parts: tuple[Kernel, ...]

    @property
    def derivatives(self) -> int | float:
        """Those that all have."""
        return min(part.derivatives for part in self.parts)

    @property
    def n_outputs(self) -> int:
        """Those of the parts; a part with one output is the same in all of them."""
        return max(part.n_outputs for part in self.parts)

    def __check_init__(self) -> None:
        """Parts with several outputs have as many."""
        if len({part.n_outputs for part in self.parts} - {1}) > 1:
            raise ModelError(
                f"a sum of kernels with {[p.n_outputs for p in self.parts]} outputs: expected as many, or one"
            )

    def blocks(self) -> tuple[Block, ...]:
        """Those of all parts."""
        return tuple(block for part in self.parts for block in part.blocks())

    def __add__(self, other: object) -> Kernel:
        """One more part."""
        if not isinstance(other, Kernel):
            return NotImplemented
        return Sum((*self.parts, *(other.parts if isinstance(other, Sum) else (other,))))


class Product(Kernel):
    """The product of two kernels; of sums of blocks it is a sum of products of blocks."""

    left: Kernel
    right: Kernel

    def __check_init__(self) -> None:
        """A product has one output."""
        if self.left.n_outputs > 1 or self.right.n_outputs > 1:
            raise ModelError("a product of kernels with several outputs: give Outputs(k1 * k2, ...) instead")

    @property
    def derivatives(self) -> int | float:
        """Those that both have."""
        return min(self.left.derivatives, self.right.derivatives)

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    def blocks(self) -> tuple[Block, ...]:
        """Every pair."""
        return tuple(Kronecker(a, b) for a in self.left.blocks() for b in self.right.blocks())


class Scaled(Kernel):
    """A kernel with its variance multiplied by ``factor`` >= 0."""

    kernel: Kernel
    factor: Any

    @property
    def derivatives(self) -> int | float:
        """As many as the kernel."""
        return self.kernel.derivatives

    @property
    def n_outputs(self) -> int:
        """As many as the kernel."""
        return self.kernel.n_outputs

    def blocks(self) -> tuple[Block, ...]:
        """The same processes, seen enlarged."""
        return tuple(Seen(block, self.factor) for block in self.kernel.blocks())


class AbstractWrapper(Block):
    """A block that is another one, seen in another way."""

    block: eqx.AbstractVar[Block]

    @property
    def derivatives(self) -> int | float:
        """As many as the block."""
        return self.block.derivatives

    def admissible(self) -> Bool[Array, ""] | bool:
        """If the block is."""
        return jnp.asarray(self.block.admissible()) & Block.admissible(self)

    def stationary_root(self) -> Rows:
        """That of the block."""
        return self.block.stationary_root()

    def transition(self, dt: Any) -> Rows:
        """That of the block."""
        return self.block.transition(dt)

    def noise_root(self, dt: Any) -> Rows:
        """That of the block."""
        return self.block.noise_root(dt)

    def drift(self) -> Rows:
        """That of the block."""
        return self.block.drift()

    def diffusion(self) -> Rows:
        """That of the block."""
        return self.block.diffusion()


class Seen(AbstractWrapper):
    """A block times sqrt(factor)."""

    block: Block
    factor: Any

    signs: ClassVar[Mapping[str, str]] = {"factor": "nonnegative"}

    def row(self, output: Any = None) -> list[Any]:
        """That of the block, enlarged."""
        return [multiply(jnp.sqrt(self.factor), e) for e in self.block.row(output)]


class Kronecker(Block):
    """The process whose kernel is the product of two: states x (x) x~, with independent noise.

    As L L' is stationary for either process, F L L' F' + Q = L L', so that the noise of the product is

        Q (x) P~ + F P F' (x) Q~,       a root  [chol_Q (x) L~,  F L (x) chol_Q~]

    a sum of what is positive. A process without noise has F P F' = P.
    """

    left: Block
    right: Block

    @property
    def derivatives(self) -> int | float:
        """Those that both have."""
        return min(self.left.derivatives, self.right.derivatives)

    def admissible(self) -> Bool[Array, ""] | bool:
        """If both are."""
        return jnp.asarray(self.left.admissible()) & self.right.admissible()

    def stationary_root(self) -> Rows:
        """Of the product of covariances."""
        return kronecker(self.left.stationary_root(), self.right.stationary_root())

    def transition(self, dt: Any) -> Rows:
        """Both move."""
        return kronecker(self.left.transition(dt), self.right.transition(dt))

    def noise_root(self, dt: Any) -> Rows:
        """Made as narrow as the state."""
        noise, other = self.left.noise_root(dt), self.right.noise_root(dt)
        if not noise[0]:
            return kronecker(self.left.stationary_root(), other)
        of_left = kronecker(noise, self.right.stationary_root())
        if not other[0]:
            return of_left
        F, L = self.left.transition(dt), self.left.stationary_root()
        moved = [[dot(row, column) for column in transpose(L)] for row in F]
        return triangularise([a + b for a, b in zip(of_left, kronecker(moved, other), strict=True)])

    def drift(self) -> Rows:
        """A (x) I + I (x) A~."""
        A, B = self.left.drift(), self.right.drift()
        m, n = len(A), len(B)
        one = [[float(i == j) for j in range(max(m, n))] for i in range(max(m, n))]
        first = kronecker(A, [row[:n] for row in one[:n]])
        second = kronecker([row[:m] for row in one[:m]], B)
        return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(first, second, strict=True)]

    def diffusion(self) -> Rows:
        """Of covariance Q (x) P~ + P (x) Q~ per unit of time, by either noise alone."""
        B, other = self.left.diffusion(), self.right.diffusion()
        of_left = kronecker(B, self.right.stationary_root()) if B[0] else [[]] * len(B) * len(other)
        of_right = kronecker(self.left.stationary_root(), other) if other[0] else [[]] * len(B) * len(other)
        return [a + b for a, b in zip(of_left, of_right, strict=True)]

    def row(self, output: Any = None) -> list[Any]:
        """h (x) h~."""
        return [multiply(a, b) for a in self.left.row() for b in self.right.row()]


def kronecker(A: Rows, B: Rows) -> Rows:
    """A (x) B, known zeros and ones for nothing."""
    return [[multiply(a, b) for a in x for b in y] for x in A for y in B]

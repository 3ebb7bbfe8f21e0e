"""What smoothing needs of a filter that knows the way back, and of mixtures over particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


class Backwards(NamedTuple):
    """Programs of one exact filter.

    ``ahead`` goes through a chunk of rows, and keeps of it what the others need; by the very same program whenever it
    is gone through, as what is kept may be told in coordinates of its own. ``end`` is the law to come back with, of the
    last belief; ``smoothed`` the law before a chunk, and the moments of its states, given the law after it; ``lagged``
    the moments given some rows more; ``last`` a draw of the last state, ``drawn`` the draw before a chunk, and the path
    through it, given the draw after it.
    """

    ahead: Callable[..., tuple[Any, Any]]
    end: Callable[[Any], Any]
    smoothed: Callable[..., Any]
    lagged: Callable[..., Any]
    last: Callable[..., Any]
    drawn: Callable[..., Any]


class Moments(NamedTuple):
    """Weight, mean, and weighted sum of squares around it, of states ``[t, x]`` over some particles."""

    weight: Float[Any, ""]
    mean: Float[Any, "t x"]
    square: Float[Any, "t x"]

    def join(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        weight, gap = self.weight + other.weight, other.mean - self.mean
        square = self.square + other.square + gap**2 * (self.weight * other.weight / weight)
        return Moments(weight, self.mean + gap * (other.weight / weight), square)


def doubled(tree: PyTree) -> PyTree:
    """In float64."""
    return jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, tree)


def moments(
    mean: Float[Array, "t x s n"], variance: Float[Array, "t x s n"], w: Float[Array, "s n"]
) -> tuple[Float[Array, "t x"], Float[Array, "t x"]]:
    """Mean, and weighted sum of squares around it, of a mixture; of weight zero a particle may be anything."""
    w = w[None, None]
    alive = w > 0
    m, v = (jnp.where(alive, a.astype(jnp.float64), 0.0) for a in (mean, variance))
    middle = jnp.sum(w * m, axis=(-2, -1)) / jnp.sum(w)
    return middle, jnp.sum(w * (v + (m - middle[..., None, None]) ** 2), axis=(-2, -1))

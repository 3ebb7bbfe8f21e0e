"""Priors without PyMC: the small set that default priors are built from, and priors from your own functions."""

import abc
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jaxtyping import Array, Float

from smcssm.core import AbstractPrior, Theta
from smcssm.errors import ModelError

Shape = tuple[int, ...]


class Marginal(eqx.Module):
    """The law of one hyperparameter, scalar or array, with a bijection to as many unconstrained numbers z."""

    shape: eqx.AbstractVar[Shape]

    @property
    def size(self) -> int:
        """How many numbers z has. A hook: as many as the value, mostly."""
        return math.prod(self.shape)

    @abc.abstractmethod
    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Draws of the unconstrained value."""

    @abc.abstractmethod
    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Log density of the unconstrained value, Jacobian included."""

    @abc.abstractmethod
    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """The value itself."""

    @abc.abstractmethod
    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Inverse of ``constrain``."""


class Normal(Marginal):
    """N(mean, sd²), independent in each element."""

    mean: float
    sd: float
    shape: Shape

    def __init__(self, mean: float, sd: float, shape: Shape = ()) -> None:
        self.mean, self.sd, self.shape = float(mean), _positive("Normal(sd)", sd), shape

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Draws."""
        return self.mean + self.sd * jax.random.normal(key, (math.prod(self.shape), n))

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Density."""
        return jnp.sum(stats.norm.logpdf(z, self.mean, self.sd))

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """As it is."""
        return z.reshape(self.shape)

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """As it is."""
        return jnp.reshape(value, -1)


class HalfNormal(Marginal):
    """|N(0, scale²)|, independent in each element; unconstrained by the logarithm."""

    scale: float
    shape: Shape

    def __init__(self, scale: float, shape: Shape = ()) -> None:
        self.scale, self.shape = _positive("HalfNormal(scale)", scale), shape

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Draws of the logarithm, finite even where a draw rounds to zero."""
        size = jnp.abs(jax.random.normal(key, (math.prod(self.shape), n)))
        return jnp.log(self.scale) + jnp.log(jnp.maximum(size, jnp.finfo(size.dtype).tiny))

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Density of the logarithm."""
        return jnp.sum(stats.norm.logpdf(jnp.exp(z), scale=self.scale) + math.log(2) + z)

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """Exponential."""
        return jnp.exp(z).reshape(self.shape)

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Logarithm."""
        return jnp.log(value).reshape(-1)


class LogNormal(Marginal):
    """exp(N(log median, sd²)), independent in each element; unconstrained by the logarithm."""

    median: float
    sd: float
    shape: Shape

    def __init__(self, median: float, sd: float, shape: Shape = ()) -> None:
        self.median, self.sd, self.shape = _positive("LogNormal(median)", median), _positive("LogNormal(sd)", sd), shape

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Draws of the logarithm."""
        return math.log(self.median) + self.sd * jax.random.normal(key, (math.prod(self.shape), n))

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Density of the logarithm."""
        return jnp.sum(stats.norm.logpdf(z, math.log(self.median), self.sd))

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """Exponential."""
        return jnp.exp(z).reshape(self.shape)

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Logarithm."""
        return jnp.log(value).reshape(-1)


class Beta(Marginal):
    """Beta(a, b) on (0, 1), independent in each element; unconstrained by the logit."""

    a: float
    b: float
    shape: Shape

    def __init__(self, a: float, b: float, shape: Shape = ()) -> None:
        self.a, self.b, self.shape = _positive("Beta(a)", a), _positive("Beta(b)", b), shape

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Draws of the logit, as a difference of log Gamma draws: never infinite."""
        key_a, key_b = jax.random.split(key)
        size = (math.prod(self.shape), n)
        return jax.random.loggamma(key_a, self.a, size) - jax.random.loggamma(key_b, self.b, size)

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Density of the logit."""
        return jnp.sum(self.a * jax.nn.log_sigmoid(z) + self.b * jax.nn.log_sigmoid(-z) - _log_beta(self.a, self.b))

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """Logistic function."""
        return jax.nn.sigmoid(z).reshape(self.shape)

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Logit."""
        return (jnp.log(value) - jnp.log1p(-value)).reshape(-1)


class Dirichlet(Marginal):
    """Rows of probabilities, independent; unconstrained by log p_j - log p_K, j < K (Aitchison 1982).

    The Jacobian of that map is the product of all p_j, so that the density of z is prod_j p_j^a_j / B(a).
    """

    a: tuple[tuple[float, ...], ...]

    def __init__(self, a: Sequence[Sequence[float]]) -> None:
        self.a = tuple(tuple(_positive("Dirichlet(a)", e) for e in row) for row in a)

    @property
    def shape(self) -> Shape:
        """One row of probabilities for each row of ``a``."""
        return (len(self.a), len(self.a[0]))

    @property
    def size(self) -> int:
        """One less in each row."""
        return len(self.a) * (len(self.a[0]) - 1)

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Differences of log Gamma draws: never infinite."""
        log_g = jax.random.loggamma(key, jnp.asarray(self.a)[..., None], (*self.shape, n))
        return (log_g[:, :-1] - log_g[:, -1:]).reshape(-1, n)

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Density of the log ratios."""
        constant = sum(math.lgamma(sum(row)) - sum(map(math.lgamma, row)) for row in self.a)
        return jnp.sum(jnp.asarray(self.a, z.dtype) * jax.nn.log_softmax(self._logits(z))) + constant

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """Softmax."""
        return jax.nn.softmax(self._logits(z))

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Log ratios."""
        return (jnp.log(value[:, :-1]) - jnp.log(value[:, -1:])).reshape(-1)

    def _logits(self, z: Float[Array, " z"]) -> Float[Array, "r k"]:
        z = z.reshape(len(self.a), -1)
        return jnp.concatenate([z, jnp.zeros_like(z[:, :1])], axis=1)


def _log_beta(a: float, b: float) -> float:
    """log B(a, b); not ``jax.scipy.special.betaln``, which is 1e-6 off at (8, 2) in JAX 0.12."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


class Independent(AbstractPrior):
    """Independent hyperparameters, each with its own law."""

    laws: tuple[Marginal, ...]
    names: tuple[str, ...]

    def __init__(self, marginals: Mapping[str, Marginal]) -> None:
        if not marginals:
            raise ModelError("a prior needs at least one hyperparameter")
        self.names, self.laws = tuple(marginals), tuple(marginals.values())

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of each hyperparameter, in the order of the names."""
        return tuple(law.shape for law in self.laws)

    @property
    def size(self) -> int:
        """Number of unconstrained numbers of all hyperparameters."""
        return sum(law.size for law in self.laws)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """None."""
        return {}

    @property
    def coords(self) -> Mapping[str, tuple[Any, ...]]:
        """None."""
        return {}

    def sample(self, key: Array, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Independent draws."""
        keys = jax.random.split(key, len(self.laws))
        z = [np.asarray(law.sample(k, n)) for k, law in zip(keys, self.laws, strict=True)]
        return np.concatenate(z), np.zeros(n)

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Sum of the marginals."""
        parts = zip(self.laws, _split(z, [law.size for law in self.laws]), strict=True)
        return sum((law.log_prob(part) for law, part in parts), jnp.zeros((), z.dtype))

    def constrain(self, z: Float[Array, " z"]) -> dict[str, Array]:
        """By name."""
        parts = zip(self.names, self.laws, _split(z, [law.size for law in self.laws]), strict=True)
        return {name: law.constrain(part) for name, law, part in parts}

    def unconstrain(self, theta: Theta) -> Float[Array, " z"]:
        """In the order of the names."""
        return jnp.concatenate([law.unconstrain(theta[n]) for n, law in zip(self.names, self.laws, strict=True)])


class FromFunctions(AbstractPrior):
    """A prior from your own functions.

    Args:
        names: the hyperparameters.
        sample: (key, n) -> mapping of n draws per name, draws first: (n, *shape).
        log_prob: theta -> log density of the constrained values (no Jacobian: it is added here); up to a constant.
        transforms: name -> "positive" (log), "unit" (logit) or "real"; real where a name is left out.
        shapes: name -> shape of a hyperparameter that is not a scalar.
    """

    names: tuple[str, ...]
    draw: Callable[[Array, int], Mapping[str, Array]]
    log_density: Callable[[Theta], Float[Array, ""]]
    transforms: tuple[str, ...]
    shapes: tuple[Shape, ...]

    def __init__(
        self,
        names: tuple[str, ...],
        sample: Callable[[Array, int], Mapping[str, Array]],
        log_prob: Callable[[Theta], Float[Array, ""]],
        transforms: Mapping[str, str] | None = None,
        shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        chosen, given = dict(transforms or {}), dict(shapes or {})
        unknown = sorted((set(chosen) | set(given)) - set(names)) + sorted(set(chosen.values()) - set(_BIJECTIONS))
        if unknown:
            raise ModelError(
                f"transforms or shapes: {', '.join(unknown)} is neither one of the names {', '.join(names)} "
                f"nor one of {', '.join(_BIJECTIONS)}"
            )
        self.names, self.draw, self.log_density = tuple(names), sample, log_prob
        self.transforms = tuple(chosen.get(name, "real") for name in names)
        self.shapes = tuple(tuple(given.get(name, ())) for name in names)

    @property
    def normalised(self) -> bool:
        """Nobody knows."""
        return False

    @property
    def size(self) -> int:
        """Number of elements of all hyperparameters."""
        return sum(map(math.prod, self.shapes))

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """None."""
        return {}

    @property
    def coords(self) -> Mapping[str, tuple[Any, ...]]:
        """None."""
        return {}

    def sample(self, key: Array, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The user's draws, unconstrained."""
        draws, z = self.draw(key, n), []
        for name, transform, shape in zip(self.names, self.transforms, self.shapes, strict=True):
            if name not in draws:
                raise ModelError(f"sample gave {', '.join(sorted(draws))}, not {name}")
            values = jnp.asarray(draws[name], float)
            if values.shape != (n, *shape):
                raise ModelError(f"sample: {name} has shape {values.shape}, expected {(n, *shape)}: draws first")
            z.append(np.asarray(_BIJECTIONS[transform][1](values)).reshape(n, -1).T)
        return np.concatenate(z), np.zeros(n)

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """The user's density at the constrained values plus the log Jacobian."""
        parts = zip(self.transforms, _split(z, map(math.prod, self.shapes)), strict=True)
        return sum((jnp.sum(_BIJECTIONS[t][2](part)) for t, part in parts), self.log_density(self.constrain(z)))

    def constrain(self, z: Float[Array, " z"]) -> dict[str, Array]:
        """By name."""
        pieces = _split(z, map(math.prod, self.shapes))
        parts = zip(self.names, self.transforms, self.shapes, pieces, strict=True)
        return {name: _BIJECTIONS[t][0](part).reshape(shape) for name, t, shape, part in parts}

    def unconstrain(self, theta: Theta) -> Float[Array, " z"]:
        """In the order of the names."""
        pairs = zip(self.names, self.transforms, strict=True)
        return jnp.concatenate([_BIJECTIONS[t][1](jnp.asarray(theta[name])).reshape(-1) for name, t in pairs])


def _split(z: Float[Array, " z"], sizes: Iterable[int]) -> list[Float[Array, " part"]]:
    """The part of z that belongs to each hyperparameter."""
    ends = np.cumsum([0, *sizes])
    return [z[start:end] for start, end in itertools.pairwise(ends)]


def _positive(what: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ModelError(f"{what}: expected a positive number, got {value!r}")
    return float(value)


# constrain, unconstrain, log derivative of constrain
_BIJECTIONS: dict[str, tuple[Callable, Callable, Callable]] = {
    "real": (lambda z: z, lambda v: v, jnp.zeros_like),
    "positive": (jnp.exp, jnp.log, lambda z: z),
    "unit": (
        jax.nn.sigmoid,
        lambda v: jnp.log(v) - jnp.log1p(-v),
        lambda z: jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z),
    ),
}

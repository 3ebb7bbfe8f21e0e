"""A NumPyro model function as a prior: sample sites, deterministic sites, plates, and factors.

NumPyro's own tools do the work: ``numpyro.handlers`` find the sites, ``biject_to`` gives the bijection of each support.
A support may depend on other sites; then so does its bijection, site after site.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm.core import AbstractPrior, Theta
from smcssm.errors import ModelError


class NumPyro(AbstractPrior):
    """The joint law of the sample sites of a NumPyro model, times its factors.

    With theta the sample sites and z = T(theta) the inverse of NumPyro's bijections, flattened and joined in the order
    of the model, ``log_prob`` is log p(theta) + log |d theta / d z| + the factors. ``sample`` draws from p and returns
    the factors as log weights, so that the mean weight estimates Z0, the mass that they leave.

    Args:
        function: of no required arguments, with continuous ``numpyro.sample`` sites and no observed ones.
        args, kwargs: passed to it.
        dims: ArviZ's names of the axes of a site; by default those of its plates.
        coords: labels along them.

    Raises:
        ModelError: no, observed, discrete, improper or scaled sites.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dims: Mapping[str, tuple[str, ...]] = eqx.field(static=True)
    coords: Mapping[str, tuple[Any, ...]] = eqx.field(static=True)
    size: int = eqx.field(static=True)
    _z_shapes: Mapping[str, tuple[int, ...]] = eqx.field(static=True)
    """Of each sample site, unconstrained; a simplex has one number less."""

    def __init__(
        self,
        function: Callable[..., Any],
        *args: Any,
        dims: Mapping[str, tuple[str, ...]] | None = None,
        coords: Mapping[str, tuple[Any, ...]] | None = None,
        **kwargs: Any,
    ) -> None:
        if not callable(function):
            raise ModelError(f"prior: expected a NumPyro model function, got {type(function).__name__}")
        self.function = (lambda: function(*args, **kwargs)) if args or kwargs else function
        sites = self._trace(jax.random.key(0))
        free = {n: s for n, s in sites.items() if s["type"] == "sample"}
        _check(free)
        self._z_shapes = _Labels({n: jax.eval_shape(_bijection(s).inv, s["value"]).shape for n, s in free.items()})
        fixed = {n: s for n, s in sites.items() if s["type"] == "deterministic"}
        self.names = (*free, *fixed)
        self.shapes = tuple(jnp.shape(sites[n]["value"]) for n in self.names)
        self.size = sum(map(math.prod, self._z_shapes.values()))
        found = {n: _plates(s) for n, s in free.items()}
        self.dims = _Labels({n: d for n, d in found.items() if d} | dict(dims or {}))
        self.coords = _Labels({d: tuple(c) for d, c in (coords or {}).items()})

    def sample(self, key: Array, n: int) -> tuple[Float[np.ndarray, "z n"], Float[np.ndarray, " n"]]:
        """Independent draws of z, and the sum of the factors at each."""
        with jax.enable_x64(True):
            z, log_weight = map(np.asarray, jax.jit(jax.vmap(self._draw))(jax.random.split(key, n)))
        if bad := np.sum(~np.isfinite(z).all(axis=1)):
            raise ModelError(
                f"prior: {bad} of {n} draws lie on the boundary of their support, in float64, or outside it; give them "
                "a law with less mass there"
            )
        if np.isnan(log_weight).any() or np.any(log_weight == np.inf):
            raise ModelError("prior: a factor is NaN or +inf at a draw; factors must be finite or -inf")
        return z.T, log_weight

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Log density of z with Jacobian and factors."""
        theta, sites, log_jacobian = self._constrain(z)
        total = log_jacobian
        for name in self._z_shapes:
            total = total + jnp.sum(sites[name]["fn"].log_prob(theta[name]))
        total = total + _factors(sites)
        return jnp.where(jnp.isnan(total), -jnp.inf, total).astype(z.dtype)

    def constrain(self, z: Float[Array, " z"]) -> dict[str, Array]:
        """Sample sites, then deterministic sites."""
        _, sites, _ = self._constrain(z)
        return {name: jnp.asarray(sites[name]["value"]) for name in self.names}

    def unconstrain(self, theta: Theta) -> Float[Array, " z"]:
        """The z of the sample sites; deterministic ones are not looked at."""
        if missing := [name for name in self._z_shapes if name not in theta]:
            raise ModelError(f"theta lacks {', '.join(missing)}; expected {', '.join(self._z_shapes)}")
        expected = dict(zip(self.names, self.shapes, strict=True))
        values = {name: jnp.asarray(theta[name], float) for name in self._z_shapes}
        for name, value in values.items():
            if value.shape != expected[name]:
                raise ModelError(f"theta[{name!r}] has shape {value.shape}; expected {expected[name]}")
        sites = self._trace(jax.random.key(0), values)
        return jnp.concatenate([jnp.ravel(_bijection(sites[n]).inv(v)) for n, v in values.items()])

    def _draw(self, key: Array) -> tuple[Array, Array]:
        sites = self._trace(key)
        z = [jnp.ravel(_bijection(sites[n]).inv(jnp.asarray(sites[n]["value"], float))) for n in self._z_shapes]
        return jnp.concatenate(z), _factors(sites)

    def _constrain(self, z: Float[Array, " z"]) -> tuple[dict[str, Array], dict[str, Any], Array]:
        """Values and sites at z, and the log Jacobian; the bijection of a site is made when the model comes to it."""
        handlers = import_module("numpyro.handlers")
        sizes = [math.prod(shape) for shape in self._z_shapes.values()]
        pieces = jnp.split(z, np.cumsum(sizes)[:-1])
        parts = {n: p.reshape(shape) for (n, shape), p in zip(self._z_shapes.items(), pieces, strict=True)}
        theta: dict[str, Array] = {}
        jacobians: list[Array] = [jnp.zeros((), z.dtype)]

        def here(site: dict[str, Any]) -> Any:
            name = site["name"]
            if name not in parts:
                return None
            bijection = _bijection(site)
            theta[name] = bijection(parts[name])
            jacobians.append(jnp.sum(bijection.log_abs_det_jacobian(parts[name], theta[name])))
            return theta[name]

        with handlers.block(), handlers.seed(rng_seed=0):
            sites = handlers.trace(handlers.substitute(self.function, substitute_fn=here)).get_trace()
        return theta, sites, sum(jacobians[1:], jacobians[0])

    def _trace(self, key: Array, values: Mapping[str, Array] | None = None) -> dict[str, Any]:
        handlers = import_module("numpyro.handlers")
        with handlers.block():
            model = handlers.seed(handlers.substitute(self.function, data=dict(values or {})), key)
            return handlers.trace(model).get_trace()


class _Labels(dict):
    """A mapping that may be part of a hashable configuration."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _is_factor(site: dict[str, Any]) -> bool:
    return type(site["fn"]).__name__ == "Unit"


def _factors(sites: Mapping[str, Any]) -> Array:
    found = [s for s in sites.values() if s["type"] == "sample" and _is_factor(s)]
    return sum((jnp.sum(s["fn"].log_prob(s["value"])) for s in found), jnp.zeros(()))


def _bijection(site: dict[str, Any]) -> Any:
    return import_module("numpyro.distributions").biject_to(site["fn"].support)


def _plates(site: dict[str, Any]) -> tuple[str, ...]:
    """Names of the plates of a site of scalars, left to right, where they are all of its axes."""
    frames = sorted(site["cond_indep_stack"], key=lambda f: f.dim)
    return tuple(f.name for f in frames) if len(frames) == jnp.ndim(site["value"]) else ()


def _check(free: dict[str, Any]) -> None:
    if scaled := [n for n, s in free.items() if s["scale"] is not None]:
        raise ModelError(
            f"prior: the density of {', '.join(scaled)} is scaled (handlers.scale, or a plate with subsample_size), "
            "its draws are not: leave the scale out"
        )
    for name in [n for n, s in free.items() if _is_factor(s)]:
        del free[name]
    if observed := [n for n, s in free.items() if s["is_observed"]]:
        raise ModelError(
            f"prior: {', '.join(observed)} is observed, but a prior has no data; leave out `obs=` and give the "
            "observations to the engine"
        )
    if not free:
        raise ModelError(
            "prior: the model has no sample site; add one, such as numpyro.sample('sigma', HalfNormal(1.0))"
        )
    if discrete := [n for n, s in free.items() if s["fn"].is_discrete]:
        raise ModelError(
            f"prior: {', '.join(discrete)} is discrete; hyperparameters are continuous: sum it out, or make it a "
            "regime of the state-space model"
        )
    if improper := [n for n, s in free.items() if type(s["fn"]).__name__ == "ImproperUniform"]:
        raise ModelError(f"prior: {', '.join(improper)} is improper: it cannot be drawn and gives no evidence")

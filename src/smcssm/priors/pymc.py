"""Any PyMC model of priors as a prior: hierarchies, vectors, simplices, correlations, Deterministics, Potentials.

PyMC writes the graphs and PyTensor turns them into JAX: log density and bijection are pure functions under jit, vmap
and grad. Draws come from the same graphs, batched and run by NumPy on the host: JAX has not all of PyMC's laws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
from jaxtyping import Array, Float
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pymc.logprob.transforms import CircularTransform
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.replace import graph_replace

from smcssm.core import AbstractPrior, Theta
from smcssm.errors import ModelError
from smcssm.priors.draws import Sampler, reason, unconstrained
from smcssm.priors.graphs import JaxProgram

_BATCHES = 100  # at most, of draws, to find those inside the domain of the transforms


class _Labels(dict):
    """A mapping that may be part of a hashable configuration."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


class PyMC(AbstractPrior):
    """The joint law of the free variables of a PyMC model, times its Potentials.

    With theta the free variables and z = T(theta) PyMC's transforms of them, flattened and joined, ``log_prob`` is
    log p(theta) + log |d theta / d z| + the Potentials. ``sample`` draws from p and returns the Potentials as log
    weights, so that the mean weight estimates Z0, the mass that they leave. Where a transform of the user takes only
    a part of the support (``ordered``), draws are from p restricted to that part, and the share of p in it is a factor
    of every weight: ``log_prob`` integrates to Z0 here as well.

    The model is compiled as it is now: later changes to it, ``pm.set_data`` included, do not reach this prior.

    Args:
        model: continuous free variables, no observed ones.

    Raises:
        ModelError: observed, discrete or improper variables, or one that cannot be drawn or evaluated in JAX.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dims: Mapping[str, tuple[str, ...]] = eqx.field(static=True)
    coords: Mapping[str, tuple[Any, ...]] = eqx.field(static=True)
    size: int = eqx.field(static=True)
    _angles: tuple[bool, ...] = eqx.field(static=True)
    _sampler: Sampler = eqx.field(static=True)
    _log_share: float = eqx.field(static=True)
    _density: JaxProgram = eqx.field(static=True)
    _forward: JaxProgram = eqx.field(static=True)
    _backward: JaxProgram = eqx.field(static=True)

    def __init__(self, model: pm.Model) -> None:
        _check(model)
        free, named = model.free_RVs, [*model.free_RVs, *model.deterministics]
        factors = [*free, *model.potentials]
        values, plain = [model.rvs_to_values[v] for v in free], [v.type(name=v.name) for v in free]
        sampler = _build("be drawn", factors, lambda some: Sampler(model, some))

        def density(some: Sequence[Any]) -> JaxProgram:
            return JaxProgram(values, [model.logp(vars=list(some))], sampler.z_shapes)

        def backward(some: Sequence[Any]) -> JaxProgram:
            return JaxProgram(values, model.replace_rvs_by_values(list(some)), sampler.z_shapes)

        def forward(some: Sequence[Any]) -> JaxProgram:
            graphs = graph_replace(unconstrained(model, some), dict(zip(free, plain, strict=True)), strict=False)
            return JaxProgram(plain, graphs, sampler.shapes)

        self._sampler, self._log_share = sampler, sampler.log_share()
        self._density = _build("be evaluated in JAX", factors, density)
        self._backward = _build("be evaluated in JAX", named, backward)
        self._forward = _build("be transformed in JAX", free, forward)
        self.names, self.shapes = tuple(v.name for v in named), self._backward.shapes
        self.size = sum(math.prod(shape) for shape in sampler.z_shapes)
        self._angles = tuple(
            isinstance(model.rvs_to_transforms[v], CircularTransform)
            for v, shape in zip(free, sampler.z_shapes, strict=True)
            for _ in range(math.prod(shape))
        )
        dims = {v: d for v, d in model.named_vars_to_dims.items() if v in self.names}
        self.dims = _Labels({v: tuple(d or f"{v}_dim_{i}" for i, d in enumerate(ds)) for v, ds in dims.items()})
        used = {d for ds in self.dims.values() for d in ds}
        self.coords = _Labels({d: tuple(c) for d, c in model.coords.items() if d in used and c is not None})

    @property
    def normalised(self) -> bool:
        """Not where transforms take only a part of the support."""
        return not self._sampler.restricted

    def sample(self, key: Array, n: int) -> tuple[Float[np.ndarray, "z n"], Float[np.ndarray, " n"]]:
        """Independent draws of z, reproducible from the key, and their log weights: Potentials, and the share above."""
        seeds = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).ravel().tolist())
        z, log_weight = self._sampler(seeds, n)
        for _ in range(_BATCHES):
            if len(log_weight) >= n:
                return z[:, :n], log_weight[:n] + self._log_share
            more = self._sampler(seeds, max(n, 1000))
            z, log_weight = np.concatenate([z, more[0]], axis=1), np.concatenate([log_weight, more[1]])
        raise ModelError(
            f"prior: hardly any draw lies in the domain of the transform of {', '.join(self._sampler.restricted)} "
            f"({len(log_weight)} of {_BATCHES * max(n, 1000)}); use laws that lie in it, such as cumulative sums of "
            f"positive variables where they are to be ordered"
        )

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Log density of z with Jacobian and Potentials; -inf where a parameter of a law is out of range."""
        log_prob = self._density(*self._split(z))[0].astype(z.dtype)
        if not any(self._angles):
            return log_prob
        once_round = jnp.where(np.array(self._angles), jnp.abs(z), 0.0) <= jnp.pi  # PyMC's has a period and no mass
        return jnp.where(once_round.all(), log_prob, -jnp.inf)

    def constrain(self, z: Float[Array, " z"]) -> dict[str, Array]:
        """Free variables, then Deterministics, by the names they have in the model."""
        values = self._backward(*self._split(z))
        values = [v.astype(z.dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in values]
        return dict(zip(self.names, values, strict=True))

    def unconstrain(self, theta: Theta) -> Float[Array, " z"]:
        """The z of the free variables; Deterministics are not looked at."""
        expected = dict(zip(self._sampler.names, self._sampler.shapes, strict=True))
        if missing := [name for name in expected if name not in theta]:
            raise ModelError(f"theta lacks {', '.join(missing)}; expected {', '.join(expected)}")
        values = [jnp.asarray(theta[name]) for name in expected]
        for value, (name, shape) in zip(values, expected.items(), strict=True):
            if value.shape != shape:
                raise ModelError(f"theta[{name!r}] has shape {value.shape}; expected {shape}")
        dtype = jnp.result_type(float, *values)
        parts = self._forward(*(value.astype(float) for value in values))
        return jnp.concatenate([jnp.ravel(part) for part in parts]).astype(dtype)

    def _split(self, z: Float[Array, " z"]) -> list[Array]:
        z = z.astype(float)  # where 64 bits are enabled, they are used: PyMC's formulas want them
        shapes = self._sampler.z_shapes
        cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(jnp.split(z, cuts), shapes, strict=True)]


_priors: WeakKeyDictionary[pm.Model, tuple[Any, PyMC]] = WeakKeyDictionary()


def as_prior(model: Any) -> PyMC:
    """The prior of a model: the same object, compiled once, until the model or its ``pm.Data`` change."""
    if not isinstance(model, pm.Model):
        raise ModelError(f"prior: expected a pm.Model, got {type(model).__name__}")
    data = [(v.name, v.get_value().tobytes()) for v in model.data_vars if isinstance(v, SharedVariable)]
    version = (tuple(model.named_vars), tuple(map(id, model.value_vars)), tuple(data))
    if model not in _priors or _priors[model][0] != version:
        _priors[model] = (version, PyMC(model))
    return _priors[model][1]


def _check(model: pm.Model) -> None:
    def names(variables: Sequence[Any]) -> str:
        return ", ".join(v.name for v in variables)

    free = model.free_RVs
    if model.observed_RVs:
        raise ModelError(
            f"prior: {names(model.observed_RVs)} is observed, but a prior has no data; leave out `observed=` and give "
            "the observations to the engine"
        )
    if not free:
        raise ModelError("prior: the model has no free variables; add one, such as pm.HalfNormal('sigma_obs', 1.0)")
    if discrete := [v for v in free if not v.dtype.startswith("float")]:
        raise ModelError(
            f"prior: {names(discrete)} is discrete; hyperparameters are continuous: sum it out, or make "
            f"it a regime of the state-space model"
        )
    if improper := [v for v in free if isinstance(v.owner.op, FlatRV | HalfFlatRV)]:
        raise ModelError(
            f"prior: {names(improper)} is improper ({', '.join(map(_law, improper))}): it cannot be drawn "
            f"and gives no evidence; use a wide proper law, such as pm.Normal or pm.HalfNormal"
        )


def _build[T](what: str, variables: Sequence[Any], build: Callable[[Sequence[Any]], T]) -> T:
    """Build from all variables; if that fails, say which is the first that does it."""
    try:
        return build(variables)
    except Exception as error:
        for k, variable in enumerate(variables):
            try:
                build(variables[: k + 1])
            except Exception as cause:
                raise ModelError(
                    f"prior: {variable.name} ({_law(variable)}) cannot {what}: {reason(cause)}. Use another law for it"
                ) from cause
        raise ModelError(f"prior: it cannot {what}: {reason(error)}") from error


def _law(variable: Any) -> str:
    op = getattr(variable.owner, "op", None)
    return getattr(op, "_print_name", (type(op).__name__,))[0]

"""Draws of a posterior, from any sampler, as unconstrained particles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm.core import AbstractPrior, at_each_particle
from smcssm.errors import ModelError
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, log_prior

SAMPLE = ("chain", "draw")


def unconstrained_draws(smc: SMC2, idata: Any, runs: int, n: int, seed: int) -> Float[np.ndarray, "z s n"]:
    """n draws for each run, in random order: different ones as far as there are enough.

    Raises:
        ModelError: naming the variable that is missing, of other dims, not finite or outside the support.
    """
    group, prior = _group(idata), smc.prior
    needed = variables(prior)
    if missing := [name for name in needed if name not in group]:
        raise ModelError(
            f"from_posterior: the draws lack {', '.join(missing)}; the prior's variables are {', '.join(needed)}, the "
            f"draws have {', '.join(map(str, group.data_vars))}"
        )
    shapes = dict(zip(prior.names, prior.shapes, strict=True))
    theta = {name: _values(group[name], name, shapes[name], prior) for name in needed}
    chosen = _choose(len(next(iter(theta.values()))), runs, n, np.random.default_rng(seed))
    theta = {name: np.moveaxis(values[chosen], (0, 1), (-2, -1)) for name, values in theta.items()}
    with jax.enable_x64(True):
        z = np.asarray(compiled(_unconstrain, smc)(theta))
        inside = np.isfinite(z).all(axis=0) & np.isfinite(np.asarray(compiled(log_prior, smc)(z)))
        if not inside.all():
            raise ModelError(f"from_posterior: {_culprit(prior, theta, inside)}")
    return z


def variables(prior: AbstractPrior) -> list[str]:
    """The names that ``unconstrain`` reads."""
    read: list[str] = []

    class Recorder(dict):
        def __getitem__(self, name: str) -> Any:
            read.append(name)
            return super().__getitem__(name)

    with jax.enable_x64(True):
        theta = jax.eval_shape(prior.constrain, jax.ShapeDtypeStruct((prior.size,), jnp.float64))

        def run(*leaves: Array) -> Array:
            return prior.unconstrain(Recorder(zip(theta, leaves, strict=True)))

        jax.eval_shape(run, *theta.values())
    return list(dict.fromkeys(read))


def _group(idata: Any) -> Any:
    """The dataset of the posterior, with dims chain and draw."""
    group: Any = idata
    if not hasattr(idata, "data_vars") or "posterior" in (getattr(idata, "children", None) or ()):
        try:
            group = idata["posterior"]
        except (KeyError, TypeError):
            group = None
    group = group.to_dataset() if hasattr(group, "to_dataset") and hasattr(group, "children") else group
    if group is None or not hasattr(group, "data_vars"):
        raise ModelError(
            "from_posterior: expected an ArviZ tree with a group `posterior`, or a dataset of draws, got "
            f"{type(idata).__name__}"
        )
    return group


def _values(draws: Any, name: str, shape: tuple[int, ...], prior: AbstractPrior) -> np.ndarray:
    """One variable as ``[draw, ...]``, its axes and labels in the prior's order."""
    if missing := [dim for dim in SAMPLE if dim not in draws.dims]:
        raise ModelError(f"from_posterior: {name} has dims {draws.dims}; {' and '.join(missing)} is missing")
    rest = [dim for dim in draws.dims if dim not in SAMPLE]
    expected = prior.dims.get(name)
    if expected is not None and set(expected) == set(rest):
        rest = list(expected)
        for dim in rest:
            labels = prior.coords.get(dim)
            if labels is not None and dim in draws.coords:
                if set(labels) != set(draws.coords[dim].values.tolist()):
                    raise ModelError(f"from_posterior: {name} has other labels of {dim} than the prior: {labels}")
                draws = draws.sel({dim: list(labels)})
    values = np.asarray(draws.transpose(*SAMPLE, *rest), float)
    if values.shape[2:] != tuple(shape):
        raise ModelError(
            f"from_posterior: {name} has shape {values.shape[2:]} (dims {tuple(rest)}); the prior's has {tuple(shape)}"
        )
    values = values.reshape(-1, *shape)
    if not np.isfinite(values).all():
        raise ModelError(f"from_posterior: {name} is NaN or infinite in some draws; leave out what is no draw")
    return values


def _choose(total: int, runs: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers ``[s, n]``: a part of a random order for each run, or as often each draw as it takes."""
    order = rng.permutation(total)
    if total >= runs * n:
        return order[: runs * n].reshape(runs, n)
    each = [np.resize(rng.permutation(total), n) for _ in range(runs)]
    return np.stack([rng.permutation(numbers) for numbers in each])


def _unconstrain(smc: SMC2, theta: Mapping[str, Array]) -> Float[Array, "z s n"]:
    return at_each_particle(smc.prior.unconstrain)(theta)


def _culprit(prior: AbstractPrior, theta: dict[str, np.ndarray], inside: np.ndarray) -> str:
    """Which variable of the first bad draw has no place among values that are known to be good."""
    run, draw = np.argwhere(~inside)[0]
    bad = {name: values[..., run, draw] for name, values in theta.items()}
    share = f"{np.mean(~inside):.1%} of the draws"
    z, _ = prior.sample(jax.random.key(0), 1)
    good = prior.constrain(jnp.asarray(z[:, 0]))
    for name, value in bad.items():
        z_mixed = prior.unconstrain({**{k: good[k] for k in bad}, name: jnp.asarray(value)})
        if not (np.isfinite(np.asarray(z_mixed)).all() and np.isfinite(float(prior.log_prob(z_mixed)))):
            return f"{name} lies outside its support in {share}, such as {value}; give constrained values"
    return f"{share} have zero density under prior and model, such as {bad}"

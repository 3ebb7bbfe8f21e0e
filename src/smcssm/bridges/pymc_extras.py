"""A state-space model of pymc-extras, streamed unchanged: structural models, SARIMAX, VARMAX, ETS and their kin.

pymc-extras writes the matrices as PyTensor graphs of named parameters; the PyMC model gives these their priors. Its
(a0, P0) is the law of the state at the first observation, as ours. Its filter adds a jitter of 1e-8 to covariances
(``cov_jitter``); here nothing is added.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pymc as pm
from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.graph.traversal import ancestors

from smcssm.bridges.folding import Law, affine_laws, affine_parts, gaussian_laws
from smcssm.bridges.statespace_graphs import OneStep, one_step
from smcssm.bridges.statespace_model import Folded, Programs, Statespace, must_be_stable
from smcssm.errors import ModelError
from smcssm.priors.draws import Sampler, reason

if TYPE_CHECKING:
    import pandas as pd

_DRAWS = 8


def from_statespace(
    statespace_model: Any, pymc_model: Any, *, fold: bool | Collection[str] = True
) -> tuple[Statespace, pm.Model, pd.DataFrame | None]:
    """Model, prior and observations of a pymc-extras model with its PyMC model of priors.

    Parameters with a Gaussian prior of known mean and covariance, in which initial state and intercepts are affine
    (initial states, seasonal effects, coefficients of exogenous data), are folded into the state: no particles are
    needed for them, their posterior given the other hyperparameters is exact, and ``summary()``, ``posterior()`` and
    ``to_arviz()`` still report them.

    Args:
        statespace_model: a model of ``pymc_extras.statespace``.
        pymc_model: priors of its parameters, and its exogenous data as ``pm.Data``; ``build_statespace_graph`` may have
            been called.
        fold: True folds what can be; False nothing; or the names of parameters.

    Returns:
        The model, whose inputs are the columns of the exogenous data; the prior, ``pymc_model`` without observations,
        folded parameters and what is known; and the observations with their exogenous data as a frame, for
        ``Engine.update``, or None where ``build_statespace_graph`` has not been called.

    Raises:
        ModelError: for what cannot be streamed, with the reason.
    """
    _check(statespace_model, pymc_model, fold)
    observed = pymc_model.observed_RVs[0] if pymc_model.observed_RVs else None
    free = list(pymc_model.free_RVs)
    draws = Sampler(pymc_model, free).values(np.random.SeedSequence(0), _DRAWS)
    plain = {v: v.type.clone(shape=d.shape[1:])(name=v.name) for v, d in zip(free, draws, strict=True)}
    step = one_step(statespace_model, pymc_model, plain)
    try:
        with jax.enable_x64(True):
            model, laws = _model(statespace_model, pymc_model, plain, step, draws, fold)
    except (TypeError, NotImplementedError) as error:
        raise ModelError(f"from_statespace: a matrix cannot be evaluated in JAX: {reason(error)}") from error
    known = [v for v in pymc_model.deterministics if set(free).isdisjoint(ancestors([v]))]  # nothing to learn of them
    gone = [*known, *(v for v in free if any(plain[v] is law.variable for law in laws))]
    gone += [] if observed is None else [observed]
    return model, _without(pymc_model, gone), _observations(statespace_model, pymc_model, observed, model)


def _model(
    statespace: Any,
    pymc_model: pm.Model,
    plain: dict[Any, Any],
    step: OneStep,
    draws: list[np.ndarray],
    fold: bool | Collection[str],
) -> tuple[Statespace, list[Law]]:
    placeholders = list(plain.values())
    step.check(placeholders, draws)
    names = statespace.param_names if fold is True else fold or ()
    moving = [*step.rows.values(), step.time]
    rng = np.random.default_rng(0)
    points = [*draws, *(rng.normal(size=(_DRAWS, *v.type.shape)) for v in moving)]
    laws = gaussian_laws(pymc_model, list(names), plain, step.graphs)
    laws = affine_laws(laws, step.graphs, [*placeholders, *moving], points)
    if fold is not True and (refused := sorted(set(names) - {law.variable.name for law in laws})):
        raise ModelError(
            f"from_statespace(fold): {', '.join(refused)} cannot be folded; what can has a Gaussian prior of known "
            "mean and covariance, and nothing but the initial state and intercepts depends on it, affinely"
        )
    graphs = affine_parts(laws, step.graphs)
    stable = must_be_stable(graphs["P0"])
    read = set(ancestors([*graphs.values(), *stable]))
    used = [i for i, v in enumerate(placeholders) if v in read]
    if not used:
        raise ModelError("from_statespace: no hyperparameter is left to be learnt; say which to keep by fold=False")
    programs = Programs(graphs, [placeholders[i] for i in used], [draws[i].shape[1:] for i in used], moving, stable)
    folded = tuple(_folded(pymc_model, law) for law in laws)
    inputs = _input_names(statespace, pymc_model, step)
    labels = [_label(f.name, f.coords, index) for f in folded for index in np.ndindex(*f.shape)]
    model = Statespace(
        names=programs.names,
        shapes=programs.shapes,
        programs=programs,
        laws=_prior(laws),
        folded=folded,
        state_names=(*labels, *map(str, statespace.state_names)),
        channel_names=tuple(map(str, statespace.observed_states)),
        input_names=inputs,
    )
    return model, laws


def _prior(laws: list[Law]) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Mean and root of all, block by block."""
    mean = np.concatenate([law.mean for law in laws]) if laws else np.zeros(0)
    chol, start = np.zeros((len(mean), len(mean))), 0
    for law in laws:
        stop = start + len(law.mean)
        chol[start:stop, start:stop] = law.chol
        start = stop
    return tuple(mean.tolist()), tuple(map(tuple, chol.tolist()))


def _folded(model: pm.Model, law: Law) -> Folded:
    name, given = law.variable.name, model.named_vars_to_dims.get(law.variable.name)
    dims = tuple(d or f"{name}_dim_{i}" for i, d in enumerate(given or (None,) * len(law.shape)))
    coords = tuple(tuple(model.coords.get(d) or range(n)) for d, n in zip(dims, law.shape, strict=True))
    return Folded(name, law.shape, dims, coords)


def _label(name: str, coords: tuple[tuple[Any, ...], ...], index: tuple[int, ...]) -> str:
    inside = ", ".join(str(c[i]) for c, i in zip(coords, index, strict=True))
    return f"{name}[{inside}]" if index else name


def _input_names(statespace: Any, model: pm.Model, step: OneStep) -> tuple[str, ...]:
    """The labels of the data's columns; with the name of the data where they are not unique."""
    coords = {**statespace.coords, **{k: v for k, v in model.coords.items() if v is not None}}
    found = []
    for name, row in step.rows.items():
        dim = (statespace.data_info[name]["dims"] or (None, None))[1]
        labels = coords.get(dim) or range(row.type.shape[1])
        found += [(name, str(label)) for label in labels]
    taken = [label for _, label in found] + [str(c) for c in statespace.observed_states]
    return tuple(label if taken.count(label) == 1 and not label.isdigit() else f"{n}[{label}]" for n, label in found)


def _check(statespace: Any, model: Any, fold: Any) -> None:
    if not isinstance(model, pm.Model):
        raise ModelError(f"from_statespace: expected a pm.Model second, got {type(model).__name__}")
    if not hasattr(statespace, "_unpack_statespace_with_placeholders"):
        hint = "; call .build() on the components first" if hasattr(statespace, "build") else ""
        raise ModelError(
            f"from_statespace: expected a model of pymc_extras.statespace first, got {type(statespace).__name__}{hint}"
        )
    if isinstance(fold, str):
        raise ModelError(f"from_statespace(fold): expected several names, got one string; write ({fold!r},)")
    if len(model.observed_RVs) > 1:
        names = ", ".join(v.name for v in model.observed_RVs)
        raise ModelError(f"from_statespace: {names} are observed; an engine has one stream")


def _without(model: pm.Model, variables: list[Any]) -> pm.Model:
    graph, memo = fgraph_from_model(model)
    for v in variables:
        graph.remove_output(graph.outputs.index(memo[v]))
    return model_from_fgraph(graph, mutate_fgraph=True)


def _observations(statespace: Any, model: pm.Model, observed: Any, ours: Statespace) -> pd.DataFrame | None:
    import pandas as pd

    if observed is None:
        return None
    value: Any = model.rvs_to_values[observed]
    y = np.array(value.get_value() if hasattr(value, "get_value") else value.eval(mode="FAST_COMPILE"), float)
    y = np.where(y == statespace.missing_fill_value, np.nan, y.reshape(len(y), -1))
    columns: list[np.ndarray] = [y]
    for name in statespace._name_to_data:
        if name not in model.named_vars:
            raise ModelError(f"from_statespace: the PyMC model lacks the exogenous data {name}, a pm.Data")
        columns.append(np.asarray(model[name].get_value(), float))
    if wrong := [len(c) for c in columns if len(c) != len(y)]:
        raise ModelError(f"from_statespace: {len(y)} observations, but exogenous data of {wrong[0]} rows")
    return pd.DataFrame(np.concatenate(columns, axis=1), columns=[*ours.channel_names, *ours.input_names])

"""The matrices of a pymc-extras model as graphs of one step: of its priors, one row of data, and the time.

pymc-extras knows the whole series; a matrix that varies has one row per time, row t of the transition leading from t
to t + 1. Here a step ends in observation t, so it takes

    Z, d (observation)      row t
    c (transition)          row t - 1; of data that act on it, pymc-extras has shifted those of t there

With the number of time steps set to 1, the data to the one row, and every range over time to that row's number, each of
its graphs becomes that of one step. That this is so is checked numerically, on rows of random data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors, explicit_graph_inputs, graph_inputs
from pytensor.tensor.basic import ARange

from smcssm.errors import ModelError
from smcssm.priors.graphs import JaxProgram

SHORT = {
    "initial_state": "a0",
    "initial_state_cov": "P0",
    "state_intercept": "c",
    "obs_intercept": "d",
    "transition": "T",
    "design": "Z",
    "selection": "R",
    "obs_cov": "H",
    "state_cov": "Q",
}
"""Its names of the matrices, long and short, in its order."""
STREAMED = ("c", "d", "Z")
_ROWS = 5  # of random data, in the check
_HORIZON = "n_timesteps"


class OneStep(NamedTuple):
    """Matrices by short names, as graphs of the hyperparameters, ``rows`` (1, k) of data by name, and the time."""

    graphs: dict[str, Any]
    rows: dict[str, Any]
    time: Any
    whole: dict[str, Any]
    """The same for ``_ROWS`` times, of ``data``: what one step is checked against."""
    data: dict[str, Any]

    def check(self, free: list[Any], draws: list[np.ndarray]) -> None:
        """Compare with pymc-extras' own matrices at draws of the free variables, draws first.

        Raises:
            ModelError: where a matrix is not a function of one row and the time.
        """
        moving = {name: g for name, g in self.graphs.items() if self.whole[name].ndim > g.ndim}
        if not moving:
            return
        rng = np.random.default_rng(1)
        data = {name: rng.normal(size=v.type.shape) for name, v in self.data.items()}
        point = [value[0] for value in draws]
        shapes = [np.shape(value) for value in point]
        whole = JaxProgram(
            [*free, *self.data.values()], [self.whole[n] for n in moving], [*shapes, *_shapes(self.data)]
        )
        inputs = [*free, *self.rows.values(), self.time]
        one = JaxProgram(inputs, list(moving.values()), [*shapes, *_shapes(self.rows), ()])
        expected = [np.asarray(m) for m in whole(*map(jnp.asarray, (*point, *data.values())))]
        for t in range(1, _ROWS):
            got = one(*map(jnp.asarray, (*point, *(v[t : t + 1] for v in data.values()), float(t))))
            for name, mine, theirs in zip(moving, got, expected, strict=True):
                row = theirs[t - 1 if name == "c" else t]
                if not np.allclose(np.asarray(mine), row, rtol=1e-6, atol=1e-9, equal_nan=True):
                    raise ModelError(
                        f"from_statespace: {name} of time {t} is not a function of that time's data alone, so it "
                        "cannot be streamed"
                    )


def _shapes(variables: dict[str, Any]) -> list[tuple[int, ...]]:
    return [v.type.shape for v in variables.values()]


def one_step(statespace: Any, model: pm.Model, plain: dict[Any, Any]) -> OneStep:
    """Graphs of one step, in which ``plain`` placeholders stand for the free variables of the model."""
    lacking = [name for name in statespace.param_names if name not in model.named_vars]
    if lacking:
        raise ModelError(f"from_statespace: the PyMC model has no prior for {', '.join(lacking)}")
    given: list[Any] = graph_replace(
        list(statespace._unpack_statespace_with_placeholders()),
        {v: _plain(model[name], plain) for name, v in statespace._name_to_variable.items()},
        strict=False,
    )
    varying = {SHORT[name] for name in statespace.ssm.time_varying_names}
    if wrong := sorted(varying.difference(STREAMED)):
        raise ModelError(
            f"from_statespace: {', '.join(wrong)} varies in time, which cannot be streamed. Of a TimeSeasonality with "
            "a duration, say use_time_varying=False"
        )
    time: Any = pt.dscalar("time")
    placeholders = statespace._name_to_data
    sizes = {name: placeholder.type.shape[1] for name, placeholder in placeholders.items()}
    rows = {name: pt.tensor(name, shape=(1, k), dtype="float64") for name, k in sizes.items()}
    data = {name: pt.tensor(name, shape=(_ROWS, k), dtype="float64") for name, k in sizes.items()}
    graphs, whole = {}, {}
    for name, graph in zip(SHORT.values(), given, strict=True):
        if name not in varying and any(p in ancestors([graph]) for p in placeholders.values()):
            raise ModelError(f"from_statespace: {_initial(name)} depends on exogenous data, which cannot be streamed")
        here = {"c": time - 1, "d": time, "Z": time}.get(name, pt.constant(0.0))
        graph_t = _at(graph, {placeholders[n]: v for n, v in rows.items()}, 1, here)
        graphs[name] = graph_t[0] if name in varying else graph_t
        whole[name] = _at(graph, {placeholders[n]: v for n, v in data.items()}, _ROWS, None)
    return OneStep(graphs, rows, time, whole, data)


def _plain(variable: Any, plain: dict[Any, Any]) -> Any:
    """A variable of the model as a graph of placeholders and constants."""
    if variable in plain:
        return plain[variable]
    variable = graph_replace([variable], plain, strict=False)[0]
    shared: dict[Any, Any] = {
        v: pt.constant(v.get_value()) for v in graph_inputs([variable]) if isinstance(v, SharedVariable)
    }
    if variable in shared:
        return shared[variable]
    return graph_replace([variable], shared, strict=False)[0] if shared else variable


def _initial(name: str) -> str:
    if name not in ("a0", "P0"):
        return name
    return (
        "the stationary initial state (build the model with exog_in_observation=True or "
        "stationary_initialization=False)"
    )


def _at(graph: Any, data: dict[Any, Any], length: int, time: Any) -> Any:
    """With data and the number of time steps filled in; with ``time``, of that row alone."""
    free: list[Any] = [v for v in explicit_graph_inputs([graph]) if v.name == _HORIZON]
    replace: dict[Any, Any] = dict(data)
    if time is not None:
        ranges: list[Any] = [v for v in ancestors([graph]) if v.owner and isinstance(v.owner.op, ARange)]
        replace |= {v: pt.cast(pt.stack([time]), v.dtype) for v in ranges if set(free) & set(ancestors([v]))}
    graph = graph_replace([graph], replace, strict=False)[0] if replace else graph
    free = [v for v in explicit_graph_inputs([graph]) if v.name == _HORIZON]
    horizon: dict[Any, Any] = {v: pt.constant(length, dtype=v.dtype) for v in free}
    return graph_replace([graph], horizon, strict=False)[0] if horizon else graph

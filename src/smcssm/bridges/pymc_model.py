"""One PyMC model for batch and stream: its LinearGaussianSSM as a model of ours, the rest of it as the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pymc as pm
from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.graph.replace import graph_replace
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorConstant

from smcssm.bridges.constants import constant_entry
from smcssm.bridges.distribution import MATRICES, LinearGaussianRV
from smcssm.core import Theta
from smcssm.errors import ModelError
from smcssm.models import LinearGaussian
from smcssm.priors.draws import reason
from smcssm.priors.graphs import JaxProgram


def from_pymc(pm_model: pm.Model) -> tuple[LinearGaussian, pm.Model, np.ndarray]:
    """Model, prior and observations of a PyMC model with one ``LinearGaussianSSM``.

    Entries of its matrices that do not depend on random variables are constants of the model: zeros and ones among
    them cost nothing. ``pm.Data`` is taken as it is now.

    Args:
        pm_model: continuous free variables and one observed variable, a ``LinearGaussianSSM``, of matrices that do not
            vary in time.

    Returns:
        The model, whose hyperparameters are the free variables that its matrices depend on; the prior, ``pm_model``
        without the observed variable; and the observations, (t, ny) or (t,).

    Raises:
        ModelError: for other models.
    """
    y = _the_one(pm_model)
    matrices = dict(zip(("m0", "chol_P0", *MATRICES), y.owner.op.dist_params(y.owner)[:-1], strict=True))
    for name in MATRICES:
        if matrices[name].type.shape[0] != 1:
            raise ModelError(
                f"from_pymc: {name} of {y.name} varies in time, and what it will be after the last observation is not "
                "known: write the model as a function of step.inputs, ss.models.LinearGaussian(..., n_inputs=)"
            )
        matrices[name] = matrices[name][0]
    read = set(ancestors(list(matrices.values()), blockers=pm_model.free_RVs))
    free = [v for v in pm_model.free_RVs if v in read]
    try:
        function = MatricesOf(pm_model, y.name, free, matrices)
    except (TypeError, NotImplementedError) as error:
        raise ModelError(f"from_pymc: the matrices of {y.name} cannot be evaluated in JAX: {reason(error)}") from error
    names, channels = [v.name for v in free], _channels(pm_model, y)
    shapes = {v.name: shape for v, shape in zip(free, function.input_shapes, strict=True) if shape}
    if not names:
        raise ModelError(f"from_pymc: no matrix of {y.name} depends on a free variable, so there is nothing to learn")
    return (
        LinearGaussian(function, names, shapes=shapes, channels=channels),
        _without(pm_model, y),
        _values(pm_model, y),
    )


class MatricesOf:
    """theta -> dict of matrices, constants as numbers: the function of a ``models.LinearGaussian``."""

    def __init__(self, model: pm.Model, name: str, free: Sequence[Any], matrices: dict[str, Any]) -> None:
        self.__name__ = name
        inputs = [v.type(name=v.name) for v in free]
        point = model.eval_rv_shapes()
        self.input_shapes = [tuple(map(int, point[v.name])) for v in free]
        graphs: list[Any] = list(matrices.values())
        if free:
            graphs = graph_replace(graphs, dict(zip(free, inputs, strict=True)), strict=False)
        shapes = JaxProgram(inputs, graphs, self.input_shapes).shapes
        graphs = _folded(graphs)
        places = [(g, i) for g, shape in zip(graphs, shapes, strict=True) for i in np.ndindex(*shape)]
        self.names = [v.name for v in free]
        self._known = [constant_entry(g, i) for g, i in places]
        computed = [g[i] for (g, i), known in zip(places, self._known, strict=True) if known is None]
        self._program = JaxProgram(inputs, computed, self.input_shapes)
        self._shapes = dict(zip(matrices, shapes, strict=True))

    def __call__(self, theta: Theta) -> dict[str, Any]:
        """The matrices of one particle."""
        computed = iter(self._program(*(jnp.asarray(theta[name]).astype(float) for name in self.names)))
        entries = iter([next(computed) if known is None else known for known in self._known])
        return {key: _nested(entries, shape) for key, shape in self._shapes.items()}


def _folded(graphs: list[Any]) -> list[Any]:
    """What is constant as a whole, as constants; shapes as far as they are known."""
    folded: Any = rewrite_graph(graphs, include=("canonicalize",), clone=True)
    return folded


def _nested(entries: Any, shape: tuple[int, ...]) -> Any:
    return [_nested(entries, shape[1:]) for _ in range(shape[0])] if shape else next(entries)


def _the_one(model: pm.Model) -> Any:
    if not isinstance(model, pm.Model):
        raise ModelError(f"from_pymc: expected a pm.Model, got {type(model).__name__}")
    ours = [v for v in model.observed_RVs if isinstance(v.owner.op, LinearGaussianRV)]
    others = [v.name for v in model.observed_RVs if v not in ours]
    hidden = [v.name for v in model.free_RVs if isinstance(v.owner.op, LinearGaussianRV)]
    if hidden:
        raise ModelError(f"from_pymc: {hidden[0]} is not observed; give observed= to LinearGaussianSSM")
    if len(ours) != 1:
        found = ", ".join(v.name for v in ours) or "none"
        raise ModelError(f"from_pymc: expected one ss.LinearGaussianSSM in the model, found {found}")
    if others:
        raise ModelError(
            f"from_pymc: {', '.join(others)} is observed as well; an engine has one stream. Make it a pm.Potential of "
            "the prior, or a further channel"
        )
    return ours[0]


def _without(model: pm.Model, y: Any) -> pm.Model:
    """The same model without the observed variable."""
    graph, memo = fgraph_from_model(model)
    graph.remove_output(graph.outputs.index(memo[y]))
    return model_from_fgraph(graph, mutate_fgraph=True)


def _values(model: pm.Model, y: Any) -> np.ndarray:
    value: Any = model.rvs_to_values[y]
    return np.array(value.data if isinstance(value, TensorConstant) else value.get_value(), float)


def _channels(model: pm.Model, y: Any) -> list[str] | None:
    """Labels of the axis of channels; of one channel, the name of the variable."""
    if y.ndim == 1:
        return [y.name]
    dim = (model.named_vars_to_dims.get(y.name) or (None, None))[1]
    labels = model.coords.get(dim) if dim else None
    return None if labels is None else [str(label) for label in labels]

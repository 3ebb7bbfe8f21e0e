"""A nonlinear model from your own functions of one particle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.core import AbstractNonlinear, AbstractPrior, Observation, Theta
from smcssm.errors import ModelError
from smcssm.models.arguments import count, labels, numbered, shapes_of
from smcssm.models.try_out import Functions, label, try_out
from smcssm.models.user_function import Step

Shape = tuple[int, ...]


class Nonlinear(AbstractNonlinear):
    """Your own model, as functions of one particle that JAX can run.

    Args:
        sample_initial: (key, theta) -> x, the state at the first observation; a scalar or a vector.
        sample_transition: (key, theta, x, step) -> the state over ``step.dt`` > 0 later.
        log_observation: (theta, x, y, step) -> log density or log probability of y given x, normalised. With several
            channels y is a vector: return a vector, the log density of each channel, independent given x, and those
            that are present count; or a number for all together, and rows with a missing value do not count.
        names: the hyperparameters that the functions read.
        sample_observation: (key, theta, x, step) -> y. Without it there are no forecasts of observations, and no
            predictive mean, sd and PIT.
        proposal: (key, theta, x, y, step) -> (x', log_ratio): a draw from a proposal q that has seen y, and
            log f(x' | x) - log q(x'), f being the density of the transition. Used for rows without missing values.
        look_ahead: (theta, x, y, step) -> about log p(y | x) for x before the transition, for rows without missing
            values. Any finite function is right; a good one gives less noise.
        states: names of the states; "x", or x0, x1, ... of a vector, by default.
        channels: names of the channels; "y" by default, and y is then a number.
        n_inputs: number of inputs, called input0, input1, ...; or
        input_names: their names.
        shapes: name -> shape of each hyperparameter that is not a scalar.
        example: name -> a value at which the functions are tried out; 0.5 by default.

    ``theta["name"]`` and the fields of ``step`` (see ``Step``) are scalars or vectors. A transition that reads
    ``step.dt`` is taken to hold for any dt; without, one observation is one step.
    """

    functions: Functions
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    input_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    state_names: tuple[str, ...]
    scalar: bool
    """Whether x is a number."""
    reads: frozenset[str]
    """The fields of the step that the functions read."""

    def __init__(  # noqa: PLR0913
        self,
        sample_initial: Callable[..., Any],
        sample_transition: Callable[..., Any],
        log_observation: Callable[..., Any],
        names: Sequence[str],
        *,
        sample_observation: Callable[..., Any] | None = None,
        proposal: Callable[..., Any] | None = None,
        look_ahead: Callable[..., Any] | None = None,
        states: Sequence[str] | None = None,
        channels: Sequence[str] | None = None,
        n_inputs: int = 0,
        input_names: Sequence[str] | None = None,
        shapes: Mapping[str, int | Shape] | None = None,
        example: Mapping[str, Any] | None = None,
    ) -> None:
        self.functions = Functions(
            sample_initial, sample_transition, log_observation, sample_observation, proposal, look_ahead
        )
        self.names = labels("Nonlinear(names)", names)
        self.shapes = shapes_of("Nonlinear(shapes)", self.names, shapes or {})
        inputs = numbered("input", count("Nonlinear(n_inputs)", n_inputs, 0))
        self.input_names = inputs if input_names is None else labels("Nonlinear(input_names)", input_names)
        self.channel_names = ("y",) if channels is None else labels("Nonlinear(channels)", channels)
        sizes, named = (len(self.channel_names), len(self.input_names)), zip(self.names, self.shapes, strict=True)
        shape, self.reads = try_out(self.functions, dict(named), sizes, example or {})
        self.scalar = shape == ()
        default = ("x",) if self.scalar else numbered("x", shape[0])
        self.state_names = default if states is None else labels("Nonlinear(states)", states)
        if len(self.state_names) != len(default):
            raise ModelError(
                f"Nonlinear(states): got {len(self.state_names)} names, but sample_initial returns "
                f"{len(default)} states"
            )

    @property
    def continuous_time(self) -> bool:
        """Whether the transition looks at dt."""
        return "dt" in self.reads

    @property
    def guided(self) -> bool:
        """Whether a proposal was given."""
        return self.functions.proposal is not None

    @property
    def looks_ahead(self) -> bool:
        """Whether a look-ahead was given."""
        return self.functions.look_ahead is not None

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Everywhere."""
        return jnp.asarray(True)

    def function_named(self, method: str, arguments: tuple, broken: Callable[[Any], bool]) -> str:
        """The user's function that a method calls."""
        name = "proposal" if method == "propose" else method
        return label(name, getattr(self.functions, name))

    def default_prior(self, scale: float) -> AbstractPrior:
        """There is none: only its author knows what a name means.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"a model from your own functions has no default prior: give one for {', '.join(self.names)}, "
            "a pm.Model() or ss.priors.FromFunctions(...)"
        )

    def sample_initial(
        self, key: Array, params: PyTree[Array], obs: Observation, n_inner: int
    ) -> Float[Array, "x m s n"]:
        """Independent draws."""
        nothing = jnp.zeros((n_inner, *jax.tree.leaves(params)[0].shape[-2:]), obs.y.dtype)
        function = self.functions.sample_initial
        one = lambda key, theta, x, y, step: function(key, theta)  # noqa: E731
        found = _over_population(one)(_keys(key, nothing), _of_outer(params), nothing, None, None)
        return self._states(found, nothing.dtype)

    def sample_transition(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """Independent draws."""
        function = self.functions.sample_transition
        one = lambda key, theta, x, y, step: function(key, theta, x, step)  # noqa: E731
        return self._states(self._run(one, key, params, x, obs), x.dtype)

    def log_observation(
        self, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "m s n"]:
        """Summed over the channels that are present, or of rows that are complete."""
        function = self.functions.log_observation
        one = lambda key, theta, x, y, step: jnp.atleast_1d(function(theta, x, y, step))  # noqa: E731
        found = self._run(one, None, params, x, obs).astype(x.dtype)
        counts = obs.mask if len(found) == len(obs.y) else jnp.all(obs.mask, axis=0, keepdims=True)
        return jnp.sum(jnp.where(counts, found, 0.0), axis=0)

    def sample_observation(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "y m s n"] | None:
        """Independent draws."""
        function = self.functions.sample_observation
        if function is None:
            return None
        one = lambda key, theta, x, y, step: jnp.atleast_1d(function(key, theta, x, step))  # noqa: E731
        return self._run(one, key, params, x, obs).astype(x.dtype)

    def propose(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Float[Array, "x m s n"], Float[Array, "m s n"]]:
        """The proposal that was given."""
        assert self.functions.proposal is not None
        new, log_ratio = self._run(self.functions.proposal, key, params, x, obs)
        return self._states(new, x.dtype), log_ratio.astype(x.dtype)

    def look_ahead(
        self, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "m s n"]:
        """The one that was given."""
        function = self.functions.look_ahead
        assert function is not None
        one = lambda key, theta, x, y, step: function(theta, x, y, step)  # noqa: E731
        return self._run(one, None, params, x, obs).astype(x.dtype)

    def _run(self, one: Callable, key: Array | None, params: PyTree, x: Array, obs: Observation) -> Any:
        """A function of (key, theta, x, y, step), over everything."""
        if obs.noise_sd is not None and "noise_sd" not in self.reads:
            raise ModelError("noise_sd was given, but no function of the model reads step.noise_sd")
        step = Step(obs.index, obs.dt, obs.inputs if self.input_names else None, obs.noise_sd)
        y = obs.y[0] if len(self.channel_names) == 1 else obs.y
        keys = None if key is None else _keys(key, x)
        given = _of_outer(params), x[0] if self.scalar else x, *_of_series((y, step))
        return _over_population(one)(keys, *given)

    def _states(self, x: Array, dtype: Any) -> Array:
        return (x[None] if self.scalar else x).astype(dtype)


def _over_population(one: Callable) -> Callable:
    """(key, theta, x, y, step) of one particle, for keys [s, m, n], theta [.., s, n], x [.., m, s, n], others [.., s].

    The outermost axis of storage is the outermost map, so that nothing is transposed on the way.
    """
    of_outer = jax.vmap(one, (-1, -1, -1, None, None), -1)
    of_series = jax.vmap(of_outer, (0, -2, -2, -1, -1), -2)
    return jax.vmap(of_series, (1, None, -3, None, None), -3)


def _keys(key: Array, x: Float[Array, "*x m s n"]) -> Array:
    """A key for every inner particle, ``[s, m, n]``."""
    m, _, n = x.shape[-3:]
    return jax.vmap(lambda k: jax.random.split(k, (m, n)))(key)


def _of_outer(params: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a: a[..., 0, :, :], params)


def _of_series(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a: a[..., 0, :, 0], tree)

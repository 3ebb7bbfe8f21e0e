"""Linear Gaussian models whose matrices depend on a hidden Markov chain of regimes.

    u_1 ~ p0,   u_t | u_t-1 ~ P[u_t-1, .]       regime 0..K-1, over dt_t > 0
    x_1 ~ N(m0, P0) of u_1,   x_t = F x_t-1 + c + chol_Q e_t,   y_t = H x_t + d + chol_R n_t,   matrices of u_t

Kim (1994, doi:10.1016/0304-4076(94)90036-1); Kim & Nelson (1999), State-Space Models with Regime Switching, chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import (
    AbstractConditionallyGaussian,
    AbstractLinearGaussian,
    AbstractPrior,
    Matrix,
    Observation,
    System,
    Theta,
)
from smcssm.errors import ModelError
from smcssm.linalg import rows, vector
from smcssm.models.arguments import labels, regime_axes
from smcssm.models.linear_gaussian import LinearGaussian, shapes_of
from smcssm.models.matrices import complete
from smcssm.models.regimes import Chain, drawn, log, select
from smcssm.models.user_function import MatrixFunction


class Switching(AbstractConditionallyGaussian):
    """Regimes that take turns as a Markov chain, each a linear Gaussian model of the same states and channels.

    Args:
        regimes: for each regime a function such as ``LinearGaussian`` takes, of theta or of (theta, step), or a
            ready-made linear Gaussian model, whose hyperparameters keep their names.
        initial: probabilities of the regimes at the first observation, or a function of theta that returns them;
            equal by default.
        transition: the matrix of probabilities from a regime (row) to a regime (column), or a function of theta or of
            (theta, step) that returns it. Over dt = 0 the regime stays.
        names: the hyperparameters that the functions read.
        shapes: name -> shape of each hyperparameter that is not a scalar.
        input_names: names of the inputs that the functions read.
        channels: names of the channels.
        states: names of the states.
        regime_names: names of the regimes; those of the functions by default.
        support: theta of one particle -> whether it is admissible; always by default.
        default_prior: scale of the observations -> a prior; none by default.
        per_regime: name -> number of its leading axes that count regimes, where regimes are exchangeable.

    Time is continuous where every function reads ``step.dt``.
    """

    regimes: tuple[AbstractLinearGaussian, ...]
    chain: Chain
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    regime_names: tuple[str, ...]
    input_names: tuple[str, ...]
    admissible: Callable[[Theta], Any] | None
    prior_at: Callable[[float], AbstractPrior] | None
    exchangeable: tuple[tuple[str, int], ...]

    guided: ClassVar[bool] = False  # all regimes are enumerated

    def __init__(  # noqa: PLR0913
        self,
        regimes: Sequence[Any],
        *,
        transition: Any,
        names: Sequence[str] = (),
        initial: Any = None,
        shapes: Mapping[str, int | tuple[int, ...]] | None = None,
        input_names: Sequence[str] = (),
        channels: Sequence[str] | None = None,
        states: Sequence[str] | None = None,
        regime_names: Sequence[str] | None = None,
        support: Callable[[Theta], Any] | None = None,
        default_prior: Callable[[float], AbstractPrior] | None = None,
        per_regime: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(regimes, Sequence) or len(regimes) < 2:
            raise ModelError(f"Switching(regimes): expected two regimes or more, got {regimes!r}")
        own = labels("Switching(names)", names)
        options = {"names": own, "shapes": shapes, "channels": channels, "states": states}
        self.input_names = labels("Switching(input_names)", input_names)
        self.regimes = tuple(_regime(k, r, self.input_names, options) for k, r in enumerate(regimes))
        known = {n: shape for r in self.regimes for n, shape in zip(r.names, r.shapes, strict=True)}
        own_shapes = shapes_of("Switching(shapes)", own, shapes or {})
        known |= dict(zip(own, own_shapes, strict=True))
        self.names, self.shapes = tuple(known), tuple(known.values())
        self.chain = Chain(initial, transition, own, own_shapes, len(self.regimes), len(self.input_names))
        named = _named(regimes) if regime_names is None else regime_names
        self.regime_names = labels("Switching(regime_names)", named)
        self.admissible, self.prior_at = support, default_prior
        self.exchangeable = regime_axes("Switching(per_regime)", per_regime, known, len(self.regimes))
        _check(self)

    @property
    def per_regime(self) -> Mapping[str, int]:
        """How many leading axes of a hyperparameter count regimes."""
        return dict(self.exchangeable)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Those of the regimes."""
        return self.regimes[0].state_names

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Those of the regimes."""
        return self.regimes[0].channel_names

    @property
    def continuous_time(self) -> bool:
        """Whether every part looks at dt."""
        return all(r.continuous_time for r in self.regimes) and "dt" in self.chain.reads

    @property
    def reads(self) -> frozenset[str]:
        """The fields of the step that a function reads."""
        return self.chain.reads.union(*(getattr(r, "reads", ()) for r in self.regimes))

    def params(self, theta: Theta) -> PyTree[Array]:
        """Those of the regimes and of the chain."""
        return {"chain": self.chain.params(theta), "regimes": tuple(r.params(theta) for r in self.regimes)}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where every regime has a model, and probabilities are some."""
        inside = self.chain.support(theta)
        if self.admissible is not None:
            inside = inside & self.admissible(theta)
        for regime in self.regimes:
            inside = inside & regime.support(theta)
        return inside

    def complaint(self, theta: Theta) -> str | None:
        """What is wrong with probabilities or matrices at theta; None where nothing is."""
        own = [r.complaint(theta) for r in self.regimes if isinstance(r, LinearGaussian)]
        return next(filter(None, (self.chain.complaint(theta), *own)), None)

    def function_named(self, method: str, arguments: tuple, broken: Callable[[Any], bool]) -> str:
        """The user's function that a method calls."""
        if method not in ("initial", "matrices"):
            return self.chain.function_named(method == "start")
        params, _, obs = arguments
        for name, regime, own in zip(self.regime_names, self.regimes, params["regimes"], strict=True):
            if broken(getattr(regime, method)(own, obs)):
                function = regime.function.label if isinstance(regime, LinearGaussian) else type(regime).__name__
                return f"the function of {name} ({function})"
        return "the function of a regime"

    def default_prior(self, scale: float) -> AbstractPrior:
        """As given; otherwise there is none, since only its author knows what a name means.

        Raises:
            ModelError: where none was given.
        """
        if self.prior_at is not None:
            return self.prior_at(scale)
        raise ModelError(
            f"a switching model has no default prior: give one for {', '.join(self.names)}, "
            "a pm.Model() or ss.priors.FromFunctions(...)"
        )

    def start(
        self, key: Array, params: PyTree[Array], obs: Observation, m: int
    ) -> tuple[Int[Array, "m s n"], Float[Array, "m s n"]]:
        """All regimes, in the first places."""
        del key
        p = self.chain.initial_probabilities(params["chain"], _like(params, obs))
        K, shape = len(p), (m, *p.shape[1:])
        place = jnp.arange(m, dtype=jnp.int32)[:, None, None]
        log_p = jnp.concatenate([log(p), jnp.full((m - K, *p.shape[1:]), -jnp.inf, p.dtype)])
        return jnp.broadcast_to(jnp.minimum(place, K - 1), shape), log_p

    def successors(
        self, key: Array, params: PyTree[Array], u: Int[Array, "m s n"], obs: Observation
    ) -> tuple[Int[Array, "k 1 1 1"], Float[Array, "k m s n"]]:
        """All regimes, by the row of the transition matrix that belongs to u."""
        del key
        log_P = log(self.chain.transition(params["chain"], obs, _like(params, obs)))
        to = range(len(self.regimes))
        every = jnp.arange(len(to), dtype=jnp.int32)[:, None, None, None]
        return every, jnp.stack([select(u, [log_P[i, j] for i in to], log_P.dtype) for j in to])

    def transit(
        self, key: Array, params: PyTree[Array], u: Int[Array, "s n"], obs: Observation
    ) -> Int[Array, "s n"]:
        """By the row of the transition matrix that belongs to u."""
        P = self.chain.transition(params["chain"], obs, _like(params, obs))
        row = jnp.stack([select(u, list(P[:, j]), P.dtype) for j in range(len(P))])
        uniform = jax.vmap(lambda k: jax.random.uniform(k, u.shape[-1:], row.dtype))(key)
        return drawn(uniform, row)

    def initial(self, params: PyTree[Array], u: Array, obs: Observation) -> tuple[Matrix, Matrix]:
        """That of the regime u."""
        each = [r.initial(p, obs) for r, p in zip(self.regimes, params["regimes"], strict=True)]
        dtype = obs.y.dtype
        return select(u, [vector(m0) for m0, _ in each], dtype), select(u, [rows(chol) for _, chol in each], dtype)

    def matrices(self, params: PyTree[Array], u: Array, obs: Observation) -> System:
        """Those of the regime u."""
        each = [_entries(r.matrices(p, obs)) for r, p in zip(self.regimes, params["regimes"], strict=True)]
        width = max(len(s.chol_Q[0]) for s in each)
        each = [s._replace(chol_Q=[[*row, *[0.0] * (width - len(row))] for row in s.chol_Q]) for s in each]
        return System(*(select(u, [s[i] for s in each], obs.y.dtype) for i in range(len(System._fields))))


def _like(params: PyTree[Array], obs: Observation) -> Float[Array, "s n"]:
    return jnp.zeros(jax.tree.leaves(params)[0].shape[-2:], obs.y.dtype)


def _entries(system: System) -> System:
    F, c, chol_Q, H, d, chol_R = system
    return System(rows(F), vector(c), rows(chol_Q), rows(H), vector(d), rows(chol_R))


def _regime(k: int, given: Any, inputs: tuple[str, ...], options: dict[str, Any]) -> AbstractLinearGaussian:
    if isinstance(given, AbstractLinearGaussian):
        return given
    if not callable(given):
        raise ModelError(
            f"Switching(regimes): regime {k} is {given!r}; expected a function of theta or of (theta, step) that "
            "returns matrices, or a linear Gaussian model"
        )
    function: Any = given
    names, shapes = options["names"], options["shapes"] or {}
    reads = MatrixFunction(function, names, shapes_of("Switching(shapes)", names, shapes), len(inputs), complete).reads
    return LinearGaussian(function, input_names=inputs if "inputs" in reads else (), **options)


def _named(regimes: Sequence[Any]) -> tuple[str, ...]:
    """Names of the functions, where they tell the regimes apart."""
    found = tuple(getattr(r, "__name__", "<lambda>") for r in regimes)
    numbered = tuple(f"regime{k}" for k in range(len(regimes)))
    return numbered if "<lambda>" in found or len(set(found)) < len(found) else found


def _check(model: Switching) -> None:
    if len(model.regime_names) != len(model.regimes):
        raise ModelError(
            f"Switching(regime_names): got {len(model.regime_names)} names for {len(model.regimes)} regimes"
        )
    for what in ("state_names", "channel_names"):
        told = {name: getattr(r, what) for name, r in zip(model.regime_names, model.regimes, strict=True)}
        if len(set(told.values())) > 1:
            raise ModelError(f"Switching(regimes): regimes differ in their {what.replace('_', ' ')}: {told}")
    unknown = {i for r in model.regimes for i in r.input_names} - set(model.input_names)
    if unknown:
        raise ModelError(f"Switching(input_names): regimes read {', '.join(sorted(unknown))}, which is not among them")

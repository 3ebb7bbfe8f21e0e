"""Every seam of smcssm: the records, the status codes and the abstract parts that the engine is assembled from.

Notation (one state-space model, hyperparameters theta, unconstrained and flat: z):

    x_1 ~ N(m0, chol_P0 chol_P0')              the state at the first observation
    x_t = F x_{t-1} + c + chol_Q e_t           over dt_t > 0; the identity over dt_t = 0
    y_t = H x_t + d + chol_R n_t

Axes. Mathematics is written for one particle; storage is ``[..., s, n]``: series, then particles, last and
contiguous. What belongs to an observation is ``[..., s]``. Axis names in annotations: ``x`` state, ``y`` channel,
``v`` input, ``z`` unconstrained hyperparameter, ``s`` series, ``n`` outer particles, ``m`` inner particles, ``t`` time.

Four seams are functions of the whole population (filter, proposal, kernel, schedule), two are written for one
particle (prior, and the parameters of a model). Configuration is a frozen, hashable module; state is a pytree of
arrays and nothing else, hence a checkpoint.
"""

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

Theta = Mapping[str, Array]
"""Named, constrained hyperparameters of one particle."""

Matrix = Any
"""A matrix or vector of one step: a nested sequence of entries, a NumPy array of constants, or a JAX array
``[i, j, s, n]``. An entry is a number (known when compiling; zeros and ones cost nothing) or an array that
broadcasts against ``[s, n]``."""


class Status(enum.IntEnum):
    """What happened in a step, worst last: several are merged by ``max``."""

    OK = 0
    BRIDGING = 1  # a surprising observation still enters with an exponent below one
    LAGGING = 2  # the population had almost no effective size left when its challengers had caught up
    SLOW_MIXING = 3  # a move stopped before its particles were decorrelated
    NOISY = 4  # likelihood estimates are too noisy for moves, and max_inner allows no more inner particles
    SUSPECT = 5  # the evidence disagrees with importance sampling by the challengers
    NOT_POSITIVE_DEFINITE = 6  # some particles had a singular innovation covariance and were given weight zero
    NOT_FINITE = 7  # some particles, or proposals, had a log-likelihood of NaN and got weight zero, others a finite one
    IMPOSSIBLE = 8  # zero likelihood for every particle, or too far off to bridge: the observation was not taken
    DROPPED = 9  # it was late, and late observations are dropped


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """One observation of every series, or a block of them with a leading time axis: a row of the journal.

    A missing value has ``mask`` False and ``y`` 0. Optional leaves are present for the whole life of an engine, or
    never. Inside a filter every leaf carries one more trailing axis of size 1, so that it broadcasts over particles.
    A plain dataclass: JAX takes it apart in C++, which a record that passes at every step should have.
    """

    y: Float[Any, "*t y s"]
    mask: Bool[Any, "*t y s"]
    dt: Float[Any, "*t s"]
    index: Int[Any, "*t s"]
    inputs: Float[Any, "*t v s"] | None = None
    noise_sd: Float[Any, "*t y s"] | None = None
    exposure: Float[Any, "*t y s"] | None = None
    reported: Bool[Any, "*t s"] | None = None


class System(NamedTuple):
    """The matrices of one step: x' = F x + c + chol_Q e and y = H x + d + chol_R n, chol_Q (x, q) with q <= x."""

    F: Matrix
    c: Matrix
    chol_Q: Matrix
    H: Matrix
    d: Matrix
    chol_R: Matrix


class FilterInfo(NamedTuple):
    """What a filter says of one observation, for each outer particle.

    ``log_lik`` is log p(y_t | y_1:t-1, theta) over the values that are present. ``mean``, ``sd`` and ``pit`` are of
    the one-step predictive, channel by channel, before y_t was used; they exist for missing values as well (pit NaN).
    ``draw`` is a draw from it, where mean and sd do not tell its shape and the model can draw.
    """

    log_lik: Float[Array, "s n"]
    mean: Float[Array, "y s n"]
    sd: Float[Array, "y s n"]
    pit: Float[Array, "y s n"]
    status: Int[Array, "s n"]
    draw: Float[Array, "y s n"] | None = None


class AbstractPrior(eqx.Module):
    """A law over named hyperparameters, and the bijection to a flat unconstrained vector z of length ``size``."""

    names: eqx.AbstractVar[tuple[str, ...]]
    """Every name that ``constrain`` returns: variables first, then deterministic functions of them."""
    shapes: eqx.AbstractVar[tuple[tuple[int, ...], ...]]
    dims: eqx.AbstractVar[Mapping[str, tuple[str, ...]]]
    coords: eqx.AbstractVar[Mapping[str, tuple[Any, ...]]]
    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def sample(self, key: Array, n: int) -> tuple[Float[Any, "z n"], Float[Any, " n"]]:
        """Draw n points and their log weights (zero without factors that cannot be sampled). On the host."""

    @abc.abstractmethod
    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Log density of z, Jacobian included; -inf where the prior forbids it."""

    @abc.abstractmethod
    def constrain(self, z: Float[Array, " z"]) -> dict[str, Array]:
        """Named hyperparameters at z."""

    @abc.abstractmethod
    def unconstrain(self, theta: Theta) -> Float[Array, " z"]:
        """The z of named hyperparameters; inverse of ``constrain``."""

    @property
    def normalised(self) -> bool:
        """Whether ``log_prob``, but for factors, integrates to one: importance sampling rests on it. A hook."""
        return True


class AbstractModel(eqx.Module):
    """A state-space model up to its hyperparameters.

    A model of a user's own functions has a ``function_named(method, arguments, broken)``: what the user calls the
    function behind a method of the model that returned NaN, ``broken`` telling whether a tree has one.
    """

    names: eqx.AbstractVar[tuple[str, ...]]
    """The hyperparameters that ``params`` reads."""
    shapes: eqx.AbstractVar[tuple[tuple[int, ...] | None, ...]]
    """Their shapes, in the same order; None where the model does not know."""
    state_names: eqx.AbstractVar[tuple[str, ...]]
    channel_names: eqx.AbstractVar[tuple[str, ...]]
    input_names: eqx.AbstractVar[tuple[str, ...]]
    continuous_time: eqx.AbstractVar[bool]
    """Whether ``dt`` may be any positive number; otherwise one observation is one time step."""

    @property
    def averages(self) -> bool:
        """Whether an observation may be an average over an exposure that ends with it. A hook."""
        return False

    @abc.abstractmethod
    def params(self, theta: Theta) -> PyTree[Array]:
        """What the filter needs of theta, once per particle and then cached."""

    @abc.abstractmethod
    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Whether theta gives a model at all (a stationary one, say): False truncates the prior."""

    @abc.abstractmethod
    def default_prior(self, scale: float) -> AbstractPrior:
        """A weakly informative prior for observations whose typical size of variation is ``scale``."""


class AbstractLinearGaussian(AbstractModel):
    """A model whose state is linear and Gaussian given theta: what the Kalman filter needs.

    Both methods see the whole population: leaves of ``params`` end in ``[s, n]``, leaves of ``obs`` in ``[s, 1]``.
    """

    @abc.abstractmethod
    def initial(self, params: PyTree[Array], obs: Observation) -> tuple[Matrix, Matrix]:
        """m0 and chol_P0."""

    @abc.abstractmethod
    def matrices(self, params: PyTree[Array], obs: Observation) -> System:
        """The matrices of the step that ends in ``obs``."""


class AbstractConditionallyGaussian(AbstractModel):
    """A model whose state is linear and Gaussian given theta and a hidden Markov chain u_1, u_2, ...

    Over dt = 0 the chain stays where it is; u_1 is its value at the first observation. Arrays of u end in ``[s, n]``,
    with any axes before; what depends on u has as many axes as u, and broadcasts against it. Leaves of ``params`` end
    in ``[s, n]``, leaves of ``obs`` in ``[s, 1]``.
    """

    regime_names: eqx.AbstractVar[tuple[str, ...]]
    """The values of u, counted from 0, where they are finitely many; none where u is a number drawn at random."""
    guided: eqx.AbstractVar[bool]
    """Whether there is a ``propose``."""

    @abc.abstractmethod
    def start(
        self, key: Array, params: PyTree[Array], obs: Observation, m: int
    ) -> tuple[Float[Array, "m s n"] | Int[Array, "m s n"], Float[Array, "m s n"]]:
        """m values of u_1 and their log weights, which sum to one: all regimes and their probabilities, or draws."""

    @abc.abstractmethod
    def successors(
        self, key: Array, params: PyTree[Array], u: Array, obs: Observation
    ) -> tuple[Array, Float[Array, "k m s n"]]:
        """Values that may follow each u ``[m, s, n]``, ``[k, #m, #s, #n]``, and log weights that sum to one over k.

        All regimes and their transition probabilities, or draws (then the weights do so in expectation).
        """

    def propose(
        self,
        key: Array,
        params: PyTree[Array],
        u: Array,
        obs: Observation,
        ahead: tuple[Float[Array, "y m s n"], Float[Array, "y m s n"]],
    ) -> tuple[Array, Float[Array, "k m s n"]]:
        """Successors with y_t in sight; ``ahead`` are its mean and sd, of every channel, as if u stayed. A hook.

        Log weights are those of ``successors``, over the probability or density with which they were drawn.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def transit(self, key: Array, params: PyTree[Array], u: Array, obs: Observation) -> Array:
        """One draw of what follows each u ``[s, n]``."""

    @abc.abstractmethod
    def initial(self, params: PyTree[Array], u: Array, obs: Observation) -> tuple[Matrix, Matrix]:
        """m0 and chol_P0 of x_1 given u_1."""

    @abc.abstractmethod
    def matrices(self, params: PyTree[Array], u: Array, obs: Observation) -> System:
        """The matrices of the step that ends in ``obs``, given the value of u that it ends with."""


class AbstractHiddenMarkov(AbstractModel):
    """Observations that depend on a finite hidden Markov chain u_t of regimes alone: what the forward filter needs.

    The state is the indicator of every regime, so that ``state_names`` are the regimes' names and its mean their
    probabilities. Axes as above; regimes ``k`` come first.
    """

    regime_names: eqx.AbstractVar[tuple[str, ...]]

    @abc.abstractmethod
    def initial_probabilities(self, params: PyTree[Array], obs: Observation) -> Float[Array, "k s n"]:
        """Law of the regime at the first observation; NaN where these are no probabilities."""

    @abc.abstractmethod
    def transition(self, params: PyTree[Array], obs: Observation) -> Float[Array, "k k s n"]:
        """Probabilities from a regime (row) to another (column), the identity over dt = 0; NaN where these are none."""

    @abc.abstractmethod
    def log_observation(self, params: PyTree[Array], obs: Observation) -> Float[Array, "k s n"]:
        """log p(y_t | u_t) over the values that are present."""

    @abc.abstractmethod
    def emission(
        self, params: PyTree[Array], obs: Observation
    ) -> tuple[Float[Array, "k y s n"], Float[Array, "k y s n"], Float[Array, "k y s n"]]:
        """Mean and sd of every channel given the regime, and its distribution function at y_t; NaN where unknown."""

    @abc.abstractmethod
    def sample_observation(
        self, key: Array, params: PyTree[Array], u: Int[Array, "s n"], obs: Observation
    ) -> Float[Array, "y s n"]:
        """One draw of y given the regime."""


class AbstractNonlinear(AbstractModel):
    """A Markov state known by draws, and observations that depend on it alone: what a particle filter needs.

    Methods see the whole population, its inner particles first: states are ``[x, m, s, n]``, leaves of ``params`` end
    in ``[1, s, n]``, leaves of ``obs`` in ``[1, s, 1]``; ``key`` is one key per series.
    """

    guided: eqx.AbstractVar[bool]
    """Whether there is a ``propose``."""
    looks_ahead: eqx.AbstractVar[bool]
    """Whether there is a ``look_ahead``."""

    @abc.abstractmethod
    def sample_initial(
        self, key: Array, params: PyTree[Array], obs: Observation, n_inner: int
    ) -> Float[Array, "x m s n"]:
        """x_1, as many as ``n_inner`` for each outer particle."""

    @abc.abstractmethod
    def sample_transition(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """x_t given x_{t-1}, over ``obs.dt`` > 0."""

    @abc.abstractmethod
    def log_observation(
        self, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "m s n"]:
        """log g(y_t | x_t), of the values that are present; 0 where none is."""

    @abc.abstractmethod
    def sample_observation(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "y m s n"] | None:
        """y_t given x_t; None where the model cannot draw it."""

    def predictive(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Array, Array, Array, Array] | None:
        """Of y_t given x_t, ``[y, m, s, n]``: mean, sd, and the probabilities to be less than y_t, and no more.

        A hook: where it is not known it is that of one draw.
        """
        y = self.sample_observation(key, params, x, obs)
        if y is None:
            return None
        seen = obs.y
        return y, jnp.zeros_like(y), (y < seen).astype(y.dtype), (y <= seen).astype(y.dtype)

    def settle(
        self, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """x_t with what y_t tells for certain. A hook: parts of the state that ``log_observation`` has integrated out.

        They are drawn with the others; then those drawn from their law given y_t take their place.
        """
        del params, obs
        return x

    def propose(
        self, key: Array, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Float[Array, "x m s n"], Float[Array, "m s n"]]:
        """x_t ~ q(. | x_{t-1}, y_t), every value present, and log f(x_t | x_{t-1}) - log q. A hook."""
        raise NotImplementedError

    def look_ahead(
        self, params: PyTree[Array], x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "m s n"]:
        """About log p(y_t | x_{t-1}), every value present; any finite one leaves the likelihood unbiased. A hook."""
        raise NotImplementedError


class AbstractFilter(eqx.Module):
    """The inner filter: p(x_t | y_1:t, theta) and the likelihood, for all particles of all series at once."""

    model: eqx.AbstractVar[AbstractModel]
    exact: ClassVar[bool] = True
    """Whether ``log_lik`` is that of the model; otherwise its exponential is an estimate without bias, by ``key``."""
    gaussian: ClassVar[bool] = True
    """Whether, for each particle, the one-step predictive of every channel is Gaussian."""

    @abc.abstractmethod
    def init(
        self, key: Array, params: PyTree[Array], obs: Observation, like: PyTree[Array] | None = None
    ) -> PyTree[Array]:
        """The belief before the first observation; ``obs`` is a blank record. ``key`` is ``[s]`` keys.

        A filter with inner particles takes as many as the belief ``like`` has, its own number by default.
        """

    @abc.abstractmethod
    def step(
        self, key: Array, params: PyTree[Array], belief: PyTree[Array], obs: Observation
    ) -> tuple[PyTree[Array], FilterInfo]:
        """Take one observation. Over dt = 0 the state stays; a missing value changes nothing but time."""

    def replay(
        self, key: Array, params: PyTree[Array], belief: PyTree[Array], rows: Observation, length: Int[Any, ""] | int
    ) -> tuple[PyTree[Array], Float[Array, "t s n"]]:
        """Take the first ``length`` of many rows ``[t, ...]``: the belief after them, and what each adds to log_lik.

        Rows that a series did not report change nothing. A hook: by default they are taken one after the other.
        """
        return in_turn(self, key, params, belief, rows, length)

    @abc.abstractmethod
    def moments(self, belief: PyTree[Array]) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"]]:
        """Mean and standard deviation of every state, for each particle."""

    def regimes(self, belief: PyTree[Array]) -> Float[Array, "k s n"] | None:
        """Probability of every regime of the model, for each particle. A hook: most models have none."""
        del belief
        return None

    def inner(self, belief: PyTree[Array]) -> int:
        """How many inner particles a belief has. A hook: exact filters have none."""
        del belief
        return 0

    @abc.abstractmethod
    def draw(self, key: Array, belief: PyTree[Array]) -> PyTree[Array]:
        """One draw of the whole state x_t (regime included) given y_1:t, for each particle."""

    @abc.abstractmethod
    def simulate(
        self, key: Array, params: PyTree[Array], state: PyTree[Array], obs: Observation
    ) -> tuple[PyTree[Array], Float[Array, "x s n"], Float[Array, "y s n"]]:
        """The state that follows a draw over ``obs.dt``, its values by ``model.state_names``, and y drawn from it."""


class AbstractRandomFilter(AbstractFilter):
    """A filter whose likelihood is an estimate, by inner particles: the axis before the last two of every leaf.

    Moves carry the estimate (Andrieu, Doucet & Holenstein 2010), so that the posterior is exact for any number of inner
    particles; where the estimates become too noisy for moves, their number doubles, up to ``max_inner``.
    """

    max_inner: eqx.AbstractVar[int]
    exact: ClassVar[bool] = False
    gaussian: ClassVar[bool] = False


class AbstractProposal(eqx.Module):
    """q(z_new | z), fitted to one weighted population ``[z, n]``; mapped over series by its caller."""

    independent: eqx.AbstractVar[bool]
    """Whether q does not depend on z, so that proposals can be drawn long before they are used."""

    @abc.abstractmethod
    def fit(
        self,
        z: Float[Array, "z n"],
        log_weight: Float[Array, " n"],
        centre: Float[Array, " z"],
        scale: Float[Array, " z"],
    ) -> PyTree[Array]:
        """Tuning from the population; ``centre`` and ``scale`` are of the prior's z, against degenerate fits."""

    @abc.abstractmethod
    def propose(self, key: Array, tuning: PyTree[Array], z: Float[Array, "z n"]) -> Float[Array, "z n"]:
        """One proposal per particle."""

    @abc.abstractmethod
    def log_density(
        self, tuning: PyTree[Array], z_new: Float[Array, "z n"], z: Float[Array, "z n"]
    ) -> Float[Array, " n"]:
        """log q(z_new | z), normalised: proposals are importance samples as well."""


class AbstractKernel(eqx.Module):
    """A Markov kernel that leaves the tempered posterior invariant, given the whole history (``Immediate`` only).

    Target at exponent phi: prior(z) * exp(log_lik(z) + phi * pending(z)).
    """

    def check(self, smc: Any, n_particles: int) -> None:
        """Raise a ``ModelError`` where the kernel cannot move this. A hook: most move everything."""

    @abc.abstractmethod
    def move(
        self,
        smc: Any,
        population: Any,
        history: Any,
        since: Int[Any, " s"],
        due: Bool[Any, " s"],
        *,
        rung: int,
        max_sweeps: int,
    ) -> tuple[Any, Any]:
        """Resample the series that are due and move their particles: (population, report).

        Runs on the host and calls compiled programs. Surprises from row ``since`` of history on are partly pending;
        ``rung`` counts from 0 and makes the keys; at most ``max_sweeps`` passes over history.
        """

    @abc.abstractmethod
    def warmup(self, smc: Any, population: Any, history: Any) -> Any:
        """Compile what ``move`` needs, on a history of one blank row; the population that results is thrown away."""


class AbstractSchedule(eqx.Module):
    """When to move, and how much of a pending move to do in each step. Its pending state is part of a checkpoint."""

    tempering: eqx.AbstractVar[bool]
    """Whether a surprising observation enters with an exponent below one at first."""
    remembers: eqx.AbstractVar[int | None]
    """How many rows of history it needs, the first ones; None for all."""

    @abc.abstractmethod
    def init(self, smc: Any, population: Any) -> PyTree[Array]:
        """The pending state of a fresh population."""

    @abc.abstractmethod
    def check(self, move: AbstractKernel | None, filter: AbstractFilter) -> None:
        """Raise ``ModelError``, with the reason, where it cannot use the filter or the move that was asked for."""

    @abc.abstractmethod
    def feed(
        self, smc: Any, pending: PyTree[Array], history: Any, block: Observation, count: int, known: int = 0
    ) -> PyTree[Array]:
        """What ``advance`` will need of history while the first ``count`` rows of a block are taken. On the host.

        Leaves have one row per row of the block; ``known`` rows of it are in history already.
        """

    @abc.abstractmethod
    def advance(
        self, smc: Any, pending: PyTree[Array], population: Any, row: Any, feed: PyTree[Array]
    ) -> PyTree[Array]:
        """The part of a pending move that is done with each observation. Traced, inside the loop over time.

        ``population`` has taken the observation already; ``row`` is what was reported of it, ``feed`` its row of
        ``feed``.
        """

    @abc.abstractmethod
    def due(self, smc: Any, pending: PyTree[Array], population: Any) -> Bool[Array, " s"]:
        """Which series need the host now. Traced; ends the loop over time early."""

    @abc.abstractmethod
    def act(
        self, smc: Any, pending: PyTree[Array], population: Any, history: Any, due: Bool[Any, " s"]
    ) -> tuple[PyTree[Array], Any, Any]:
        """Do what is due: (pending, population, report of the move or None). On the host."""

    def turns(self, smc: Any) -> tuple[int, ...]:
        """Lengths of history after which ``act`` works differently. A hook.

        Series whose histories lie on either side are not acted on together.
        """
        del smc
        return ()

    def close(
        self, smc: Any, pending: PyTree[Array], population: Any, history: Any
    ) -> tuple[PyTree[Array], Any, Any]:
        """Let in at once what is still pending of surprises, before a late row. A hook: mostly nothing is."""
        del smc, history
        return pending, population, None

    @abc.abstractmethod
    def warmup(self, smc: Any, pending: PyTree[Array], population: Any, history: Any) -> None:
        """Compile what ``act`` will need; ``history`` holds one blank row."""


def at_each_particle(f: Any, n_args: int = 1) -> Any:
    """Map a function of one particle over trailing ``[s, n]`` axes, in and out."""
    axes = (-1,) * n_args
    over_n = jax.vmap(f, in_axes=axes, out_axes=-1)
    return jax.vmap(over_n, in_axes=(-2,) * n_args, out_axes=-2)


def in_turn(
    filter: AbstractFilter,
    key: Array,
    params: PyTree[Array],
    belief: PyTree[Array],
    rows: Observation,
    length: Int[Any, ""] | int,
) -> tuple[PyTree[Array], Float[Array, "t s n"]]:
    """``AbstractFilter.replay``, one row after the other."""
    like = jax.tree.leaves(belief)[0]

    def row(i: Array, carry: tuple[PyTree[Array], Array]) -> tuple[PyTree[Array], Array]:
        belief, log_lik = carry
        obs = jax.tree.map(lambda leaf: leaf[i], rows)
        keys = jax.vmap(jax.random.fold_in)(key, obs.index[:, 0].astype(jnp.uint32))
        new, info = filter.step(keys, params, belief, obs)
        increment = info.log_lik.astype(jnp.float64)
        if (told := obs.reported) is not None:
            mask = jax.tree.map(lambda a: told.reshape((1,) * (a.ndim - 2) + told.shape), belief)
            new, increment = jax.tree.map(jnp.where, mask, new, belief), jnp.where(told, increment, 0.0)
        return new, log_lik.at[i].set(increment)

    nothing = jnp.zeros((len(rows.dt), *like.shape[-2:]), jnp.float64)
    return jax.lax.fori_loop(0, length, row, (belief, nothing))

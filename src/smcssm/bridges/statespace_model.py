"""A linear Gaussian model from PyTensor graphs of one step, with Gaussian variables folded into its state."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.graph.traversal import ancestors

from smcssm.bridges.constants import constant_entry
from smcssm.core import AbstractLinearGaussian, AbstractPrior, Matrix, Observation, System, Theta
from smcssm.errors import ModelError
from smcssm.linalg.entries import Rows, dot, is_zero
from smcssm.priors.graphs import JaxProgram

_DOUBLINGS = 40  # of the number of steps after which a stationary system must have forgotten where it was
_NEGATIVE = 1e-7  # of the largest variance: what rounding may leave of a semi-definite matrix


class Folded(NamedTuple):
    """A Gaussian variable in the first states, in this order: its name and shape, and ArviZ's names of its axes."""

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    coords: tuple[tuple[Any, ...], ...]


class Template:
    """Where the entries of a matrix come from: numbers, and the rest in order from an array."""

    def __init__(self, graph: Any, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.known = [constant_entry(graph, i) for i in np.ndindex(*shape)]
        self.size = sum(k is None for k in self.known)

    def computed(self, matrix: Array) -> Array:
        """The entries that are not known, of a matrix ``[*shape, ...]``: ``[size, ...]``."""
        places = np.array([i for i, k in zip(np.ndindex(*self.shape), self.known, strict=True) if k is None], int)
        return matrix[tuple(places.T)]

    def fill(self, computed: Array | None) -> Any:
        """Nested lists."""
        rest = iter(() if computed is None else jnp.unstack(computed))
        flat = iter([next(rest) if k is None else k for k in self.known])
        return _nested(flat, self.shape)


class Programs:
    """Graphs of one step as JAX programs: what depends on hyperparameters alone, on data and time alone, and on both.

    Args:
        graphs: matrices by name, of ``free`` and ``moving`` inputs.
        free: placeholders of the hyperparameters that they read.
        shapes: of these.
        moving: placeholders of the data, (1, k) each, and of the time.
        stable: matrices of which the stationary law is taken: their spectral radius must be below 1.
    """

    def __init__(
        self,
        graphs: dict[str, Any],
        free: list[Any],
        shapes: list[tuple[int, ...]],
        moving: list[Any],
        stable: list[Any],
    ) -> None:
        self.names, self.shapes = tuple(v.name for v in free), tuple(shapes)
        self.reads_time = moving[-1] in set(ancestors(list(graphs.values())))
        self.widths = [v.type.shape[1] for v in moving[:-1]]
        move_shapes = [v.type.shape for v in moving]
        everything = JaxProgram([*free, *moving], list(graphs.values()), [*shapes, *move_shapes])
        reduced: Any = rewrite_graph(list(graphs.values()), include=("canonicalize",), clone=True)
        self.templates = {
            name: Template(g, shape) for name, g, shape in zip(graphs, reduced, everything.shapes, strict=True)
        }
        kind = {name: self._kind(g, free, moving) for name, g in graphs.items() if self.templates[name].size}
        self.at_once, self.by_data, self.by_both = (
            tuple(name for name, k in kind.items() if k in of) for of in ({"theta", ""}, {"data"}, {"both"})
        )
        self._once = JaxProgram(free, [*(graphs[n] for n in self.at_once), *stable], shapes)
        self._data = JaxProgram(moving, [graphs[n] for n in self.by_data], move_shapes)
        self._both = JaxProgram([*free, *moving], [graphs[n] for n in self.by_both], [*shapes, *move_shapes])

    @staticmethod
    def _kind(graph: Any, free: list[Any], moving: list[Any]) -> str:
        read = set(ancestors([graph]))
        theta, data = not read.isdisjoint(free), not read.isdisjoint(moving)
        return "both" if theta and data else "data" if data else "theta" if theta else ""

    def once(self, theta: Theta) -> tuple[dict[str, Array], list[Array]]:
        """Computed entries by matrix, and the matrices that must be stable, of one particle."""
        found = self._once(*self._values(theta))
        entries = {name: self.templates[name].computed(m) for name, m in zip(self.at_once, found, strict=False)}
        return entries, found[len(self.at_once) :]

    def moving(self, theta: Theta, obs: Observation) -> dict[str, Array]:
        """Computed entries by matrix, of one step: ``[s, 1]`` or ``[s, n]``."""
        out: dict[str, Array] = {}
        rows = self._rows(obs) if self.by_data or self.by_both else []
        if self.by_data:
            over_series = jax.vmap(self._data, in_axes=-1, out_axes=-1)
            found = over_series(*(r[..., 0] for r in rows))
            out |= {n: self.templates[n].computed(m)[..., None] for n, m in zip(self.by_data, found, strict=True)}
        if self.by_both:
            values, k = self._values(theta), len(self.names)
            particles = jax.vmap(self._both, in_axes=(-1,) * k + (None,) * len(rows), out_axes=-1)
            series = jax.vmap(particles, in_axes=(-2,) * k + (-1,) * len(rows), out_axes=-2)
            found = series(*values, *(r[..., 0] for r in rows))
            out |= {n: self.templates[n].computed(m) for n, m in zip(self.by_both, found, strict=True)}
        return out

    def _rows(self, obs: Observation) -> list[Array]:
        """Data (1, k, s, 1), and the time (s, 1)."""
        cuts = np.cumsum(self.widths)[:-1] if self.widths else []
        if self.widths and obs.inputs is None:
            raise ModelError("the model reads exogenous data: give inputs=... at each step")
        parts = jnp.split(obs.inputs, cuts) if self.widths and obs.inputs is not None else []
        return [*(p.astype(float)[None] for p in parts), obs.index.astype(float)]

    def _values(self, theta: Theta) -> list[Array]:
        return [jnp.asarray(theta[name]).astype(float) for name in self.names]


class Statespace(AbstractLinearGaussian):
    """A model of pymc-extras, streamed: see ``ss.from_statespace``."""

    names: tuple[str, ...]
    """The free variables that the matrices depend on."""
    shapes: tuple[tuple[int, ...], ...]
    programs: Programs
    laws: tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]
    """Mean and square root of the folded variables' prior covariance, in the order of ``folded``."""
    folded: tuple[Folded, ...]
    state_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    input_names: tuple[str, ...]

    continuous_time: ClassVar[bool] = False

    @property
    def reads(self) -> frozenset[str]:
        """The time, where there is a trend in it."""
        return frozenset({"t"} if self.programs.reads_time else ())

    def params(self, theta: Theta) -> PyTree[Array]:
        """All entries that depend on hyperparameters alone, covariances as square roots."""
        entries, roots, inside = self._examine(theta)
        for name in [n for n in ("a0", "c", "T", "J", "C") if n in entries]:
            entries[name] = jnp.where(inside, entries[name], 0.0)  # what does not count must not overflow either
        own = {n: jnp.asarray(theta[n]) for n in self.names} if self.programs.by_both else {}
        like = jnp.zeros((), float)  # not to be without a leaf
        return {
            "entries": jax.tree.map(_finite, entries),
            "roots": jax.tree.map(_finite, roots),
            "theta": own,
            "like": like,
        }

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where covariances are positive semi-definite, and stationary laws exist."""
        return self._examine(theta)[2]

    def initial(self, params: PyTree[Array], obs: Observation) -> tuple[Matrix, Matrix]:
        """Folded variables, then the state: N([mu, a + J mu], [[L, 0], [J L, root P0]])."""
        mu, L = self.laws
        a0, J = (self._fill(name, params["entries"]) for name in ("a0", "J"))
        root, k = self._root("P0", params), len(mu)
        mean = [*mu, *(_plus(a, dot(row, list(mu))) for a, row in zip(a0, J, strict=True))]
        columns = [[row[j] for row in L] for j in range(k)]
        chol = [[*row, *[0.0] * len(a0)] for row in map(list, L)]
        chol += [[*(dot(j_row, column) for column in columns), *row] for j_row, row in zip(J, root, strict=True)]
        return mean, chol

    def matrices(self, params: PyTree[Array], obs: Observation) -> System:
        """Folded variables stay and enter by C and D; chol_Q = R root Q."""
        found = {**params["entries"], **self.programs.moving(params["theta"], obs)}
        T, c, C, Z, d, D, R = (self._fill(name, found) for name in ("T", "c", "C", "Z", "d", "D", "R"))
        root, k = self._root("Q", params), len(self.laws[0])
        noise = [[dot(row, [r[j] for r in root]) for j in range(len(root))] for row in R]
        F = [[float(i == j) for j in range(k + len(T))] for i in range(k)]
        F += [[*C_row, *T_row] for C_row, T_row in zip(C, T, strict=True)]
        chol_Q = [[0.0] * len(root) for _ in range(k)] + noise
        H = [[*D_row, *Z_row] for D_row, Z_row in zip(D, Z, strict=True)]
        if obs.noise_sd is not None:
            raise ModelError("noise_sd was given, but a model of pymc-extras has its own measurement error")
        return System(F, [*[0.0] * k, *c], chol_Q, H, d, self._root("H", params))

    def default_prior(self, scale: float) -> AbstractPrior:
        """There is none.

        Raises:
            ModelError: always.
        """
        raise ModelError("a model of pymc-extras has the prior of its PyMC model: give that")

    def _examine(self, theta: Theta) -> tuple[dict[str, Array], dict[str, Array], Bool[Array, ""]]:
        entries, stable = self.programs.once(theta)
        roots, inside = {}, jnp.asarray(True)
        for name in ("P0", "Q", "H"):
            root, valid = covariance_root(self._fill(name, entries))
            entries.pop(name, None)
            computed, inside = [e for row in root for e in row if not isinstance(e, float)], inside & valid
            roots |= {name: jnp.stack(computed)} if computed else {}
        for e in jax.tree.leaves((entries, roots)):
            inside = inside & jnp.all(jnp.isfinite(e))
        for A in stable:
            inside = inside & is_stable(A)
        return entries, roots, inside

    def _fill(self, name: str, computed: dict[str, Array]) -> Any:
        return self.programs.templates[name].fill(computed.get(name))

    def _root(self, name: str, params: PyTree[Array]) -> Rows:
        template = self.programs.templates[name]
        known = _nested(iter([np.nan if k is None else k for k in template.known]), template.shape)
        entries = iter(jnp.unstack(params["roots"][name]) if name in params["roots"] else ())
        return [[e if isinstance(e, float) else next(entries) for e in row] for row in root_pattern(known)]


def _finite(e: Array) -> Array:
    return jnp.where(jnp.isfinite(e), e, 0.0)


def _plus(a: Any, b: Any) -> Any:
    return b if is_zero(a) else a if is_zero(b) else a + b


def _nested(flat: Any, shape: tuple[int, ...]) -> Any:
    return [_nested(flat, shape[1:]) for _ in range(shape[0])] if shape else next(flat)


def root_pattern(known: list[list[float]]) -> list[list[float | None]]:
    """Entries of the square root of a covariance that are known when compiling; NaN marks unknown ones."""
    n = len(known)
    if all(known[i][j] == 0.0 for i in range(n) for j in range(n) if i != j):
        diagonal = [None if np.isnan(known[i][i]) or known[i][i] < 0 else float(np.sqrt(known[i][i])) for i in range(n)]
        return [[diagonal[i] if i == j else 0.0 for j in range(n)] for i in range(n)]
    return [[None if j <= i else 0.0 for j in range(n)] for i in range(n)]


def covariance_root(A: Rows) -> tuple[Rows, Bool[Array, ""]]:
    """The lower-triangular root of a covariance of entries, of one particle, and whether it is one."""
    n = len(A)
    known = [[e if isinstance(e, float) else np.nan for e in row] for row in A]
    pattern = root_pattern(known)
    if all(known[i][j] == 0.0 for i in range(n) for j in range(n) if i != j):
        variances = jnp.stack([jnp.asarray(A[i][i], float) for i in range(n)])
        roots = jnp.sqrt(jnp.maximum(variances, 0.0))
        valid = jnp.all(variances >= 0)
        return [[pattern[i][j] if pattern[i][j] is not None else roots[i] for j in range(n)] for i in range(n)], valid
    L, valid = semidefinite_root(jnp.stack([jnp.stack([jnp.asarray(e, float) for e in row]) for row in A]))
    return [[L[i, j] if j <= i else 0.0 for j in range(n)] for i in range(n)], valid


def semidefinite_root(A: Float[Array, "x x"]) -> tuple[Float[Array, "x x"], Bool[Array, ""]]:
    """Cholesky, a column of zeros where nothing is left of the variance; and whether L L' is A."""
    n = len(A)
    least = n * jnp.finfo(A.dtype).eps * jnp.diag(A)

    def column_of(j: Array, left_L: tuple[Array, Array]) -> tuple[Array, Array]:
        left, L = left_L
        positive = left[j, j] > least[j]
        column = jnp.where(positive, left[:, j] / jnp.sqrt(jnp.where(positive, left[j, j], 1.0)), 0.0)
        column = jnp.where(jnp.arange(n) >= j, column, 0.0)
        return left - column[:, None] * column[None, :], L.at[:, j].set(column)

    left, L = jax.lax.fori_loop(0, n, column_of, (A, jnp.zeros_like(A)))
    return L, jnp.max(jnp.abs(left)) <= _NEGATIVE * jnp.max(jnp.abs(A))


def is_stable(A: Float[Array, "x x"]) -> Bool[Array, ""]:
    """Whether the spectral radius is below 1: some power of A has a norm below 1 (Gelfand)."""
    A = jax.lax.fori_loop(0, _DOUBLINGS, lambda _, power: power @ power, A)
    return jnp.sqrt(jnp.sum(A * A)) < 1


def must_be_stable(P0: Any) -> list[Any]:
    """The A of every Lyapunov equation P = A P A' + Q in a graph."""
    out = []
    for v in ancestors([P0]):
        op = v.owner.op if v.owner else None
        if type(getattr(op, "core_op", op)).__name__ in ("SolveBilinearDiscreteLyapunov", "KroneckerProduct"):
            out.append(v.owner.inputs[0])
    return out

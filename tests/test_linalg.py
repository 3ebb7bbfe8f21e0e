"""Triangularisation with known zeros, deficient ranks and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcssm.linalg import matvec, rows, stack, triangularise, vector
from smcssm.linalg.panels import panels, spread, triangular_columns

pytestmark = pytest.mark.usefixtures("x64")


def lower(A):
    """The factor of a numeric [i, j, s, n] with its zeros made known."""
    entries = [[0.0 if np.all(e == 0) else jnp.asarray(e) for e in row] for row in A]
    like = jnp.zeros(A.shape[2:])
    return np.asarray(jax.jit(lambda: stack(triangularise(entries), like))())


def square(A):
    return np.einsum("ik...,jk...->ij...", A, A)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


MASKS = {
    "dense": np.ones((4, 7)),
    "dense beside triangular": np.hstack([np.ones((4, 3)), np.tri(4)]),
    "shift": np.vstack([np.ones((1, 7)), np.eye(3, 7)]),
    "array of an update": np.vstack([np.ones((1, 7)), np.eye(3, 7, 1) + np.eye(3, 7, 4)]),
    "an empty row and an empty column": np.outer([1, 1, 0, 1], [1, 0, 1, 1, 1, 1, 1]),
    "diagonal": np.eye(4, 7),
    "wide zeros": np.eye(4, 7, 3),
    "zero": np.zeros((4, 7)),
}
SHAPES = {name: lambda A, mask=mask: A * mask[..., None, None] for name, mask in MASKS.items()}
SHAPES["rank one"] = lambda A: A[:, :1] * np.ones((1, 7, 1, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_factor_has_the_same_square_and_is_lower_triangular(shape):
    A = SHAPES[shape](random(4, 7, 2, 3))
    L = lower(A)
    np.testing.assert_allclose(square(L), square(A), rtol=0, atol=1e-13)
    assert np.all(L[np.triu_indices(4, 1)] == 0)


def test_dynamic_zeros_are_as_good_as_known_ones():
    """Particles of every rank side by side in one program."""
    A = np.stack([SHAPES[name](random(4, 7, 1)[..., None])[..., 0] for name in SHAPES], axis=-1)
    L = np.asarray(jax.jit(lambda A: stack(triangularise(rows(A)), A[0, 0]))(jnp.asarray(A)))
    np.testing.assert_allclose(square(L), square(A), rtol=0, atol=1e-13)
    assert np.all(np.diagonal(L) >= 0)


def test_small_pivot_keeps_relative_precision():
    """Next to a row of size 1, a noise of 1e-9 leaves a factor of 1e-9 that is right to more than a digit or two."""
    A = np.array([[1e-9, 1.0], [0.0, 1.0]])[:, :, None, None]
    np.testing.assert_allclose(lower(A)[1, 1], 1e-9, rtol=1e-15)


def test_known_zeros_leave_known_zeros():
    x = jnp.ones((1, 2))
    A = [[x, 0.0, x, 0.0], [0.0, x, 0.0, x]]
    assert triangularise(A)[1][0] == 0.0
    columns = triangular_columns(panels([[x, x], [0.0, x]], x), 2, x)
    assert [c.rows for c in columns] == [(0, 1), (1,)]


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_derivative_of_the_square_at_any_rank(rank):
    """Along A(u) = (B + u C) W with W of the given rank, the derivative of L L' is that of A A'."""
    B, C, W = random(3, rank, seed=1), random(3, rank, seed=2), random(rank, 5, seed=3)

    def factor(u):
        A = jnp.asarray(B @ W) + u * jnp.asarray(C @ W)
        L = stack(triangularise(rows(A[:, :, None, None])), jnp.zeros((1, 1)))[:, :, 0, 0]
        return L @ L.T

    value, tangent = jax.jit(lambda u: jax.jvp(factor, (u,), (1.0,)))(0.0)
    truth = B @ W @ W.T @ C.T
    np.testing.assert_allclose(value, B @ W @ W.T @ B.T, atol=1e-13)
    np.testing.assert_allclose(tangent, truth + truth.T, atol=1e-9)


def test_entries_are_numbers_or_arrays():
    x = jnp.arange(6.0).reshape(1, 6)
    M = rows([[1, 0.0, x], (np.float32(2), True, np.array(3))])
    assert M[0][:2] == [1.0, 0.0]
    assert M[1] == [2.0, 1.0, 3.0]
    assert all(type(e) is float for e in M[1])
    assert rows(np.eye(2)) == [[1.0, 0.0], [0.0, 1.0]]
    assert matvec(rows(np.eye(2)), [x, 0.0])[0] is x
    assert stack(M, x).shape == (2, 3, 1, 6)
    assert stack(rows(jnp.ones((2, 3, 1, 1))), x).shape == (2, 3, 1, 6)
    with pytest.raises(ValueError, match="vector"):
        vector(jnp.asarray(1.0))


def test_spread():
    values = jnp.arange(1.0, 4.0)[:, None, None]
    assert spread(values, (1, 2, 5), range(6)).ravel().tolist() == [0, 1, 2, 0, 0, 3]
    assert spread(values, (1, 2, 5), (1, 2, 5)) is values

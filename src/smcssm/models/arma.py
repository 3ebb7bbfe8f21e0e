"""Harvey's form of an ARMA process, stationary or not, and its initial laws in closed form.

Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, section 3.3; Durbin & Koopman (2012),
section 3.4. With c(B) = 1 - phi_1 B - ... and a(B) = 1 + theta_1 B + ..., the process c(B) y = a(B) e has the states

    x_1' = -c_1 x_1 + x_2 + e,   x_i' = -c_i x_1 + x_{i+1} + a_{i-1} e,      i = 1, ..., r = max(p, q + 1),   y = x_1

Stationary law. Let c(B) u = e. Then

    x_i = -sum_{j >= i} c_j B^(j-i+1) y + sum_{j >= i} a_{j-1} B^(j-i) e,   y = a(B) u,   e = c(B) u

which after cancelling is a combination of the last r values of the autoregression u (a Bezoutian of c and a):

    x_i = sum_{k=0}^{r-1} T_ik B^k u
    T_ik = sum_{m <= min(i-1, k)} c_m a_{k+i-1-m} - sum_{m <= min(i-2, k-1)} a_m c_{k+i-1-m}

With L the root of u's Toeplitz covariance, which ``stationary`` has without solving any system, P0 = T L (T L)'.

Differences. Where delta(B) y = w and c(B) w = a(B) e, the same form holds for y with delta c instead of c. Let f_h be
the forecast of y from h steps before. Then x_i = sum_{m < i} (delta c)_m f_{i-1-m}: the generating function of x is
delta c f, as far as it goes. With delta f = (that of w) + g, where g is what the past of y adds, of a degree below that
of delta,

    x = (Harvey's states of w) + (the first coefficients of c(s) g(s))

Polynomials are lists of entries, lowest power first; known zeros cost nothing.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.linalg.entries import dot, multiply, stack
from smcssm.linalg.panels import fence
from smcssm.models.stationary import autocovariance_root

Polynomial = list[Any]


def lag_polynomial(coefficients: list[Any], sign: float, step: int = 1) -> Polynomial:
    """1 + sign (b_1 B^step + b_2 B^(2 step) + ...)."""
    gap: list[Any] = [0.0] * (step - 1)
    return [1.0, *(e for b in coefficients for e in (*gap, multiply(sign, b)))]


def product(a: Polynomial, b: Polynomial) -> Polynomial:
    """a(B) b(B)."""
    terms = [range(max(0, k - len(b) + 1), min(k + 1, len(a))) for k in range(len(a) + len(b) - 1)]
    return [dot([a[i] for i in used], [b[k - i] for i in used]) for k, used in enumerate(terms)]


def harvey(c: Polynomial, a: Polynomial, sigma: Any) -> tuple[list[list[Any]], list[list[Any]]]:
    """F and chol_Q, the innovations of standard deviation ``sigma``."""
    r = _size(c, a)
    F = [[multiply(-1.0, _at(c, i + 1)), *(1.0 if j == i + 1 else 0.0 for j in range(1, r))] for i in range(r)]
    return F, [[multiply(_at(a, i), sigma)] for i in range(r)]


def stationary_factor(c: Polynomial, a: Polynomial, sigma: Array) -> Float[Array, "r r *shape"]:
    """T L: a square root, not triangular, of the stationary covariance of Harvey's states."""
    L = autocovariance_root([multiply(-1.0, e) for e in c[1:]], sigma, _size(c, a))
    T = stack(_bezoutian(c, a), sigma)
    return fence(jnp.sum(T[:, :, None] * L[None], axis=1))


def _bezoutian(c: Polynomial, a: Polynomial) -> list[list[Any]]:
    r = _size(c, a)

    def entry(i: int, k: int) -> Any:
        plus, minus = range(min(i, k) + 1), range(min(i - 1, k - 1) + 1)
        return dot(
            [*(_at(c, m) for m in plus), *(_at(a, m) for m in minus)],
            [*(_at(a, k + i - m) for m in plus), *(multiply(-1.0, _at(c, k + i - m)) for m in minus)],
        )

    return [[entry(i, k) for k in range(r)] for i in range(r)]


def _size(c: Polynomial, a: Polynomial) -> int:
    return max(len(c) - 1, len(a))


def _at(a: Polynomial, k: int) -> Any:
    return a[k] if k < len(a) else 0.0

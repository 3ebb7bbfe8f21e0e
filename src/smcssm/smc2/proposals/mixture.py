"""Independence proposal: one or two Student-t's fitted to the population, and a wide one of the prior's scale.

    q(theta) = 0.95 sum_k share_k t_5(theta; mean_k, scale_k)  +  0.05 t_3(theta; centre, diag(scale²))

    start:       one component, or two: split at the mean of the most bimodal direction
    iterate:     r_ik  = share_k t_5(z_i; k) / sum_k share_k t_5(z_i; k),   u_ik = (5 + d) / (5 + distance²_ik)
                 share_k, mean_k, scale_k  <-  sums weighted by w_i r_ik, by w_i r_ik u_ik, by w_i r_ik u_ik
    two or one:  two where they gain more per particle than what they fit by chance (Akaike 1974), and a margin

EM for mixtures of t distributions: Peel & McLachlan (2000, doi:10.1023/A:1008981510081), the scale divided as by
Kent, Tyler & Vardi (1994). Components heavier in the tails than the posterior keep likelihood ratios bounded (South,
Pettitt & Drovandi 2019, doi:10.1214/18-BA1129). The wide one stands in for a share of draws from the prior: that has
no normalised density where the prior is truncated or has factors, and this one has. It bounds prior / q as well, but
for a prior with tails heavier than t_3.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float

from smcssm.core import AbstractProposal
from smcssm.smc2.proposals.points import Points, clean
from smcssm.smc2.proposals.student_t import log_density, squared_distance, standard_draws

_BODY, _WIDE = 5, 3  # degrees of freedom
_ITERATIONS = {1: 5, 2: 12}  # by number of components
_FEWEST = 100  # points in which a second component is looked for
_MARGIN = 0.02  # nats per particle that a second component has to gain
_LEAST = 0.05  # share of a component
_FLOOR = 1e-3  # of a component's scale, relative to the covariance of all


class Fit(NamedTuple):
    """Components: log shares, locations, and Cholesky factors of the scales."""

    log_share: Float[Array, " k"]
    mean: Float[Array, "k z"]
    chol: Float[Array, "k z z"]


class Mixture(AbstractProposal):
    """theta' ~ q, whatever theta is; ``defence`` is the share of the wide component."""

    defence: float = 0.05
    independent: bool = True

    def fit(
        self,
        z: Float[Array, "z n"],
        log_weight: Float[Array, " n"],
        centre: Float[Array, " z"],
        scale: Float[Array, " z"],
    ) -> Fit:
        """Two components and the wide one; the second has no share where one is enough."""
        points = clean(z, log_weight, centre, scale)
        body = _one_or_two(points)
        log_share = jnp.log1p(-self.defence) + body.log_share
        return Fit(
            jnp.append(log_share, jnp.log(self.defence)),
            jnp.concatenate([points.mean[None] + body.mean @ points.chol.T, points.centre[None]]),
            jnp.concatenate([points.chol @ body.chol, jnp.diag(points.scale)[None]]),
        )

    def propose(self, key: Array, tuning: Fit, z: Float[Array, "z n"]) -> Float[Array, "z n"]:
        """Independent draws."""
        key_component, key_draw = jax.random.split(key)
        component = jax.random.categorical(key_component, tuning.log_share, shape=z.shape[1:])
        draws = standard_draws(key_draw, z, jnp.where(component < 2, _BODY, _WIDE), _BODY)
        of_each = tuning.mean[:, :, None] + tuning.chol @ draws
        return jnp.take_along_axis(of_each, component[None, None], axis=0)[0]

    def log_density(self, tuning: Fit, z_new: Float[Array, "z n"], z: Float[Array, "z n"]) -> Float[Array, " n"]:
        """The mixture's density at z_new; z plays no part."""
        body, wide = (Fit(*(leaf[part] for leaf in tuning)) for part in (slice(2), slice(2, 3)))
        return jnp.logaddexp(_log_density(body, z_new, _BODY), _log_density(wide, z_new, _WIDE))


def within_modes(
    z: Float[Array, "z n"], log_weight: Float[Array, " n"], centre: Float[Array, " z"], scale: Float[Array, " z"]
) -> Float[Array, "z z"]:
    """Cholesky factor of the population's covariance; where it has two modes, less that between them."""
    points = clean(z, log_weight, centre, scale)
    y = _standard(points)
    body = _one_or_two(points)
    assigned = points.weight[None] * jax.nn.softmax(_each_log_density(body, y, _BODY), axis=0)
    share = jnp.sum(assigned, axis=1)
    mean = assigned @ y.T / jnp.maximum(share, 1e-300)[:, None]
    return points.chol @ jnp.linalg.cholesky(jnp.eye(len(y)) - mean.T * share[None] @ mean)


def _log_density(fit: Fit, z: Float[Array, "z n"], nu: int) -> Float[Array, " n"]:
    """Log density of a mixture of t's with the same degrees of freedom."""
    return logsumexp(_each_log_density(fit, z, nu), axis=0)


def _each_log_density(fit: Fit, z: Float[Array, "z n"], nu: int) -> Float[Array, "k n"]:
    """That of each component, its share included."""
    each = jax.vmap(lambda mean, chol: log_density(squared_distance(z, mean, chol), chol, nu))(fit.mean, fit.chol)
    return fit.log_share[:, None] + each


def _standard(points: Points) -> Float[Array, "z n"]:
    """Coordinates in which the population has mean 0 and covariance 1, what the prior lends it included."""
    return jax.scipy.linalg.solve_triangular(points.chol, points.z - points.mean[:, None], lower=True)


def _one_or_two(points: Points) -> Fit:
    """The body, in standard coordinates."""
    d = len(points.z)
    y = _standard(points)
    floor = (1 + _FLOOR) * jnp.eye(d) - y * points.weight[None] @ y.T  # what is lent, and a little more
    one = _em(y, points, floor, jnp.ones_like(points.weight, bool)[None])
    nothing = Fit(jnp.array([-jnp.inf]), jnp.zeros((1, d)), jnp.eye(d)[None])
    alone = jax.tree.map(lambda *leaves: jnp.concatenate(leaves).astype(y.dtype), one, nothing)
    if y.shape[1] < _FEWEST:
        return alone
    upper = _upper(points)
    two = _em(y, points, floor, jnp.stack([upper, ~upper]))
    gain = points.weight @ (_log_density(two, y, _BODY) - _log_density(one, y, _BODY))
    parameters = 1 + d + d * (d + 1) / 2
    enough = (points.effective >= 20 * d) & (jnp.exp(jnp.min(two.log_share)) >= _LEAST)
    better = enough & (gain - parameters / points.effective > _MARGIN)
    return jax.tree.map(lambda *leaves: jnp.where(better, *leaves), two, alone)


def _upper(points: Points) -> Bool[Array, " n"]:
    """Which points lie beyond the mean, on the side of the longer tail, in the direction that looks most bimodal.

    Candidates are the coordinates and the leading principal direction of them all; (skewness² + 1) / kurtosis is 1/3
    for a Gaussian and near 1 for two modes, equal or not.
    """
    x = points.z - points.mean[:, None]
    x = x / jnp.linalg.norm(points.chol, axis=1)[:, None]
    _, directions = jnp.linalg.eigh(x * points.weight[None] @ x.T)
    x = jnp.concatenate([x, directions[:, -1:].T @ x])
    second, third, fourth = (x**p @ points.weight for p in (2, 3, 4))
    tiny = jnp.finfo(x.dtype).tiny
    bimodality = (third**2 + second**3) / jnp.maximum(fourth * second, tiny)
    best = jnp.argmax(bimodality)
    return jnp.where(third[best] < 0, x[best] < 0, x[best] > 0)  # an eigenvector has no sign of its own


def _em(
    y: Float[Array, "z n"],
    points: Points,
    floor: Float[Array, "z z"],
    start: Bool[Array, "k n"],
) -> Fit:
    """Fit a mixture from hard assignments, every covariance over a floor; a component without points stays without.

    Scales are widened by 1 + 3 d / (effective number of points), for what a few points leave open.
    """
    d = len(y)

    def components(assigned: Float[Array, "k n"], factor: Float[Array, "k n"]) -> Fit:
        a = points.weight[None] * assigned
        share = jnp.sum(a, axis=1)
        a = a * factor
        a = a / jnp.maximum(jnp.sum(a, axis=1, keepdims=True), 1e-300)
        mean = a @ y.T
        centred = y[None] - mean[:, :, None]
        covariance = (centred * a[:, None]) @ jnp.swapaxes(centred, 1, 2)
        return Fit(jnp.log(share), mean, jnp.linalg.cholesky(covariance + floor[None]))

    def iterate(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        fit = components(*state)
        square = jax.vmap(partial(squared_distance, y))(fit.mean, fit.chol)
        each = jax.vmap(lambda s, chol: log_density(s, chol, _BODY))(square, fit.chol)
        return jax.nn.softmax(fit.log_share[:, None] + each, axis=0), (_BODY + d) / (_BODY + square)

    hard = start.astype(y.dtype)
    fit = components(*jax.lax.fori_loop(0, _ITERATIONS[len(hard)], iterate, (hard, jnp.ones_like(hard))))
    number = jnp.maximum(points.effective * jnp.exp(fit.log_share), 1.0)
    wider = jnp.sqrt(1 + 3 * d / number)
    return fit._replace(chol=fit.chol * wider[:, None, None])

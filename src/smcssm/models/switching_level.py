"""A random-walk level whose noises are larger at some times than at others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import AbstractPrior, Theta
from smcssm.errors import ModelError
from smcssm.models.arguments import Numbers, count, deviations, numbers
from smcssm.models.structural import nonnegative
from smcssm.models.switching import Switching
from smcssm.priors.base import Beta, Dirichlet, HalfNormal, Independent

_NOISES = ("sigma_level", "sigma_obs")


def SwitchingLevel(
    switches: str | Sequence[str] = "sigma_obs",
    n_regimes: int = 2,
    *,
    initial_mean: Numbers = 0.0,
    initial_sd: Numbers = 1.0,
    regime_names: Sequence[str] | None = None,
) -> Switching:
    """level' = level + sigma_level e, y = level + sigma_obs n, with noises that depend on a regime.

    Args:
        switches: which of ``sigma_level`` and ``sigma_obs`` have a value for each regime; the other one is a scalar.
        n_regimes: how many regimes there are.
        initial_mean: of the level at the first observation.
        initial_sd: its standard deviation.
        regime_names: names of the regimes.

    Of two regimes ``stay`` is the probability of each to stay where it is; of more, ``transition`` is the matrix of
    probabilities. The regimes are exchangeable a priori: read summaries in the order of one of their noises.
    """
    chosen = (switches,) if isinstance(switches, str) else tuple(switches)
    if not chosen or not set(chosen) <= set(_NOISES):
        raise ModelError(f"SwitchingLevel(switches): expected some of {', '.join(_NOISES)}, got {switches!r}")
    K = count("SwitchingLevel(n_regimes)", n_regimes, 2)
    m0 = numbers("SwitchingLevel(initial_mean)", initial_mean, 1)[0]
    sd0 = deviations("SwitchingLevel(initial_sd)", initial_sd, 1)[0]
    moves = "stay" if K == 2 else "transition"
    shapes = {name: (K,) for name in chosen} | {moves: (2,) if K == 2 else (K, K)}
    return Switching(
        [_Regime(k, chosen, m0, sd0) for k in range(K)],
        transition=_Moves(K),
        names=(*_NOISES, moves),
        shapes=shapes,
        states=("level",),
        support=_no_negative_noise,
        default_prior=_Prior(chosen, K),
        per_regime={name: len(shape) for name, shape in shapes.items()},
        regime_names=regime_names or [f"regime{k}" for k in range(K)],
    )


class _Regime(eqx.Module):
    """The matrices of one regime."""

    k: int
    switches: tuple[str, ...]
    initial_mean: float
    initial_sd: float

    def __call__(self, theta: Theta) -> dict[str, Any]:
        level, obs = (theta[name][self.k] if name in self.switches else theta[name] for name in _NOISES)
        return {
            "m0": [self.initial_mean],
            "chol_P0": [[self.initial_sd]],
            "F": [[1.0]],
            "chol_Q": [[level]],
            "H": [[1.0]],
            "chol_R": [[obs]],
        }


class _Moves(eqx.Module):
    """Transition probabilities."""

    n_regimes: int

    def __call__(self, theta: Theta) -> Any:
        if self.n_regimes > 2:
            return theta["transition"]
        stay = theta["stay"]
        return [[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]]


class _Prior(eqx.Module):
    """The same law for every regime; regimes last."""

    switches: tuple[str, ...]
    n_regimes: int

    def __call__(self, scale: float) -> AbstractPrior:
        K = self.n_regimes
        noises = {name: HalfNormal(scale, (K,) if name in self.switches else ()) for name in _NOISES}
        if K == 2:
            return Independent({**noises, "stay": Beta(8.0, 2.0, (2,))})
        rows = [[8.0 if i == j else 2.0 / (K - 1) for j in range(K)] for i in range(K)]
        return Independent({**noises, "transition": Dirichlet(rows)})


def _no_negative_noise(theta: Theta) -> Bool[Array, ""]:
    return nonnegative(theta, _NOISES) & jnp.asarray(True)

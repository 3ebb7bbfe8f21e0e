"""The Nile: the posterior of a local level model, online, against a quadrature that the test computes itself."""

import numpy as np
import pymc as pm
import pytest
from scipy import stats
from statsmodels.datasets import nile

import quadrature
import smcssm as ss

N = 1000
TIMES = (25, 50, 75, 100)
Y = nile.load_pandas().data["volume"].to_numpy(float)

with pm.Model() as PRIOR:
    pm.HalfNormal("sigma_level", 50.0)
    pm.HalfNormal("sigma_obs", 150.0)
MODEL = ss.models.LocalLevel(initial_mean=1120.0, initial_sd=300.0)


@pytest.fixture(scope="module")
def exact():
    return quadrature.local_level(Y, 1120.0, 300.0, (50.0, 150.0), TIMES)


def read(engine):
    """Everything that is compared, in one vector; the evidence last."""
    table = engine.summary().loc[["sigma_level", "sigma_obs"]]
    state, ahead = engine.state(), engine.forecast(1)
    return np.concatenate(
        [
            table["mean"],
            table["sd"],
            table[["q05", "q50", "q95"]].to_numpy().ravel(),
            [state["mean"].item(), state["sd"].item(), ahead["mean"].item(), ahead["sd"].item()],
            ahead["quantiles"].values.ravel(),
            [engine.log_evidence],
        ]
    )


def truth(e):
    """The same from quadrature, and the posterior sd that each entry is measured in."""
    values = np.concatenate(
        [
            e.mean,
            e.sd,
            e.quantiles.ravel(),
            [e.level_mean, e.level_sd, e.forecast_mean, e.forecast_sd],
            e.forecast_quantiles,
            [e.log_evidence],
        ]
    )
    units = np.concatenate([e.sd, e.sd, np.repeat(e.sd, 3), [e.level_sd] * 2, [e.forecast_sd] * 5, [1.0]])
    return values, units


def check(exact, seeds, runs):
    errors = {t: [] for t in TIMES}
    for seed in seeds:
        engine = ss.Engine(MODEL, PRIOR, n_particles=N, runs=runs, seed=seed)
        for start, t in zip((0, *TIMES), TIMES, strict=False):
            engine.update(Y[start:t])
            values, units = truth(exact[t])
            errors[t].append((read(engine) - values) / units)
    errors = np.array([errors[t] for t in TIMES])  # time, seed, quantity
    bound = stats.t.ppf(1 - 0.01 / (2 * errors.shape[0] * errors.shape[2]), len(seeds) - 1)
    standard_error = errors.std(axis=1, ddof=1) / len(seeds) ** 0.5
    assert np.all(np.abs(errors.mean(axis=1)) <= bound * standard_error), "bias"
    rms = np.sqrt(np.mean(errors[..., :-1] ** 2, axis=1))
    luck = 1.0 if len(seeds) >= 32 else np.sqrt(stats.chi2.ppf(0.99, len(seeds)) / len(seeds))  # of a few seeds
    assert rms.max() <= luck * 2 / np.sqrt(N / 4), f"root mean square error {rms.max():.3f} posterior sds"
    assert errors[..., -1].std(axis=1, ddof=1).max() <= 0.15, "spread of the log evidence"


@pytest.mark.parametrize("runs", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_posterior_agrees_with_quadrature(exact, runs):
    check(exact, range(8), runs)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 3])
def test_posterior_agrees_with_quadrature_over_32_seeds(exact, runs):
    check(exact, range(100, 132), runs)

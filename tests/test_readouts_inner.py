"""States, forecasts and exports of engines whose filters are not Kalman's."""

import functools
import importlib
import json

import numpy as np
import pytest

import smcssm as ss
from smcssm.filters import Particle, RaoBlackwell

T, N, M, DRAWS = 30, 128, 32, 20_000
H = 3
PARTS = {
    "regimes": (ss.models.GaussianRegimes(2), None),
    "switching": (ss.models.SwitchingLevel(initial_sd=2.0), RaoBlackwell(n_particles=M)),
    "nonlinear": (ss.models.StochasticVolatility(), Particle(n_particles=M)),
}
NAMES = ["switching", *(pytest.param(name, marks=pytest.mark.slow) for name in ("regimes", "nonlinear"))]


@functools.cache
def engine(name):
    model, inner = PARTS[name]
    y = np.random.default_rng(2).normal(size=T) * np.where(np.arange(T) // 7 % 2, 2.0, 0.5)
    y[4] = np.nan
    made = ss.Engine(model, model.default_prior(1.0), n_particles=N, filter=inner, seed=3)
    made.update(y)
    return made


def ahead(name):
    """Mean and variance of y_t+1 .. y_t+H at each particle, from what it believes, in NumPy; [h, n]."""
    snapshot = engine(name).snapshot()
    theta = {k: v[..., 0, :] for k, v in snapshot.theta().items()}
    belief = {k: np.asarray(v)[..., 0, :] for k, v in vars(snapshot.population.belief).items() if v is not None}
    if name == "nonlinear":
        w, x = np.exp(belief["log_weight"]), belief["x"][0]
        mu, phi, s2 = theta["mu"], theta["phi"], theta["sigma_volatility"] ** 2
        steps = [(mu + phi**h * (x - mu), s2 * sum(phi ** (2 * j) for j in range(h))) for h in range(1, H + 1)]
        return np.zeros((H, N)), np.array([(w * np.exp(m + v / 2)).sum(axis=0) for m, v in steps])
    stay = theta["stay"]
    P, told = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]]), []
    if name == "regimes":
        p = belief["p"]
        for _ in range(H):
            p = np.einsum("in,ijn->jn", p, P)
            mean = (p * theta["mean"]).sum(axis=0)
            told.append((mean, (p * (theta["sigma"] ** 2 + theta["mean"] ** 2)).sum(axis=0) - mean**2))
        return np.array(told).swapaxes(0, 1)
    w, m, v = np.exp(belief["log_weight"]), belief["mean"][0], belief["chol"][0, 0] ** 2
    p, level = np.array([(w * (belief["u"] == k)).sum(axis=0) for k in range(2)]), (w * m).sum(axis=0)
    spread = (w * (v + m**2)).sum(axis=0) - level**2
    for h in range(1, H + 1):
        p = np.einsum("in,ijn->jn", p, P)
        told.append((level, spread + h * theta["sigma_level"] ** 2 + (p * theta["sigma_obs"] ** 2).sum(axis=0)))
    return np.array(told).swapaxes(0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_forecasts_have_the_moments_of_the_beliefs(name):
    forecast = engine(name).forecast(H)
    mean, variance = ahead(name)
    w = engine(name).snapshot().weights()[0]
    centre = mean @ w
    square = (variance + mean**2) @ w
    sd = np.sqrt(square - centre**2)
    got, spread = forecast["mean"].values[:, 0], forecast["sd"].values[:, 0]
    y = engine(name).forecast(H, draws=DRAWS, seed=9)["draws"].values[..., 0]
    error = y.std(axis=0) / np.sqrt(DRAWS)
    of_square = ((y - y.mean(axis=0)) ** 2).std(axis=0) / np.sqrt(DRAWS)
    for m, v in ((got, spread**2), (y.mean(axis=0), y.var(axis=0))):
        assert (np.abs(m - centre) < 4 * error).all()
        assert (np.abs(v - sd**2) < 4 * of_square).all()
    levels = forecast["quantiles"].values[:, 0]
    assert (np.diff(levels, axis=1) > 0).all()
    below = [np.mean(y[:, h, None] < levels[h], axis=0) for h in range(H)]
    np.testing.assert_allclose(below, np.broadcast_to([0.05, 0.5, 0.95], (H, 3)), atol=4 * np.sqrt(0.5 / DRAWS))


def test_paths_in_shares_are_paths(monkeypatch):
    monkeypatch.setattr(importlib.import_module("smcssm.readout.paths"), "ROOM", 4 * M * 700)
    y = engine("switching").forecast(1, draws=2000, seed=1)["draws"].values[:, 0, 0]
    mean, variance = ahead("switching")
    w = engine("switching").snapshot().weights()[0]
    sd = np.sqrt((variance[0] + mean[0] ** 2) @ w - (mean[0] @ w) ** 2)
    assert len(np.unique(y)) == 2000
    assert abs(y.mean() - mean[0] @ w) < 4 * sd / np.sqrt(2000)


@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    made = engine(name)
    tree, state = made.to_arviz(draws=50, predictive=True), made.state()
    assert {"posterior", "sample_stats", "prior", "filtered_state", "observed_data", "record"} <= set(tree.children)
    json.dumps(tree.attrs)
    assert np.isfinite(tree["sample_stats"]["lp"]).all()
    for names in made.model.names:
        assert np.isfinite(tree["posterior"][names]).all()
    terms, whole = tree["log_likelihood"]["y"].sum("time"), tree["sample_stats"]["log_likelihood"]
    assert float(abs(terms - whole).mean()) < (1e-9 if name == "regimes" else 2.0)  # or estimates
    assert np.isfinite(tree["posterior_predictive"]["y"]).all()
    ahead = tree["one_step_predictive"]
    assert (ahead["sd"] > 0).all()
    assert np.isfinite(ahead["pit"][np.arange(T) != 4]).all()
    assert ("probability" in state) == (name != "nonlinear")
    if name != "nonlinear":
        snapshot = made.snapshot()
        want = np.sum(snapshot.weights()[0] * snapshot.regimes()[:, 0], axis=-1)
        np.testing.assert_allclose(state["probability"], want)
        np.testing.assert_allclose(state["probability"].sum(), 1.0, rtol=1e-9)
        assert list(state["regime"].values) == list(made.model.regime_names)
        np.testing.assert_allclose(tree["filtered_state"]["probability"], want)
    assert (made.summary()["sd"] > 0).all()

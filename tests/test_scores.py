"""Scores against a recomputation from what each step said, and quadrature; models compared against the evidences."""

import numpy as np
import pytest
from scipy import integrate, stats

import small
import smcssm as ss
from smcssm.comparison import probabilities
from smcssm.errors import InputError, ModelError
from smcssm.readout.scores import crps_of_normal


def test_crps_of_a_normal_law_is_its_integral():
    for y, m, s in [(0.3, 1.0, 0.5), (-2.0, 0.0, 2.0)]:
        below = integrate.quad(lambda x, m=m, s=s: stats.norm.cdf(x, m, s) ** 2, m - 12 * s, y)[0]
        above = integrate.quad(lambda x, m=m, s=s: stats.norm.sf(x, m, s) ** 2, y, m + 12 * s)[0]
        np.testing.assert_allclose(crps_of_normal(*np.array([[y], [m], [s]]))[0], below + above, rtol=1e-8)


def expected(infos, y, since):
    """One channel's scores, from its steps."""
    seen = ~np.isnan(y) & (np.arange(len(y)) >= since)
    mean, sd, pit, y = infos.predictive_mean[seen], infos.predictive_sd[seen], infos.pit[seen], y[seen]
    counts = np.histogram(pit, 10, (0, 1))[0]
    return {
        "n": seen.sum(),
        "log_score": infos.log_predictive[seen].mean(),
        "crps": crps_of_normal(y, mean, sd).mean(),
        "rmse": np.sqrt(np.mean((y - mean) ** 2)),
        "coverage_50": np.mean((pit >= 0.25) & (pit <= 0.75)),
        "coverage_90": np.mean((pit >= 0.05) & (pit <= 0.95)),
        "calibration": stats.chisquare(counts).pvalue,
    }


def test_running_sums_are_those_of_the_steps_and_outlive_the_record():
    y = small.walk(60)
    y[10:13] = np.nan
    engine, short = small.level(), small.level(record=7)
    infos = engine.update(y)
    short.update(y[:25])
    with pytest.raises(InputError):
        short.update([1.0, "no number"])
    for value in y[25:]:
        short.step(value)
    for since in (0, 30):
        np.testing.assert_allclose(engine.scores(since).iloc[0].astype(float), list(expected(infos, y, since).values()))
    np.testing.assert_allclose(short.scores().iloc[0].astype(float), list(expected(infos, y, 0).values()), rtol=1e-9)
    np.testing.assert_allclose(engine.scores().loc["joint", "log_score"] * 57, infos.log_predictive.sum(), rtol=1e-9)
    with pytest.raises(ModelError, match="the record holds observations 54 to 60"):
        short.scores(since=20)
    with pytest.raises(ModelError, match="record=10_000"):
        small.level(record=None).scores()


def test_scores_of_two_channels():
    engine, infos = small.fitted()
    table = engine.scores()
    assert list(table.index) == ["north", "south", "joint"]
    assert list(table["n"]) == [44, 45, 45]
    np.testing.assert_allclose(table.loc["joint", "log_score"] * 45, infos.log_predictive.sum(), rtol=1e-9)


def test_models_are_compared_by_their_evidence():
    y = small.walk(40)
    other = ss.Engine(ss.models.LocalLevel(initial_sd=3.0), small.PRIOR, n_particles=small.N, seed=1)
    engines = {"wide": small.level(), "narrow": other}
    for engine in engines.values():
        engine.update(y)
    table, over_time = ss.compare(engines), probabilities(engines)
    odds = np.exp(engines["narrow"].log_evidence - engines["wide"].log_evidence)
    assert list(table.index) == ["narrow", "wide"]
    np.testing.assert_allclose(table["probability"], [odds / (1 + odds), 1 / (1 + odds)])
    np.testing.assert_allclose(table["log_bayes_factor"], [0.0, np.log(odds)])
    np.testing.assert_allclose(over_time.iloc[-1][["narrow", "wide"]], table["probability"])
    assert len(over_time) == 40 and over_time.iloc[0]["narrow"] > 0.9
    weighted = ss.compare(engines, prior={"wide": 3.0, "narrow": 1.0})
    np.testing.assert_allclose(weighted.loc["wide", "probability"], 3 / (3 + odds))
    engines["narrow"].step(0.0)
    with pytest.raises(InputError, match="wide has taken 40 observations, narrow 41"):
        ss.compare(engines)
    engines["wide"].step(1.0)
    with pytest.raises(InputError, match="different observations"):
        ss.compare(engines)
    with pytest.raises(ModelError, match="at least two"):
        ss.compare({"a": engines["wide"]})


def test_late_rows_are_not_scored_as_forecasts():
    engine = ss.Engine(ss.models.LocalLevel(0.0, 10.0), n_particles=64, late=ss.late.Revise(4))
    engine.update([0.1, 0.4, -0.3, 0.2], time=[0.0, 1.0, 2.0, 4.0])
    before = engine.scores()
    engine.step(0.3, time=3.0)
    engine.step(0.5, time=5.0)
    after = engine.scores()
    assert after.loc["y", "n"] == before.loc["y", "n"] + 1
    assert np.isfinite(after.loc["y", ["crps", "rmse"]].astype(float)).all()

"""Exports hold what the snapshot holds, in ArviZ's conventions, and reading them changes nothing."""

import json
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import small
from small import RUNS, N
from smcssm import plots
from smcssm.errors import ModelError, SmcssmWarning

DRAWS = 200


@pytest.fixture(scope="module")
def fitted():
    return small.fitted()


@pytest.fixture(scope="module")
def tree(fitted):
    return fitted[0].to_arviz(draws=DRAWS, seed=4)


def test_groups_and_attributes(fitted, tree):
    engine, _ = fitted
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {
        "posterior",
        "sample_stats",
        "prior",
        "filtered_state",
        "observed_data",
        "constant_data",
        "one_step_predictive",
        "record",
        "log_likelihood",
        "posterior_predictive",
    }
    a = tree.attrs
    assert (a["t"], a["runs"], a["n_particles"], a["inference_library"]) == (50, RUNS, N, "smcssm")
    assert a["log_evidence"] == pytest.approx(engine.log_evidence, rel=1e-14)
    np.testing.assert_array_equal(a["log_evidence_per_run"], engine.snapshot().log_evidence())
    assert "Immediate" in a["schedule"]
    json.dumps(a)


def test_posterior_is_that_of_the_engine(fitted, tree):
    engine, _ = fitted
    xr.testing.assert_identical(tree["posterior"].to_dataset().drop_attrs(), engine.posterior(DRAWS, seed=4))
    assert tree["posterior"]["sigma_obs"].dims == ("chain", "draw", "sensor")
    assert list(tree["posterior"]["sensor"].values) == ["north", "south"]
    means = tree["posterior"]["sigma_level"].mean(("chain", "draw")).item()
    assert means == pytest.approx(engine.summary().loc["sigma_level", "mean"], rel=0.05)


def test_statistics_belong_to_the_drawn_particles(fitted, tree):
    snapshot, statistics = fitted[0].snapshot(), tree["sample_stats"]
    chosen, theta = statistics["particle"].values, snapshot.theta()
    for run in range(RUNS):
        np.testing.assert_array_equal(
            tree["posterior"]["sigma_level"].values[run], theta["sigma_level"][run, chosen[run]]
        )
        np.testing.assert_array_equal(
            statistics["log_likelihood"].values[run], np.asarray(snapshot.population.log_lik)[run, chosen[run]]
        )
        np.testing.assert_allclose(
            np.exp(statistics["log_weight"].values[run]), snapshot.weights()[run, chosen[run]], rtol=1e-12
        )
    z = np.asarray(snapshot.population.z)[:, 0, chosen[0, :5]]
    with jax.enable_x64(True):
        log_prior = np.asarray(jax.vmap(fitted[0].prior.log_prob, in_axes=1)(z))
    lp = statistics["lp"] - statistics["log_likelihood"]
    np.testing.assert_allclose(lp.values[0, :5], log_prior, rtol=1e-9)
    w = snapshot.weights()
    np.testing.assert_allclose(statistics["ess"], 1 / (w**2).sum(axis=1))
    expected = DRAWS * w[0]
    assert (np.abs(np.bincount(chosen[0], minlength=N) - expected) < 1 + 1e-9).all()  # systematic: floor or ceil


def test_there_are_no_more_draws_than_particles_unless_asked_for(fitted):
    assert fitted[0].to_arviz().posterior.sizes["draw"] == N


def test_draws_are_shuffled(tree):
    chosen = tree["sample_stats"]["particle"].values
    assert abs(np.corrcoef(chosen[0][:-1], chosen[0][1:])[0, 1]) < 5 / DRAWS**0.5


def test_data_and_inputs(fitted, tree):
    observed = tree["observed_data"]["y"]
    assert observed.dims == ("time", "channel")
    np.testing.assert_array_equal(observed, small.readings())
    np.testing.assert_array_equal(observed["time"], np.arange(1, 51))
    np.testing.assert_array_equal(tree["constant_data"]["dt"], [0.0] + [1.0] * 49)
    assert "inputs" not in tree["constant_data"]


def test_pointwise_log_likelihoods_are_the_terms_of_the_particles(tree):
    terms = tree["log_likelihood"]["y"]
    assert terms.dims == ("chain", "draw", "time") and not terms.isnull().any()
    assert list(terms["time"].values) == [t for t in range(1, 51) if not 21 <= t <= 25]  # nothing was observed there
    np.testing.assert_allclose(terms.sum("time"), tree["sample_stats"]["log_likelihood"], rtol=1e-10)


def test_replicates_have_the_law_of_the_next_observation(tree):
    """Standardised by a filter in NumPy, given the draw's hyperparameters and the past, they are standard normal."""
    y, draws = small.readings(), tree["posterior"].to_dataset()
    replicates = tree["posterior_predictive"]["y"]
    assert replicates.dims == ("chain", "draw", "time", "channel") and replicates.sizes["time"] == 50
    H, d, u = np.ones((2, 1)), np.array([0.0, 5.0]), []
    for chain in range(RUNS):
        for draw in range(0, DRAWS, 10):
            at = {k: draws[k].values[chain, draw] for k in ("sigma_level", "sigma_obs", "drift")}
            m, P, Q, R = 0.0, 1.0, at["sigma_level"] ** 2, np.diag(at["sigma_obs"] ** 2)
            for t in range(50):
                m, P = (m, P) if t == 0 else (m + at["drift"], P + Q)
                S = P * (H @ H.T) + R
                u.append(np.linalg.solve(np.linalg.cholesky(S), replicates.values[chain, draw, t] - H[:, 0] * m - d))
                seen = ~np.isnan(y[t])
                if seen.any():
                    K = P * np.linalg.solve(S[np.ix_(seen, seen)], H[seen, 0])
                    m, P = m + K @ (y[t] - H[:, 0] * m - d)[seen], P - P * K @ H[seen, 0]
    u = np.array(u)
    assert stats.kstest(u.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(u.T)[0, 1]) < 4 / len(u) ** 0.5
    flat = u.reshape(-1, 50, 2)
    assert abs(np.mean(flat[:, 1:] * flat[:, :-1])) < 4 / flat[:, 1:].size ** 0.5  # and independent in time


def test_pointwise_groups_are_asked_for_where_they_are_large(fitted, monkeypatch):
    from smcssm.readout import pointwise

    assert {"log_likelihood", "posterior_predictive"}.isdisjoint(fitted[0].to_arviz(draws=5, predictive=False).children)
    monkeypatch.setattr(pointwise, "ROOM", 50 * 5 * RUNS * 3 - 1)
    assert "log_likelihood" not in fitted[0].to_arviz(draws=5).children
    assert fitted[0].to_arviz(draws=5, predictive=True)["log_likelihood"]["y"].sizes["draw"] == 5
    with pytest.raises(ModelError, match="none has come yet"):
        small.sensors().to_arviz(draws=5, predictive=True)


def test_one_step_forecasts_and_record(fitted, tree):
    engine, infos = fitted
    ahead, record = tree["one_step_predictive"], engine.record
    for name, values in (("mean", infos.predictive_mean), ("sd", infos.predictive_sd), ("pit", infos.pit)):
        np.testing.assert_array_equal(ahead[name], values)
    assert list(ahead["channel"].values) == ["north", "south"]
    assert np.isnan(ahead["pit"].values[20:25]).all()
    for name in ("log_predictive", "ess", "moved", "acceptance", "status"):
        np.testing.assert_array_equal(record[name], getattr(infos, name))
    np.testing.assert_array_equal(record["y"], small.readings())
    assert list(record["hyperparameter"].values) == ["sigma_level", "sigma_obs[north]", "sigma_obs[south]", "drift"]
    last = record["quantiles"].isel(time=-1)
    theta, w = engine.snapshot().theta()["sigma_obs"][1], engine.snapshot().weights()
    medians = []
    for values, mass in zip(theta, w, strict=True):
        order = np.argsort(values)
        medians.append(np.interp(0.5, np.cumsum(mass[order]) - 0.5 * mass[order], values[order]))
    median = last.sel(hyperparameter="sigma_obs[south]", quantile=0.5)
    assert median.item() == pytest.approx(np.mean(medians), rel=1e-3)  # a tie may fall on either neighbour
    xr.testing.assert_identical(tree["record"]["quantiles"], record["quantiles"])


def test_filtered_state(fitted, tree):
    xr.testing.assert_equal(tree["filtered_state"].to_dataset(), fitted[0].state())


def test_prior_group_is_a_sample_of_the_prior(tree):
    draws = tree["prior"]["sigma_obs"].values
    assert draws.shape == (RUNS, DRAWS, 2)
    pooled = np.concatenate([np.unique(draws[run, :, 0]) for run in range(RUNS)])
    assert stats.kstest(pooled, stats.halfnorm(scale=2.0).cdf).pvalue > 0.001


def test_prior_is_what_the_population_started_from():
    fresh = small.sensors()
    tree = fresh.to_arviz(draws=N)
    assert "observed_data" not in tree.children
    assert "one_step_predictive" not in tree.children
    for name in ("sigma_obs", "drift"):
        a, b = tree["posterior"][name].values, tree["prior"][name].values
        np.testing.assert_array_equal(np.sort(a, axis=1), np.sort(b, axis=1))
    assert fresh.record.sizes == {"time": 0, "channel": 2, "hyperparameter": 4, "quantile": 3}


def test_inputs_are_constant_data():
    engine, inputs = small.regression()
    tree = engine.to_arviz(draws=50)
    np.testing.assert_array_equal(tree["constant_data"]["inputs"], inputs)
    assert tree["constant_data"]["inputs"].dims == ("time", "input")
    assert list(tree["constant_data"]["input"].values) == ["input0", "input1"]
    assert tree["observed_data"]["y"].isnull().all()


def test_no_record_no_steps():
    engine = small.level(record=None)
    assert {"record", "one_step_predictive"}.isdisjoint(engine.to_arviz(draws=10).children)
    with pytest.raises(ModelError, match="record=10_000"):
        _ = engine.record


def test_a_short_record_keeps_the_whole_history():
    engine = small.sensors(record=4)
    y = np.full((10, 2), np.nan)  # nothing to move for
    engine.update(y)
    tree = engine.to_arviz(draws=10)
    np.testing.assert_array_equal(tree["one_step_predictive"]["time"], [7, 8, 9, 10])
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)


def test_an_export_does_not_change_later(fitted):
    engine = fitted[0].copy()
    tree = engine.to_arviz(draws=10)
    engine.update(small.readings(30))
    np.testing.assert_array_equal(tree["observed_data"]["y"], small.readings())
    assert tree["record"].sizes["time"] == 50


def test_reading_changes_nothing(fitted):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    engine, more = fitted[0].copy(), small.readings(20)
    untouched = engine.copy()
    for i in (0, 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmcssmWarning)
            engine.diagnose()
        engine.to_arviz(draws=20)
        for plot in (plots.forecast_fan, plots.hyperparameters, plots.moves, plots.pit_histogram):
            plt.close(plot(engine))
        engine.update(more[i : i + 10])
        untouched.update(more[i : i + 10])
    assert untouched.record["moved"].values[50:].any()
    xr.testing.assert_identical(engine.record, untouched.record)
    np.testing.assert_array_equal(engine.summary(), untouched.summary())
    np.testing.assert_array_equal(engine.snapshot().population.z, untouched.snapshot().population.z)
    assert engine.log_evidence == untouched.log_evidence


@pytest.mark.slow
def test_arviz_reads_the_file(tree, tmp_path):
    """In a process of its own, where ArviZ's own warnings are not errors: table, r-hat and plots."""
    path = tmp_path / "engine.nc"
    tree.to_netcdf(path)
    code = f"""
import matplotlib; matplotlib.use("Agg")
import arviz as az, xarray as xr
tree = xr.open_datatree({str(path)!r})
table = az.summary(tree, round_to="none")
assert (table["r_hat"].astype(float) < 1.1).all(), table
print(table["mean"].astype(float)["sigma_obs[south]"])
az.plot_trace_dist(tree); az.plot_forest(tree); az.plot_pair(tree); az.plot_prior_posterior(tree)
assert abs(az.loo(tree).elpd) < 1e4
assert az.compare({{"a": tree, "b": tree.isel(draw=slice(0, 100))}}).shape[0] == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mean = tree["posterior"]["sigma_obs"].sel(sensor="south").mean(("chain", "draw")).item()
    assert float(done.stdout) == pytest.approx(mean)

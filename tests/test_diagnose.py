"""Diagnoses: every value against a computation by hand, verdicts that come when they should, warnings once."""

import itertools
import warnings

import numpy as np
import pymc as pm
import pytest
from scipy import stats

import small
import smcssm as ss
from small import RUNS, N
from smcssm.errors import SmcssmWarning
from smcssm.readout.diagnose import diagnose, lag_one, uniformity

ENTRIES = {"sigma_level": 1.0, "sigma_obs[north]": 2.0, "sigma_obs[south]": 2.0}  # half normal, scale


@pytest.fixture(scope="module")
def fitted():
    return small.fitted()[0]


@pytest.fixture(scope="module")
def diagnosis(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmcssmWarning)
        return fitted.diagnose()


@pytest.fixture(scope="module")
def value(diagnosis):
    return diagnosis.table["value"]


def population(engine):
    return engine._runtime.state.population


def test_moves_and_weights_by_hand(fitted, diagnosis, value):
    table, move = diagnosis.table, fitted._runtime.state.last_move
    distinct = [len(set(run)) for run in np.asarray(population(fitted).z)[0]]
    assert value["distinct particles"] == min(distinct) <= N
    assert value["acceptance"] == move.acceptance[move.due].min()
    assert value["correlation with the start"] == move.correlation[move.due].max()
    assert value["slow mixing"] == (move.status == ss.Status.SLOW_MIXING).any()
    w = np.exp(np.asarray(population(fitted).log_weight))
    assert value["ess now"] == pytest.approx((w.sum(axis=1) ** 2 / (w**2).sum(axis=1)).min())
    assert value["least ess on record"] == fitted.record["least_ess"].values.min()
    assert value["tempering exponent"] == 1
    assert value["share at weight zero"] == 0
    assert list(table.columns) == ["value", "threshold", "verdict", "remedy"]
    assert set(table["verdict"]) <= {"ok", "check", "info"}  # after moves, with a record and runs: all is known


def test_least_ess_is_of_the_worst_run(fitted):
    record = fitted.record
    mean = record["ess"].values / RUNS
    assert (record["least_ess"].values <= mean + 1e-9).all()
    assert (record["least_ess"].values < mean - 1).any()
    moved = record["moved"].values
    assert (record["least_ess"].values[moved] < 0.5 * N).all()


@pytest.mark.parametrize(("i", "channel", "n"), [(0, "north", 44), (1, "south", 45)])
def test_calibration_by_hand(fitted, value, i, channel, n):
    pit = fitted.record["pit"].values[:, i]
    u = np.sort(pit[~np.isnan(pit)])
    assert len(u) == n
    ranks = np.arange(1, n + 1)
    distance = max((ranks / n - u).max(), (u - (ranks - 1) / n).max())
    assert value[f"calibration of {channel}"] == pytest.approx(stats.kstwo.sf(distance, n))
    score = stats.norm.ppf(pit)
    pairs = [(a, b) for a, b in itertools.pairwise(score) if not np.isnan(a + b)]
    assert value[f"dependence of {channel}"] == pytest.approx(abs(stats.pearsonr(*zip(*pairs, strict=True)).statistic))


def test_lag_one_leaves_missing_pairs_out():
    u = stats.norm.cdf([0.3, -0.2, np.nan, 1.0, 0.7, -1.1])
    r, pairs = lag_one(u)
    assert pairs == 3
    assert r == pytest.approx(np.corrcoef([0.3, 1.0, 0.7], [-0.2, 0.7, -1.1])[0, 1])
    assert lag_one(np.full(30, 0.5)) == (0.0, 29)
    assert lag_one(np.array([0.0, 1.0, 0.0, 1.0]))[0] == pytest.approx(-1)
    assert uniformity(np.array([np.nan, 0.5])) == pytest.approx(1.0)


def test_width_is_that_of_the_posterior_over_that_of_the_prior(fitted, value):
    summary = fitted.summary()
    for name, scale in ENTRIES.items():
        posterior = summary.loc[name, "q95"] - summary.loc[name, "q05"]
        prior = np.diff(stats.halfnorm(scale=scale).ppf([0.05, 0.95])).item()
        error = np.sqrt(0.05 * 0.95 / (N * RUNS)) / (stats.halfnorm.pdf(stats.halfnorm.ppf(0.95)) / scale) / prior
        assert value[f"posterior / prior width, {name}"] == pytest.approx(posterior / prior, rel=5 * error)


def test_spread_between_runs_by_hand(fitted, value):
    evidence = np.asarray(population(fitted).log_evidence)
    assert value["spread of log evidence"] == pytest.approx(np.sqrt(np.sum((evidence - evidence.mean()) ** 2) / 2))
    theta, w = fitted.snapshot().theta(), fitted.snapshot().weights()
    worst = 0.0
    for values in (theta["sigma_level"], theta["drift"], *theta["sigma_obs"]):
        means = [np.average(v, weights=p) for v, p in zip(values, w, strict=True)]
        within = [np.cov(v, aweights=p, ddof=0) for v, p in zip(values, w, strict=True)]
        worst = max(worst, np.std(means, ddof=1) / np.sqrt(np.mean(within)))
    assert value["spread of means"] == pytest.approx(worst)


def test_one_run_says_that_its_error_is_unknown():
    diagnosis = small.level().diagnose()
    row = diagnosis.table.loc["sd of log evidence"]
    assert row["verdict"] == "unknown"
    assert "runs=4" in row["remedy"]
    assert np.isnan(row["value"])


def test_before_the_first_move_and_observation():
    diagnosis = small.level().diagnose()
    early = diagnosis.table.query("verdict == 'n/a'").index
    assert {"distinct particles", "acceptance", "correlation with the start", "calibration"} <= set(early)
    assert {"posterior / prior width, sigma_level", "posterior / prior width, sigma_obs"} <= set(early)
    assert diagnosis.ok
    assert "t = 0: ok" in repr(diagnosis)


def test_without_a_record():
    table = small.level(record=None).diagnose().table
    missing = table.loc[["calibration", "dependence", "least ess on record", "steps in trouble"]]
    assert set(missing["verdict"]) == {"unknown"}
    assert missing["remedy"].str.contains("record=10_000").all()


def test_a_posterior_as_wide_as_the_prior_is_told_but_no_fault():
    vague = small.level()
    vague.step(np.nan)
    diagnosis = vague.diagnose()
    rows = diagnosis.table[diagnosis.table.index.str.startswith("posterior / prior")]
    assert set(rows["verdict"]) == {"info"}
    np.testing.assert_array_equal(rows["value"], 1.0)
    assert diagnosis.ok


@pytest.fixture(scope="module")
def surprised():
    y = small.walk(50)
    y[40] += 20 * np.diff(y).std()
    engines = {t: small.level(schedule=ss.schedules.Immediate(tempering=t)) for t in (True, False)}
    for engine in engines.values():
        engine.update(y)
    return engines


def test_an_untempered_surprise_is_found(surprised):
    with pytest.warns(SmcssmWarning, match="least ess on record.*t = 41.*tempering"):
        diagnosis = surprised[False].copy().diagnose()
    row = diagnosis.table.loc["least ess on record"]
    assert row["verdict"] == "check"
    assert row["value"] < 20
    assert not diagnosis.ok
    assert "to check" in repr(diagnosis)


def test_a_tempered_one_is_not(surprised):
    row = surprised[True].diagnose().table.loc["least ess on record"]
    assert row["verdict"] == "ok"
    assert row["value"] >= 20


def test_each_item_warns_once_per_engine(surprised):
    first = surprised[False].copy()
    with pytest.warns(SmcssmWarning) as told:
        failed = first.diagnose().table.query("verdict == 'check'").index
    assert sorted(str(w.message).split(" is ")[0] for w in told) == sorted(failed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not first.diagnose().ok
        first.copy().diagnose()  # a copy has the same past, and so has its reader
    with pytest.warns(SmcssmWarning):
        surprised[False].copy().diagnose()
    first.reset()
    assert first._told == set()


def test_a_badly_calibrated_model_is_found():
    wrong = small.level()
    wrong.update(np.sin(np.arange(60) / 5))  # a random walk does not know which way it goes next
    with pytest.warns(SmcssmWarning) as told:
        table = wrong.diagnose().table
    assert table.loc["dependence", "verdict"] == "check"
    assert table.loc["dependence", "value"] > 0.8
    assert any("dynamics" in str(w.message) for w in told)


def test_particles_outside_the_support_are_counted():
    with pm.Model() as prior:
        pm.Normal("phi", 0.0, 3.0, shape=2)
        pm.HalfNormal("sigma_ar", 1.0)
        pm.HalfNormal("sigma_obs", 1.0)
    wide = ss.Engine(ss.models.AR(2) + ss.models.Noise(), prior, n_particles=N)
    a, b = wide.snapshot().theta()["phi"][:, 0]
    outside = ~((a + b < 1) & (b - a < 1) & (b > -1))
    with pytest.warns(SmcssmWarning) as told:
        table = wide.diagnose().table
    assert any("weight zero" in str(w.message) for w in told)
    assert table.loc["share at weight zero", "value"] == outside.mean() > 0.5


def test_a_move_that_was_cut_short_is_found(fitted):
    snapshot = fitted.snapshot()
    status = np.array([0, ss.Status.SLOW_MIXING, 0])
    verdict = diagnose(snapshot._replace(last_move=snapshot.last_move._replace(status=status))).table["verdict"]
    assert verdict["slow mixing"] == "check"
    due = np.array([False, True, False])  # what runs that did not move have there, says nothing
    move = snapshot.last_move._replace(
        due=due, correlation=np.array([0.9, 0.05, 0.9]), acceptance=np.array([0.0, 0.5, 0.0]), status=0 * status
    )
    table = diagnose(snapshot._replace(last_move=move)).table
    assert list(table.loc[["correlation with the start", "slow mixing", "acceptance"], "value"]) == [0.05, 0, 0.5]


def test_html_and_text(diagnosis):
    assert "<table" in diagnosis._repr_html_()
    text = repr(diagnosis)
    assert "nan" not in text.lower()
    assert all(name in text for name in diagnosis.table.index)


def test_a_quantity_may_be_undefined_where_the_prior_rules_particles_out():
    with pm.Model() as prior:
        s = pm.HalfNormal("s", 1.0)
        pm.HalfNormal("sigma_level", 1.0)
        pm.Potential("at_least", pm.math.switch(s > 0.2, 0.0, -np.inf))
        pm.Deterministic("sigma_obs", pm.math.sqrt(s - 0.2))
        pm.Deterministic("odds", pm.math.switch(s > 0.2, s, np.inf))
    engine = ss.Engine(ss.models.LocalLevel(0.0, 1.0), prior, n_particles=N, runs=2)
    engine.update(small.walk(2))
    w, theta = engine.snapshot().weights(), engine.snapshot().theta()
    assert np.isnan(theta["sigma_obs"]).any()
    table, read = (
        engine.summary(),
        [engine.state(), engine.forecast(2), engine.posterior(50), engine.record[["quantiles"]]],
    )
    assert np.isfinite(table).all(axis=None)
    kept = np.where(w > 0, theta["sigma_obs"], 0.0)
    assert table.loc["sigma_obs", "mean"] == pytest.approx((w * kept).sum() / 2)
    assert all(np.isfinite(d.to_array()).all() for d in read)
    assert np.isfinite(diagnose(engine.snapshot()).table.loc["spread of means", "value"])

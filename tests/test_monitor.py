"""Alarms: rates against simulation and published tables, what raises them, and what an engine's steps give."""

import math

import numpy as np
import pytest
from scipy import stats

import small
import smcssm as ss
from smcssm.errors import InputError, ModelError
from smcssm.monitor import Change, Cusum, Monitor, surprise
from smcssm.record import StepInfos


def steps(pit, log_predictive=None, start=1):
    """What an engine of one channel would have told."""
    pit = np.asarray(pit, float)
    n, flat = len(pit), np.zeros(len(pit))
    log_p = flat if log_predictive is None else np.asarray(log_predictive, float)
    return StepInfos(start + np.arange(n), log_p, flat, flat + 1, pit, flat + 9, flat > 0, flat, flat.astype(int))


def two_channels(pit):
    return StepInfos(**{**vars(steps(pit[:, 0])), "pit": pit, "predictive_sd": pit})


def run_lengths(x, threshold, k, clip):
    """Times between alarms of many two-sided charts ``[chart, t]`` at once, counted independently of ``Cusum``."""
    up, down, alarms = np.zeros(len(x)), np.zeros(len(x)), 0
    for column in np.clip(x, -clip, clip).T:
        up, down = np.maximum(0, up + column - k), np.maximum(0, down - column - k)
        hit = (up > threshold) | (down > threshold)
        alarms += hit.sum()
        up[hit], down[hit] = 0, 0
    return x.size / alarms, alarms


def test_threshold_of_the_chart_is_that_of_the_tables():
    """Two-sided run lengths at slack 1/2 (Montgomery, Introduction to Statistical Quality Control, table 9.3)."""
    assert math.isclose(Cusum(168).threshold, 4.0, abs_tol=0.02)
    assert math.isclose(Cusum(465).threshold, 5.0, abs_tol=0.02)


@pytest.mark.parametrize(("clip", "least", "most"), [(math.inf, 0.9, 1.1), (3.0, 0.95, 1.25)])
def test_false_alarms_of_the_chart_are_as_rare_as_promised(clip, least, most):
    x = np.random.default_rng(0).normal(size=(1000, 1000))
    for k in (0.25, 0.5):
        mean, alarms = run_lengths(x, Cusum(1000, k).threshold, k, clip)
        slack = 4 / math.sqrt(alarms)
        assert least * (1 - slack) < mean / 1000 < most * (1 + slack)


def test_the_chart_counts_as_the_simulation_does():
    x = np.random.default_rng(1).normal(size=5000)
    chart, alarms = Cusum(100), 0
    for value in x.tolist():
        chart.update(value)
        alarms += chart.drift_detected
    assert alarms == run_lengths(x[None], chart.threshold, 0.5, 3.0)[1] > 20


def test_false_alarms_of_all_kinds_together():
    """Uniform PIT values of two channels: the rate is shared out."""
    u = np.random.default_rng(2).uniform(size=(50_000, 2))
    monitor = Monitor(run_length=500)
    monitor.update(two_channels(u))
    expected = 50_000 / 500
    assert abs(len(monitor.alarms) - 0.93 * expected) < 4 * math.sqrt(expected)  # clipping: a little rarer
    assert set(monitor.table["kind"]) == {"surprise", "location", "scale"}
    assert set(monitor.table["channel"]) == {0, 1}


def test_each_kind_of_trouble_has_its_alarm():
    z = np.random.default_rng(3).normal(size=200)
    found = {}
    troubles = {"surprise": np.where(np.arange(200) == 120, 7.0, z), "location": z + (np.arange(200) >= 100)}
    troubles |= {"scale": z * np.where(np.arange(200) < 100, 1, 3), "none": z}
    for name, values in troubles.items():
        monitor = Monitor(run_length=10_000)
        for u in stats.norm.cdf(values):
            monitor.update(steps([u], start=len(found.get(name, [])) + 1))
            found.setdefault(name, []).append(len(monitor.alarms))
        found[name] = [a for a in monitor.alarms if a.kind == name] if name != "none" else monitor.alarms
    assert [a.t for a in found["surprise"]] == [121] and found["none"] == []
    assert 105 < found["location"][0].t < 140 and 95 < found["location"][0].since < 115
    assert 101 < found["scale"][0].t < 125


def test_missing_values_say_nothing():
    monitor = Monitor()
    monitor.update(steps([np.nan] * 50))
    assert monitor.alarms == [] and len(monitor.table) == 0
    assert surprise(steps([np.nan, 0.5]))["location"].isna().tolist() == [True, False]


def test_a_change_is_a_bayes_factor_summed_over_when_it_began():
    rng = np.random.default_rng(4)
    old, new = rng.normal(size=12), rng.normal(size=12)
    change = Change(run_length=10**9)
    change.update(steps(np.full(12, 0.5), old), steps(np.full(12, 0.5), new))
    direct = np.logaddexp.reduce([np.sum((new - old)[start:]) for start in range(12)])
    np.testing.assert_allclose(change.log_bayes_factor, direct)


def test_a_change_is_found_and_false_alarms_are_rare():
    """N(0, 1) until 3000, N(1, 1) afterwards, against an alternative that expects the second."""
    y = np.random.default_rng(5).normal(size=3100)
    y[3000:] += 1.0
    u = np.full(3100, 0.5)
    change = Change(run_length=2000)
    found = change.update(steps(u, stats.norm.logpdf(y)), steps(u, stats.norm.logpdf(y, 1.0)))
    true = [a for a in found if a.t > 3000]
    assert 3000 < true[0].t < 3040 and 2990 < true[0].since < 3015
    assert len(found) - len(true) <= 5


def test_what_an_engine_tells():
    engine = small.level()
    monitor, y = Monitor(run_length=1000), small.walk(60)
    y[10] = np.nan
    for value in y[:40]:
        monitor.update(engine.step(value))
    assert monitor.update(engine.update(y[40:])) == []
    table = surprise(engine)
    assert list(table.columns) == ["pit", "tail", "location", "scale", "excess"] and len(table) == 60
    assert math.isclose(surprise(two_channels(np.array([[0.5, 0.1]]))).loc[(1, 1), "tail"], 0.2)
    np.testing.assert_allclose(table["pit"], engine.record["pit"].values[:, 0])
    assert table["excess"].isna().sum() == 1 and abs(table["excess"].mean()) < 4 * math.sqrt(0.5 / 59)
    far = engine.record["predictive_mean"].values[-1, 0] + 40.0
    alarms = monitor.update(engine.step(far))
    assert [a.kind for a in alarms] == ["surprise"] and alarms[0].t == 61


def test_a_detector_of_river():
    drift = pytest.importorskip("river.drift")
    z = np.random.default_rng(6).normal(size=400) + (np.arange(400) >= 200)
    monitor = Monitor(detector=lambda: drift.PageHinkley(delta=0.25, threshold=15.0, alpha=1.0))
    monitor.update(steps(stats.norm.cdf(z)))
    assert [a.kind for a in monitor.alarms][:1] == ["location"] and 200 < monitor.alarms[0].t < 240


def test_what_is_refused():
    with pytest.raises(ModelError, match=r"run_length=0: expected a mean number"):
        Monitor(run_length=0)
    with pytest.raises(ModelError, match=r"run_length=1: expected"):
        Change(run_length=1)
    with pytest.raises(ModelError, match="0 < slack < clip, got 100, 4 and 3"):
        Cusum(100, slack=4.0)
    with pytest.raises(InputError, match="expected an engine, or what step or update returned; got list"):
        surprise([0.5])
    with pytest.raises(InputError, match="took 1 observations, the second 2"):
        Change().update(steps([0.5]), steps([0.5, 0.5]))
    monitor = Monitor()
    monitor.update(steps([0.5]))
    with pytest.raises(InputError, match="watches 1 channels, and got 2"):
        monitor.update(two_channels(np.full((1, 2), 0.5)))
    assert ss.monitor.Monitor is Monitor

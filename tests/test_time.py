"""Irregular time: stamps of every kind, units, simultaneous rows, silent sensors; forecasts at any time, and paths."""

import dataclasses
import datetime

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import smcssm as ss
from smcssm import clock, readout
from smcssm.clock import Clock, Timing, elapsed, timing
from smcssm.ingest import Layout, future, to_block
from smcssm.late import Drop
from smcssm.priors import HalfNormal, Independent
from test_engine import assert_same, leaves

PRIOR = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
MODEL = ss.models.LocalLevel(initial_mean=1.0, initial_sd=3.0)
_TEXT = (
    "2024-03-30 12:00",
    "2024-03-31 00:30",
    "2024-03-31 03:30",
    "2024-03-31 03:30",
    "2024-04-02 09:00:00.000000001",
)
MOMENTS = pd.DatetimeIndex([pd.Timestamp(text) for text in _TEXT])
DAYS = np.array([0.0, 12.5, 3.0, 0.0, 53.5 + 1e-9 / 3600]) / 24


def small(**options):
    return ss.Engine(MODEL, PRIOR, n_particles=64, **options)


def still(model, prior):
    """Particles that stay where they are."""
    schedule = ss.Immediate(tempering=False)
    return ss.Engine(model, prior, n_particles=64, ess_threshold=1e-9, schedule=schedule)


def days(**options):
    return timing(True, "1D", None, ss.late.Refuse(), **options)


def gaps(time, rule, past=None):
    return elapsed(rule, past or Clock(), time, len(time))[0].dt


@pytest.mark.parametrize(
    "stamps",
    [
        MOMENTS,
        MOMENTS.to_numpy(),
        pd.Series(MOMENTS),
        MOMENTS.tz_localize("UTC").tz_convert("Europe/Paris"),
        list(MOMENTS.tz_localize("UTC").tz_convert("America/New_York")),
        [str(m) for m in MOMENTS],
        [m.isoformat() for m in MOMENTS.tz_localize("UTC").tz_convert("Europe/Paris")],  # +01:00, then +02:00
    ],
)
def test_dates_of_every_kind_are_differences_in_the_unit_whatever_the_summer_time(stamps):
    np.testing.assert_allclose(gaps(stamps, days()), DAYS, rtol=1e-15, atol=0)
    hours = timing(True, datetime.timedelta(hours=1), None, ss.late.Refuse())
    np.testing.assert_allclose(gaps(stamps, hours), 24 * DAYS, rtol=1e-15, atol=0)


def test_differences_are_taken_before_they_are_rounded():
    julian = 2_460_000.5 + np.array([0.0, 1e-6, 2e-6])
    np.testing.assert_array_equal(gaps(julian, Timing(True)), np.diff(julian, prepend=julian[0]))
    nanoseconds = np.array([2**62, 2**62 + 1, 2**62 + 3], "datetime64[ns]")
    second = timing(True, "1s", None, ss.late.Refuse())
    np.testing.assert_array_equal(gaps(nanoseconds, second), [0.0, 1e-9, 2e-9])


AWARE = pd.Timestamp("2024-01-01", tz="Europe/Paris")
BAD_TIMES = [
    ([AWARE, pd.Timestamp("2024-01-02", tz="Asia/Tokyo")], "mixes Asia/Tokyo and Europe/Paris"),
    ([AWARE, pd.Timestamp("2024-01-02")], "mixes Europe/Paris and no time zone"),
    (["2024-06-01", "2024-06-02"], "no time zone, earlier stamps Europe/Paris"),
    ([pd.Timestamp("2024-06-01", tz="Europe/Paris"), pd.NaT], "row 1 is NaT"),
    ([pd.Timestamp("2023-12-31", tz="Europe/Paris")], "goes back or stands still at row 0"),
    ([1.0], "earlier stamps were like"),
    (["tomorrow-ish"], "expected numbers or datetimes, got the text tomorrow-ish"),
    (["12:30"], "the text 12:30 names no day"),
    (["2024-06-01", "now"], "the text now names no day"),
    (["5 Jan 12:30"], "names no day"),
    ([2**62], "whole numbers above 2\\^53"),
    (None, "earlier observations had a time"),
]


@pytest.fixture(scope="module")
def dated():
    engine = small(time_unit="1D")
    engine.step(1.0, time=AWARE)
    engine.step(2.0, time=AWARE + pd.Timedelta("36h"))
    return engine


@pytest.mark.parametrize(("time", "message"), BAD_TIMES)
def test_bad_times_are_named_and_change_nothing(dated, time, message):
    before = leaves(dated)
    with pytest.raises(ss.errors.InputError, match=message):
        dated.update([0.0] * (1 if time is None else len(time)), time=time)
    assert_same(leaves(dated), before)


UNKNOWN = (dict(origin=np.nan), dict(origin=-np.inf), dict(time_unit="1D", origin=pd.NaT))


def test_bad_options_of_time_are_named():
    for unit in (1.0, "1M", "month", "-1D", "NaT"):
        with pytest.raises(ss.errors.ModelError, match="time_unit"):
            small(time_unit=unit)
    trend = ss.models.LocalLinearTrend()
    for option in (dict(time_unit="1D"), dict(origin=0.0)):
        with pytest.raises(ss.errors.ModelError, match="one step of this model"):
            ss.Engine(trend, **option)
    for option in (dict(origin="2024-01-01"), dict(time_unit="1D", origin=3.0), dict(origin="now-ish"), *UNKNOWN):
        with pytest.raises(ss.errors.ModelError, match="origin"):
            small(**option)
    with pytest.raises(ss.errors.ModelError, match="late="):
        timing(True, None, None, "drop")
    with pytest.raises(ss.errors.InputError, match="the unit of numbers is 1"):
        small(time_unit="1D").step(1.0, time=2.0)
    with pytest.raises(ss.errors.InputError, match=r'Engine\(time_unit="1D"\)'):
        small().update([1.0, 2.0, 3.0], time=MOMENTS[:3])
    with pytest.raises(ss.errors.InputError, match=r"leave out Europe/Paris: time.tz_localize"):  # a day of 23 hours
        ss.Engine(trend, n_particles=2).update(np.zeros(4), time=pd.date_range(AWARE + pd.Timedelta("89D"), periods=4))
    with pytest.raises(ss.errors.InputError, match="before the origin"):
        small(origin=2.0).step(1.0, time=1.0)


def dense(Ft, Qt, H, R, m0, P0, dt, y):
    """Log density of all observations, from the dense joint law; F, Q functions of dt."""
    n, nx = len(dt), len(m0)
    mean, cov = np.zeros((n, nx)), np.zeros((n, nx, n, nx))
    m, P = np.asarray(m0, float), np.asarray(P0, float)
    for i, d in enumerate(dt):
        F = Ft(d)
        m, P = F @ m, F @ P @ F.T + Qt(d)
        mean[i], cov[i, :, i] = m, P
        for j in range(i):
            cov[i, :, j] = F @ cov[i - 1, :, j]
            cov[j, :, i] = cov[i, :, j].T
    Hy = np.zeros((n, H.shape[1], n, nx))
    for i in range(n):
        Hy[i, :, i] = H[i]
    Hy = Hy.reshape(n * H.shape[1], n * nx)
    C = Hy @ cov.reshape(n * nx, n * nx) @ Hy.T + np.diag(R.ravel())
    seen = ~np.isnan(y.ravel())
    v, S = (y.ravel() - Hy @ mean.ravel())[seen], C[np.ix_(seen, seen)]
    return -0.5 * (v @ np.linalg.solve(S, v) + np.linalg.slogdet(S)[1] + len(v) * np.log(2 * np.pi))


def carried(engine):
    """Theta and log-likelihood of every particle."""
    theta = engine.snapshot().theta()
    return {n: v[..., 0, :] for n, v in theta.items()}, np.asarray(engine._runtime.state.population.log_lik)[0]


def test_inputs_noise_and_simultaneous_rows_over_irregular_time_follow_the_dense_law():
    model = ss.models.Level(1.0, 3.0) + ss.models.Regression(1, drifting=True, initial_sd=0.5) + ss.models.Noise()
    prior = Independent({n: HalfNormal(1.0) for n in model.names})
    rng = np.random.default_rng(1)
    time = np.cumsum([2.0, 0.3, 0.0, 4.0, 1e-3, 0.0, 2.5])
    y, v, sd = rng.normal(size=7), rng.normal(size=7), rng.uniform(0.1, 2.0, 7)
    y[3] = np.nan
    engine = still(model, prior)
    infos = engine.update(y, time=time, inputs=v, noise_sd=sd)
    assert not infos.moved.any()
    theta, found = carried(engine)
    dt, H = np.diff(time, prepend=time[0]), np.stack([np.ones(7), v], axis=1)[:, None]
    for i in range(0, 64, 7):
        q = [theta["sigma_level"][i] ** 2, theta["sigma_beta"][i] ** 2]
        R = (theta["sigma_obs"][i] ** 2 + sd**2)[:, None]
        exact = dense(
            lambda d: np.eye(2), lambda d, q=q: d * np.diag(q), H, R, [1, 0], np.diag([9, 0.25]), dt, y[:, None]
        )
        np.testing.assert_allclose(found[i], exact, rtol=1e-10)


def test_sensors_at_different_rates_follow_the_dense_law():
    """Rows as they come: several sensors, silent ones NaN, two at one moment as one row or as two."""
    model = ss.models.ConstantVelocity(("gps", "radar"), initial_sd=(5.0, 1.0, 4.0, 2.0))
    prior = Independent({"sigma_acceleration": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0, (2,))})
    rng = np.random.default_rng(2)
    time = np.array([0.0, 0.7, 0.7, 1.9, 4.0, 4.1])
    y = rng.normal(size=(6, 4)) * 3
    y[0, 2:] = y[1, 2:] = y[2, :2] = y[4, [0, 3]] = y[5] = np.nan
    engine = still(model, prior)
    engine.update(y, time=time)
    theta, found = carried(engine)
    merged = still(model, prior)
    together = np.where(np.isnan(y[1]), y[2], y[1])
    merged.update(np.vstack([y[:1], [together], y[3:]]), time=time[[0, 1, 3, 4, 5]])
    np.testing.assert_allclose(carried(merged)[1], found, rtol=1e-10)
    dt, axis = np.diff(time, prepend=0.0), np.array([[1.0, 0.0]])

    def F(d):
        return np.kron(np.eye(2), [[1, d], [0, 1]])

    H = np.repeat(np.vstack([np.kron(np.eye(2), axis)] * 2)[None], 6, axis=0)
    for i in range(0, 64, 9):
        q, r = theta["sigma_acceleration"][i] ** 2, np.repeat(theta["sigma_obs"][:, i] ** 2, 2)
        exact = dense(
            F,
            lambda d, q=q: q * np.kron(np.eye(2), [[d**3 / 3, d**2 / 2], [d**2 / 2, d]]),
            H,
            np.repeat(r[None], 6, axis=0),
            np.zeros(4),
            np.diag([25.0, 1, 16, 4]),
            dt,
            y,
        )
        np.testing.assert_allclose(found[i], exact, rtol=1e-10)


SPLIT = {
    "level": ss.models.LocalLevel(1.0, 3.0),
    "drifting": ss.models.Level(1.0, 3.0) + ss.models.Regression(1, drifting=True) + ss.models.Noise(),
    "velocity": ss.models.ConstantVelocity(initial_sd=(5.0, 1.0, 4.0, 2.0)),
    "ornstein": ss.models.OrnsteinUhlenbeck() + ss.models.Noise(),
    "trend": ss.models.ContinuousTrend() + ss.models.Noise(),
}


@pytest.mark.parametrize("name", SPLIT)
def test_a_gap_is_what_its_parts_are(name):
    """dt = a + b in one step, or in two with nothing seen in between: the same belief, the same likelihood."""
    model = SPLIT[name]
    ny = len(model.channel_names)
    prior = Independent({n: HalfNormal(1.0, s) for n, s in zip(model.names, model.shapes, strict=True)})
    rng = np.random.default_rng(3)
    time = np.array([0.0, 2.5, 2.5 + 1e-4, 7.0])
    y, v = rng.normal(size=(4, ny)), (np.ones(4) if model.input_names else None)
    parts = np.array([0.0, 0.9, 2.5, 2.5 + 1e-5, 2.5 + 1e-4, 7.0])
    z = np.full((6, ny), np.nan)
    z[[0, 2, 4, 5]] = y
    one, two = (still(model, prior) for _ in range(2))
    one.update(y, time=time, inputs=v)
    two.update(z, time=parts, inputs=None if v is None else np.ones(6))
    a, b = (e._runtime.state.population for e in (one, two))
    np.testing.assert_allclose(a.log_lik, b.log_lik, rtol=1e-10)
    np.testing.assert_allclose(a.belief.mean, b.belief.mean, rtol=1e-9, atol=1e-10)
    covariances = [np.einsum("ijsn,kjsn->iksn", p.belief.chol, p.belief.chol) for p in (a, b)]
    np.testing.assert_allclose(*covariances, rtol=1e-9, atol=1e-10)


def test_an_origin_is_where_the_initial_law_holds():
    late, moved = small(origin=0.0), small()
    late.update([0.5, 1.0], time=[2.0, 3.5])
    moved.update([np.nan, 0.5, 1.0], time=[0.0, 2.0, 3.5])
    np.testing.assert_allclose(carried(late)[1], carried(moved)[1], rtol=1e-12)


def test_irregular_blocks_are_bit_for_bit_their_steps_and_compile_once():
    rng = np.random.default_rng(4)
    time, y = np.cumsum(rng.exponential(size=80) * rng.integers(0, 2, 80)), rng.normal(size=80)
    block, stepped = small(), small()
    block.update(y, time=time)
    programs = block._runtime._run._cache_size()
    for value, stamp in zip(y, time, strict=True):
        stepped.step(value, time=stamp)
    assert_same(leaves(block), leaves(stepped))
    assert stepped._runtime._run._cache_size() == programs


def test_dropped_rows_leave_no_trace():
    engine, clean = small(late=Drop()), small(late=Drop())
    time, y = np.array([0.0, 2.0, 1.0, 2.0, 3.0]), np.arange(5.0)
    infos = engine.update(y, time=time)
    np.testing.assert_array_equal(infos.status == ss.Status.DROPPED, [False, False, True, True, False])
    np.testing.assert_array_equal(infos.t, [1, 2, 2, 2, 3])
    assert engine.step(7.0, time=3.0).status == ss.Status.DROPPED
    clean.update(y[[0, 1, 4]], time=time[[0, 1, 4]])
    assert_same(leaves(engine), leaves(clean))
    grid = ss.Engine(ss.models.LocalLinearTrend(), n_particles=32, late=Drop())
    grid.update([1.0, 2.0, 1.5, 3.0], time=["2024-01-01", "2024-01-02", "2024-01-01", "2024-01-03"])
    assert grid.t == 3


def one_particle(engine, ahead):
    """A forecast by NumPy for every particle, mixed by weight: mean and sd."""
    theta = {n: v[0] for n, v in engine.snapshot().theta().items()}
    w = engine.snapshot().weights()[0]
    p = engine._runtime.state.population.belief
    m, P = np.asarray(p.mean)[0, 0], np.asarray(p.chol)[0, 0, 0] ** 2
    s2 = P + theta["sigma_level"] ** 2 * ahead + theta["sigma_obs"] ** 2
    mean = w @ m
    return mean, np.sqrt(w @ (s2 + (m - mean) ** 2))


def test_forecasts_at_any_time(dated):
    last = AWARE + pd.Timedelta("36h")
    times = [last, last + pd.Timedelta("6h"), last + pd.Timedelta("6h"), last + pd.Timedelta("10D")]
    table = dated.forecast(times=times)
    for i, ahead in enumerate([0.0, 0.25, 0.25, 10.0]):
        np.testing.assert_allclose([table["mean"][i, 0], table["sd"][i, 0]], one_particle(dated, ahead), rtol=1e-10)
    expected = pd.DatetimeIndex(times).tz_convert("UTC").tz_localize(None)
    np.testing.assert_array_equal(table["time"].values, expected.to_numpy("datetime64[ns]"))
    steps = dated.forecast(2)
    np.testing.assert_array_equal(steps["time"].values, (expected[0] + pd.to_timedelta([1, 2], "D")).to_numpy())
    np.testing.assert_array_equal(
        steps["mean"], dated.forecast(times=[last + pd.Timedelta(d, "D") for d in (1, 2)])["mean"]
    )


def test_forecasts_together_and_in_parts(dated):
    """A random walk in noise: Cov(y_i, y_j) = P + min(i, j) q² (+ r² where i = j), mixed over particles by hand."""
    table = dated.forecast(3, components=True, covariance=True)
    theta, w = {n: v[0] for n, v in dated.snapshot().theta().items()}, dated.snapshot().weights()[0]
    belief, steps = dated._runtime.state.population.belief, np.arange(1, 4)
    m, P = np.asarray(belief.mean)[0, 0], np.asarray(belief.chol)[0, 0, 0] ** 2
    level = P + theta["sigma_level"] ** 2 * np.minimum(steps[:, None], steps)[..., None]
    total = (level + np.eye(3)[..., None] * theta["sigma_obs"] ** 2) @ w + w @ (m - w @ m) ** 2
    np.testing.assert_allclose(table["covariance"][:, 0, :, 0], total, rtol=1e-9)
    np.testing.assert_allclose(table["sd"][:, 0], np.sqrt(np.diag(total)), rtol=1e-10)
    np.testing.assert_allclose(table["component_mean"], table["mean"], rtol=1e-12)
    np.testing.assert_allclose(table["component_sd"][:, 0] ** 2, table["sd"][:, 0] ** 2 - w @ theta["sigma_obs"] ** 2)
    assert table["component"].values.tolist() == ["Level"]
    dead = dated.copy()  # at weight zero beliefs and parameters may be anything
    state = dead._runtime.state
    with jax.enable_x64(True):
        law = dataclasses.replace(belief, mean=belief.mean.at[..., 0].set(np.nan))
        none = state.population.log_weight.at[:, 0].set(-np.inf)
        params = jax.tree.map(lambda a: a.at[..., 0].set(np.nan), state.population.params)
        population = dataclasses.replace(state.population, belief=law, params=params, log_weight=none)
    dead._runtime.state = state._replace(population=population)
    assert np.isfinite(dead.forecast(3, covariance=True)["covariance"]).all()
    among = dead.forecast(times=[AWARE + pd.Timedelta(d, "D") for d in (0.5, 3)], covariance=True)
    np.testing.assert_allclose(np.sqrt(np.diag(among["covariance"][:, 0, :, 0])), among["sd"][:, 0], rtol=1e-9)
    past = dated.forecast(times=[AWARE + pd.Timedelta("7h")], components=True)
    np.testing.assert_allclose(past["component_mean"], past["mean"], rtol=1e-12)
    np.testing.assert_allclose(past["component_sd"] ** 2, past["sd"] ** 2 - w @ theta["sigma_obs"] ** 2)
    at, t, y = np.array([0.25, 0.25, 1.0, 1.5, 3.0]), np.array([0.0, 1.5]), np.array([1.0, 2.0])
    table = dated.forecast(times=[AWARE + pd.Timedelta(days, "D") for days in at], covariance=True)
    second, mean, r2 = np.zeros((5, 5)), np.zeros(5), theta["sigma_obs"] ** 2
    for i, q2 in enumerate(theta["sigma_level"] ** 2):
        K = 9.0 + q2 * np.minimum.outer(np.r_[at, t], np.r_[at, t])
        gain = np.linalg.solve(K[5:, 5:] + r2[i] * np.eye(2), K[5:]).T
        m = 1.0 + gain @ (y - 1.0)
        second += w[i] * ((K - gain @ K[5:])[:5, :5] + r2[i] * np.eye(5) + np.outer(m[:5], m[:5]))
        mean += w[i] * m[:5]
    np.testing.assert_allclose(table["mean"][:, 0], mean, rtol=1e-10)
    np.testing.assert_allclose(table["covariance"][:, 0, :, 0], second - np.outer(mean, mean), rtol=1e-9)
    with pytest.raises(ss.errors.ModelError, match="not a sum of components"):
        ss.Engine(ss.models.ConstantVelocity(), n_particles=32).forecast(1, components=True)


def test_read_outs_of_the_past_have_dates(dated, tmp_path):
    """In UTC; kept by a copy and a checkpoint, and of a schedule that forgets on record alone; none without times."""
    expected = dated.record["when"].values
    assert expected.dtype == "datetime64[ns]" and expected[0] == AWARE.tz_convert("UTC").tz_localize(None)
    dated.save(tmp_path / "dated")
    for engine in (dated, dated.copy(), ss.Engine.load(tmp_path / "dated", MODEL, PRIOR)):
        for frame in (engine.record, engine.smooth(), engine.to_arviz(20)["observed_data"]):
            np.testing.assert_array_equal(frame["when"], expected)
    forgetful = small(schedule=ss.Jitter(), time_unit="1D")
    forgetful.update([1.0, 2.0], time=MOMENTS[:2])
    np.testing.assert_array_equal(forgetful.record["when"], MOMENTS[:2])
    plain = small()
    plain.update([1.0, 2.0])
    assert "when" not in plain.record.coords and "when" not in plain.smooth().coords


def test_one_noise_sd_is_that_of_all_rows_and_channels():
    model = ss.models.ConstantVelocity()
    block, *_ = to_block(model, 1, "float64", Clock(), None, np.zeros((3, 2)), noise_sd=0.5)
    np.testing.assert_array_equal(block.noise_sd, np.full((3, 2, 1), 0.5))
    with pytest.raises(ss.errors.InputError, match="noise_sd has 1 rows, the forecast 2"):
        future(model, 1, "float64", Layout(True, False), 3, np.ones(2), noise_sd=[[1.0, 1.0]])


def test_forecasts_that_cannot_be_made_say_why(dated):
    before, day = leaves(dated), pd.Timedelta("1D")
    for times, message in [
        ([AWARE - day], "before the first observation"),
        ([AWARE + 3 * day, AWARE + 2 * day], "not in order at row 1"),
        ([AWARE.tz_localize(None) + 3 * day], "no time zone"),
        ([pd.NaT], "NaT"),
        ([9.0], "earlier stamps"),
        ([], "one or more"),
    ]:
        with pytest.raises(ss.errors.InputError, match=message):
            dated.forecast(times=times)
    for wrong in (dict(), dict(h=1, times=[AWARE + 3 * day]), dict(h=1, draws=-1), dict(h=1, draws=2, seed=-1)):
        with pytest.raises(ss.errors.ModelError, match=r"h or|h,|draws|seed"):
            dated.forecast(**wrong)
    with pytest.raises(ss.errors.InputError, match="no observation yet, and no origin=; give h"):
        small().forecast(times=[1.0])
    assert_same(leaves(dated), before)
    engine = ss.Engine(ss.models.LocalLevel() + ss.models.Regression(1), n_particles=32)
    engine.update([np.nan, np.nan], inputs=[1.0, 2.0], time=[0.0, 1.5])
    for inputs, message in ((None, "for every row of the forecast"), ([1.0, 2.0], "2 rows, the forecast 3")):
        with pytest.raises(ss.errors.InputError, match=message):
            engine.forecast(times=[2.0, 3.0, 3.0], inputs=inputs)
    monthly = ss.Engine(ss.models.LocalLinearTrend(), n_particles=32)
    monthly.update([1.0, np.nan], time=["2024-01-31", "2024-02-29"])
    for time in ("2024-03-15", "2024-02-10"):
        with pytest.raises(ss.errors.InputError, match="whole steps only"):
            monthly.forecast(times=[time])
    with pytest.raises(ss.errors.ModelError, match="paths begin there"):
        dated.forecast(times=[AWARE + 0.3 * day], draws=3)


def given(theta, seen, y, at):
    """Mean and sd of what would be observed of one particle, by the joint law of all: a local level from time 0 on."""
    both = np.r_[seen, at]
    K = 9.0 + theta["sigma_level"] ** 2 * np.minimum(both[:, None], both)
    K = K + np.diag(np.full(len(both), theta["sigma_obs"] ** 2))
    n = len(seen)
    gain = np.linalg.solve(K[:n, :n], K[:n, n:]).T
    return 1.0 + gain @ (y - 1.0), np.sqrt(np.diag(K[n:, n:] - gain @ K[:n, n:]))


@pytest.mark.parametrize("origin", [None, -1.0])
@pytest.mark.parametrize("dates", [False, True])
def test_observations_that_were_never_made(origin, dates):
    """Before, at, between and after those that were: mean, sd and quantiles of the mixture, against joint Gaussians."""
    rng, unit = np.random.default_rng(8), pd.Timedelta("1h")
    seen, at = np.cumsum(rng.exponential(size=12)), None
    seen = np.r_[0.0, seen] if origin is None else seen
    at = np.r_[0.3 * seen[1], seen[3], np.mean(seen[4:6]), seen[7] + 1e-7, seen[-1], seen[-1] + 2.0, seen[-1] + 2.0]
    y = rng.normal(size=len(seen)) + np.where(seen > 5, 2.0, 0.0)

    def moments(a):
        return a if not dates else pd.Timestamp("2024-02-28") + pd.to_timedelta(np.round(a * 3.6e12), "ns")

    stamps = dict(time_unit=unit) if dates else {}
    if origin is not None:
        stamps["origin"] = moments(np.asarray([origin]))[0]
        seen, at = seen - origin, at - origin
    engine = small(**stamps)
    engine.update(y, time=moments(seen + (origin or 0.0)))
    before = leaves(engine)
    table = engine.forecast(times=moments(at + (origin or 0.0)), quantiles=(0.1, 0.5, 0.99))
    assert_same(leaves(engine), before)
    w, theta = engine.snapshot().weights()[0], engine.snapshot().theta()
    each = [given({k: v[0, i] for k, v in theta.items()}, seen, y, at) for i in range(len(w))]
    m, s = (np.array(a).T for a in zip(*each, strict=True))
    mean = m @ w
    np.testing.assert_allclose(table["mean"][:, 0], mean, rtol=1e-7)
    np.testing.assert_allclose(table["sd"][:, 0], np.sqrt((s**2 + (m - mean[:, None]) ** 2) @ w), rtol=1e-7)
    for level in (0.1, 0.5, 0.99):
        q = table["quantiles"].sel(quantile=level).values[:, 0]
        np.testing.assert_allclose(stats.norm.cdf((q[:, None] - m) / s) @ w, level, rtol=1e-6)
    np.testing.assert_array_equal(table["step"], np.arange(1, 8))
    assert len(table["time"]) == 7


def test_times_between_need_a_filter_that_goes_back():
    engine = ss.Engine(ss.models.PoissonCounts(), n_particles=8, filter=ss.filters.Particle(n_particles=4))
    with pytest.raises(ss.errors.ModelError, match="need the Kalman filter, this engine has Particle"):
        readout.between(engine.snapshot(), engine._runtime.blank(), lambda dt: (dt, dt), 1, (0.5,))


def test_paths_have_the_law_of_the_forecast_jointly(dated):
    """Means, sds and the correlation between steps, within 4.5 standard errors; the same paths for the same seed."""
    last, k = AWARE + pd.Timedelta("36h"), 20_000
    times = [last + pd.Timedelta(d, "D") for d in (0.0, 2.0, 2.0, 5.0)]
    before = leaves(dated)
    table = dated.forecast(times=times, draws=k, seed=1)
    assert_same(leaves(dated), before)
    y, x = table["draws"].values[:, :, 0], table["state_draws"].values[:, :, 0]
    assert table["draws"].dims == ("draw", "step", "channel") and table["state_draws"].dims == ("draw", "step", "state")
    np.testing.assert_array_equal(x[:, 1], x[:, 2])  # one moment, one state
    mean, sd = table["mean"].values[:, 0], table["sd"].values[:, 0]
    assert (np.abs(y.mean(axis=0) - mean) < 4.5 * y.std(axis=0) / np.sqrt(k)).all()
    fourth = ((y - y.mean(axis=0)) ** 4).mean(axis=0)
    assert (np.abs(y.var(axis=0) - sd**2) < 4.5 * np.sqrt((fourth - sd**4) / k)).all()
    snapshot = dated.snapshot()
    w, theta, p = snapshot.weights()[0], snapshot.theta(), dated._runtime.state.population.belief
    P, m = np.asarray(p.chol)[0, 0, 0] ** 2, np.asarray(p.mean)[0, 0]
    q = theta["sigma_level"][0] ** 2
    covariance = w @ (P + 2.0 * q + (m - w @ m) ** 2)  # of steps 1 and 3: they share the state at the earlier one
    product = (y[:, 1] - mean[1]) * (y[:, 3] - mean[3])
    assert abs(product.mean() - covariance) < 4.5 * product.std() / np.sqrt(k)
    again = dated.forecast(times=times, draws=k, seed=1)
    np.testing.assert_array_equal(again["draws"], table["draws"])
    assert (dated.forecast(3, draws=5)["draws"].values == dated.forecast(3, draws=5)["draws"].values).all()


def test_steps_known_from_dates_on_a_grid_give_the_dates_of_a_forecast():
    rule = Timing(False)
    _, now = elapsed(rule, Clock(), ["2024-01-31", "2024-02-29", "2024-03-31"], 3)
    stamps, dt = clock.ahead(rule, now, 2)
    assert list(stamps.astype("M8[D]").astype(str)) == ["2024-04-30", "2024-05-31"]
    np.testing.assert_array_equal(dt, [1.0, 1.0])


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_column_of_dates_keeps_its_time_zone(kind):
    index = pd.date_range("2024-03-30", periods=3, freq="11h", tz="Europe/Vienna")
    frame = pd.DataFrame({"when": index, "y": [1.0, 2.0, 3.0]})
    if kind == "polars":
        polars = pytest.importorskip("polars")
        local = polars.Series("when", index.tz_localize(None).to_pydatetime().tolist())
        frame = polars.DataFrame({"when": local.dt.replace_time_zone("Europe/Vienna"), "y": [1.0, 2.0, 3.0]})
    e = small(time_unit="1D")
    e.update(frame, time="when")
    e.step(1.0, time=index[-1] + pd.Timedelta("5h"))
    with pytest.raises(ss.errors.InputError, match="has no time zone, earlier stamps Europe/Vienna"):
        e.step(1.0, time="2024-05-01 05:00")


def test_an_origin_has_a_time_zone():
    e = small(time_unit="1D", origin=pd.Timestamp("2024-01-01", tz="America/New_York"))
    with pytest.raises(ss.errors.InputError, match="has no time zone, origin= America/New_York"):
        e.step(1.0, time="2024-01-01 06:00")


def test_dates_beyond_nanoseconds_are_refused():
    with pytest.raises(ss.errors.InputError, match="only from 1678 to 2262"):
        small(time_unit="1D").step(1.0, time="2400-01-01")

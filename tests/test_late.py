"""Late rows: every particle is what a replay in the order of times makes of it, whatever the order of arrival."""

import jax
import numpy as np
import pytest
import xarray as xr

import smcssm as ss
from interrupts import interrupted
from smcssm import readout, timeline
from smcssm.late import Drop, Revise
from smcssm.priors import HalfNormal, Independent, LogNormal
from smcssm.timeline import Timeline
from test_engine import assert_same, leaves

PRIOR = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
MODEL = ss.models.LocalLevel(initial_mean=1.0, initial_sd=3.0)
T, WINDOW = 160, 20


def stream(t=T, seed=0):
    """Irregular times, some of them equal, missing values, and noise of their own."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.exponential(size=t) * (rng.random(t) > 0.15))
    level = np.cumsum(0.4 * np.sqrt(np.diff(time, prepend=0.0)) * rng.normal(size=t))
    sd = rng.uniform(0.2, 1.0, t)
    y = level + np.sqrt(0.8**2 + sd**2) * rng.normal(size=t)
    y[rng.random(t) < 0.1] = np.nan
    return time, y, sd


def shuffled(t=T, window=WINDOW, seed=1):
    """A permutation in which nothing is more than a window behind: sorted by place plus noise."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([start + rng.permutation(min(window, t - start)) for start in range(0, t, window)])
    behind = max(int((order[:i] > order[i]).sum()) for i in range(t))
    assert window // 2 < behind <= window
    return order


def by_number(theta, step):
    return dict(F=[[1.0]], H=[[1.0]], chol_P0=[[step.dt * 0 + 1.0]], d=[step.t * 1.0], chol_R=[[theta["sigma_obs"]]])


def build(schedule=None, n=128, seed=0, model=MODEL, **options):
    options = dict(late=Revise(WINDOW), origin=-1.0) | options
    return ss.Engine(model, PRIOR, n_particles=n, schedule=schedule, seed=seed, **options)


PACED = ss.Paced(budget=4, sets=2)  # immediate up to row 16


def local_level(engine, time, y, sd):
    """Log-likelihood, mean and variance of the level of every particle, from rows in the order of their times."""
    theta = {n: v[0] for n, v in engine.snapshot().theta().items()}
    q, r = theta["sigma_level"] ** 2, theta["sigma_obs"] ** 2
    m, P, total, before = np.full_like(q, 1.0), np.full_like(q, 9.0), np.zeros_like(q), -1.0
    for i in np.argsort(time, kind="stable"):
        P, before = P + q * (time[i] - before), time[i]
        if np.isnan(y[i]):
            continue
        S = P + r + sd[i] ** 2
        total -= 0.5 * ((y[i] - m) ** 2 / S + np.log(2 * np.pi * S))
        m, P = m + P / S * (y[i] - m), P * (r + sd[i] ** 2) / S
    return total, m, P


def assert_replayed(engine, time, y, sd):
    p = engine._runtime.state.population
    with jax.enable_x64(True):
        found = [
            np.asarray(a) for a in (p.log_lik[0], p.belief.mean[0, 0], p.belief.chol[0, 0, 0] ** 2, p.phi, p.pending)
        ]
        lag = [np.asarray(a) for a in (p.lag.log_lik[0], p.lag.belief.mean[0, 0], p.lag.belief.chol[0, 0, 0] ** 2)]
    assert (found[3] == 1).all() and (found[4] == 0).all()
    for a, b in zip(found, local_level(engine, time, y, sd), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    old = np.argsort(time, kind="stable")[: max(len(time) - WINDOW, 0)]
    if len(old):
        for a, b in zip(lag, local_level(engine, time[old], y[old], sd[old]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [pytest.param(None, marks=pytest.mark.slow), PACED])
def test_every_particle_is_its_sorted_replay_at_any_moment(schedule):
    time, y, sd = (a[shuffled()] for a in stream())
    engine, moved = build(schedule), []
    for i in range(T):
        moved.append(engine.step(y[i], time=time[i], noise_sd=sd[i]).moved)
        if i % 15 == 14:
            assert_replayed(engine, time[: i + 1], y[: i + 1], sd[: i + 1])
    assert sum(moved[:20]) > 0 and sum(moved[40:]) > 0


@pytest.mark.slow
def test_every_particle_of_waste_free_is_its_sorted_replay():
    time, y, sd = (a[shuffled(80)] for a in stream(80))
    engine = build(move=ss.moves.WasteFree(8), n=128)
    infos = engine.update(y, time=time, noise_sd=sd)
    assert infos.moved[20:].any()
    assert_replayed(engine, time, y, sd)


def test_blocks_with_late_rows_are_bit_for_bit_their_steps_and_nothing_is_compiled_again():
    time, y, sd = (a[shuffled(100)] for a in stream(100))
    block, stepped = build(PACED), build(PACED)
    for i in range(100):
        stepped.step(y[i], time=time[i], noise_sd=sd[i])
        stepped.summary()
    programs = [f._cache_size() for f in (stepped._runtime._run, stepped._runtime._revise)]
    infos = block.update(y[:77], time=time[:77], noise_sd=sd[:77])
    block.update(y[77:], time=time[77:], noise_sd=sd[77:])
    assert_same(leaves(block), leaves(stepped))
    assert [f._cache_size() for f in (block._runtime._run, block._runtime._revise)] == programs
    late = time[:77] < np.maximum.accumulate(np.r_[-1.0, time[:76]])
    np.testing.assert_array_equal(np.isnan(infos.predictive_mean), late)
    np.testing.assert_array_equal(infos.t, 1 + np.arange(77))
    rows = block._runtime.history.rows()  # as they arrived
    np.testing.assert_array_equal(np.where(rows.mask, rows.y, np.nan)[:, 0, 0], y)
    twin = block.copy()
    for e in (block, twin):
        e.step(0.5, time=time.max() - 1e-3, noise_sd=1.0)
    assert_same(leaves(block), leaves(twin))
    block.reset()
    assert block.t == 0
    block.step(0.5, time=0.0, noise_sd=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [None, PACED])
def test_the_mixture_is_that_of_the_stream_in_order(schedule):
    """Evidence and moments of the hyperparameters, within 4.5 standard errors told by 6 runs of each."""
    time, y, sd = stream(100, seed=5)
    order = shuffled(100, seed=6)
    told = []
    for rows, seed in ((np.arange(100), 1), (order, 2)):
        engine = build(schedule, n=250, seed=seed, runs=6)
        engine.update(y[rows], time=time[rows], noise_sd=sd[rows])
        snapshot = engine.snapshot()
        w, theta = snapshot.weights(), snapshot.theta()
        moments = [np.sum(w * theta[n] ** k, axis=1) for n in theta for k in (1, 2)]
        told.append(np.stack([snapshot.log_evidence(), *moments]))
    means, errors = (
        np.stack([f(a) for a in told]) for f in (lambda a: a.mean(axis=1), lambda a: a.var(axis=1, ddof=1) / 6)
    )
    assert (np.abs(means[0] - means[1]) < 4.5 * np.sqrt(errors.sum(axis=0))).all()
    assert np.sqrt(errors[:, 0]).max() < 0.15


OUTLIER = 40.0


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [None, PACED])
def test_a_late_surprise_is_bridged_at_once(schedule):
    """By a move at each rung; evidence as when the outlier comes in time, within 4.5 standard errors of 4 runs."""
    time, y, sd = stream(90, seed=7)
    y[80] += OUTLIER
    rows = np.r_[:80, 81:90, 80]
    late, in_time = build(schedule, n=250, runs=4), build(None, n=250, runs=4, seed=1)
    infos = late.update(y[rows], time=time[rows], noise_sd=sd[rows])
    in_time.update(y, time=time, noise_sd=sd)
    assert infos.moved[-1] and infos.status[-1] in (ss.Status.OK, ss.Status.SLOW_MIXING)
    assert late._runtime.state.last_move.rungs > 1
    assert_replayed(late, time, y, sd)
    a, b = (e.snapshot().log_evidence() for e in (late, in_time))
    assert abs(a.mean() - b.mean()) < 4.5 * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 4)
    if schedule is PACED:  # a late row after a surprise that is still pending: that is let in first
        far = late.forecast(1, noise_sd=1.0)["mean"].item() - OUTLIER
        late.step(far, time=time[-1] + 1, noise_sd=1.0)
        assert (np.asarray(late._runtime.state.population.phi) < 1).any()
        late.step(0.0, time=time[-1] + 0.5, noise_sd=1.0)
        assert_replayed(late, np.r_[time, time[-1] + [1, 0.5]], np.r_[y, far, 0.0], np.r_[sd, 1.0, 1.0])


@pytest.fixture(scope="module")
def taken():
    time, y, sd = (a[shuffled(60)] for a in stream(60))
    engine = build()
    engine.update(y, time=time, noise_sd=sd)
    return engine, np.sort(time)


BAD = [
    (lambda e, time: e.step(0.0, time=time[10], noise_sd=1.0), "rows late.*reaches 20 rows back"),
    (lambda e, time: e.step(0.0, time=-1.5, noise_sd=1.0), "before the origin"),
    (lambda e, time: e.update([0.0] * 3, time=[99.0, time[-5], time[0]], noise_sd=1.0), "rows late"),
    (lambda e, time: e.step(0.0, noise_sd=1.0), "had a time"),
    (lambda e, time: e.step(0.0, time=np.nan, noise_sd=1.0), "nan"),
    (lambda e, time: e.step(0.0, time="2024-01-01", noise_sd=1.0), "earlier stamps"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_cannot_be_put_in_place_changes_nothing(taken, call, message):
    engine, time = taken
    before = leaves(engine)
    with pytest.raises(ss.errors.InputError, match=message):
        call(engine, time)
    assert_same(leaves(engine), before)
    assert len(engine._runtime.history) == len(engine._runtime.history.timeline) == 60


def test_a_late_value_that_nothing_explains_is_refused_or_missing(taken):
    engine, time = taken
    before = leaves(engine)
    with pytest.raises(ss.errors.ImpossibleObservationError, match="observation 61 with value 1e"):
        engine.step(1e200, time=time[-4], noise_sd=1.0)
    assert_same(leaves(engine), before)
    time, y, sd = (a[shuffled(60)] for a in stream(60))
    lenient = build(impossible="missing")
    lenient.update(y, time=time, noise_sd=sd)
    when = np.sort(time)[-4]
    assert lenient.step(1e200, time=when, noise_sd=1.0).status == ss.Status.IMPOSSIBLE
    assert_replayed(lenient, np.r_[time, when], np.r_[y, np.nan], np.r_[sd, 1.0])


def test_before_the_first_row_nothing_comes_unless_an_origin_says_when_the_initial_law_holds():
    engine = build(origin=None)
    engine.step(0.0, time=5.0, noise_sd=1.0)
    with pytest.raises(ss.errors.InputError, match=r"2 units of time before the first one.*origin="):
        engine.step(0.0, time=3.0, noise_sd=1.0)
    engine = build()
    engine.step(0.3, time=5.0, noise_sd=1.0)
    engine.step(0.1, time=3.0, noise_sd=1.0)
    assert_replayed(engine, np.array([5.0, 3.0]), np.array([0.3, 0.1]), np.ones(2))


def test_dates_and_a_journal_on_disk(tmp_path):
    kept = build(time_unit="1h", origin="2024-01-01", journal=tmp_path / "journal")
    held = build(origin=0.0)
    hours, y = np.array([1.5, 3.0, 2.25, 7.0, 2.25, 6.5]), np.arange(6.0)
    dates = np.datetime64("2024-01-01", "ns") + (hours * 3600).astype(int) * np.timedelta64(1, "s")
    kept.update(y, time=dates, noise_sd=1.0)
    held.update(y, time=hours, noise_sd=1.0)
    for a, b in zip(*(jax.tree.leaves(e._runtime.state.population.belief) for e in (kept, held)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    table = kept.forecast(2, noise_sd=1.0)
    np.testing.assert_array_equal(table["time"].values, dates.max() + np.array([1, 2]) * np.timedelta64(1, "h"))
    np.testing.assert_allclose(table["mean"], held.forecast(2, noise_sd=1.0)["mean"], rtol=1e-12)
    recorded = ss.journal.read(tmp_path / "journal").rows
    np.testing.assert_array_equal(recorded.y[:, 0, 0], y)
    with pytest.raises(ss.errors.InputError, match="say its unit"):
        build(origin=None).step(0.0, time=dates[0], noise_sd=1.0)


def test_on_a_grid_a_late_row_fits_where_another_row_is():
    """Of a model that knows whole steps only: the value that was missing on time."""
    model = ss.models.LocalLinearTrend()
    prior = Independent({n: HalfNormal(1.0) for n in model.names})
    days = np.arange("2024-01-01", "2024-01-06", dtype="datetime64[D]")
    options = dict(n_particles=64, ess_threshold=1e-9, schedule=ss.Immediate(tempering=False))
    engines = [ss.Engine(model, prior, late=late, **options) for late in (Revise(8), Drop())]
    engines[0].update([1.0, np.nan, 2.0, 2.5], time=days[:4])
    info = engines[0].step(1.2, time=days[1])
    engines[0].step(3.0, time=days[4])
    engines[1].update([1.0, 1.2, 2.0, 2.5, 3.0], time=days)
    assert info.status == ss.Status.OK and not info.moved
    a, b = (e._runtime.state.population for e in engines)
    np.testing.assert_array_equal(a.z, b.z)
    np.testing.assert_allclose(a.log_lik, b.log_lik, rtol=1e-10)
    np.testing.assert_allclose(a.belief.mean, b.belief.mean, rtol=1e-9)
    np.testing.assert_allclose(engines[0].log_evidence, engines[1].log_evidence, rtol=1e-10)
    engines[0].step(np.nan, time="2024-01-06")
    with pytest.raises(ss.errors.InputError, match="between two steps"):
        engines[0].step(1.0, time="2024-01-04 12:00")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(schedule=ss.Jitter()), "keeps no history"),
        (dict(schedule=ss.Immediate(tempering=False), forgetting=0.99), "how much a row still counts"),
        (dict(model=ss.models.LinearGaussian(by_number, names=("sigma_obs",))), "reads step.t"),
        (dict(move=ss.moves.MALA()), "gradient of what a late surprise"),
    ],
)
def test_what_cannot_be_combined_says_why(options, reason):
    with pytest.raises((ss.errors.ModelError, TypeError), match=reason):
        build(**options)
    for horizon in (0, True):
        with pytest.raises(ss.errors.ModelError, match="horizon"):
            Revise(horizon)


def test_a_timeline_sorts_and_forgets():
    line, rng = Timeline(2.0, 1.0), np.random.default_rng(0)
    stamps = rng.integers(1, 30, 200).astype(float)
    for start in range(0, 200, 7):
        line.extend(stamps[start : start + 7])
    for length in (200, 151, 0):
        line.truncate(length)
        everything, order = np.arange(length), np.argsort(stamps[:length], kind="stable")
        assert len(line) == length
        np.testing.assert_array_equal(line.numbers(everything), order)
        np.testing.assert_array_equal(line.dt(everything), np.diff(stamps[order], prepend=1.0) / 2.0)


def test_a_timeline_that_is_interrupted_anywhere_forgets_the_same():
    stamps = np.random.default_rng(1).permutation(100).astype(float)
    line, lines = Timeline(), 1
    line.extend(np.zeros(3, int))  # of a first call that failed, with other times
    line.truncate(0)
    line.extend(stamps[:90])
    while interrupted(lambda: line.extend(stamps[90:]), lines, timeline):
        interrupted(lambda n=lines: line.truncate(90), lines % 7, timeline)
        line.truncate(90)
        np.testing.assert_array_equal(line.numbers(np.arange(90)), np.argsort(stamps[:90]))
        lines += 1
    assert lines > 20
    np.testing.assert_array_equal(line.numbers(np.arange(100)), np.argsort(stamps))
    np.testing.assert_array_equal(line.dt(np.arange(100)), np.arange(100) > 0)


def test_smoothed_states_are_in_the_order_of_times():
    known = Independent({"sigma_level": LogNormal(0.5, 1e-9), "sigma_obs": LogNormal(0.8, 1e-9)})
    engines = [ss.Engine(MODEL, known, n_particles=8, late=Revise(WINDOW), origin=-1.0) for _ in range(2)]
    (time, y, sd), order = stream(40), shuffled(40)
    engines[0].update(y, time=time, noise_sd=sd)
    engines[1].update(y[order], time=time[order], noise_sd=sd[order])
    then = engines[1].snapshot()
    in_order, revised = (e.smooth() for e in engines)
    engines[1].step(3.0, time=np.sort(time)[-2:].mean(), noise_sd=1.0)  # a snapshot knows nothing of it
    xr.testing.assert_equal(readout.smooth(then), revised)
    for name in ("mean", "sd"):
        np.testing.assert_allclose(revised[name].values, in_order[name].values, rtol=1e-6)
    arrived = revised["time"].values - 1
    np.testing.assert_array_equal(time[order][arrived], time)
    np.testing.assert_array_equal(revised["when"].values, time)
    np.testing.assert_array_equal(engines[1].record["when"].values[:-1], time[order])

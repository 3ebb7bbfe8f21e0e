"""A fleet is as many engines: the same moves, ancestors and numbers; what one series cannot take concerns it alone."""

import copy
import importlib.util
import itertools
import logging
import pickle
from functools import partial

import jax
import numpy as np
import pytest

import smcssm as ss
from interrupts import interrupted
from smcssm.core import Observation
from smcssm.errors import InputError, ModelError
from smcssm.fleets import histories
from smcssm.fleets.histories import Histories

NAMES, ROWS, N = tuple("abcdefgh"), 40, 64
MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=3.0)
OPTIONS = dict(n_particles=N)


def streams(n_series, rows, seed=0):
    """Random walks in noise with missing values, late starters and rows that were not reported."""
    rng = np.random.default_rng(seed)
    y = np.cumsum(rng.normal(size=(rows, n_series)), axis=0) + rng.normal(size=(rows, n_series))
    y[rng.random(y.shape) < 0.1] = np.nan
    reported = rng.random(y.shape) < 0.8
    reported[: rows // 3, 4] = False
    y[rows // 2, 1] += 60.0  # a surprise that has to be bridged
    reported[rows // 2, 1] = True
    return y, reported


Y, REPORTED = streams(len(NAMES), ROWS)


def fleet(**options):
    return ss.Fleet(MODEL, series=NAMES, **(OPTIONS | options))


def population(engine):
    return engine._runtime.state.population


def compare_with_engines(fleet, y, reported):
    """Step the fleet, and an engine for each series that it would have been; every number, and the populations."""
    engines = [fleet.engine(name) for name in fleet.names]
    infos = [fleet.step(*row) for row in zip(y, reported, strict=True)]
    for s, (name, engine) in enumerate(zip(fleet.names, engines, strict=True)):
        for t in np.flatnonzero(reported[:, s]):
            alone, together = engine.step(y[t, s]), infos[t][name]
            assert (alone.t, alone.moved, alone.status) == (together.t, together.moved, together.status)
            for field in ("log_predictive", "predictive_mean", "predictive_sd", "pit", "ess", "acceptance"):
                np.testing.assert_allclose(getattr(together, field), getattr(alone, field), rtol=1e-9, err_msg=field)
        left = fleet.engine(name)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), population(left), population(engine)
        )
        np.testing.assert_array_equal(population(left).eve, population(engine).eve)
        assert left.log_evidence == pytest.approx(engine.log_evidence, rel=1e-9)
    return infos, engines


def compared(make, ys, reported):
    """A fleet and as many engines that have taken the same rows, what the fleet said, and the engines."""
    with jax.enable_x64(False):
        made = make()
        return made, *compare_with_engines(made, ys, reported)


@pytest.fixture(scope="module")
def run():
    return compared(fleet, Y, REPORTED)


def test_is_as_many_engines(run):
    made, infos, _ = run
    assert sum(info.moved.sum() for info in infos) > 15
    assert infos[ROWS // 2]["b"].moved  # the surprise
    np.testing.assert_array_equal(made.t, REPORTED.sum(axis=0))


def test_readouts_are_those_of_engines(run):
    made, _, engines = run
    summary, state, forecast = made.summary(), made.state(), made.forecast(3)
    for name, engine in zip(NAMES, engines, strict=True):
        np.testing.assert_allclose(summary.loc[name], engine.summary(), rtol=1e-9)
        np.testing.assert_allclose(state["mean"].sel(series=name), engine.state()["mean"], rtol=1e-9)
        np.testing.assert_allclose(state["sd"].sel(series=name), engine.state()["sd"], rtol=1e-9)
        alone = engine.forecast(3)
        for field in ("mean", "sd", "quantiles"):
            np.testing.assert_allclose(forecast[field].sel(series=name), alone[field], rtol=1e-9, err_msg=field)
    assert list(summary.index.names) == ["series", "hyperparameter"]


def test_the_prior_is_refreshed(run):
    prior = run[0].refresh_prior()
    assert prior.names == run[0].prior.names
    draws = np.exp(prior.sample(jax.random.key(0), 4000)[0])
    assert (np.isfinite(draws) & (draws > 0)).all()
    few = run[0].copy()
    few.remove(NAMES[:4])
    with pytest.raises(ModelError, match="4 series tell too little of the law of 2 hyperparameters"):
        few.refresh_prior()


def test_scores_are_those_of_engines(run):
    made, _, engines = run
    scores = made.scores()
    for name, engine in zip(NAMES, engines, strict=True):
        np.testing.assert_allclose(scores.loc[name].astype(float), engine.scores().astype(float), rtol=1e-9)


def test_copies_go_on_and_pickles_say_what_to_do(run):
    one, other = copy.copy(run[0]), copy.deepcopy(run[0])
    np.testing.assert_array_equal(one.step(Y[0]).log_predictive, other.step(Y[0]).log_predictive)
    np.testing.assert_array_equal(run[0].t + 1, one.t)
    with pytest.raises(TypeError, match=r"fleet\.copy\(\) copies it in this one"):
        pickle.dumps(run[0])


def test_an_engine_goes_on_as_its_series(run):
    made, *_ = run
    made = made.copy()
    engine, rng = made.engine("c"), np.random.default_rng(5)
    for y in rng.normal(scale=20, size=8):
        together, alone = made.step({"c": y})["c"], engine.step(y)
        assert (alone.t, alone.moved) == (together.t, together.moved)
        assert alone.log_predictive == pytest.approx(together.log_predictive, rel=1e-9)
    others = [i for i, name in enumerate(NAMES) if name != "c"]
    np.testing.assert_array_equal(made.t[others], REPORTED.sum(axis=0)[others])


def bits(made, names):
    """Everything of some series, to be equal bit for bit."""
    places = [made.names.index(name) for name in names]
    with jax.enable_x64(True):
        return [
            np.asarray(leaf)[..., places] if np.ndim(leaf) == 1 else np.asarray(leaf)[..., places, :]
            for leaf in jax.tree.leaves(made._runtime.state.population)
        ]


@pytest.mark.parametrize("value", [1e300, 1e9], ids=["no likelihood", "beyond reach"])
def test_quarantine_leaves_neighbours_as_they_are(value, caplog, run):
    calm, wild = run[0].copy(), run[0].copy()
    y = np.random.default_rng(6).normal(scale=10, size=(6, len(NAMES)))
    odd = y.copy()
    odd[2, 3] = value
    for i, row in enumerate(y):
        calm.step(row, reported=[name for name in NAMES if name != "d" or i < 2])
    with caplog.at_level(logging.WARNING, "smcssm"):
        infos = wild.update(odd)
    assert "'d'" in caplog.text and "release" in caplog.text
    np.testing.assert_array_equal(infos.taken[:, 3], [True, True, False, False, False, False])
    assert (infos.status[2:, 3] == ss.Status.IMPOSSIBLE).all()
    others = [name for name in NAMES if name != "d"]
    for a, b in zip(bits(calm, others), bits(wild, others), strict=True):
        np.testing.assert_array_equal(a, b)
    assert wild.status().loc["d", "quarantine"] == "IMPOSSIBLE"
    wild.release("d")
    assert wild.step({"d": 0.5}).taken[3]


def test_what_was_refused_never_was():
    """Nor its time: what follows its release comes as long after the last row that was taken."""
    made, absent = fleet(), fleet()
    odd = np.where(np.arange(8) == 3, 1e300, Y[1])
    for one in (made, absent):
        one.step(Y[0], time=0.0).t[:] = 9  # what was told is the user's own
    made.step(odd, time=1.0)
    absent.step(odd, [name for name in NAMES if name != "d"], time=1.0)
    made.release()
    assert made.engine("d").t == 1
    for one in (made, absent):
        one.step(Y[2], time=1.0 + np.arange(8) % 2)
    for a, b in zip(bits(made, NAMES), bits(absent, NAMES), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(made._runtime.state.last, absent._runtime.state.last)
    np.testing.assert_array_equal(made.t, 2 + (np.arange(8) != 3))


@pytest.mark.slow
def test_impossible_values_may_be_missing():
    made, absent = fleet(impossible="missing"), fleet(impossible="missing")
    for row in Y[:3]:
        for one, value in ((made, 1e300), (absent, np.nan)):
            info = one.step(np.where(np.arange(8) == 2, value, row))
        assert made.t[2] == info.t[2]
    assert made.step({"c": 1e300})["c"].status == ss.Status.IMPOSSIBLE
    absent.step({"c": np.nan})
    others = [name for name in NAMES if name != "c"]
    for names, tolerance in ((others, 0.0), (["c"], 1e-12)):
        for a, b in zip(bits(made, names), bits(absent, names), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance)


def test_block_and_steps_are_the_same(run):
    block, steps = fleet(), fleet()
    infos = block.update(Y[:12], reported=REPORTED[:12])
    for row, told in zip(Y[:12], REPORTED[:12], strict=True):
        steps.step(row, told)
    for a, b in zip(bits(block, NAMES), bits(steps, NAMES), strict=True):
        np.testing.assert_array_equal(a, b)
    assert infos["a"].t.tolist() == list(range(1, REPORTED[:12, 0].sum() + 1))


def test_frames(run):
    import pandas as pd
    import polars as pl
    import xarray as xr

    whole = fleet()
    whole.update(Y[:6])
    days = np.arange(6)  # a local level holds in continuous time: of dates it would need the unit
    wide = pd.DataFrame(Y[:6], columns=list(NAMES))
    shuffled = wide[list(reversed(NAMES))]
    long = wide.assign(day=days).melt("day", var_name="sensor", value_name="level").sample(frac=1, random_state=1)
    polars = pl.DataFrame({name: shuffled[name].to_list() for name in shuffled})
    lines = pl.DataFrame({name: long[name].to_list() for name in long})
    of = xr.DataArray(Y[:6].T, {"sensor": list(NAMES)}, ("sensor", "time"))
    for data, given in (
        (shuffled, {}),
        (polars, {}),
        *([(polars.to_arrow(), {})] if importlib.util.find_spec("pyarrow") else []),
        (of, {}),
        (long, dict(series="sensor", time="day")),
        (lines, dict(series="sensor", time="day")),
        ({name: Y[:6, i] for i, name in enumerate(NAMES)}, {}),
    ):
        made = fleet()
        infos = made.update(data, **given)
        assert infos.taken.shape == (6, 8)
        for a, b in zip(bits(whole, NAMES), bits(made, NAMES), strict=True):
            np.testing.assert_array_equal(a, b)
    some = long[long.sensor.isin(["a", "b"])]
    made = fleet()
    made.update(some, series="sensor", time="day")
    np.testing.assert_array_equal(made.t, [6, 6, 0, 0, 0, 0, 0, 0])


def test_add_and_remove(run):
    made, rest = run[0].copy(), NAMES[1:]
    before = bits(made, rest)
    made.remove("a")
    assert made.names == rest
    made.add("new")
    assert made.names == (*rest, "new")
    np.testing.assert_array_equal(made.t, [*REPORTED.sum(axis=0)[1:], 0])
    for a, b in zip(before, bits(made, rest), strict=True):
        np.testing.assert_array_equal(a, b)
    first = population(fleet().engine("a"))
    assert not np.array_equal(population(made.engine("new")).z, first.z)  # its randomness is its own
    assert made.step({"new": 1.0, "b": 2.0}).taken.sum() == 2
    with pytest.raises(ModelError, match="at least one"):
        made.remove(made.names)
    with pytest.raises(ModelError, match="'b' is there twice"):
        made.add(["b"])


@pytest.mark.parametrize(
    ("ys", "given", "message"),
    [
        (np.zeros(7), {}, r"ys has shape \(7,\): expected \(8,\), a number for each series; or a mapping"),
        ({"a": 1.0, "z": 2.0}, {}, "no series 'z'; it has 'a', 'b', .* fleet.add"),
        (None, {}, "a missing value is NaN"),
        (np.full(8, np.inf), {}, "series 'a' is infinite; a missing value is NaN"),
        ({"a": "high"}, {}, "expected real numbers, got 'high'"),
        (np.zeros(8), {"reported": [True]}, "expected 8 booleans, or names"),
        (np.zeros(8), {"reported": REPORTED[:5]}, r"an array of shape \(5, 8\); expected 8 booleans, or names"),
        (np.zeros(8), {"reported": ["z"]}, "reported: got 'z'"),
        (np.zeros(8), {"inputs": np.zeros(8)}, "this model reads none"),
        (np.zeros(8), {"noise_sd": -1.0}, "noise_sd: series 'a' has a negative one"),
    ],
)
def test_bad_rows_are_refused(ys, given, message, run):
    made = run[0]
    before = made._runtime.state
    with pytest.raises(InputError, match=message):
        made.step(ys, **given)
    assert made._runtime.state is before


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (np.zeros((3, 7)), {}, r"ys has shape \(3, 7\): expected \(rows, 8\); one row is a matter for step"),
        ({"a": [1.0], "q": [1.0]}, {}, r"has 'q' and lacks 'b', .* series="),
        ({"name": ["q"], "y": [1.0]}, {"series": "name"}, "no series 'q'"),
        ({"name": ["a"], "y": [1.0]}, {"series": "sensor"}, "no column 'sensor'"),
        (np.zeros((3, 8)), {"series": "sensor"}, "is a column of a frame; got ndarray"),
    ],
)
def test_bad_blocks_are_refused(data, given, message, run):
    before = run[0]._runtime.state
    with pytest.raises(InputError, match=message):
        run[0].update(data, **given)
    assert run[0]._runtime.state is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(series="abc"), "is one text: expected a list of names"),
        (dict(series=["a", "a"]), "'a' is there twice"),
        (dict(series=[]), "at least one"),
        (dict(impossible="error"), '"quarantine" or "missing"'),
        (dict(schedule=ss.Paced(), move=ss.moves.Metropolis("random_walk")), "must not depend on where a particle is"),
        (dict(move=ss.moves.HMC()), "a fleet has moves.Metropolis"),
        (dict(model=ss.models.StochasticVolatility()), "a fleet needs an exact filter"),
    ],
)
def test_what_a_fleet_cannot_do_yet_is_refused(options, message):
    options = dict(model=MODEL, series=3) | options
    with pytest.raises(ModelError, match=message):
        ss.Fleet(options.pop("model"), **options)




@pytest.mark.slow
def test_each_series_has_its_own_time():
    import pandas as pd

    model, rng = ss.models.IntegratedWiener() + ss.models.Noise(), np.random.default_rng(8)
    made = ss.Fleet(model, series=["a", "b"], time_unit="1D", **OPTIONS)
    engines = {name: made.engine(name) for name in made.names}
    days = [pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.uniform(0, 9, 6)), "D") for _ in "ab"]
    long = pd.DataFrame({"at": np.concatenate(days), "who": list("aaaaaabbbbbb"), "y": rng.normal(size=12)})
    for part in (long[:8], long[8:]):
        infos = made.update(part.sample(frac=1, random_state=0), series="who", time="at")
        for name, engine in engines.items():
            own = part[part.who == name]
            if len(own):
                alone = engine.update(own.y.to_numpy(), time=own["at"].to_numpy())
                np.testing.assert_allclose(infos[name].log_predictive, alone.log_predictive, rtol=1e-9)
    before = made._runtime.state
    for given, message in (
        (dict(time=pd.Timestamp("2025-01-01")), "time of series 'a' goes back or stands still"),
        (dict(), "no time was given, but earlier observations of series 'a', 'b' had one"),
        (dict(time=3.0), "earlier stamps were dates, now they are not"),
    ):
        with pytest.raises(InputError, match=message):
            made.step([1.0, 2.0], **given)
    assert made._runtime.state is before


def test_an_engine_of_a_series_goes_on_in_its_time():
    """Its first moment too, which forecasts between the observations reckon from."""
    made, start = fleet(time_unit="1D"), np.datetime64("2026-01-01T00:00", "ns")
    whole = made.engine("a")
    for i, hours in enumerate((0, 30, 40, 90)):
        at = start + np.timedelta64(hours, "h")
        made.step({"a": Y[i, 0]}, time=at)
        whole.step(Y[i, 0], time=at)
    left, asked = made.engine("a"), start + np.asarray([0, 35], "timedelta64[h]")
    assert left._runtime.state.clock.first == start
    for engine in (left, whole):
        assert engine.step(1.0, time=start + np.timedelta64(99, "h")).t == 5
    tables = [engine.forecast(times=asked) for engine in (left, whole)]
    np.testing.assert_allclose(*(table["mean"].values for table in tables), rtol=1e-9)


def test_room_for_more_rows_is_made_at_once():
    row = Observation(np.ones((1, 2)), np.ones((1, 2), bool), dt=np.ones(2), index=np.ones(2, int))
    kept, every = Histories(), np.ones(2, bool)
    for i in range(histories.ROOM):
        kept.append(row, every, np.full(2, i), every)
    for line in itertools.count(1):
        copied = kept.chosen(np.arange(2))
        again = interrupted(partial(copied.append, row, every, np.full(2, histories.ROOM), every), line, histories)
        assert copied.own(0, histories.ROOM)[0].y.all()
        if not again:
            break
    assert line > 10


def test_a_first_call_that_fails_leaves_nothing_behind():
    made = fleet()
    with pytest.raises(InputError, match="goes back"):
        made.update(Y[:3], noise_sd=np.ones((3, 1)), time=[0.0, 1.0, 0.5])
    made.update(Y[:3])
    assert made.rows == 3


@pytest.mark.slow
def test_sixty_four_series_are_sixty_four_engines():
    y, reported = streams(64, 150, seed=3)
    infos, _ = compare_with_engines(ss.Fleet(MODEL, series=64, n_particles=128), y, reported)
    assert sum(info.moved.sum() for info in infos) > 300


def test_forecasts_of_regimes_are_those_of_an_engine():
    fleet = ss.Fleet(ss.models.GaussianRegimes(), series=2, n_particles=N)
    with pytest.raises(ss.errors.ModelError, match=r"take fleet.engine\(name\).forecast"):
        fleet.forecast(2)

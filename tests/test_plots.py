"""Pictures: what is drawn is what is on record; missing data, several channels and runs; helpful complaints."""

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.dates import date2num
from scipy import stats

import small
from small import N
from smcssm import plots
from smcssm.drawing import digits
from smcssm.errors import InputError, ModelError

T = 70
Z95 = stats.norm.ppf(0.95)


@pytest.fixture(scope="module")
def one():
    """One channel, one run, a gap, and a level that is unknown at first."""
    y = small.walk(T)
    y[[0, 7, 30, 31, 32]] = np.nan
    engine = small.level()
    engine.update(y)
    return engine


@pytest.fixture(scope="module")
def three_runs():
    """Two channels, one of them never observed, three runs, four hyperparameters."""
    y = small.readings(12)
    y[:, 1], y[7] = np.nan, np.nan
    engine = small.sensors()
    engine.update(y)
    return engine


@pytest.fixture(autouse=True)
def _drawn_and_closed():
    """Every figure can be rendered, and none is left open."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def line(ax, label):
    return next(item for item in ax.lines if item.get_label() == label)


def band(ax, label, which=0):
    """Lower and upper edge of a filled band, at each x."""
    filled = [item for item in ax.collections if item.get_label() == label][which]
    vertices = filled.get_paths()[0].vertices
    xs = np.unique(vertices[:, 0])
    edges = [vertices[vertices[:, 0] == x, 1] for x in xs]
    return xs, np.array([[e.min(), e.max()] for e in edges])


def test_forecast_fan_draws_the_record_and_the_forecast(one):
    ax = plots.forecast_fan(one, h=5).axes[0]
    record = one.record
    data, mean = line(ax, "data"), line(ax, "one-step forecast: mean")
    np.testing.assert_array_equal(data.get_xydata()[:, 0], np.arange(1, T + 1))
    np.testing.assert_array_equal(data.get_ydata(), record["y"][:, 0])
    np.testing.assert_array_equal(mean.get_ydata(), record["predictive_mean"][:, 0])
    x, edges = band(ax, "90%")
    m, s = record["predictive_mean"].values[:, 0], record["predictive_sd"].values[:, 0]
    np.testing.assert_array_equal(x, np.arange(1, T + 1))
    np.testing.assert_allclose(edges, np.stack([m - Z95 * s, m + Z95 * s], axis=1))
    q = one.forecast(5)["quantiles"].values[:, 0]
    ahead = line(ax, "forecast ahead: median")
    np.testing.assert_array_equal(ahead.get_xdata(), np.arange(T + 1, T + 6))
    np.testing.assert_allclose(ahead.get_ydata(), q[:, 1])
    _, fan = band(ax, "90%", which=1)
    np.testing.assert_allclose(fan, q[:, [0, 2]])
    y = record["y"].values[~np.isnan(record["y"].values)]
    low, high = ax.get_ylim()
    assert low < min(y.min(), q.min())
    assert high > max(y.max(), q.max())


def test_a_vague_start_does_not_flatten_the_picture(one):
    assert one.record["predictive_sd"].values[0, 0] > 900
    low, high = plots.forecast_fan(one).axes[0].get_ylim()
    assert high - low < 50


def test_a_single_observation_is_seen():
    engine = small.level()
    engine.step(0.7)
    fan = plots.forecast_fan(engine, h=5).axes[0]
    low, high = fan.get_ylim()
    assert high - low < 50  # its own forecast was vague
    panels = [(fan, "one-step forecast: mean"), (plots.hyperparameters(engine).axes[0], "median")]
    for ax, name in [*panels, (plots.moves(engine).axes[0], "effective sample size")]:
        assert line(ax, name).get_marker() == "o"
        assert not (ax.get_xticks() % 1).any()  # observations are counted


def test_many_long_names_leave_room_for_the_picture(one):
    names = [f"level + seasonal:{k} + noise" for k in (4, 6, 7, 12, 24)]
    figure = plots.model_probabilities(dict.fromkeys(names, one))
    figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.8


@pytest.mark.parametrize("value", [(294.2, "294"), (999.7, "1000"), (54321.0, "54321"), (0.0012345, "0.00123")])
def test_numbers_for_people(value):
    assert digits(value[0]) == value[1]


@pytest.mark.parametrize("h", [0, 1])
def test_short_horizons(one, h):
    ax = plots.forecast_fan(one, last=10, h=h).axes[0]
    assert len(line(ax, "data").get_xdata()) == 10
    assert sum(item.get_label() == "forecast ahead: median" for item in ax.lines) == h


def test_index_of_dates(one):
    index = pd.date_range("2020-01-01", periods=T, freq="D", tz="Europe/Berlin")
    ax = plots.forecast_fan(one, index=index, h=3, last=20).axes[0]
    x = line(ax, "data").get_xdata()
    np.testing.assert_array_equal(x, index[-20:].tz_localize(None).to_numpy())
    ahead = line(ax, "forecast ahead: median").get_xdata()
    expected = pd.date_range("2020-03-11", periods=3).to_numpy()
    np.testing.assert_array_equal(date2num(ahead), date2num(expected))
    for plot in (plots.hyperparameters, plots.moves):
        figure = plot(one, index=index)
        np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), index.tz_localize(None).to_numpy())


def test_other_indices(one):
    def data(index):
        ax = plots.forecast_fan(one, index=index, h=2).axes[0]
        return line(ax, "data").get_xdata(), line(ax, "forecast ahead: median").get_xdata()

    years = np.arange(1901, 1901 + T)
    np.testing.assert_array_equal(data(years)[1], [1901 + T, 1902 + T])
    given = np.append(np.arange(T), [500.0, 900.0])
    np.testing.assert_array_equal(data(given)[1], [500.0, 900.0])
    months = pd.period_range("2000-01", periods=T, freq="M")
    np.testing.assert_array_equal(data(months)[0], months.to_timestamp().to_numpy())


def test_time_stamps_are_the_axis(one):
    engine, when = small.level(time_unit="1D"), pd.date_range("2024-03-30", periods=8, freq="9h", tz="Europe/Vienna")
    engine.update(small.walk(8), time=when)
    utc = when.tz_convert("UTC").tz_localize(None)
    times = [when[2] + pd.Timedelta("1h"), when[-1] + pd.Timedelta("3D"), when[-1] + pd.Timedelta("5D")]
    ax = plots.forecast_fan(engine, times=times).axes[0]
    np.testing.assert_array_equal(line(ax, "data").get_xdata(), utc.to_numpy())
    ahead, forecast = line(ax, "forecast ahead: median"), engine.forecast(times=times)
    np.testing.assert_array_equal(date2num(ahead.get_xdata()), date2num(forecast["time"].values))
    np.testing.assert_allclose(ahead.get_ydata(), forecast["quantiles"].values[:, 0, 1])
    assert ax.get_xlabel() == ""
    steps = plots.forecast_fan(engine, h=2).axes[0]
    expected = (utc[-1] + pd.to_timedelta([1, 2], "D")).to_numpy()
    np.testing.assert_array_equal(date2num(line(steps, "forecast ahead: median").get_xdata()), date2num(expected))
    np.testing.assert_array_equal(plots.moves(engine).axes[0].lines[0].get_xdata(), utc.to_numpy())
    with pytest.raises(InputError, match="leave one of the two out"):
        plots.forecast_fan(engine, times=times, index=np.arange(8))
    with pytest.raises(InputError, match="the observations had no time"):
        plots.forecast_fan(one, times=times)


def test_hyperparameters_draw_the_quantiles(one):
    figure = plots.hyperparameters(one)
    record = one.record
    assert [ax.get_ylabel() for ax in figure.axes] == ["sigma_level", "sigma_obs"]
    for i, ax in enumerate(figure.axes):
        q = record["quantiles"].values[:, i]
        np.testing.assert_array_equal(line(ax, "median").get_ydata(), q[:, 1])
        np.testing.assert_array_equal(band(ax, "90%")[1], q[:, [0, 2]])
        bar = line(ax, "prior").get_ydata()
        np.testing.assert_allclose(bar, stats.halfnorm(scale=1 + i).ppf([0.05, 0.95]), rtol=0.5)
        assert f"prior 90%: {bar[0]:.3g} to {bar[1]:.3g}" in [text.get_text() for text in ax.texts]


def test_moves_draw_ess_and_acceptance(one):
    above, below = plots.moves(one).axes
    record = one.record
    moved = record["moved"].values
    assert moved.any()
    np.testing.assert_array_equal(line(above, "effective sample size").get_ydata(), record["least_ess"])
    np.testing.assert_array_equal(line(above, "moved").get_xdata(), record["time"].values[moved])
    np.testing.assert_array_equal(line(above, "threshold").get_ydata(), [N / 2] * 2)
    np.testing.assert_array_equal(line(above, "least for a move").get_ydata(), [20.0, 20.0])
    np.testing.assert_array_equal(below.lines[0].get_ydata(), record["acceptance"].values[moved])


def test_pit_histogram_counts_and_band(one):
    ax = plots.pit_histogram(one, bins=5).axes[0]
    pit = one.record["pit"].values[:, 0]
    pit = pit[~np.isnan(pit)]
    assert len(pit) == T - 5
    counts = [np.sum((pit >= a) & (pit < a + 0.2)) for a in (0.0, 0.2, 0.4, 0.6, 0.8)]
    bars = [patch.get_height() for patch in ax.containers[0]]
    np.testing.assert_array_equal(bars, counts)
    np.testing.assert_array_equal(line(ax, "expected").get_ydata(), [(T - 5) / 5] * 2)
    shade = next(p for p in ax.patches if p.get_label() == "95% of uniform counts")
    low, high = stats.binom(T - 5, 0.2).interval(0.95)
    assert (shade.get_y(), shade.get_y() + shade.get_height()) == (low, high)


def test_channels_and_runs(three_runs):
    figure = plots.forecast_fan(three_runs)
    assert [ax.get_ylabel() for ax in figure.axes] == ["north", "south"]
    np.testing.assert_array_equal(line(figure.axes[0], "data").get_ydata(), three_runs.record["y"][:, 0])
    assert np.isnan(line(figure.axes[1], "data").get_ydata()).all()
    only = plots.forecast_fan(three_runs, channel="south").axes
    assert [ax.get_ylabel() for ax in only] == ["south"]
    assert plots.forecast_fan(three_runs, channel=1).axes[0].get_ylabel() == "south"
    names = [ax.get_ylabel() for ax in plots.hyperparameters(three_runs).axes]
    assert names == ["sigma_level", "sigma_obs[north]", "sigma_obs[south]", "drift"]
    assert "worst run" in plots.moves(three_runs).axes[0].get_ylabel()
    assert len(plots.pit_histogram(three_runs).axes) == 2


def test_models_with_inputs():
    engine, _ = small.regression()
    with pytest.raises(InputError, match="input0"):
        plots.forecast_fan(engine, h=2)
    ax = plots.forecast_fan(engine, h=2, inputs=np.ones((2, 2))).axes[0]
    assert len(line(ax, "forecast ahead: median").get_xdata()) == 2


@pytest.mark.parametrize("y", [1.0, np.nan])
def test_one_observation(y):
    engine = small.level()
    engine.step(y)
    for plot in (plots.forecast_fan, plots.hyperparameters, plots.moves, plots.pit_histogram):
        plot(engine)
    plots.forecast_fan(engine, index=[1999.0])


def test_axes_of_your_own(one):
    figure, axes = plt.subplots(2)
    assert plots.moves(one, axes=axes) is figure
    assert plots.forecast_fan(one, axes=axes[0]) is figure
    with pytest.raises(InputError, match="got 1, expected 2"):
        plots.hyperparameters(one, axes=axes[0])


def test_complaints(one, three_runs, monkeypatch):
    fresh = small.level()
    with pytest.raises(InputError, match="no observation yet"):
        plots.moves(fresh)
    with pytest.raises(ModelError, match="record"):
        plots.moves(small.level(record=None))
    with pytest.raises(InputError, match=r"got list; of a fleet: fleet\.engine\(name\)"):
        plots._recorded([one], None)  # the pictures themselves are checked for types here
    with pytest.raises(InputError, match="north, south"):
        plots.forecast_fan(three_runs, channel="west")
    with pytest.raises(InputError, match="at least one"):
        plots.moves(one, last=0)
    with pytest.raises(InputError, match=f"expected {T}"):
        plots.moves(one, index=[1, 2])
    with pytest.raises(InputError, match="numbers or datetimes"):
        plots.moves(one, index=["a"] * T)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"smcssm\[plots\]"):
        plots.moves(one)

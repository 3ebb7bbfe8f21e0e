"""Other libraries' faces give what the engine's own methods give, in the shapes that those libraries give."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import smcssm as ss
from smcssm.errors import InputError, ModelError
from smcssm.interfaces import Prophet, River, Statsmodels

DAYS = pd.date_range("2024-01-01", periods=40, freq="D")
rng = np.random.default_rng(0)
PRICE = rng.normal(size=44)
Y = np.cumsum(0.5 * rng.normal(size=40)) + PRICE[:40] + rng.normal(size=40)


def new_engine():
    """A level and one input."""
    model = ss.models.LocalLevel(initial_sd=10.0) + ss.models.Regression(names=("price",))
    return ss.Engine(model, n_particles=64, seed=0)


@pytest.fixture(scope="module")
def prophet():
    """Of dated rows, in two frames of two kinds."""
    face = Prophet(new_engine(), interval_width=0.9)
    frame = pd.DataFrame({"price": PRICE[:40], "y": Y, "ds": DAYS, "note": "x"})
    face.fit(frame.iloc[:30])
    return face.fit(pl.DataFrame({"ds": DAYS[30:].to_numpy(), "y": Y[30:], "price": PRICE[30:40]}))


def test_prophet_frames(prophet):
    ahead = prophet.engine.forecast(3, inputs=PRICE[40:43], quantiles=(0.05, 0.95))
    frame = prophet.predict(3, inputs=PRICE[40:43])
    assert list(frame.columns) == ["ds", "yhat", "yhat_lower", "yhat_upper"] and len(frame) == 43
    assert list(frame["ds"]) == list(pd.date_range("2024-01-01", periods=43))
    np.testing.assert_array_equal(frame["yhat"][40:], ahead["mean"].values[:, 0])
    np.testing.assert_array_equal(frame[["yhat_lower", "yhat_upper"]][40:], ahead["quantiles"].values[:, 0])
    np.testing.assert_array_equal(frame["yhat"][:40], prophet.engine.record["predictive_mean"].values[:, 0])
    wide = (frame["yhat_upper"] - frame["yhat_lower"])[:40] / prophet.engine.record["predictive_sd"].values[:, 0]
    np.testing.assert_allclose(wide, 2 * 1.6448536269514722)
    pd.testing.assert_frame_equal(
        prophet.predict(3, inputs=PRICE[40:43], history=False), frame[40:].reset_index(drop=True)
    )


def test_statsmodels_results(prophet):
    engine = prophet.engine
    face = Statsmodels(engine)
    found, inputs = face.get_forecast(4, exog=PRICE[40:]), PRICE[40:]
    ahead = engine.forecast(4, inputs=inputs, quantiles=(0.1, 0.9))
    frame = found.summary_frame(alpha=0.2)
    assert list(frame.columns) == ["mean", "mean_se", "mean_ci_lower", "mean_ci_upper"]
    assert list(frame.index) == list(pd.date_range("2024-02-10", periods=4)) and frame.columns.name == "y"
    expected = np.column_stack([ahead["mean"], ahead["sd"], ahead["quantiles"].values[:, 0]])
    np.testing.assert_array_equal(frame, expected)
    assert list(found.conf_int().columns) == ["lower y", "upper y"]
    np.testing.assert_array_equal(face.forecast(4, inputs), found.predicted_mean)
    np.testing.assert_array_equal(found.se_mean**2, found.var_pred_mean)
    assert face.llf == engine.log_evidence and face.nobs == 40
    np.testing.assert_array_equal(face.params, engine.summary()["mean"])
    np.testing.assert_array_equal(face.bse, engine.summary()["sd"])
    with pytest.raises(InputError, match="alpha=2: expected a number between 0 and 1"):
        found.conf_int(2.0)
    with pytest.raises(ModelError, match="endog=1: the model has channels 0 to 0, y"):
        found.summary_frame(1)


def test_river_methods_and_a_forecast_that_has_aged():
    face, twin = River(new_engine()), new_engine()
    for y, price in zip([*Y[:9], None], PRICE, strict=False):
        face.learn_one(y, {"price": price, "weather": "fine"})
    results = Statsmodels(twin).append([*Y[:8]], PRICE[:8])
    old = results.get_forecast(2, PRICE[8:10])
    results.append([Y[8], np.nan], PRICE[8:10])
    np.testing.assert_array_equal(old.row_labels, [8, 9])
    with pytest.raises(InputError, match="made after 8 observations, and the engine has taken 10: call get_forecast"):
        old.conf_int()
    assert face.engine.log_evidence == twin.log_evidence
    xs = [{"price": price} for price in PRICE[10:13]]
    assert face.forecast(3, xs) == twin.forecast(3, inputs=PRICE[10:13])["mean"].values[:, 0].tolist()
    with pytest.raises(InputError, match="x lacks price: the model reads price"):
        face.learn_one(1.0, {"weather": "fine"})
    with pytest.raises(InputError, match="expected as many xs, got 0"):
        face.forecast(3)
    assert face.engine.t == 10


def test_what_is_refused(prophet):
    with pytest.raises(InputError, match="columns when, y, and lacks ds, price"):
        prophet.fit(pd.DataFrame({"when": [1], "y": [2.0]}))
    with pytest.raises(InputError, match="expected a frame with columns ds and y, got list"):
        prophet.fit([1.0])
    with pytest.raises(ModelError, match="interval_width=80: expected"):
        Prophet(new_engine(), interval_width=80.0)
    aside = Prophet(prophet.engine)
    with pytest.raises(InputError, match=r"40 observations, 0 of them by fit.*history=False"):
        aside.predict(2, inputs=PRICE[:2])

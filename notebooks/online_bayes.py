# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (online_bayes)=
# # A posterior that keeps up with its data
#
# :::{post} November, 2026
# :tags: time series, state space model, sequential Monte Carlo, online learning, model comparison
# :category: intermediate, how-to
# :author: The smcssm developers
# :::

# %% [markdown]
# You have a state-space model and priors in PyMC. Data arrive one at a time, and after each one you want the
# posterior again: of the hyperparameters, of the state now, of what comes next. Sampling all of history again each
# time costs more and more. Here the posterior is *updated* instead, and stays exact up to Monte Carlo error: a
# population of hyperparameter particles, each with its own Kalman filter, reweighted at each observation and moved
# when the weights grow uneven: IBIS {cite:p}`chopin2002sequential`, the case of SMC² {cite:p}`chopin2013smc2` whose
# inner filter is exact.

# %%
import os

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
from bokeh_sampledata.sea_surface_temperature import sea_surface_temperature
from statsmodels.datasets import nile

import smcssm as ss
from smcssm import plots

FAST = os.environ.get("SMCSSM_FAST") == "1"  # smaller sizes, for continuous integration
N = 500 if FAST else 2000

# %% [markdown]
# ## Priors in PyMC, a model from the shelf
#
# The annual flow of the Nile at Aswan, 1871 to 1970 {cite:p}`durbin2012time`: a level that wanders, seen through noise,
#
# $$x_{t+1} = x_t + \sigma_\text{level}\, e_t, \qquad y_t = x_t + \sigma_\text{obs}\, n_t.$$
#
# The two standard deviations are unknown. Their priors are an ordinary `pm.Model` without observed variables, and the
# names are those that the model asks for. `LocalLevel` takes the law of the level *at the first observation*.

# %%
flow = nile.load_pandas().data["volume"].to_numpy()
years = nile.load_pandas().data["year"].to_numpy()

with pm.Model() as prior:
    pm.HalfNormal("sigma_level", 50.0)
    pm.HalfNormal("sigma_obs", 150.0)

model = ss.models.LocalLevel(initial_mean=1120.0, initial_sd=300.0)
print(model.names, model.state_names)

engine = ss.Engine(model, prior, n_particles=N, seed=0)
engine.warmup()  # compile now rather than at the first observation

# %% [markdown]
# ## One observation at a time
#
# `step` takes one value and tells what it meant: how it compares with the forecast that was made for it, and how the
# population is doing.

# %%
for year, y in zip(years[:5], flow[:5], strict=True):
    info = engine.step(y)
    print(
        f"{year:.0f}: {y:.0f}, forecast {info.predictive_mean:.0f} ± {info.predictive_sd:.0f}, "
        f"log predictive {info.log_predictive:.2f}, effective sample size {info.ess:.0f}, moved {info.moved}"
    )

# %% [markdown]
# At every moment the whole posterior can be read; reading never changes what happens later.

# %%
engine.summary()

# %% [markdown]
# `update` takes a block and gives, bit for bit, what stepping through it gives.

# %%
infos = engine.update(flow[5:])
engine.summary()

# %%
_ = plots.hyperparameters(engine, index=years)

# %% [markdown]
# The prior is at the left edge. After five years the data have said almost nothing about `sigma_level`; the wide band
# narrows as they do.
#
# Every point below was forecast from the points before it only. The fan at the end integrates over hyperparameters and
# state.

# %%
_ = plots.forecast_fan(engine, h=10, index=years)

# %%
engine.forecast(2)

# %% [markdown]
# ## Is it right?
#
# With two hyperparameters there is an independent check: the posterior on a grid, from a plain Kalman filter in NumPy.
# It is also what a refit amounts to, all grid points times all of history, again after each new year. The engine's
# particles took each year once, and went over all of history only when they were moved:

# %%
print("moved after the years", *years[5:][infos.moved].astype(int))


# %%
def on_grid(y, points=121):
    """Log posterior of (sigma_level, sigma_obs) on a grid, log weights of the grid included; log evidence."""
    level, obs = np.meshgrid(np.linspace(0.5, 180, points), np.linspace(60, 220, points), indexing="ij")
    log_posterior = -0.5 * (level / 50) ** 2 - 0.5 * (obs / 150) ** 2 + 2 * np.log(2) - np.log(2 * np.pi * 50 * 150)
    m, P = np.full_like(level, 1120.0), np.full_like(level, 300.0**2)
    for value in y:
        S = P + obs**2
        log_posterior += -0.5 * (np.log(2 * np.pi * S) + (value - m) ** 2 / S)
        m, P = m + P / S * (value - m), P * obs**2 / S + level**2  # update, then one step ahead
    cell = (level[1, 0] - level[0, 0]) * (obs[0, 1] - obs[0, 0])
    weight = np.exp(log_posterior - log_posterior.max())
    return level, obs, weight / weight.sum(), log_posterior.max() + np.log(weight.sum() * cell)


level, obs, weight, log_evidence = on_grid(flow)
for name, values in (("sigma_level", level), ("sigma_obs", obs)):
    mean = np.sum(weight * values)
    sd = np.sqrt(np.sum(weight * (values - mean) ** 2))
    ours = engine.summary().loc[name]
    print(f"{name}: grid {mean:.1f} ± {sd:.1f}, engine {ours['mean']:.1f} ± {ours['sd']:.1f}")
print(f"log evidence: grid {log_evidence:.2f}, engine {engine.log_evidence:.2f}")

# %% [markdown]
# ## Missing data
#
# NaN means: time passed, the value is missing. No imputation, no restart; the state grows uncertain until data return.

# %%
holes = flow.copy()
holes[40:60] = np.nan
other = ss.Engine(model, prior, n_particles=N, seed=0)
other.update(holes)
_ = plots.forecast_fan(other, h=5, index=years)

# %% [markdown]
# ## A faster stream: which model, and is it calibrated?
#
# A buoy in the Gulf of Maine reports the sea temperature each half hour. Time steps must be regular for now, so the
# series goes on its grid, with NaN in the gaps and a duplicate stamp dropped. Is there a daily cycle? Its two
# amplitudes are linear, so they belong in the state, where they cost no hyperparameter; the evidence says whether they
# pay.

# %%
raw = sea_surface_temperature["temperature"]
sea = raw[~raw.index.duplicated()].asfreq("30min").tz_localize(None).iloc[: (7 if FAST else 30) * 48]

level = ss.models.Level(initial_mean=5.0, initial_sd=1.0)
cycle = ss.models.Seasonal(48, "fourier", harmonics=1, drifting=False, initial_sd=0.5)
noise = ss.models.Noise()
engines, told = {}, {}
for name, model in {"level": level + noise, "level and daily cycle": level + cycle + noise}.items():
    with pm.Model() as prior:
        for sigma in model.names:
            pm.HalfNormal(sigma, 0.1)
    engines[name] = ss.Engine(model, prior, n_particles=N // 2, seed=0)
    told[name] = engines[name].update(sea.to_numpy(), progress=False)
    print(f"{name}: log evidence {engines[name].log_evidence:.1f}")

# %%
buoy = engines["level and daily cycle"]
_ = plots.forecast_fan(buoy, last=3 * 48, h=48, index=sea.index)

# %% [markdown]
# The probability integral transform of each reading under the forecast made for it should be uniform
# {cite:p}`dawid1984statistical`. It is not:
# too many in the middle and in the tails. Water is calm for days and then moves, and one constant `sigma_level` cannot
# say that. `diagnose` notices too.

# %%
_ = plots.pit_histogram(buoy)

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ss.errors.SmcssmWarning)  # what is to be checked is in the table
    diagnosis = buoy.diagnose()
diagnosis

# %% [markdown]
# ## Alarms
#
# A monitor watches the same numbers as the stream goes on: single values far in the tails, and drifts of the forecasts'
# location and scale by cumulative sums {cite:p}`page1954continuous`. Their rate is known where the model is right, one
# false alarm in 10,000 readings here, so what comes more often says that something is wrong, and since when.

# %%
monitor = ss.monitor.Monitor(run_length=10_000)
monitor.update(told["level and daily cycle"])
alarms = monitor.table
alarms.insert(0, "time", sea.index[alarms["t"] - 1])
print(f"{len(alarms)} alarms in {buoy.t} readings")
alarms.groupby("kind").agg(alarms=("t", "size"), first=("time", "min"), last=("time", "max"))

# %%
figure = plots.forecast_fan(buoy, last=3 * 48, h=0, index=sea.index)
late = alarms[alarms["t"] > buoy.t - 3 * 48]
figure.axes[0].plot(late["time"], sea[late["time"]], "o", ms=10, mfc="none", color="#D55E00", label="alarm")
figure.axes[0].legend(frameon=False, fontsize="small")
plt.show()

# %% [markdown]
# ## Out to ArviZ
#
# `to_arviz` gives a DataTree with equally weighted draws, so everything of ArviZ works on this moment's posterior. With
# `runs=4` at construction there are four independent populations, and four chains.

# %%
tree = engine.to_arviz()
tree

# %%
az.summary(tree, var_names=["sigma_level", "sigma_obs"], kind="stats")

# %%
az.plot_dist(tree, var_names=["sigma_level", "sigma_obs"])
plt.show()

# %% [markdown]
# ## What if?
#
# A copy has the same past and its own future.

# %%
flood, drought = engine.copy(), engine.copy()
flood.step(1400.0)
drought.step(450.0)
for name, e in (("as it is", engine), ("after a flood", flood), ("after a drought", drought)):
    ahead = e.forecast(1)
    print(f"{name}: next year {ahead['mean'].item():.0f} ± {ahead['sd'].item():.0f}")

# %% [markdown]
# ## Key takeaways
#
# - Priors stay in `pm.Model`; the model asks for hyperparameters by name; `step` or `update` brings the posterior of
#   hyperparameters *and* state up to date, and the evidence and the one-step forecast come with it.
# - The answer agrees with brute force on a grid, within the Monte Carlo error of the number of particles.
# - NaN is a missing value. Regular time steps are assumed by all but the plainest models for now.
# - What is linear (a daily cycle, regression coefficients) goes into the state, where it costs no hyperparameter.
# - Look at the PIT histogram, `diagnose()` and the alarms: an exact posterior of the wrong model is still of the wrong
#   model.
#
# ## Authors
#
# - Written by the smcssm developers in November 2026.
#
# ## References
#
# :::{bibliography}
# :filter: docname in docnames
# :::
#
# ## Watermark

# %%
# %load_ext watermark
# %watermark -n -u -v -iv -w -p pytensor,xarray,jax

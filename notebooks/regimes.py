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
# # Quiet and wild markets: regimes or stochastic volatility?
#
# Daily returns of a share are calm for months and then are not. Two classic models say how: the market *switches*
# between a few regimes, or its volatility *wanders*. Both are learned here online, on the same days, and their evidence
# says from day to day which of the two has forecast better.
#
# Data: the closing prices of IBM (`bokeh_sampledata`), through the crisis of autumn 2008.

# %%
import os
from importlib import resources

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import smcssm as ss
from smcssm import plots

FAST = os.environ.get("SMCSSM_FAST") == "1"
N, M = (128, 64) if FAST else (1000, 256)

# %%
with resources.files("bokeh_sampledata").joinpath("_data", "stocks.csv.gz").open("rb") as file:
    prices = pd.read_csv(file, compression="gzip", parse_dates=["Date"])
close = prices[prices["Ticker"] == "IBM"].set_index("Date").sort_index()["Adj Close"]
returns = (100 * np.log(close).diff()).loc["2008-06" if FAST else "2006":"2009-02" if FAST else "2010"]
print(len(returns), "days, sd", returns.std().round(2), "%, largest move", returns.abs().max().round(1), "%")

# %% [markdown]
# ## Two regimes
#
# `GaussianRegimes` is a hidden Markov chain with a mean and a standard deviation for each regime. The chain is summed
# out exactly, so no inner particles are needed. Regimes have no names by nature: a posterior in which they may swap has
# two modes. Here the priors tell them apart: the second one is expected to be wilder.

# %%
with pm.Model() as regime_prior:
    pm.Normal("mean", 0.0, 0.3, shape=2)
    pm.LogNormal("sigma", mu=np.log([1.0, 3.0]), sigma=0.3, shape=2)
    pm.Beta("stay", 30.0, 1.5, shape=2)

regimes = ss.models.GaussianRegimes(2, regime_names=("quiet", "wild"))
switching = ss.Engine(regimes, regime_prior, n_particles=N, seed=0)
probability = []
for y in returns:
    switching.step(y)
    probability.append(switching.state()["mean"].sel(state="wild").item())
switching.summary()

# %%
fig, (above, below) = plt.subplots(2, 1, figsize=(9, 4.5), sharex=True, layout="constrained")
above.vlines(returns.index, 0, returns, color="#222222", lw=0.8)
above.set_ylabel("return, %")
below.fill_between(returns.index, 0, probability, color="#D55E00", alpha=0.4, lw=0, label="that day")
smoothed = switching.smooth()["mean"].sel(state="wild")
below.plot(returns.index, smoothed, color="#0072B2", lw=1.2, label="in hindsight")
below.set_ylabel("P(wild)")
below.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
plt.show()

# %% [markdown]
# The filled curve is what was known on the day itself, the line what all days together say.
#
# ## A volatility that wanders
#
# In `StochasticVolatility` the log variance is an autoregression. Given hyperparameters its likelihood is no closed
# formula, so that each hyperparameter particle carries a particle filter of its own: SMC² proper. The posterior of the
# hyperparameters is exact for any number of inner particles; `max_inner` keeps them few here.

# %%
with pm.Model() as volatility_prior:
    pm.Normal("mu", np.log(1.5**2), 1.0)
    pm.Beta("phi", 20.0, 1.5)
    pm.HalfNormal("sigma_volatility", 0.5)

wandering = ss.Engine(
    ss.models.StochasticVolatility(),
    volatility_prior,
    n_particles=N,
    filter=ss.filters.Particle(n_particles=M, max_inner=M if FAST else 4 * M),
    seed=0,
)
volatility = []
for y in returns:
    wandering.step(y)
    volatility.append(wandering.state().isel(state=0))
wandering.summary()

# %%
h = np.array([v["mean"].item() for v in volatility])
s = np.array([v["sd"].item() for v in volatility])
fig, ax = plt.subplots(figsize=(9, 3), layout="constrained")
ax.plot(returns.index, returns.abs(), ".", ms=3, color="#767676", label="|return|")
ax.plot(returns.index, np.exp(h / 2), color="#0072B2", label="volatility")
low, high = np.exp((h - 1.645 * s) / 2), np.exp((h + 1.645 * s) / 2)
ax.fill_between(returns.index, low, high, color="#0072B2", alpha=0.22, lw=0, label="90%")
ax.set_ylabel("% a day")
ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
plt.show()

# %% [markdown]
# ## Which one forecasts better?
#
# Each model forecast each return before it came; the sums of the log forecasts are the evidences.

# %%
engines = {"two regimes": switching, "stochastic volatility": wandering}
ss.compare(engines)

# %%
_ = plots.model_probabilities(engines)

# %%
scores = pd.concat({name: engine.scores().loc["y"] for name, engine in engines.items()}, axis=1).T
scores[["n", "log_score", "coverage_50", "coverage_90", "calibration"]]

# %% [markdown]
# ## Key takeaways
#
# - Finite regimes are summed out exactly; a wandering volatility needs inner particles. Both are an `Engine`.
# - `state()` is what was known on the day; `smooth()` is hindsight. They differ most at the turning points.
# - Give regimes priors that tell them apart, or `move=ss.moves.Metropolis(relabel=True)`, and read means with care.
# - Evidence compares models of different kinds, day by day, without a hold-out set: every forecast was made in advance.
#   Mind its Monte Carlo error, the column `bayes_factor_sd`.

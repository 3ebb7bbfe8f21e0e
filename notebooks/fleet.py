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
# # Two hundred series at once
#
# Life expectancy at birth in every country, 1964 to 2013 (Gapminder, as it comes with Bokeh's sample data). Each
# country is a series of its own, with its own hyperparameters and its own posterior of them; a `Fleet` takes all of
# them through one compiled program, year by year, as they would have come in. After each year every country has a
# forecast, and the next year is a surprise or not.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
from bokeh_sampledata.gapminder import life_expectancy
from scipy import stats

import smcssm as ss

FAST = os.environ.get("SMCSSM_FAST") == "1"  # smaller sizes, for continuous integration
N = 64 if FAST else 256

table = life_expectancy.T.astype(float).dropna(axis="columns", how="all")
table.index = table.index.astype(int)
if FAST:  # a fifth of the countries, and the ones that are named below
    table = table[sorted({*table.columns[::5], "Rwanda", "Cambodia", "Japan", "Botswana", "Haiti"})]
print(f"{table.shape[1]} countries, {table.shape[0]} years, {int(table.isna().sum().sum())} values missing")

# %% [markdown]
# ## One model, one prior, a posterior each
#
# A trend that wanders: level and slope both may change from year to year. The figures are published after demographers
# have smoothed them, so the noise is small, and a prior that says so is the same for all. The series share the program
# and the prior, and nothing else: what Japan does tells nothing about Haiti.

# %%
with pm.Model() as prior:
    pm.HalfNormal("sigma_level", 0.3)
    pm.HalfNormal("sigma_trend", 0.1)
    pm.HalfNormal("sigma_obs", 0.1)

model = ss.models.LocalLinearTrend(initial_mean=(55.0, 0.3), initial_sd=(15.0, 0.5))
fleet = ss.Fleet(model, prior, series=table.columns, n_particles=N, impossible="missing", seed=0)

# %% [markdown]
# A year comes in as a row, or as a mapping of those countries that have reported. NaN would mean that the year passed
# without a value; a country that is left out has not reported, and its clock stands still.

# %%
info = fleet.step(table.iloc[0].to_dict())
print(info["Japan"])

# %% [markdown]
# The rest as a block, with the same result. `infos[country]` is what an engine of its own would have told.

# %%
infos = fleet.update(table.iloc[1:])
fleet.summary().loc[["Japan", "Rwanda"]].round(3)

# %% [markdown]
# ## What came as a surprise?
#
# A monitor for each country, with a known rate of false alarms: one in 10,000 observations, so about one in all of this
# table, if the model is right for everybody.

# %%
found = []
for country in fleet.names:
    monitor = ss.monitor.Monitor(run_length=10_000)
    monitor.update(infos[country])
    found += [{"country": country, "year": table.index[a.t - 1], **a._asdict()} for a in monitor.alarms]
alarms = pd.DataFrame(found, columns=["country", "year", *ss.monitor.Alarm._fields])
print(f"{len(alarms)} alarms in {alarms['country'].nunique()} of {len(fleet)} countries")
surprises = alarms[alarms["kind"] == "surprise"]
surprises.sort_values("value").drop_duplicates("country").head(12)[["country", "year", "value"]]

# %% [markdown]
# The genocides of Cambodia and Rwanda and the earthquake of Haiti are at the top. Others are small steps in a series
# that had been smooth until then (Chile, 1992: less than a year of life): its posterior had learned that nothing ever
# happens. Far more than one alarm in all: constant hyperparameters are wrong for many countries.

# %%
shown = ["Japan", "Rwanda", "Cambodia", "Botswana"]
figure, panels = plt.subplots(2, 2, figsize=(11, 6), sharex=True, layout="constrained")
ahead = fleet.forecast(10)
for ax, country in zip(panels.ravel(), shown, strict=True):
    steps, years = infos[country], table.index[1:]
    mean, sd = np.asarray(steps.predictive_mean), np.asarray(steps.predictive_sd)
    ax.fill_between(years, mean - 1.645 * sd, mean + 1.645 * sd, color="#0072B2", alpha=0.22, lw=0)
    ax.plot(years, mean, color="#0072B2", lw=1.2)
    ax.plot(table.index, table[country], "o", color="#222222", ms=3)
    q, future = ahead["quantiles"].sel(series=country).values[:, 0], table.index[-1] + np.arange(1, 11)
    ax.fill_between(future, q[:, 0], q[:, -1], color="#D55E00", alpha=0.22, lw=0)
    ax.plot(future, q[:, 1], color="#D55E00", lw=1.4)
    for year in surprises.loc[surprises["country"] == country, "year"]:
        ax.axvline(year, color="#D55E00", lw=0.8, ls=":")
    ax.set_title(country, fontsize="medium")
    low, high = np.nanmin(table[country]), np.nanmax(table[country])
    ax.set_ylim(low - 0.35 * (high - low), high + 0.5 * (high - low))
    ax.spines[["top", "right"]].set_visible(False)
figure.supylabel("life expectancy, years")
plt.show()

# %% [markdown]
# Blue: each year as it was forecast from the years before, 90%. Dotted: surprises. Orange: the next ten years. The
# price of a catastrophe is a posterior that expects more of them: compare the width of Rwanda's forecast with Japan's.
#
# ## Is it calibrated?
#
# Each forecast was made before its year. All of them together say how wide they should have been: with one model for
# two hundred countries there are enough values to see it.

# %%
pit = np.concatenate([np.asarray(infos[country].pit) for country in fleet.names])
pit = pit[~np.isnan(pit)]
bins = 20
low, high = stats.binom.ppf([0.025, 0.975], len(pit), 1 / bins)
figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
ax.hist(pit, bins, range=(0, 1), color="#0072B2", alpha=0.55, edgecolor="white")
ax.axhspan(low, high, color="#767676", alpha=0.25, lw=0, label="95% of uniform counts")
ax.set_xlabel("PIT of the one-step forecast")
ax.set_ylabel("countries and years")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Too many in the middle: in most countries most years are smoother than the forecasts allow for. Tails that are heavy
# and a middle that is heavy are the mark of a volatility that changes: `ss.models.StudentT` around this model, or
# `LogVolatility`, would be the next thing to try, with an `Engine` for each country that is worth it.
#
# ## One out of many
#
# A country on its own is an ordinary `Engine` with the same past and the same randomness: for smoothing, joint draws,
# a diagnosis, and all else that the fleet has no table of.

# %%
rwanda = fleet.engine("Rwanda")
draws = rwanda.posterior(500)
draws[["sigma_level", "sigma_trend", "sigma_obs"]].to_dataframe().describe().loc[["mean", "std", "min", "max"]].round(2)

# %% [markdown]
# ## Key takeaways
#
# - A fleet is hundreds of independent posteriors in one program. Each equals what an engine of its own would give.
# - `step` takes a mapping of what has come in, `update` a table; who is missing from it does not hold up the others.
# - One monitor for each series finds what deserves to be looked at. The rate of false alarms is known, so that too many
#   alarms say something about the model.
# - Series do not borrow strength from each other. What they have in common belongs in the prior.

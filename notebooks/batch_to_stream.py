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
# # From batch to stream with one PyMC model
#
# You have a model in PyMC and a posterior from `pm.sample`. Then the next observation comes, and the next. Here the
# same `pm.Model`, unchanged, goes on as a stream: from its trace, or from the priors through all the data, with the
# same posterior either way. The data are real: quarterly inflation in the United States, 1959 to 2009 (statsmodels).

# %%
import logging
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
from statsmodels.datasets import macrodata

import smcssm as ss
from smcssm import plots

FAST = os.environ.get("SMCSSM_FAST") == "1"  # smaller sizes, for continuous integration
DRAWS, N = (250, 1000) if FAST else (1000, 2000)
logging.getLogger("pymc").setLevel(logging.ERROR)

data = macrodata.load_pandas().data
inflation = data["infl"].to_numpy(float)
quarters = pd.PeriodIndex.from_fields(year=data["year"].astype(int), quarter=data["quarter"].astype(int), freq="Q")
known = int(np.sum(quarters.year < 2000))
print(f"{known} quarters before 2000, {len(inflation) - known} to come")

# %% [markdown]
# ## The model, in PyMC
#
# Trend inflation wanders; what is measured is trend plus noise. The latent trend is integrated out exactly:
# `ss.LinearGaussianSSM` is a distribution of PyMC whose log density comes from a Kalman filter. (A model of
# `pymc_extras.statespace` is taken as it is, by `ss.Engine.from_statespace`: see the page *PyMC* of the documentation.)


# %%
def trend_inflation(y):
    """Local level: the hyperparameters are the two standard deviations."""
    with pm.Model() as model:
        sigma_trend = pm.HalfNormal("sigma_trend", 1.0)
        sigma_noise = pm.HalfNormal("sigma_noise", 3.0)
        ss.LinearGaussianSSM(
            "inflation",
            initial_mean=[2.0],
            initial_chol=[[3.0]],
            F=[[1.0]],
            chol_Q=[[sigma_trend]],
            H=[[1.0]],
            chol_R=[[sigma_noise]],
            observed=y,
        )
    return model


def sample(model):
    """NUTS, as ever; and how long it took."""
    start = time.perf_counter()
    with model:
        idata = pm.sample(DRAWS, tune=DRAWS, chains=2, cores=1, random_seed=1, progressbar=False)
    return idata, time.perf_counter() - start


model = trend_inflation(inflation[:known])
idata, seconds = sample(model)
print(f"NUTS: {seconds:.0f} s, compiling included")

# %% [markdown]
# ## Go on from the trace
#
# The draws become particles, are checked against the model by importance sampling (draws of other data or other priors
# would be found out), and the evidence, which draws alone do not tell, is a by-product.

# %%
own, prior, seen = ss.from_pymc(model)
engine = ss.Engine.from_posterior(own, prior, idata, seen, n_particles=N, seed=0)
print(f"t = {engine.t}, log evidence {engine.log_evidence:.2f} ± {engine.log_evidence_sd:.2f}")

# %% [markdown]
# ## Ten years, quarter by quarter
#
# After each one the posterior is that of all data so far, and the forecast for the next is made before it comes.

# %%
start = time.perf_counter()
monitor = ss.monitor.Monitor(run_length=10_000)
for y in inflation[known:]:
    monitor.update(engine.step(y))
print(f"{len(inflation) - known} steps: {time.perf_counter() - start:.1f} s, compiling included")
alarms = monitor.table
alarms.insert(0, "quarter", [str(quarters[t - 1]) for t in alarms["t"]])
alarms

# %%
figure = plots.forecast_fan(engine, h=8, index=quarters)
figure.axes[0].set_ylabel("inflation, % a year")
plt.show()

# %% [markdown]
# The fall of 2008 is no event that a Gaussian level expects. The alarm says so at once, and the posterior of the noise
# widens with it:

# %%
_ = plots.hyperparameters(engine, index=quarters)

# %% [markdown]
# ## Three ways to the same posterior
#
# The trace and the stream after it, the stream from the priors on, and NUTS on all of the data, as it would have to run
# again after each quarter.

# %%
whole = trend_inflation(inflation)
streamed = ss.Engine.from_pymc(whole, n_particles=N, seed=1)
again, seconds = sample(whole)

rows = {"trace, then stream": engine.summary(), "stream from the priors": streamed.summary()}
table = pd.concat({name: t[["mean", "sd", "mcse"]] for name, t in rows.items()}, axis=1)
for name in table.index:
    draws = again["posterior"][name].values
    table.loc[name, ("NUTS again", "mean")] = draws.mean()
    table.loc[name, ("NUTS again", "sd")] = draws.std()
print(f"NUTS again: {seconds:.0f} s. Log evidence: {engine.log_evidence:.2f} and {streamed.log_evidence:.2f}")
table.round(3)

# %% [markdown]
# ## Key takeaways
#
# - One `pm.Model` serves both: `pm.sample` on what is there, the engine on what comes.
# - `Engine.from_posterior` goes on from a trace and checks it; `Engine.from_pymc` starts from the priors. Both end in
#   the same posterior, and NUTS on all data agrees.
# - The stream adds what a trace does not have: the evidence, a forecast made before each value, and alarms.
# - One fit of a short history is a matter for `pm.sample` alone. The stream pays when values keep coming.

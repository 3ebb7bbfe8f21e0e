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
# # A Gaussian process that keeps up with its data
#
# Carbon dioxide in the air at Mauna Loa, week by week from 1958 to 2001, with 59 of them missing.
# What is left of it after a trend and the seasons wanders about smoothly: a Gaussian process. How long does it
# remember, how far does it go, and how noisy are the weekly values? The posterior of these hyperparameters is computed
# twice: from all data at once by NUTS, and from a stream, one value at a time.

# %%
import os
import time

import blackjax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
from statsmodels.datasets import co2

import smcssm as ss
from smcssm import gp

FAST = os.environ.get("SMCSSM_FAST") == "1"  # smaller sizes, for continuous integration
PARTICLES, DRAWS = (200, 200) if FAST else (1000, 1000)

# %% [markdown]
# ## The series
#
# Weeks without a value are left out, not filled in: times are irregular. Trend and seasons, a cubic and three harmonics
# of the year, are fitted by least squares beforehand; the unit is ppm, that of time a year.

# %%
series = co2.load_pandas().data["co2"]
series = series[series.index < "1966"] if FAST else series
weeks, values = series.index, series.to_numpy()
years = (weeks - weeks[0]).days.to_numpy() / 365.25
seen = ~np.isnan(values)
angles = 2 * np.pi * years[:, None] * np.arange(1, 4)
trend = np.polynomial.polynomial.polyvander(years / years[-1], 3)
design = np.column_stack([trend, np.cos(angles), np.sin(angles)])
fit = np.linalg.lstsq(design[seen], values[seen], rcond=None)[0]
t, y = years[seen], (values - design @ fit)[seen]
print(f"{seen.sum()} weeks of {len(values)}; gaps up to {7 * np.round(np.diff(t).max() * 365.25 / 7):.0f} days")

# %% [markdown]
# ## The model
#
# A Matérn kernel with one derivative, its time scale and size unknown, and white noise. The same kernel serves both
# ways: with numbers in it for a likelihood, with names in it for an engine.

# %%
with pm.Model() as prior:
    pm.LogNormal("scale", np.log(0.3), 1.0)
    pm.HalfNormal("sigma", 2.0)
    pm.HalfNormal("sigma_obs", 1.0)

model = ss.models.GP(gp.Matern32("scale", "sigma")) + ss.models.Noise()
engine = ss.Engine(model, prior, n_particles=PARTICLES, seed=0)
engine.warmup()

# %% [markdown]
# ## As a stream

# %%
took = []
for when, value in zip(t, y, strict=True):
    start = time.perf_counter()
    engine.step(value, time=when)
    took.append(time.perf_counter() - start)
took = np.array(took)
print(f"{len(took)} values in {took.sum():.1f} s: half of them in less than {1e3 * np.median(took):.2f} ms,")
print(f"the slowest, which moved all particles, in {took.max():.2f} s; {np.sum(took > 20 * np.median(took))} like it")
engine.summary()

# %% [markdown]
# ## All at once
#
# `gp.log_probability` is differentiable and its cost grows with the number of data, not with its cube. NUTS samples the
# same posterior: the engine's prior, on its unconstrained scale, plus that likelihood.


# %%
def log_posterior(z):
    theta = engine.prior.constrain(z)
    kernel = gp.Matern32(theta["scale"], theta["sigma"])
    return engine.prior.log_prob(z) + gp.log_probability(kernel, t, y, theta["sigma_obs"])


start = time.perf_counter()
with jax.enable_x64(True):
    key_warm, key_run = jax.random.split(jax.random.key(0))
    warmup = blackjax.window_adaptation(blackjax.nuts, log_posterior)
    begin = engine.prior.unconstrain({name: jnp.asarray(0.3) for name in ("scale", "sigma", "sigma_obs")})
    (state, tuned), _ = jax.jit(warmup.run, static_argnames="num_steps")(key_warm, begin, num_steps=DRAWS // 2)
    kernel = blackjax.nuts(log_posterior, **tuned)
    keys = jax.random.split(key_run, DRAWS)

    def sample(state, key):
        state, _ = kernel.step(key, state)
        return state, state.position

    chain = jax.jit(lambda state: jax.lax.scan(sample, state, keys)[1])(state)
    nuts = {name: np.asarray(v) for name, v in jax.vmap(engine.prior.constrain)(chain).items()}
seconds = time.perf_counter() - start
print(f"NUTS: {DRAWS // 2} steps of adaptation and {DRAWS} draws in {seconds:.0f} s, compiling included")

# %% [markdown]
# ## The same posterior

# %%
stream = engine.posterior(draws=4000, seed=0)
rows = []
for name in ("scale", "sigma", "sigma_obs"):
    both = {"stream": np.asarray(stream[name]).ravel(), "NUTS": nuts[name]}
    rows.append({f"{way} {what}": f(v) for what, f in (("mean", np.mean), ("sd", np.std)) for way, v in both.items()})
table = pd.DataFrame(rows, index=["scale", "sigma", "sigma_obs"])
apart = (table["stream mean"] - table["NUTS mean"]).abs() / table["NUTS sd"]
assert (apart < 0.5).all(), apart  # of a posterior sd: a few Monte Carlo errors of either
table.round(4)

# %% [markdown]
# A new week costs the stream one step. NUTS would start again, on one value more than before.

# %%
print(f"one more value: stream {1e3 * np.median(took[-100:]):.2f} ms; NUTS again {seconds:.0f} s")

# %% [markdown]
# ## The process itself
#
# At the posterior mean of the hyperparameters, at any time, also within the gaps.

# %%
known = gp.Matern32(float(table.loc["scale", "stream mean"]), float(table.loc["sigma", "stream mean"]))
given = gp.condition(known, t, y, float(table.loc["sigma_obs", "stream mean"]))
widest = int(np.argmax(np.diff(t)))
fine = np.linspace(t[widest] - 0.5, t[widest + 1] + 0.5, 300)
there = given.predict(fine)
near = (t > fine[0]) & (t < fine[-1])
fig, ax = plt.subplots(figsize=(8, 3))
ax.fill_between(fine, there.mean - 2 * there.sd, there.mean + 2 * there.sd, alpha=0.3)
ax.plot(fine, there.mean)
ax.plot(t[near], y[near], ".")
ax.set(xlabel=f"years since {weeks[0]:%d %b %Y}", ylabel="anomaly, ppm", title="Around the widest gap")
plt.show()

# %% [markdown]
# ## Key takeaways
#
# - A kernel of `ss.gp` is a state-space model: likelihoods, gradients and posteriors cost a time proportional to the
#   number of data, and missing or irregular weeks need no grid and no filling in.
# - The same kernel with names for its hyperparameters is a component of an engine; stream and NUTS end with the same
#   posterior, within Monte Carlo error.
# - A new value costs the stream a step of constant size, and now and then a move; a batch sampler starts again.

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
# # Anatomy of SMC²
#
# What happens inside an engine while a stream passes: weights grow uneven, particles are moved, a surprise is taken in
# by and by, challengers catch up with the present. Everything is drawn from a run on synthetic data: a level that
# wanders, seen through noise, and jumps once by something that the model did not expect.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import smcssm as ss
from smcssm import plots

FAST = os.environ.get("SMCSSM_FAST") == "1"
N = 500 if FAST else 2000
T = 600 if FAST else 2000
JUMP = 2 * T // 3

rng = np.random.default_rng(1)
y = np.cumsum(0.3 * rng.normal(size=T)) + rng.normal(size=T)
y[JUMP:] += 12.0

with pm.Model() as prior:
    pm.HalfNormal("sigma_level", 1.0)
    pm.HalfNormal("sigma_obs", 2.0)
model = ss.models.LocalLevel(initial_sd=3.0)

# %% [markdown]
# ## Particles and their weights
#
# Each dot is a value of both hyperparameters with a Kalman filter of its own; its area is its weight. After a few
# observations most dots hardly count: they are resampled and moved.

# %%
engine = ss.Engine(model, prior, n_particles=N, seed=0)
fig, panels = plt.subplots(1, 4, figsize=(12, 3.2), sharex=True, sharey=True, layout="constrained")
for ax, t in zip(panels, (0, 3, 20, 200), strict=True):
    engine.update(y[engine.t : t], progress=False)
    shot = engine.snapshot()
    theta, w = shot.theta(), shot.weights().ravel()
    ax.scatter(theta["sigma_level"].ravel(), theta["sigma_obs"].ravel(), s=np.minimum(3000 * w, 60), alpha=0.35, lw=0)
    ax.set_title(f"t = {t}: ESS {1 / np.sum(w**2):.0f} of {N}", fontsize="medium")
    ax.set_xlabel("sigma_level")
panels[0].set_ylabel("sigma_obs")
panels[0].set_xlim(0, 2.5)
panels[0].set_ylim(0, 5)
plt.show()

# %% [markdown]
# ## Effective sample size and moves
#
# The ESS falls with each observation that tells something, and a move restores it. As the posterior settles moves grow
# rare: their times are about evenly spaced on a *logarithmic* axis, which is why the average cost of a step stays
# constant. The jump makes the data contradict what was known, and moves come again.

# %%
engine.update(y[engine.t :], progress=False)
figure = plots.moves(engine)
for ax in figure.axes:
    ax.set_xscale("log")

# %% [markdown]
# The jump is twelve standard deviations of the noise. Its likelihood alone would leave a handful of particles, so it
# enters with an exponent below one, which climbs back to one in rungs, a move at each. Under `Immediate` all of that
# happens within the step of the jump. What it did to the posterior is to be seen at once:

# %%
_ = plots.hyperparameters(engine)

# %% [markdown]
# A constant `sigma_level` can explain the jump only by being larger for all times. That is the model's fault, not the
# sampler's, and the alarms say so. Their rate of false alarms is known: one in 10,000 observations here.

# %%
monitor = ss.monitor.Monitor(run_length=10_000)
watched = ss.Engine(model, prior, n_particles=N, seed=0)
monitor.update(watched.update(y, progress=False))
monitor.table

# %% [markdown]
# ## Challengers catching up
#
# `Paced()` never goes over all of history within a step. When a move is due, it draws *challengers* from a proposal,
# and takes them through history by at most `budget` rows with each new observation, while the stream goes on. When they
# have caught up they compete with the particles, for the posterior as it is *then*. Here is the same stream without its
# jump (after one, `Paced` needs several hundred observations until it is right again: `docs/schedules.md`). We step one
# by one and look inside.

# %%
calm = y - 12.0 * (np.arange(T) >= JUMP)
paced = ss.Engine(model, prior, n_particles=N, schedule=ss.Paced(budget=8), seed=0)
at, ess, moved = np.full(T, np.nan), np.zeros(T), np.zeros(T, bool)
for t, value in enumerate(calm):
    info = paced.step(value)
    cycle = paced._runtime.state.pending  # not public: what the schedule has in hand
    if bool(np.asarray(cycle.active)[0]):
        at[t] = int(np.asarray(cycle.at)[0])
    ess[t], moved[t] = info.ess, info.moved

# %%
fig, (above, below) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
time = np.arange(T) + 1
above.plot(time, time, color="#222222", lw=1, label="the stream")
above.plot(time, at, color="#D55E00", lw=1.6, label="how far the challengers are")
above.set_ylabel("row of history")
above.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
below.plot(time, ess, color="#0072B2", lw=1)
below.plot(time[moved], ess[moved], "v", color="#D55E00", ms=5)
below.axhline(N / 2, color="#767676", ls="--", lw=1)
below.set_ylim(0, 1.05 * N)
below.set_ylabel(f"ESS of {N}")
below.set_xlabel("observation")
plt.show()

# %% [markdown]
# Each orange line is a set of challengers: drawn at a trigger, where the ESS crosses the dashed line, with a slope of
# `budget` rows per observation, and judged where it meets the stream. Meanwhile the ESS goes on falling, a little: that
# is the price of a bounded step. Before observation 32 (four times the budget) moves are immediate, as history is
# short.
#
# Both schedules have the same target:

# %%
engine.reset()
engine.update(calm, progress=False)
print(f"log evidence: Immediate {engine.log_evidence:.2f}, Paced {paced.log_evidence:.2f}")
both = {"Immediate": engine.summary(), "Paced": paced.summary()}
pd.concat({name: table[["mean", "sd", "mcse"]] for name, table in both.items()}, axis=1)

# %% [markdown]
# ## Key takeaways
#
# - A particle is a value of the hyperparameters, a filter and a weight. Bayes' rule is the update of the weight.
# - Moves restore diversity and leave the posterior as it is. They come at geometrically spaced times while the model
#   holds.
# - A surprise enters by and by; a lasting contradiction makes moves frequent and is worth an alarm.
# - `Paced` trades some ESS for a bounded step, and is exact all the same.

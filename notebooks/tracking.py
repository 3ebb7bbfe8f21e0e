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
# # Tracking: a refit costs O(T), a step O(1)
#
# A ride on a bicycle, one position a second (bokeh_sampledata, CC0). The recorded track is smooth; to it we add the
# noise of a poor receiver, and two tunnels. A filter must say where the rider is, how fast, and how sure that is, at
# each second, without knowing how shaky the rider or how bad the receiver is: two hyperparameters.
#
# How much work is that? Sampling the posterior anew needs hundreds to thousands of likelihoods of *all seconds so far*
# for each new second. An engine takes one filter step for each of its particles.

# %%
import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
from bokeh_sampledata.cycling import cycling

import smcssm as ss
from smcssm import plots

FAST = os.environ.get("SMCSSM_FAST") == "1"
N, T = (256, 400) if FAST else (1000, 3000)
NOISE = 8.0  # metres

# %% [markdown]
# Positions are in "semicircles"; here in metres from the start. The noise is synthetic, so the truth is known.

# %%
degrees = cycling[["position_long", "position_lat"]].to_numpy()[:T] * 180 / 2**31
metres_per_degree = 111_195 * np.array([np.cos(np.radians(degrees[0, 1])), 1.0])
truth = (degrees - degrees[0]) * metres_per_degree

rng = np.random.default_rng(0)
seen = truth + NOISE * rng.normal(size=truth.shape)
for start in (T // 3, 3 * T // 4):
    seen[start : start + T // 25] = np.nan  # tunnels: time passes, nothing is seen

# %% [markdown]
# ## One second at a time
#
# `ConstantVelocity` is exact for any time between fixes: velocity is disturbed by white noise, position is measured.

# %%
with pm.Model() as prior:
    pm.HalfNormal("sigma_acceleration", 3.0)  # m / s^1.5
    pm.HalfNormal("sigma_obs", 20.0)  # m

model = ss.models.ConstantVelocity(initial_sd=[30.0, 10.0, 30.0, 10.0])
engine = ss.Engine(model, prior, n_particles=N, schedule=ss.Paced(), seed=0)
engine.warmup()

seconds, mean, sd = np.zeros(T), np.zeros((T, 4)), np.zeros((T, 4))
for t, y in enumerate(seen):
    start = time.perf_counter()
    engine.step(y)
    seconds[t] = time.perf_counter() - start
    state = engine.state()
    mean[t], sd[t] = state["mean"].values, state["sd"].values
engine.summary()

# %%
tunnel = np.isnan(seen[:, 0])
off = {name: np.hypot(*(estimate - truth).T) for name, estimate in (("receiver", seen), ("filter", mean[:, [0, 2]]))}
for name, distance in off.items():
    print(f"rms error outside tunnels, {name}: {np.sqrt(np.mean(distance[~tunnel] ** 2)):.1f} m")
worst = np.argmax(np.where(tunnel, off["filter"], 0))
expected = np.hypot(*sd[worst, [0, 2]])
print(f"in tunnels at most {off['filter'][worst]:.0f} m off, where it expected {expected:.0f} m (root mean square)")
z = (mean[:, [0, 2]] - truth) / sd[:, [0, 2]]
inside, outside = (np.mean(np.abs(z[where]) < 2) for where in (tunnel, ~tunnel))
print(f"coordinates within 2 sd: {outside:.0%} outside tunnels, {inside:.0%} inside")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
left.plot(*seen.T, ".", ms=2, color="#767676", label="receiver")
left.plot(*truth.T, color="#222222", lw=1, label="track")
left.plot(mean[:, 0], mean[:, 2], color="#0072B2", lw=1.2, label="filter")
left.plot(mean[tunnel, 0], mean[tunnel, 2], ".", ms=4, color="#D55E00", label="filter, in a tunnel")
left.set_aspect("equal", "datalim")
left.set_xlabel("metres east")
left.set_ylabel("metres north")
left.legend(frameon=False, fontsize="small")
speed = np.hypot(mean[:, 1], mean[:, 3])
right.plot(cycling["speed"].to_numpy()[:T], color="#222222", lw=1, label="the bicycle's own sensor")
right.plot(speed, color="#0072B2", lw=1, label="filter, from positions alone")
right.set_xlabel("second")
right.set_ylabel("speed, m/s")
right.legend(frameon=False, fontsize="small")
plt.show()

# %% [markdown]
# In a tunnel the filter goes straight on, and says by how much it may be wrong; the rider may take a bend.

# %%
_ = plots.hyperparameters(engine)

# %% [markdown]
# ## What a refit would cost
#
# One likelihood of the first $t$ seconds with its gradient, by a Kalman filter in JAX, compiled: NUTS pays for that
# some hundreds of times for a posterior. Beside it a step of the engine, with all of its particles.

# %%
def negative_log_likelihood(log_sigma, y):
    """A plain covariance filter; one coordinate, as both are alike and independent."""
    q, r = jnp.exp(log_sigma)
    F, Q = jnp.array([[1.0, 1.0], [0.0, 1.0]]), q**2 * jnp.array([[1 / 3, 1 / 2], [1 / 2, 1.0]])

    def step(carry, value):
        m, P, total = carry
        S, e = P[0, 0] + r**2, value - m[0]
        there = ~jnp.isnan(value)
        K, e = jnp.where(there, P[:, 0] / S, 0.0), jnp.where(there, e, 0.0)
        total = total + jnp.where(there, 0.5 * (jnp.log(2 * jnp.pi * S) + e**2 / S), 0.0)
        m, P = m + K * e, P - K[:, None] * P[:1]
        return (F @ m, F @ P @ F.T + Q, total), None

    start = jnp.zeros(2), jnp.diag(jnp.array([900.0, 100.0])), 0.0
    return jax.lax.scan(step, start, y)[0][2]


def of_both(log_sigma, y):
    return negative_log_likelihood(log_sigma, y[:, 0]) + negative_log_likelihood(log_sigma, y[:, 1])


gradient = jax.jit(jax.value_and_grad(of_both))
lengths, refit = [T // 8, T // 4, T // 2, T], []
for t in lengths:
    y, at = jnp.asarray(seen[:t]), jnp.log(jnp.array([1.0, NOISE]))
    jax.block_until_ready(gradient(at, y))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(gradient(at, y))
        times.append(time.perf_counter() - start)
    refit.append(min(times))

# %%
fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
ax.plot(np.arange(T) + 1, 1e3 * seconds, ".", ms=2, color="#0072B2", label=f"engine.step, {N} particles")
for draws in (1, 1000):
    ax.plot(lengths, 1e3 * draws * np.array(refit), "o-", color="#D55E00", alpha=0.4 if draws == 1 else 1, ms=4,
            label="one likelihood and gradient" if draws == 1 else "a refit: 1000 of them")  # fmt: skip
ax.set_yscale("log")
ax.set_xlabel("seconds of history")
ax.set_ylabel("milliseconds")
ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()
print(f"median step {1e3 * np.median(seconds):.2f} ms, longest {1e3 * seconds.max():.1f} ms")
print("one likelihood and gradient, ms:", dict(zip(lengths, (1e3 * np.array(refit)).round(2).tolist(), strict=True)))

# %% [markdown]
# `Paced()` bounds the longest step too: what a move has to replay is spread over the steps that follow. With the
# default, `Immediate()`, most steps cost the same and now and then one takes as long as a pass over history.
#
# ## Key takeaways
#
# - The state *and* the two unknown noises are known after each fix; the filter beats the receiver, and tunnels are
#   gaps.
# - A step costs the same after an hour as after a minute; each likelihood of a refit grows with the ride.
# - `model.state_names` are physical: velocity comes out of positions with its uncertainty.
# - What is not observed is not known: in a tunnel the estimate may be far off, and its standard deviation says so.

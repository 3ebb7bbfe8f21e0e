"""Two small configurations that the tests of read-outs share: each further one would cost its compilation."""

import functools

import numpy as np
import pymc as pm

import smcssm as ss

N, RUNS = 256, 3

with pm.Model() as PRIOR:
    pm.HalfNormal("sigma_level", 1.0)
    pm.HalfNormal("sigma_obs", 2.0)
LEVEL = ss.models.LocalLevel(initial_sd=1000.0)

with pm.Model(coords={"sensor": ["north", "south"]}) as SENSOR_PRIOR:
    pm.HalfNormal("sigma_level", 1.0)
    _sigma = pm.HalfNormal("sigma_obs", 2.0, dims="sensor")
    pm.Deterministic("ratio", _sigma[0] / _sigma[1])
    pm.Normal("drift", 0.0, 1.0)


def _two_channels(theta):
    sigma = theta["sigma_obs"]
    return {
        "F": [[1.0]],
        "c": [theta["drift"]],
        "chol_Q": [[theta["sigma_level"]]],
        "H": [[1.0], [1.0]],
        "d": [0.0, 5.0],
        "chol_R": [[sigma[0], 0.0], [0.0, sigma[1]]],
    }


SENSORS = ss.models.LinearGaussian(
    _two_channels, ("sigma_level", "sigma_obs", "drift"), shapes={"sigma_obs": 2}, channels=("north", "south")
)


def level(seed=1, **options):
    """One channel, one run."""
    return ss.Engine(LEVEL, PRIOR, n_particles=N, seed=seed, **options)


def walk(t, seed=0):
    """Data for it."""
    rng = np.random.default_rng(seed)
    return np.cumsum(0.5 * rng.normal(size=t)) + rng.normal(size=t)


def sensors(seed=2, **options):
    """Two channels, three runs, a vector among the hyperparameters, a Deterministic."""
    return ss.Engine(SENSORS, SENSOR_PRIOR, n_particles=N, runs=RUNS, seed=seed, **options)


@functools.cache
def fitted():
    """One such engine after 50 rows, and what it reported: to read, not to go on with."""
    engine = sensors()
    return engine, engine.update(readings())


def readings(t=50, seed=3):
    """Data for it; here and there a value is missing, and for a while both."""
    rng = np.random.default_rng(seed)
    y = 0.5 * np.cumsum(rng.normal(size=t))[:, None] + [0.0, 5.0] + rng.normal(size=(t, 2)) * [0.3, 0.8]
    y[5:6, 0] = np.nan
    y[20:25] = np.nan
    return y


def regression(t=6):
    """A model with two inputs, and its rows; all observations missing, so that nothing has to move."""
    engine = ss.Engine(ss.models.LocalLevel() + ss.models.Regression(2), n_particles=N)
    inputs = np.random.default_rng(0).normal(size=(t, 2))
    engine.update(np.full(t, np.nan), inputs=inputs)
    return engine, inputs

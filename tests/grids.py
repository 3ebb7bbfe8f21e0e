"""Deterministic filtering and smoothing of one state on a grid, in NumPy: an oracle for particle filters."""

import numpy as np


def grid_filter(grid, initial, kernels, log_g):
    """Point masses on a grid instead of a continuous state, exact up to the width of its cells.

    Args:
        grid: equidistant points ``[g]``.
        initial: density of x_1 on it.
        kernels: for each row t > 0 the density of x_t given x_{t-1} ``[g, g]`` (from, to); None where the state stays.
        log_g: log g(y_t | x) ``[t, g]``; 0 where y_t is missing.

    Returns log p(y_t | y_1:t-1) ``[t]``, and predictive, filtered and (given all rows) smoothed probabilities [t, g].
    """
    p, log_lik, predicted, filtered, steps = initial / initial.sum(), [], [], [], []
    for t, log_w in enumerate(log_g):
        step = None
        if t and kernels[t] is not None:
            step = kernels[t] * (grid[1] - grid[0])
            p = p @ step
        predicted.append(p)
        joint = p * np.exp(log_w)
        log_lik.append(np.log(joint.sum()))
        p = joint / joint.sum()
        filtered.append(p)
        steps.append(step)
    smoothed, beta = [p], np.ones_like(p)
    for t in range(len(log_g) - 1, 0, -1):
        beta = beta * np.exp(log_g[t]) / np.exp(log_lik[t])
        beta = beta if steps[t] is None else steps[t] @ beta
        smoothed.append(filtered[t - 1] * beta)
    return np.array(log_lik), np.array(predicted), np.array(filtered), np.array(smoothed[::-1])


def normal_density(x, mean, sd):
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def around(mean, sd, n=2000, width=8):
    """A grid."""
    return np.linspace(mean - width * sd, mean + width * sd, n)

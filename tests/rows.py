"""Rows for a journal, without models or priors: also for processes that are to start fast."""

import jax
import numpy as np

from smcssm.core import Observation


def block(t, series=1, channels=1, dtype=float, inputs=0, noise=False, seed=0):
    """Rows in which no two numbers are equal, some of them missing."""
    rng = np.random.default_rng(seed)
    mask = rng.random((t, channels, series)) > 0.2
    rows = Observation(
        y=np.where(mask, rng.normal(size=mask.shape), 0.0).astype(dtype),
        mask=mask,
        dt=rng.random((t, series)).astype(dtype),
        index=np.arange(t)[:, None].repeat(series, axis=1),
        inputs=rng.normal(size=(t, inputs, series)).astype(dtype) if inputs else None,
        noise_sd=rng.random((t, channels, series)).astype(dtype) if noise else None,
    )
    return rows, rng.random((t, series)) < 0.1


def cut(rows, start, stop):
    return jax.tree.map(lambda leaf: leaf[start:stop], rows)


def take_in(history, rows, start, stop):
    """One call."""
    part, marks = cut(rows, start, stop)
    history.append(part, stop - start, marks)
    history.commit(len(history))

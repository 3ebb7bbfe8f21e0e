"""SMC² with inner particles at full length: posterior means, sds, quantiles and evidence are those of sums over grids.

Everything that could give a plausible but wrong posterior takes part: likelihoods that are estimated, moves that carry
the estimate, the exchange for more inner particles, collapsed mixtures, missing rows.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest

import posteriors
import smcssm as ss
from gridded import SWITCHING_MEAN, VOLATILITY

T, N, RUNS = 200, 256, 16
CASES = {
    "switching mean": (SWITCHING_MEAN, ss.filters.RaoBlackwell(n_particles=8)),
    "stochastic volatility": (VOLATILITY, ss.filters.Particle(n_particles=64)),
}
SCHEDULES = {"immediate": ss.Immediate(), "paced": ss.Paced()}


def data(name):
    return CASES[name][0].simulate(T, 1)


@functools.cache
def answer(name, size=None):
    return CASES[name][0].answer(data(name), size)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", CASES)
def test_the_posterior_is_that_of_a_grid(name, schedule):
    case, inner = CASES[name]
    options = dict(n_particles=N, runs=RUNS, schedule=SCHEDULES[schedule], record=None)
    engine = ss.Engine(case.model, case.prior, filter=inner, **options)
    engine.update(data(name), progress=False)
    known = SimpleNamespace(names=case.names, answer=lambda y: answer(name))
    posteriors.assert_agrees(engine, known, data(name), spread=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_grid_is_fine_enough(name):
    """With eight points fewer along every axis it says the same: in posterior sds, the evidence in nats."""
    (fine, unit), (coarse, _) = (posteriors.flat(answer(name, size)) for size in (None, CASES[name][0].size - 8))
    assert np.abs((fine - coarse) / unit).max() < 0.02

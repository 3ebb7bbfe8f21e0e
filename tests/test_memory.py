"""Memory that must not grow, in processes of their own. Slow: a million steps."""

import subprocess
import sys
import textwrap

import pytest

SETUP = """
import gc, os
import numpy as np
import smcssm as ss
from smcssm.priors import HalfNormal, Independent

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

prior = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
rng, level = np.random.default_rng(0), 0.0

def more(count):
    global level
    walk = level + np.cumsum(0.3 * rng.standard_normal(count))
    level = walk[-1]
    return walk + rng.standard_normal(count)

def engine(schedule):
    return ss.Engine(ss.models.LocalLevel(0.0, 10.0), prior, n_particles=100, schedule=schedule, record=None)
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_jitter_needs_the_same_memory_after_a_million_steps():
    sizes = run("""
        e = engine(ss.Jitter())
        for part in range(20):
            e.update(more(50_000))
            print(resident())
    """)
    early, late = sizes[2:4], sizes[-2:]
    assert abs(sum(late) / sum(early) - 1) < 0.02, sizes


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_paced_keeps_40_bytes_of_an_observation():
    sizes = run("""
        e = engine(ss.Paced(budget=8))
        e.update(more(50_000))
        print(resident())
        e.update(more(200_000))
        print(resident())
    """)
    assert (sizes[1] - sizes[0]) / 200_000 <= 40, sizes

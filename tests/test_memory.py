"""What must not grow: memory, live arrays, compiled programs; in processes of their own. Slow: a million steps."""

import subprocess
import sys
import textwrap

import pytest

SETUP = """
import gc, os
import jax
import numpy as np
import smcssm as ss
from smcssm.priors import HalfNormal, Independent

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def held(e):
    return resident(), len(jax.live_arrays()), e._runtime._run._cache_size()

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
    """In blocks and one by one: 980,000 and 20,000."""
    told = run("""
        e = engine(ss.Jitter())
        for part in range(20):
            e.update(more(49_000))
            for y in more(1_000):
                e.step(y)
            print(*held(e))
    """)
    sizes, arrays, programs = told[::3], told[1::3], told[2::3]
    print(sizes[2:4], sizes[-2:], arrays[2], arrays[-1], programs[2], programs[-1])
    assert abs(sum(sizes[-2:]) / sum(sizes[2:4]) - 1) < 0.02, sizes
    assert arrays[2:] == arrays[2:3] * 18
    assert programs[2:] == programs[2:3] * 18


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

"""One population over four devices is the population of one: the same moves, the same numbers."""

import subprocess
import sys

import pytest

import smcssm as ss
from smcssm import sharding

CODE = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, numpy as np
import smcssm as ss
rng = np.random.default_rng(0)
y = np.cumsum(rng.normal(size=60)) + rng.normal(size=60)
y[40] += 40.0  # a surprise
y[7] = np.nan
for schedule in sys.argv[1:]:
    options = dict(n_particles=256, seed=1, schedule=ss.Immediate() if schedule == "immediate" else ss.Paced(budget=4))
    alone, shared = (ss.Engine(ss.models.LocalLevel(initial_sd=3.0), **options) for _ in range(2))
    shared.shard(jax.devices())
    worst = 0.0
    for value in y:
        a, b = alone.step(value), shared.step(value)
        assert (a.moved, a.status) == (b.moved, b.status)
        worst = max(worst, abs(a.log_predictive - b.log_predictive))
    population = shared._runtime.state.population
    assert len(population.z.sharding.device_set) == len(population.belief.mean.sharding.device_set) == 4
    assert population.z.addressable_shards[0].data.shape[-1] == 64
    np.testing.assert_allclose(population.z, alone._runtime.state.population.z, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(shared.summary(), alone.summary(), rtol=1e-9)
    np.testing.assert_allclose(shared.log_evidence, alone.log_evidence, rtol=1e-9)
    assert alone.record["moved"].sum() > 2
    print(schedule, worst)
"""


@pytest.mark.slow
def test_four_devices_are_as_one():
    command = [sys.executable, "-c", CODE, "immediate", "paced"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    print(said.stdout)
    assert all(float(line.split()[1]) < 1e-9 for line in said.stdout.splitlines())


def test_shares_are_equal():
    with pytest.raises(ss.errors.ModelError, match="64 particles cannot be shared equally by 3 devices"):
        sharding._spread((), 64, [None] * 3)

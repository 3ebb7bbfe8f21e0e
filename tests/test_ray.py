"""A fleet on Ray, whose workers and machines are killed. Slow: `python -m pytest -m slow tests/test_ray.py`, with ray.

One machine plays several (`ray.cluster_utils.Cluster`). How long it took to recover is printed with `-s`.
"""

import contextlib
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest

import smcssm as ss
from smcssm.fleets.infos import joined
from smcssm.journal import Journal

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NAMES, ROWS = tuple(f"s{i}" for i in range(16)), 48
MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=3.0)
OPTIONS = dict(n_particles=64, move=ss.moves.Metropolis("random_walk"), seed=5)
RNG = np.random.default_rng(7)
Y = np.cumsum(RNG.normal(size=(ROWS, 16)), axis=0) + RNG.normal(size=(ROWS, 16))
Y[RNG.random(Y.shape) < 0.1] = np.nan
REPORTED = RNG.random(Y.shape) < 0.8


@pytest.fixture(scope="module")
def cluster():
    """A head without workers, and two machines; about one start in ten fails (Ray issue 65983)."""
    from ray.cluster_utils import Cluster

    for attempt in range(3):
        try:
            made = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, object_store_memory=80 * 2**20))
            made.nodes = [made.add_node(num_cpus=2, object_store_memory=80 * 2**20) for _ in range(2)]
            ray.init(address=made.address, log_to_driver=False)
            break
        except Exception:
            if attempt == 2:
                raise
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def whole():
    return uninterrupted()


def uninterrupted(**options):
    """What fleets that were never interrupted say: one for each shard, in this process."""
    parts = []
    for a in range(0, 16, 4):
        fleet = ss.Fleet(MODEL, series=NAMES[a : a + 4], first=a, **OPTIONS | options)
        infos = fleet.update(Y[:, a : a + 4], reported=REPORTED[:, a : a + 4])
        parts.append((infos, fleet.log_evidence, fleet.summary()))
    infos, evidence, summary = zip(*parts, strict=True)
    return joined(infos, NAMES, 1), np.concatenate(evidence), pd.concat(summary)


def made(path, **options):
    given = dict(series=NAMES, storage=path, n_workers=2, n_shards=4, buffer=8) | OPTIONS | options
    return ss.RayFleet(MODEL, **given)


def feed(fleet, start, stop):
    return [fleet.step(Y[i], REPORTED[i]) for i in range(start, stop)]


def assert_same(fleet, told, whole):
    """Every row told once, every number to the last bit."""
    assert fleet.rows == ROWS
    np.testing.assert_array_equal(fleet.t, REPORTED.sum(axis=0))
    assert fleet.log_evidence.tobytes() == whole[1].tobytes()
    assert fleet.summary().equals(whole[2])
    for name in ("t", "taken", "log_predictive", "pit", "ess", "moved", "status"):
        np.testing.assert_array_equal(np.stack([getattr(info, name) for info in told]), getattr(whole[0], name))


def pids(fleet):
    return [handle.__ray_call__.remote(lambda self: os.getpid()) for handle in fleet._crew.workers]


def test_workers_and_machines_that_are_killed(tmp_path, cluster, whole):
    """A worker by kill -9, then a machine with all of its workers, in the midst of a stream."""
    fleet = made(tmp_path / "s", journal=Journal("", checkpoint_rows=5))
    told = feed(fleet, 0, 10)
    os.kill(ray.get(pids(fleet))[0], signal.SIGKILL)
    start = time.monotonic()
    told += feed(fleet, 10, 11)
    recovered = time.monotonic() - start
    assert fleet.lost == 1
    told += feed(fleet, 11, 20)
    doomed = next(node for node in cluster.nodes if node.node_id == _node_of(fleet._crew.workers[1]))
    cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    cluster.remove_node(doomed, allow_graceful=False)
    start, row, late = time.monotonic(), 20, 0.0
    while fleet.lost < 2 and row < ROWS - 4:  # the dead go on answering for a while
        began = time.monotonic()
        told += feed(fleet, row, row + 1)
        row, late = row + 1, time.monotonic() - began
        time.sleep(0.5)
    moved = time.monotonic() - start
    print(f"\nkill -9 of a worker: the next step took {recovered:.1f} s")
    print(f"loss of a machine: {row - 21} rows answered by the dead, mended in {moved:.1f} s (a step of {late:.1f} s)")
    assert fleet.lost >= 2
    told += feed(fleet, row, ROWS)
    assert_same(fleet, told, whole)
    fleet.close()


def _node_of(worker):
    return ray.get(worker.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()))


def test_challengers_on_their_way_when_a_worker_is_lost(tmp_path, cluster):
    """`Paced`: with a checkpoint in the midst of a cycle, and again on fewer workers."""
    options = dict(move=ss.moves.Metropolis("independent"), schedule=ss.Paced(budget=2))
    whole = uninterrupted(**options)
    fleet = made(tmp_path / "s", journal=Journal("", checkpoint_rows=7), **options)
    told = feed(fleet, 0, 25)
    on_their_way = fleet._ask(lambda shard: bool(np.any(shard._runtime.state.pending.active)))
    assert any(on_their_way)
    os.kill(ray.get(pids(fleet))[0], signal.SIGKILL)
    told += feed(fleet, 25, 33)
    assert fleet.lost == 1
    fleet.rescale(1)
    told += feed(fleet, 33, ROWS)
    assert_same(fleet, told, whole)
    assert whole[0].moved[12:].any()  # histories of more than 8 rows are not moved over at once
    fleet.close()


def test_a_worker_that_hangs_and_comes_back(tmp_path, cluster, whole):
    """Stopped, given up, replaced, and continued: what it then says and writes does not count."""
    fleet = made(tmp_path / "s")
    told = feed(fleet, 0, 12)
    pid = ray.get(pids(fleet))[1]
    kill, fleet._crew.pool.stop = fleet._crew.pool.stop, lambda worker: None  # out of reach for Ray as well
    fleet._crew.patience = 60.0
    os.kill(pid, signal.SIGSTOP)
    told += feed(fleet, 12, 13)
    assert fleet.lost == 1
    os.kill(pid, signal.SIGCONT)
    fleet._crew.pool.stop = kill
    told += feed(fleet, 13, 24)
    fleet.rescale(3)
    told += feed(fleet, 24, 30)
    again = ss.RayFleet.open(tmp_path / "s", MODEL, n_workers=1, **OPTIONS)  # and the first driver never closed
    assert again.rows == 30
    told += feed(again, 30, ROWS)
    assert_same(again, told, whole)
    engine = again.engine("s9")
    assert engine.t == REPORTED[:, 9].sum()
    again.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for worker in fleet._crew.workers:
        ray.kill(worker)

"""A fleet with Paced: as many engines while there is room for all challengers, and never more work than room."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import posteriors
import smcssm as ss
from posteriors import LOCAL_LEVEL
from smcssm.core import AbstractProposal
from smcssm.fleets import pacing, readout
from smcssm.journal import Journal
from smcssm.smc2.adapt import compiled
from smcssm.smc2.schedules.paced import SHORT
from test_fleet import NAMES, bits, compared, streams
from test_fleet_journal import assert_same

BUDGET, SETS, N, ROWS = 4, 2, 64, 90
MODEL, PRIOR = LOCAL_LEVEL.model, LOCAL_LEVEL.prior
Y, REPORTED = streams(len(NAMES), ROWS, seed=3)  # a surprise for b in row 45, when histories are no longer short


class Gaussian(AbstractProposal):
    """A normal law a little wider than the population: it compiles in a third of the time of a mixture."""

    independent: bool = True

    def fit(self, z, log_weight, centre, scale):
        w = jax.nn.softmax(log_weight)[None]
        mean = jnp.sum(w * z, axis=1, keepdims=True)
        return mean, 1.2 * jnp.linalg.cholesky((w * (z - mean)) @ (z - mean).T + 1e-6 * jnp.diag(scale**2))

    def propose(self, key, tuning, z):
        return tuning[0] + tuning[1] @ jax.random.normal(key, z.shape, z.dtype)

    def log_density(self, tuning, z_new, z):
        e = jax.scipy.linalg.solve_triangular(tuning[1], z_new - tuning[0], lower=True)
        return -0.5 * jnp.sum(e**2, axis=0) - jnp.sum(jnp.log(jnp.diag(tuning[1]))) - 0.5 * len(z) * np.log(2 * np.pi)


MOVE = ss.moves.Metropolis(Gaussian())


def fleet(**options):
    paced = ss.Paced(budget=BUDGET, sets=SETS)
    return ss.Fleet(MODEL, PRIOR, series=NAMES, n_particles=N, schedule=paced, move=MOVE, **options)


def cycle(made):
    return made._runtime.state.pending


def feed(made, start, stop):
    for y, reported in zip(Y[start:stop], REPORTED[start:stop], strict=True):
        yield made.step(y, reported)


@pytest.fixture(scope="module")
def run():
    return compared(fleet, Y, REPORTED)


def test_is_as_many_engines(run):
    made, infos, engines = run
    assert sum(info.moved[made.t > SHORT * BUDGET].sum() for info in infos[SHORT * BUDGET :]) > 8
    assert ss.Status.BRIDGING in [info["b"].status for info in infos[ROWS // 2 :]]
    for name, engine in zip(NAMES, engines, strict=True):
        left, own = (cycle(of) for of in (made.engine(name), engine))
        for field in ("active", "at", "budget", "since"):
            np.testing.assert_array_equal(getattr(left, field), getattr(own, field), err_msg=field)
        if own.active.all():
            np.testing.assert_allclose(left.challengers.log_lik, own.challengers.log_lik, rtol=1e-9)


@pytest.fixture(scope="module")
def midway():
    """In the middle of cycles."""
    made = fleet()
    list(feed(made, 0, 50))
    assert np.asarray(cycle(made).active).sum() > 2
    return made


def test_an_engine_goes_on_in_mid_cycle(midway):
    made = midway.copy()
    name = NAMES[int(np.argmax(np.asarray(cycle(made).active)))]
    engine, moved = made.engine(name), 0
    for y in Y[50:80, 0]:
        together, alone = made.step({name: y})[name], engine.step(y)
        assert (alone.t, alone.moved, alone.status) == (together.t, together.moved, together.status)
        assert alone.log_predictive == pytest.approx(together.log_predictive, rel=1e-9)
        moved += alone.moved
    assert moved


def test_quarantine_leaves_neighbours_as_they_are(midway):
    calm, wild, blocks = midway.copy(), midway.copy(), midway.copy()
    odd = np.random.default_rng(6).normal(scale=2, size=(12, len(NAMES)))
    odd[2, 3], odd[5, 0] = 1e300, 1e12  # no likelihood, and so far off that next to nothing of it could enter
    for i, row in enumerate(odd):
        calm.step(row, reported=[n for n in NAMES if not (n == "d" and i >= 2) and not (n == "a" and i >= 5)])
    infos = [wild.step(row) for row in odd]
    assert wild.status().loc[["a", "d"], "quarantine"].eq("IMPOSSIBLE").all()
    assert not infos[5].taken[[0, 3]].any()
    blocks.update(odd)
    others = [name for name in NAMES if name not in "ad"]
    for other, names in ((calm, others), (blocks, NAMES)):
        for a, b in zip(bits(wild, names), bits(other, names), strict=True):
            np.testing.assert_array_equal(a, b)


def test_add_and_remove_in_mid_cycle(midway):
    made, engine = midway.copy(), midway.engine("c")
    made.remove(["a", "h"])
    made.add(["new", "last"])
    assert made.names == (*"bcdefg", "new", "last")
    for y in Y[50:70, 2]:
        together, alone = made.step({"c": y, "new": y})["c"], engine.step(y)
        assert (alone.t, alone.moved) == (together.t, together.moved)
        assert alone.log_predictive == pytest.approx(together.log_predictive, rel=1e-9)


def test_a_fleet_that_ended_in_mid_cycle_goes_on(tmp_path, midway):
    policy = Journal(tmp_path / "j", checkpoint_rows=30, checkpoint_every=math.inf)
    made = fleet(journal=policy)
    list(feed(made, 0, 50))
    made._keeper.wait()
    made.close()
    again = ss.Fleet.open(policy, MODEL, PRIOR, move=MOVE)
    assert_same(again, midway)
    list(feed(again, 50, 56))
    again.checkpoint()
    again.close()
    last, whole = ss.Fleet.open(policy, MODEL, PRIOR, move=MOVE), midway.copy()
    list(feed(last, 56, 66))
    list(feed(whole, 50, 66))
    assert_same_moves(last, whole)
    last.close()


def assert_same_moves(a, b):
    """Bit for bit, but for how many rows a copy was given: a copy does not count."""
    for x, y in zip(bits(a, NAMES), bits(b, NAMES), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(jax.tree.leaves(cycle(a)), jax.tree.leaves(cycle(b)), strict=True):
        np.testing.assert_array_equal(x, y)


def count_work(monkeypatch):
    """Filter steps of challengers, per particle, padding included: of every batch its width times its longest way."""
    steps, inner = [], pacing.compiled

    def counting(function, smc, *constants):
        program = inner(function, smc, *constants)

        def counted(pending, series, back, row, feed):
            after = program(pending, series, back, row, feed)
            steps.append(len(series) * SETS * int(np.asarray(after.work)[series].max()))
            return after

        return counted if function is pacing._follow else program

    monkeypatch.setattr(pacing, "compiled", counting)
    return steps


def test_those_without_room_wait_for_their_turn(monkeypatch):
    """Two at a time, all series with the same data: no step does more, none waits for ever, the posterior is right."""
    monkeypatch.setattr(pacing, "LEAST", 2)
    steps, made, y = count_work(monkeypatch), fleet(), LOCAL_LEVEL.simulate(300, 5)
    moved, asked, waited = np.zeros((len(y), 8), bool), np.zeros(8, int), 0
    inner, programs = compiled(pacing._follow, made._runtime.smc), 0
    for t, value in enumerate(y):
        steps.clear()
        programs = inner._cache_size() if t == len(y) // 2 else programs
        moved[t] = made.step(np.full(8, value)).moved
        waiting = np.asarray(cycle(made).waiting)
        assert np.asarray(cycle(made).active).sum() <= 2
        assert sum(steps) <= 8 * SETS * BUDGET  # one batch, of the smallest width
        first = (asked > 0) & (waiting == 0)  # sent off: nobody who waits had waited longer
        assert (asked[first][:, None] >= asked[waiting > 1][None]).all()
        asked, waited = waiting, max(waited, waiting.max())
    assert inner._cache_size() == programs  # one for all of the time
    assert waited > 20
    assert moved[SHORT * BUDGET :].any(axis=0).all()
    snapshot = readout.of_fleet(made._runtime)
    posteriors.assert_agrees(SimpleNamespace(snapshot=lambda: snapshot), LOCAL_LEVEL, y, spread=0.6)
    waiting = NAMES[int(np.argmax(asked))]
    assert asked.max()
    engine = made.engine(waiting)
    engine.step(0.0)
    assert np.asarray(cycle(engine).active).all()  # alone there is room

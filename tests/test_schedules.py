"""Schedules: the right posterior, bounded work, no surprise lost, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import posteriors
import smcssm as ss
from posteriors import CASES, LOCAL_LEVEL
from smcssm.smc2 import challengers
from smcssm.smc2.kernels import metropolis
from smcssm.smc2.population import particles
from smcssm.smc2.schedules import paced as paced_module
from smcssm.smc2.schedules.paced import SHORT

BUDGET, SETS, N = 8, 3, 256


def engine(schedule=None, case=LOCAL_LEVEL, n=N, **options):
    schedule = ss.Paced(budget=BUDGET, sets=SETS) if schedule is None else schedule
    return ss.Engine(case.model, case.prior, n_particles=n, schedule=schedule, **options)


def leaves(e):
    with jax.enable_x64(True):
        return [np.asarray(a) for a in jax.tree.leaves((e._runtime.state.population, e._runtime.state.pending))]


def data(t, seed=5, surprises=()):
    y = LOCAL_LEVEL.simulate(t, seed)
    for when, size in surprises:
        y[when] += size
    y[7::31] = np.nan
    return y


@pytest.mark.slow
def test_paced_has_the_posterior_after_a_surprise():
    y = data(400, surprises=[(150, 15.0)])
    e = engine(runs=8)
    infos = e.update(y)
    assert ss.Status.BRIDGING in infos.status
    assert infos.status[-1] != ss.Status.BRIDGING
    posteriors.assert_agrees(e, LOCAL_LEVEL, y, spread=0.6)


def disturbed_data(case, outlier=None, shift=None, length=2_400):
    """Data of a case with an outlier of more than 20 sd, and with all values from some time on 3 higher."""
    y = case.simulate(length, 3)
    if outlier is not None:
        y[outlier] += 30.0
    if shift is not None:
        y[shift:] += 3.0
    return y


def check_posterior(schedule, case, y, **options):
    """The posterior at the end, over 16 runs; quantiles of the grid are exact to some thousandths of an sd."""
    e = engine(schedule, case, runs=16, **options)
    e.update(y)
    assert (np.asarray(e._runtime.state.population.phi) == 1).all()
    posteriors.assert_agrees(e, case, y, spread=0.8, slack=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("disturbance", [{}, {"outlier": 400}, {"shift": 400}], ids=["calm", "outlier", "break"])
@pytest.mark.parametrize("schedule", [ss.Paced(), ss.Immediate()], ids=["paced", "immediate"])
def test_posteriors(schedule, name, disturbance):
    """An outlier, or a break in the level, and the posterior two thousand steps later."""
    check_posterior(schedule, CASES[name], disturbed_data(CASES[name], **disturbance), n=1000)


OTHER_MOVES = {  # few chains are not enough for waste-free moves after an outlier: docs/moves.md
    "random walk": ss.moves.Metropolis("random_walk"),
    "waste-free": ss.moves.WasteFree(16),
    "MALA": ss.moves.MALA(),
    "HMC": ss.moves.HMC(),
    "NUTS": ss.moves.NUTS(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("move", OTHER_MOVES)
def test_posteriors_of_other_moves(move, name):
    """The same after an outlier and a break."""
    y = disturbed_data(CASES[name], outlier=100, shift=200, length=2_200)
    n = {"waste-free": 4096, "random walk": 1024}.get(move, 256)
    check_posterior(ss.Immediate(), CASES[name], y, n=n, move=OTHER_MOVES[move])


def replayed(e):
    """The population's particles taken through history once more, pooled rows apart."""
    runtime = e._runtime
    population, smc = runtime.state.population, runtime.smc
    params, belief = particles(smc, population.key, population.z, runtime.blank())
    zero = jnp.zeros_like(population.log_lik)
    begin = challengers.Challengers(population.z, params, belief, zero, zero)
    since = np.asarray(runtime.state.pending.since)
    return challengers.replay(smc, population, begin, runtime.history, since, np.int64(0), np.int64(0))


@pytest.mark.slow
def test_particles_carry_what_a_replay_gives_while_bridging_too():
    e = engine(runs=2)
    y = data(300, surprises=[(150, 15.0), (160, -12.0)])
    moves = bridging = 0
    for start in range(0, 300, 10):
        infos = e.update(y[start : start + 10])
        moves, bridging = moves + infos.moved.sum(), bridging + (infos.status[-1] == ss.Status.BRIDGING)
        with jax.enable_x64(True):
            end, population = replayed(e), e._runtime.state.population
            for name in ("log_lik", "pending"):
                np.testing.assert_allclose(getattr(end, name), getattr(population, name), rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(end.belief.mean, population.belief.mean, rtol=1e-10, atol=1e-10)
    assert moves > 5
    assert bridging > 3


def test_a_block_is_its_steps_whatever_is_under_way():
    block, stepped, parts = engine(), engine(), engine()
    y = data(230, surprises=[(150, 15.0)])
    block.update(y)
    infos = []
    for value in y:
        infos.append(stepped.step(value))
        if stepped.t % 20 == 0:
            stepped.summary(), stepped.forecast(1), stepped.posterior(10)
    for start in range(0, 230, 23):
        parts.update(y[start : start + 23])
    for other in (stepped, parts):
        for a, b in zip(leaves(block), leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert sum(i.moved for i in infos) > 3


@pytest.mark.slow
def test_reports_while_bridging_are_of_the_whole_posterior():
    e = engine(runs=1, n=1000)
    y = data(151, surprises=[(150, 9.0)])
    e.update(y[:150])
    info = e.step(y[150])
    assert info.status == ss.Status.BRIDGING
    answer = LOCAL_LEVEL.answer(y)
    assert abs(e.log_evidence - answer.log_evidence) < 1.0
    assert info.ess < 500
    table = e.summary()
    assert np.all(np.abs(table["mean"].to_numpy() - answer.mean) < 4 * answer.sd / np.sqrt(info.ess) + 0.05)


@pytest.mark.slow
def test_nothing_is_said_of_an_error_that_is_not_known():
    e = engine(ss.Paced(budget=2), n=1000)
    y = data(61, surprises=[(40, 30.0)])
    e.update(y)
    assert e.record["status"].values[-1] == ss.Status.BRIDGING
    assert 1 / np.sum(e.snapshot().weights() ** 2) < 20
    assert np.isnan(e.summary()["mcse"]).all()
    assert np.isnan(e.log_evidence_sd)


@pytest.mark.slow
def test_what_is_taken_as_missing_is_missing_for_challengers_too():
    """At every tenth row, so also in a cycle and on the row at which it is judged."""
    y = data(200)
    wild, absent = y.copy(), y.copy()
    wild[40::10], absent[40::10] = 1e300, np.nan
    block, stepped, clean = (engine(impossible="missing") for _ in range(3))
    infos = block.update(wild)
    clean.update(absent)
    for value in wild:
        stepped.step(value)
    assert (infos.status[40::10] == ss.Status.IMPOSSIBLE).all()
    for other in (stepped, clean):
        for a, b in zip(leaves(block), leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_challengers_check_the_evidence_while_bridging_too():
    e, y, checked = engine(runs=3, n=1000), data(150, surprises=[(60, 9.0), (63, -14.0)]), 0
    for start in range(0, 150, 10):
        e.update(y[start : start + 10])
        state = e._runtime.state
        move = state.last_move
        if (np.asarray(state.population.phi) < 1).any() and move is not None and move.gap is not None:
            known = move.due & (move.pareto_k < 0.7)
            assert (np.abs(move.gap[known]) < 5 * move.gap_sd[known]).all()
            checked += known.sum()
    assert checked


def test_an_exchange_leaves_open_a_pool_that_has_opened_meanwhile(monkeypatch):
    """Challengers that are drawn then have to keep apart what is pending."""
    e = engine()
    e.update(data(SHORT * BUDGET + 1))
    smc, state, history = e._runtime.smc, e._runtime.state, e._runtime.history
    monkeypatch.setattr(paced_module.exchange, "judged", lambda smc, population, twins: (population, ss.Status.OK))
    with jax.enable_x64(True):
        ready, t = np.ones(1, bool), np.array([len(history)])
        under_way = dict(active=ready, at=t, rows=t, since=t - 3, budget=2 * np.asarray(state.pending.budget))
        twins = paced_module.Twins(**vars(state.pending) | under_way)
        population = dataclasses.replace(state.population, phi=np.full(1, 0.5))
        new, *_ = smc.schedule.act(smc, twins, population, history, ready)
    assert not isinstance(new, paced_module.Twins) and np.asarray(new.active).all()
    assert (np.asarray(new.since) == t - 3).all() and (np.asarray(new.budget) == 2 * BUDGET).all()


def work(e):
    """Filter steps of challengers with the last observation, per particle of the population."""
    return int(np.max(np.asarray(e._runtime.state.pending.work))) * SETS


def count_replays(monkeypatch):
    """Rows of history that are replayed at once, by either schedule."""
    seen, inner = [], metropolis.replay

    def counting(smc, population, c, history, *rest):
        seen.append(len(history))
        return inner(smc, population, c, history, *rest)

    monkeypatch.setattr(metropolis, "replay", counting)
    return seen


def check_bounded(e, y, seen):
    """Every step takes at most 1 + K * budget filter steps per particle, once history is longer than SHORT * budget."""
    most = 0
    for t, value in enumerate(y, start=1):
        seen.clear()
        e.step(value)
        steps = 1 + work(e) + sum(seen)
        if t > SHORT * BUDGET:
            most = max(most, steps)
    return most


def test_the_work_of_a_step_is_bounded(monkeypatch):
    y = data(700, surprises=[(300, 15.0), (310, 12.0), (500, -20.0)])
    seen = count_replays(monkeypatch)
    e = engine()
    assert 1 + SETS < check_bounded(e, y, seen) <= 1 + SETS * BUDGET
    assert e.record["moved"].values.sum() > 8


@pytest.mark.slow
def test_the_work_of_a_step_is_bounded_over_100_000(monkeypatch):
    y = data(100_000, surprises=[(300, 15.0), (20_000, 20.0), (20_050, 15.0), (60_000, -25.0)])
    seen = count_replays(monkeypatch)
    assert check_bounded(engine(), y, seen) <= 1 + SETS * BUDGET


def test_immediate_is_not_bounded(monkeypatch):
    y = data(300, surprises=[(250, 15.0)])
    seen, e = count_replays(monkeypatch), engine(ss.Immediate())
    e.update(y)
    assert max(seen) > 1 + SETS * BUDGET


@pytest.mark.slow
def test_nothing_is_traced_twice():
    e = engine(n=260)  # a size of its own: other tests cannot have compiled for it
    e.warmup()
    traced = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: traced.append(event))
    try:
        infos = e.update(data(900, surprises=[(300, 15.0), (310, 12.0)]))
    finally:
        jax.monitoring.clear_event_listeners()
    assert infos.moved.sum() > 8
    assert not [event for event in traced if "trace" in event or "compile" in event]


def test_a_call_that_fails_in_a_judgement_never_was(monkeypatch):
    e, clean = engine(), engine()
    y = data(400)
    for k in (e, clean):
        k.update(y[:100])
    before = leaves(e)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(paced_module.Paced, "_judge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            e.update(y[100:])
    for a, b in zip(leaves(e), before, strict=True):
        np.testing.assert_array_equal(a, b)
    e.update(y[100:])
    clean.update(y[100:])
    for a, b in zip(leaves(e), leaves(clean), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_wrong_evidence_is_suspect():
    """The challengers' importance sample disagrees with an evidence that was tampered with."""
    e = engine(n=1000)
    e.update(data(100))
    runtime = e._runtime
    with jax.enable_x64(True):
        wrong = runtime.state.population.log_evidence + 3.0
        population = dataclasses.replace(runtime.state.population, log_evidence=wrong)
    runtime.state = runtime.state._replace(population=population)
    infos = e.update(data(260)[100:])
    assert (infos.status == ss.Status.SUSPECT).any()


@pytest.mark.slow
def test_sound_evidence_is_not():
    infos = engine(n=1000).update(data(260))
    assert not (infos.status == ss.Status.SUSPECT).any()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["crisan", "liu"])
def test_jitter_is_near_and_forgets_history(sampler):
    kernel = ss.schedules.CrisanMiguez() if sampler == "crisan" else ss.schedules.LiuWest(0.98)
    e = engine(ss.Jitter(kernel), runs=8, n=1000)
    y = data(400)
    e.update(y)
    assert len(e._runtime.history) == 64
    truth, unit = posteriors.flat(LOCAL_LEVEL.answer(y))
    error = (posteriors.per_run(e, LOCAL_LEVEL.names) - truth) / unit
    assert np.abs(error.mean(axis=0)).max() < 0.5
    assert e.to_arviz()["observed_data"]["y"].sizes["time"] == 400


REFUSED = [
    (dict(schedule=ss.Paced(), move=ss.moves.Metropolis("random_walk")), "must not depend"),
    (dict(schedule=ss.Jitter(), move=ss.moves.Metropolis()), "takes the place"),
    (dict(schedule=ss.Jitter(), forgetting=0.99), "drift are not followed"),
    (dict(schedule=ss.Paced(), forgetting=0.99), "cannot stay pending"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_pairs_that_are_refused(options, message):
    with pytest.raises(ss.errors.ModelError, match=message):
        ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=64, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss.Paced(budget=1), "budget"),
        (lambda: ss.Paced(budget="fast"), "budget"),
        (lambda: ss.Paced(sets=0), "sets"),
        (lambda: ss.Paced(share=0.0), "share"),
        (lambda: ss.schedules.LiuWest(1.0), "discount"),
        (lambda: ss.schedules.CrisanMiguez(-1.0), "factor"),
        (lambda: ss.Jitter(0.98), "LiuWest"),
        (lambda: ss.Jitter(exact=-3), "exact"),
        (lambda: ss.Immediate(max_sweeps=0), "max_sweeps"),
    ],
)
def test_schedules_that_make_no_sense(make, message):
    with pytest.raises(ss.errors.ModelError, match=message):
        make()

"""Moves: the gradient they follow, the posterior they leave invariant, what particles carry, what they cost."""

import dataclasses
import inspect
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import quadrature
import smcssm as ss
from smcssm import history
from smcssm.history import History
from smcssm.ingest import Clock, to_block
from smcssm.priors import FromFunctions, HalfNormal, Independent
from smcssm.smc2 import challengers
from smcssm.smc2.adapt import climb, compiled
from smcssm.smc2.kernels import waste_free
from smcssm.smc2.kernels.gradient import AbstractGradient, Outcome, Point
from smcssm.smc2.kernels.metropolis import in_turn
from smcssm.smc2.kernels.waste_free import chain_variance
from smcssm.smc2.population import log_prior, particles
from smcssm.smc2.proposals import RandomWalk
from smcssm.smc2.schedules.immediate import MoveReport
from smcssm.smc2.sweeps import Variance
from smcssm.smc2.target import value_and_gradient

N, RUNS, T = 256, 16, 60
PRIOR = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=10.0)
RNG = np.random.default_rng(42)
Y = np.cumsum(0.3 * RNG.standard_normal(T)) + RNG.standard_normal(T)
Y[3::7] = np.nan
MOVES = [ss.moves.HMC(), ss.moves.MALA(), ss.moves.NUTS(), ss.moves.WasteFree(16)]
NAMES = [type(move).__name__ for move in MOVES]


def engine(move, seed=1, n_particles=N, runs=RUNS, **options):
    return ss.Engine(MODEL, PRIOR, n_particles=n_particles, runs=runs, move=move, seed=seed, **options)


# The target


def singular(theta):
    """Two channels, three states; P0 of rank one with a row of zeros, Q of rank one, one channel without noise."""
    a, q = theta["a"], theta["q"]
    return {
        "m0": [1.0, 0.0, a],
        "chol_P0": [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [q, 0.0, 0.0]],
        "F": [[1.0, a, 0.0], [0.0, 0.9, a], [0.0, 0.0, 0.5]],
        "c": [a, 0.0, 0.1],
        "chol_Q": [[q], [a], [1.0]],
        "H": [[1.0, 0.0, a], [0.0, 1.0, 0.0]],
        "chol_R": [[theta["r"], 0.0], [0.1 * a, 0.0]],
    }


SINGULAR = Independent({"a": HalfNormal(0.5), "q": HalfNormal(1.0), "r": HalfNormal(1.0)})
MODELS = {
    "local level": (MODEL, PRIOR),
    "exactly known start": (ss.models.LocalLevel(initial_sd=0.0), PRIOR),
    "AR(2) + noise": (ss.models.AR(2) + ss.models.Noise(), None),
    "trend": (ss.models.LocalLinearTrend(initial_sd=(0.0, 1.0)), None),
    "singular": (ss.models.LinearGaussian(singular, ("a", "q", "r"), channels=("one", "two")), SINGULAR),
}


def recorded(model, prior, t, n_particles=6, dtype="float64"):
    """The parts of an engine that has taken nothing, and a history of t rows, some missing, two of them pooled."""
    fresh = ss.Engine(model, prior, n_particles=n_particles, runs=2, record=None, dtype=dtype)
    state, smc = fresh._runtime.state, fresh._runtime.smc
    rng = np.random.default_rng(0)
    y = rng.standard_normal((t, len(model.channel_names)))
    y[rng.random(y.shape) < 0.2] = np.nan
    block, *_ = to_block(model, 2, dtype, Clock(), None, y)
    marks = np.zeros((t, 2), bool)
    marks[[1, t - 2], [0, 1]] = True
    journal = History()
    journal.append(block, t, marks)
    return smc, state.population, journal


QUICK = ("trend", "singular")


@pytest.mark.parametrize("name", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in MODELS])
def test_gradient_equals_finite_differences(name):
    """Over two chunks, the second one short; the value is the prior plus what a replay of history says."""
    with jax.enable_x64(True):
        smc, population, journal = recorded(*MODELS[name], t=history.CHUNK + 20)
        key, phi = jax.random.split(jax.random.key(0), 2), jnp.asarray([0.3, 0.7])
        since = np.array([0, len(journal) - 2])
        view = jax.device_put(journal.view(since))
        f = jax.jit(lambda z: value_and_gradient(smc, key, view, phi, z))
        z = 0.3 * population.z + 0.7 * population.centre
        value, gradient = f(z)
        blank = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), journal.rows(0, 1))
        zero = jnp.zeros_like(value)
        start = challengers.Challengers(z, *particles(smc, key, z, blank), zero, zero)
        replayed = challengers.replay(smc, population, start, journal, since, np.int64(0), np.int64(0))
        total = log_prior(smc, z) + replayed.log_lik + phi[:, None] * replayed.pending
        assert np.isfinite(value).all()
        assert (np.asarray(replayed.pending) != 0).all()
        np.testing.assert_allclose(value, total, rtol=1e-11)
        for k in range(len(z)):
            h = 1e-5 * jnp.zeros_like(z).at[k].set(1.0)
            numeric = (f(z + h)[0] - f(z - h)[0]) / 2e-5
            np.testing.assert_allclose(gradient[k], numeric, rtol=2e-6, atol=1e-6 * np.abs(value).max())


def test_zero_densities_have_zero_gradients():
    """Outside the support, and where a channel without noise contradicts the model."""
    with jax.enable_x64(True):
        smc, _, journal = recorded(*MODELS["AR(2) + noise"], t=20)
        free = FromFunctions(smc.prior.names, lambda key, n: {}, lambda theta: jnp.zeros(()), shapes={"phi": (2,)})
        smc = type(smc)(free, *(getattr(smc, name) for name in ("filter", "kernel", "schedule")))
        z = jnp.concatenate([jnp.linspace(-3.0, 3.0, 6)[None, None] * jnp.ones((2, 2, 1)), jnp.ones((2, 2, 6))])
        key = jax.random.split(jax.random.key(0), 2)
        view = jax.device_put(journal.view(np.zeros(2, int)))
        value, gradient = value_and_gradient(smc, key, view, jnp.ones(2), z)
        outside = np.abs(np.linspace(-3.0, 3.0, 6)) > 1
        assert np.isneginf(np.asarray(value)[:, outside]).all()
        assert (np.asarray(gradient)[..., outside] == 0).all()
        assert np.isfinite(np.asarray(value)[:, np.abs(z[0, 0]) < 0.5]).all()


def test_a_view_doubles():
    _, _, journal = recorded(MODEL, PRIOR, t=300)
    view = journal.view(np.zeros(2, int))
    assert view.length == 300
    assert view.pooled.shape == (history.SEGMENT // history.CHUNK, history.CHUNK, 2)
    np.testing.assert_array_equal(view.rows.y.reshape(-1, 1, 2)[:300], journal.rows().y)
    assert view.pooled.sum() == 2
    assert journal.view(np.array([2, 300])).pooled.sum() == 0
    block = jax.tree.map(lambda leaf: np.repeat(leaf, 10, axis=0), journal.rows(0, 256))
    rooms = []
    for _ in range(7):
        journal.append(block, 2560)
        rooms.append(len(journal.view(np.zeros(2, int)).pooled))
    assert rooms == [16, 32, 32, 64, 64, 64, 128]


# The posterior


def statistics(e):
    """Of every run by itself: means, sds and quantiles of both hyperparameters, and the evidence."""
    snapshot = e.snapshot()
    theta, w = snapshot.theta(), snapshot.weights()
    out = []
    for name in ("sigma_level", "sigma_obs"):
        x = theta[name]
        mean = np.sum(w * x, axis=-1)
        sd = np.sqrt(np.sum(w * (x - mean[:, None]) ** 2, axis=-1))
        order = np.argsort(x, axis=-1)
        below = np.cumsum(np.take_along_axis(w, order, -1), axis=-1)
        reached = below[None] >= np.array(quadrature.LEVELS)[:, None, None]
        out += [mean, sd, *np.take_along_axis(x, np.take_along_axis(order, reached.argmax(-1).T, -1), -1).T]
    return np.array([*out, snapshot.log_evidence()])


def truth(e):
    return np.array([v for k in range(2) for v in (e.mean[k], e.sd[k], *e.quantiles[k])] + [e.log_evidence])


def z_scores(e, exact):
    """Errors in standard errors of the mean over runs; the log of an unbiased evidence lies var / 2 too low."""
    found = statistics(e)
    error, spread = found.mean(axis=1) - truth(exact), found.std(axis=1, ddof=1)
    error[-1] += spread[-1] ** 2 / 2
    return error / spread * found.shape[1] ** 0.5


@pytest.fixture(scope="module")
def exact():
    return quadrature.local_level(Y, 0.0, 10.0, (1.0, 2.0), {T})[T]


SHORT = [pytest.param(i, marks=() if name == "WasteFree" else pytest.mark.slow) for i, name in enumerate(NAMES)]


@pytest.fixture(scope="module", params=SHORT, ids=NAMES)
def moved(request):
    """An engine for each move after all observations, to read only."""
    e = engine(MOVES[request.param])
    infos = e.update(Y)
    return e, infos


def test_posterior_agrees_with_quadrature(moved, exact):
    e, infos = moved
    assert infos.moved.sum() >= 5
    assert np.abs(z_scores(e, exact)).max() < 4
    assert statistics(e)[-1].std(ddof=1) < 0.35
    assert e._runtime.state.last_move.distinct.max() > 0.5 * N


def replay_gap(e):
    """How far what particles carry is from what a replay says."""
    population, smc = e._runtime.state.population, e._runtime.smc
    with jax.enable_x64(True):
        zero = jnp.zeros_like(population.log_lik)
        fresh = particles(smc, population.key, population.z, e._runtime.blank())
        start = challengers.Challengers(population.z, *fresh, zero, zero)
        since = np.full(population.t.shape, len(e._runtime.history))
        end = challengers.replay(smc, population, start, e._runtime.history, since, np.int64(0), np.int64(0))
        pairs = zip(
            jax.tree.leaves((end.params, end.belief, end.log_lik, end.pending)),
            jax.tree.leaves((population.params, population.belief, population.log_lik, population.pending)),
            strict=True,
        )
        return max(float(jnp.max(jnp.abs(a - b) / (1 + jnp.abs(b)))) for a, b in pairs)


def test_replay_equals_what_every_particle_carries(moved):
    assert replay_gap(moved[0]) < 1e-10


def test_a_climb_that_has_arrived_leaves_nothing_pending(moved):
    """The last move of a climb may have been at phi = 1, and what it accepted keeps apart what was pending."""
    state, smc = moved[0]._runtime.state, moved[0]._runtime.smc
    due = np.arange(RUNS) % 2 == 0
    with jax.enable_x64(True):
        apart = jnp.asarray(np.tile(np.where(np.arange(N) % 3 > 0, -1.5, 0.0), (RUNS, 1)))
        population = dataclasses.replace(state.population, pending=apart, log_lik=state.population.log_lik - apart)
        new, _ = compiled(climb, smc)(population, due)
        np.testing.assert_allclose(new.log_lik[due], state.population.log_lik[due], rtol=1e-12)
        assert (np.asarray(new.pending[due]) == 0).all() and (new.pending[~due] == apart[~due]).all()
        for name in ("log_weight", "log_evidence", "phi"):
            np.testing.assert_array_equal(getattr(new, name), getattr(population, name))


@pytest.mark.slow
def test_single_precision():
    e = engine(ss.moves.HMC(), runs=2, dtype="float32")
    e.update(Y)
    assert replay_gap(e) < 1e-4
    assert e._runtime.state.population.belief.mean.dtype == np.float32


def test_steps_and_blocks_and_repeats_are_bit_equal(moved):
    e, _ = moved
    other = engine(e._runtime.smc.kernel)
    other.update(Y[:33])
    for y in Y[33:]:
        other.step(y)
    with jax.enable_x64(True):
        for a, b in zip(*(jax.tree.leaves(x._runtime.state.population) for x in (e, other)), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(e.record["log_predictive"], other.record["log_predictive"])


def test_only_series_that_are_due_change(moved):
    e, _ = moved
    state, smc, journal = e._runtime.state, e._runtime.smc, e._runtime.history
    due = np.arange(RUNS) % 2 == 0
    with jax.enable_x64(True):
        since = np.full(RUNS, len(journal))
        new, told = smc.kernel.move(smc, state.population, journal, since, due, rung=0, max_sweeps=3)
        for name in ("z", "log_lik", "pending", "log_weight"):
            a, b = (np.asarray(getattr(p, name)) for p in (new, state.population))
            np.testing.assert_array_equal(a[..., ~due, :], b[..., ~due, :])
        assert (np.asarray(new.z != state.population.z).any(axis=0).mean(axis=-1)[due] > 0.5).all()
    assert (told.sweeps[~due] == 0).all()
    assert (told.acceptance[~due] == 0).all()
    assert (told.status[~due] == ss.Status.OK).all()
    if told.variance is not None:
        assert (told.variance.log_evidence[~due] == 0).all() and (told.variance.log_evidence[due] > 0).any()


@pytest.mark.slow
def test_a_surprise_of_20_sd():
    """The target is tempered: half of what moves see is pending, in rungs."""
    y = Y.copy()
    y[30] += 20.0
    e = engine(ss.moves.HMC())
    for start, stop in ((0, 31), (31, 45)):
        e.update(y[start:stop])
        exact = quadrature.local_level(y[:stop], 0.0, 10.0, (1.0, 2.0), {stop}, size=700)[stop]
        if stop == 31:
            assert e._runtime.state.last_move.rungs >= 4
        assert np.abs(z_scores(e, exact)).max() < 4
    assert replay_gap(e) < 1e-10


class AcceptsAlways(AbstractGradient):
    """A Langevin step without its correction."""

    goal: float = 0.6

    def steps(self, size):
        return 1.2, 1.2

    def transition(self, key, point, log_density, step):
        noise = jax.random.normal(key, point.position.shape)
        position = point.position + 0.5 * step**2 * point.logdensity_grad + step * noise
        value, gradient = jax.value_and_grad(log_density)(position)
        fine = jnp.isfinite(value)
        new = Point(*(jnp.where(fine, a, b) for a, b in zip((position, value, gradient), point, strict=True)))
        return Outcome(new, jnp.ones(()), ~fine)


@pytest.mark.slow
def test_a_move_that_accepts_always_is_caught(exact):
    e = engine(AcceptsAlways(), schedule=ss.schedules.Immediate(max_sweeps=5))
    e.update(Y)
    assert np.abs(z_scores(e, exact)).max() > 4


def test_chains_that_accept_always_are_caught(exact, monkeypatch):
    honest = waste_free.accept

    def wrong(smc, population, challengers, log_ratio, *rest):
        return honest(smc, population, challengers, jnp.full_like(log_ratio, 1e3), *rest)

    monkeypatch.setattr(waste_free, "accept", wrong)
    e = engine(ss.moves.WasteFree(16))
    e.update(Y)
    assert np.abs(z_scores(e, exact)).max() > 4


def test_densities_that_are_not_finite_are_rejected_and_told():
    """A prior that is NaN above 1.5: the posterior below is as if cut off there."""

    def log_prob(theta):
        return jnp.where(theta["sigma_obs"] > 1.5, jnp.nan, -0.5 * theta["sigma_obs"] ** 2)

    def sample(key, n):
        return {"sigma_obs": 1.5 * jax.random.uniform(key, (n,)), "sigma_level": 1.5 * jax.random.uniform(key, (n,))}

    prior = FromFunctions(
        ("sigma_level", "sigma_obs"), sample, log_prob, {"sigma_level": "positive", "sigma_obs": "positive"}
    )
    e = ss.Engine(MODEL, prior, n_particles=64, move=ss.moves.HMC())
    infos = e.update(Y[:30])
    assert ss.Status.NOT_FINITE in infos.status
    assert np.isfinite(infos.log_predictive).all()
    assert e.snapshot().theta()["sigma_obs"].max() <= 1.5
    assert replay_gap(e) < 1e-10


@pytest.mark.slow
def test_trajectories_that_diverge_are_no_fault_of_the_model():
    """Where a step leads to a standard deviation of exp(-1000), that is zero and the density is NaN."""
    rng = np.random.default_rng(0)
    calm = np.arange(30) % 20 < 10
    y = np.where(calm, 0, 3) + rng.standard_normal(30) * np.where(calm, 0.5, 1)
    e = ss.Engine(ss.models.GaussianRegimes(2), n_particles=512, move=ss.moves.HMC(), seed=0, record=None)
    infos = e.update(y)
    assert infos.moved.sum() > 5
    assert infos.status.max() < ss.Status.NOT_FINITE


# Waste-free


def test_variance_of_chains_with_a_known_answer():
    """AR(1): the variance of a mean of m chains of p states is sum (1 - k/p) rho^|k| / (1 - rho²) / (m p)."""
    rng, rho, p, m = np.random.default_rng(0), 0.6, 64, 4000
    x = rng.standard_normal((3, m, p))
    x[..., 0] /= np.sqrt(1 - rho**2)
    for t in range(1, p):
        x[..., t] += rho * x[..., t - 1]
    k = np.arange(-p + 1, p)
    want = np.sum((1 - np.abs(k) / p) * rho ** np.abs(k)) / (1 - rho**2) / (m * p)
    with jax.enable_x64(True):
        got = np.asarray(chain_variance(jnp.asarray(x.reshape(3, -1)), p))
        np.testing.assert_allclose(got, want, rtol=0.05)
        independent = np.asarray(chain_variance(jnp.asarray(rng.standard_normal((2, 33 * 5000))), 33))
        np.testing.assert_allclose(independent, 1 / (33 * 5000), rtol=0.05)
        assert float(chain_variance(jnp.ones((1, 64)), 16)[0]) == 0.0


def test_two_parts_of_one_move_add_up_what_the_evidence_gained():
    """The second follows an exchange of inner particles."""
    none = np.zeros(2, int)
    first, second = (
        MoveReport(none, none == 0, 0.0 * none, 0.0 * none, none, none, none)._replace(
            variance=Variance(np.array([gained, 0.0]), np.full((1, 2), gained))
        )
        for gained in (0.25, 0.5)
    )
    both = second.following(first).variance
    assert both is not None
    np.testing.assert_array_equal(both.log_evidence, [0.75, 0.0])
    np.testing.assert_array_equal(both.mean, second.variance.mean)


@pytest.mark.slow
def test_one_run_tells_the_error_that_many_runs_have():
    """Evidence: the sum over moves. Means: after a move of all runs at one time."""
    e, gained = engine(ss.moves.WasteFree(16), seed=5, runs=32), np.zeros(32)
    for y in Y:
        if e.step(y).moved:
            move = e._runtime.state.last_move
            gained += np.where(move.due, move.variance.log_evidence, 0.0)
    ratio = np.sqrt(gained.mean()) / e.snapshot().log_evidence().std(ddof=1)
    assert 0.6 < ratio < 1.7, ratio
    state, smc, journal = e._runtime.state, e._runtime.smc, e._runtime.history
    with jax.enable_x64(True):
        since, due = np.full(32, len(journal)), np.ones(32, bool)
        population, moved = smc.kernel.move(smc, state.population, journal, since, due, rung=0, max_sweeps=1)
        means = np.asarray(population.z).mean(axis=-1)
    ratio = np.sqrt(moved.variance.mean.mean(axis=-1)) / means.std(axis=-1, ddof=1)
    assert ((ratio > 0.6) & (ratio < 1.7)).all(), ratio


# What is refused


untyped = inspect.unwrap  # types are checked in tests alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss.moves.HMC(0), "n_steps"),
        (lambda: ss.moves.HMC(True), "n_steps"),
        (lambda: ss.moves.NUTS(max_depth=0), "max_depth"),
        (lambda: ss.moves.MALA(goal=1.0), "goal"),
        (lambda: ss.moves.WasteFree(1), "length"),
        (lambda: ss.moves.Metropolis("walk"), r"proposal='walk': expected one of 'auto'"),
        (lambda: untyped(in_turn)(RandomWalk), "or a proposal"),
        (lambda: untyped(in_turn)(["auto"]), "or a proposal"),
        (lambda: engine(ss.moves.WasteFree(16), resampling="multinomial"), "no lineage of their own"),
        (lambda: engine(ss.moves.WasteFree(7)), r"2, 4, 8, 16, 32, 64"),
        (lambda: engine(ss.moves.WasteFree(16), n_particles=1000), r"4 part\(s\) of 250.*: 2, 5, 10, 25, 50, 125"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ss.errors.ModelError, match=message):
        make()


def test_a_prior_without_a_gradient_is_refused_by_gradient_moves_only():
    def log_prob(theta):
        return -jax.lax.while_loop(lambda x: x > 1, lambda x: 0.5 * x, theta["sigma_level"])

    def sample(key, n):
        return {name: jnp.ones(n) for name in ("sigma_level", "sigma_obs")}

    prior = FromFunctions(("sigma_level", "sigma_obs"), sample, log_prob)
    with pytest.raises(ss.errors.ModelError, match=r"NUTS.*gradients.*Metropolis"):
        ss.Engine(MODEL, prior, move=ss.moves.NUTS())
    ss.Engine(MODEL, prior, n_particles=32)


# What it costs


@pytest.mark.slow
def test_one_compilation_per_doubling(monkeypatch):
    """One program sees all of history at once, and only that is compiled anew when its room doubles."""
    monkeypatch.setattr(history, "SEGMENT", history.CHUNK)
    e = engine(ss.moves.HMC(2), n_particles=64, runs=1, record=None)
    e.warmup()
    rng = np.random.default_rng(0)
    y = rng.standard_normal(1000) * np.where(np.arange(1000) % 200 < 100, 0.5, 2.0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **kwargs: compiled.append(e._runtime.state.length) if "backend_compile" in event else None
    )
    try:
        moved = np.flatnonzero(np.concatenate([e.update(part).moved for part in np.split(y, 100)]))
    finally:
        jax.monitoring.clear_event_listeners()
    rooms = [np.any((moved >= low) & (moved < high)) for low, high in ((256, 512), (512, 1000))]
    assert all(rooms)
    assert len(compiled) == 2
    assert min(compiled) >= 250


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HMC", "NUTS", "MALA"])
def test_memory_of_a_move_over_a_long_history(name):
    code = rf"""
        import re, jax, numpy as np, smcssm as ss
        from smcssm.history import History
        from smcssm.ingest import Clock, to_block
        model = ss.models.LocalLinearTrend()
        engine = ss.Engine(model, n_particles=256, move=ss.moves.{name}(), record=None)
        smc, population, t = engine._runtime.smc, engine._runtime.state.population, 20_000
        y = np.random.default_rng(0).standard_normal(t)
        block, *_ = to_block(model, 1, "float64", Clock(), None, y)
        history = History()
        history.append(block, t)
        with jax.enable_x64(True):
            due, since = np.ones(1, bool), np.full(1, t)
            moved, told = smc.kernel.move(smc, population, history, since, due, rung=0, max_sweeps=2)
            jax.block_until_ready(moved.z)
        assert told.sweeps[0] >= 1
        print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 2 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES, ids=NAMES)
def test_posterior_agrees_with_quadrature_over_many_seeds(move, exact):
    scores = []
    for seed in range(10, 20):
        e = engine(move, seed=seed)
        e.update(Y)
        scores.append(z_scores(e, exact))
    scores = np.array(scores)
    assert np.abs(scores.sum(axis=0) / len(scores) ** 0.5).max() < stats.norm.ppf(1 - 0.001 / scores.shape[1])

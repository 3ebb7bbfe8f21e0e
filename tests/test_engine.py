"""The engine as a whole: invariants, closed forms, bad input, surprises."""

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytest
from scipy import stats

import quadrature
import smcssm as ss
from smcssm import assemble
from smcssm.arguments import number, whole
from smcssm.priors import HalfNormal, Independent
from smcssm.readout.forecast import mixture_quantiles
from smcssm.runtime import Runtime
from smcssm.smc2 import challengers, step
from smcssm.smc2.kernels import metropolis
from smcssm.smc2.population import Stream, fold_in, particles, stream
from smcssm.smc2.schedules.immediate import Immediate as ImmediateSchedule

PRIOR = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=10.0)
RNG = np.random.default_rng(42)
BASE = np.cumsum(0.3 * RNG.standard_normal(300)) + RNG.standard_normal(300)
GAPS = np.where(np.arange(60) % 7 == 3, np.nan, BASE[:60])


def small(seed=0, **options):
    return ss.Engine(MODEL, PRIOR, n_particles=128, seed=seed, **options)


def leaves(engine):
    """Everything that an engine is: arrays, clock, history and record."""
    with jax.enable_x64(True):
        state = engine._runtime.state
        arrays = jax.tree.leaves((state.population, state.pending))
        arrays = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in arrays]
        out = [np.asarray(a) for a in arrays]
    if state.length:
        out += jax.tree.leaves(engine._runtime.history.rows(0, state.length))
    out += list(engine._ring.columns(state.clock.taken).values())
    return out, (state.clock, state.layout, state.length)


def assert_same(a, b):
    (x, meta), (y, other) = a, b
    assert meta == other
    assert len(x) == len(y)
    for left, right in zip(x, y, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_block_is_bit_for_bit_its_steps_and_read_outs_change_nothing():
    stepped, block, split = small(), small(), small()
    infos, corrected = [], 0.0
    for y in GAPS:
        infos.append(stepped.step(y))
        corrected += stepped._runtime.state.last_move.correction[0] if infos[-1].moved else 0.0
        if stepped.t % 10 == 0:
            stepped.summary(), stepped.state(), stepped.forecast(2), stepped.posterior(10)
    columns = block.update(GAPS)
    split.update(GAPS[:33])
    split.update(GAPS[33:])
    assert sum(i.moved for i in infos) >= 3
    assert_same(leaves(stepped), leaves(block))
    assert_same(leaves(split), leaves(block))
    np.testing.assert_array_equal([i.log_predictive for i in infos], columns.log_predictive)
    assert [i.status for i in columns] == [i.status for i in infos]
    np.testing.assert_allclose(columns.log_predictive.sum() + corrected, block.log_evidence, rtol=1e-12)


def test_copies_go_their_own_way_and_reset_is_a_new_beginning():
    engine = small()
    engine.update(GAPS[:30])
    same, other = engine.copy(), engine.copy(seed=9)
    for e in (engine, same, other):
        e.update(BASE[30:])
    assert_same(leaves(engine), leaves(same))
    assert engine.log_evidence != other.log_evidence
    engine.reset()
    assert engine.t == 0
    engine.update(GAPS[:30])
    engine.update(BASE[30:])
    assert_same(leaves(engine), leaves(same))


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_replay_equals_what_every_particle_carries(dtype):
    engine = small(dtype=dtype, runs=2)
    for y in GAPS:
        if not engine.step(y).moved:
            continue
        runtime: Runtime = engine._runtime
        population, smc = runtime.state.population, runtime.smc
        with jax.enable_x64(True):
            params, belief = particles(smc, population.key, population.z, runtime.blank())
            zero = jnp.zeros_like(population.log_lik)
            start = challengers.Challengers(population.z, params, belief, zero, zero)
            since, counters = np.full(2, len(runtime.history)), (np.int64(0), np.int64(0))
            end = challengers.replay(smc, population, start, runtime.history, since, *counters)
            tolerance = 1e-10 if dtype == "float64" else 1e-4
            np.testing.assert_allclose(end.log_lik, population.log_lik, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(end.belief.mean, population.belief.mean, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(end.belief.chol, population.belief.chol, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_float32_follows_float64():
    double, single = small(), small(dtype="float32")
    double.update(GAPS[:40])
    single.update(GAPS[:40])
    assert abs(double.log_evidence - single.log_evidence) < 1e-3
    np.testing.assert_allclose(single.summary(), double.summary(), rtol=1e-3)
    assert single._runtime.state.population.belief.mean.dtype == np.float32


@pytest.mark.slow
def test_runs_are_independent_populations():
    three, one = small(runs=3), small()
    three.update(GAPS)
    one.update(GAPS)
    evidences = three.snapshot().log_evidence()
    assert len(set(evidences)) == 3
    np.testing.assert_allclose(evidences[0], one.log_evidence, rtol=1e-9)
    np.testing.assert_allclose(three.log_evidence, np.log(np.mean(np.exp(evidences))), rtol=1e-12)


def test_predictives_follow_the_conjugate_student_t():
    """variance ~ InverseGamma(a, b) scales every covariance: y_t | y_1:t-1 is Student-t with 2 a_t degrees."""
    a, b, c0, q = 3.0, 8.0, 2.0, 0.5
    with pm.Model() as prior:
        variance = pm.InverseGamma("variance", a, b)
        pm.Deterministic("sigma", variance**0.5)

    def scaled(theta):
        s = theta["sigma"]
        return dict(m0=[0.0], chol_P0=[[c0 * s]], F=[[1.0]], chol_Q=[[q * s]], H=[[1.0]], chol_R=[[s]])

    engine = ss.Engine(ss.models.LinearGaussian(scaled, names=("sigma",)), prior, n_particles=1000, runs=8, seed=3)
    y = np.array([0.5, -1.0, 4.0, 2.0, np.nan, 3.0, -2.5, 0.1, 6.0, 1.0])
    m, C, exact, per_run = 0.0, c0**2, [], []
    for t, value in enumerate(y):
        C = C + (q**2 if t else 0.0)
        sd = np.sqrt(b / (a - 1) * (C + 1))
        if not np.isnan(value):
            scale = np.sqrt(b / a * (C + 1))
            exact.append(stats.t.logpdf(value, 2 * a, m, scale))
            a, b = a + 0.5, b + 0.5 * (value - m) ** 2 / (C + 1)
        else:
            exact.append(0.0)
        at = m
        if not np.isnan(value):
            m, C = m + C / (C + 1) * (value - m), C / (C + 1)
        info = engine.step(value)
        assert info.predictive_mean == pytest.approx(at, abs=0.02 * sd)
        assert info.predictive_sd == pytest.approx(sd, rel=0.08)
        if np.isnan(value):
            assert info.log_predictive == 0.0
            assert np.isnan(info.pit)
        per_run.append(engine.snapshot().log_evidence())
    errors = np.array(per_run) - np.cumsum(exact)[:, None]
    standard_error = errors.std(axis=1, ddof=1) / np.sqrt(8)
    assert np.all(np.abs(errors.mean(axis=1)) < 4 * standard_error + 0.005)
    assert errors.std(axis=1, ddof=1).max() < 0.15
    draws = engine.posterior(1000)["variance"].values.reshape(8, -1)
    np.testing.assert_allclose(draws.mean(), b / (a - 1), rtol=0.05)
    np.testing.assert_allclose(draws.std(), b / (a - 1) / np.sqrt(a - 2), rtol=0.15)


def surprise(when, size, until, seeds, n_particles=1000):
    y = BASE[:until].copy()
    y[when] += size
    exact = quadrature.local_level(y, 0.0, 10.0, (1.0, 2.0), {when + 1, until}, size=700)
    for seed in seeds:
        engine, rungs = ss.Engine(MODEL, PRIOR, n_particles=n_particles, seed=seed), 0
        for start, stop in ((0, when + 1), (when + 1, until)):
            engine.update(y[start:stop])
            e, table = exact[stop], engine.summary()
            error = np.concatenate([(table["mean"] - e.mean) / e.sd, table["sd"] / e.sd - 1])
            quantiles = (table[["q05", "q50", "q95"]].to_numpy() - e.quantiles) / e.sd[:, None]
            assert np.abs(error).max() < 0.25, (seed, stop, error)
            assert np.abs(quantiles).max() < 0.4, (seed, stop, quantiles)
            rungs = engine._runtime.state.last_move.rungs if stop == when + 1 else rungs
            yield stop, engine.log_evidence - e.log_evidence, int(engine.record["moved"].sum()) + rungs


def test_an_outlier_leaves_the_right_posterior_and_evidence():
    errors = [e for _, e, _ in surprise(30, 20.0, 100, range(2))]
    assert np.abs(errors).max() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("when", [5, 250])
@pytest.mark.parametrize("size", [10.0, 20.0, 25.0])
def test_outliers_early_and_late(when, size):
    for stop in (when + 1, 300):
        found = [(e, k) for t, e, k in surprise(when, size, 300, range(8)) if t == stop]
        errors, reweightings = np.array(found).T
        # Each reweighting down to half of the ESS adds 1/N to the variance; 2/N allows for their dependence.
        variance = 2 * reweightings.mean() / 1000 * stats.chi2.ppf(0.999, 7) / 7
        assert errors.var(ddof=1) < variance
        assert abs(errors.mean()) < stats.t.ppf(0.9995, 7) * errors.std(ddof=1) / np.sqrt(8)


@pytest.mark.slow
def test_without_tempering_the_diagnosis_says_so():
    y = BASE[:60].copy()
    y[50] += 40.0
    broken = ss.Engine(MODEL, PRIOR, n_particles=500, schedule=ImmediateSchedule(tempering=False))
    sound = ss.Engine(MODEL, PRIOR, n_particles=500)
    broken.update(y)
    sound.update(y)
    assert sound.diagnose().ok
    with pytest.warns(ss.errors.SmcssmWarning):
        assert not broken.diagnose().ok


def test_an_impossible_observation_is_refused_by_name_and_the_stream_goes_on():
    engine = small()
    engine.update(GAPS[:20])
    before = leaves(engine)
    for wild, told in ((1e300, r"1e\+300"), (1e150, r"1e\+150"), (1e9, r"1e\+09")):
        with pytest.raises(ss.errors.ImpossibleObservationError, match=f"observation 21 with value {told} .*unchanged"):
            engine.step(wild)
        assert_same(leaves(engine), before)
    for wild in (1e300, 1e9):
        with pytest.raises(ss.errors.ImpossibleObservationError, match=r"observation 26 \(row 5\) with value"):
            engine.update([*GAPS[20:25], wild, *GAPS[26:30]])
    assert_same(leaves(engine), before)
    infos = engine.update(GAPS[20:])
    assert np.isfinite(infos.log_predictive).all()
    clean = small()
    clean.update(GAPS)
    assert_same(leaves(engine), leaves(clean))


@pytest.mark.parametrize("where", [3, *(pytest.param(i, marks=pytest.mark.slow) for i in (0, 25))])
def test_an_impossible_observation_can_be_taken_as_missing(where):
    """One that no particle can explain, and one that tempering cannot bridge: bit for bit a missing value."""
    lenient, stepped, missing = (small(impossible="missing", runs=2) for _ in range(3))
    y = GAPS.copy()
    y[[where, where + 2]] = 1e300, -1e9
    infos = lenient.update(y)
    for value in y:
        stepped.step(value)
    assert_same(leaves(stepped), leaves(lenient))
    y[[where, where + 2]] = np.nan
    missing.update(y)
    for i in (where, where + 2):
        assert infos.status[i] == ss.Status.IMPOSSIBLE
        assert infos.log_predictive[i] == 0.0
        assert np.isnan(infos.pit[i])
    for engine in (lenient, missing):  # the record differs in what became of the two values, and in nothing else
        engine._ring._columns["status"][:] = 0
    assert_same(leaves(lenient), leaves(missing))


def test_what_can_be_bridged_is_bridged_and_the_absurd_is_given_up_early():
    engine = small()
    engine.update(BASE[:50])
    for wild in (40.0, 1e3):
        bold = engine.copy()
        bold.step(wild)
        assert np.isfinite(bold.log_evidence)
    with pytest.raises(ss.errors.ImpossibleObservationError, match=r"after [12]\d tempering steps"):
        engine.step(9.97e36)  # a fill value of NetCDF


@pytest.mark.slow
def test_a_pace_that_picks_up_again_is_waited_for():
    """Under a bounded prior the last rungs are the quickest."""
    with pm.Model() as prior:
        pm.Uniform("sigma_level", 0.0, 50.0)
        pm.Uniform("sigma_obs", 0.0, 50.0)
    engine = ss.Engine(MODEL, prior, n_particles=128)
    engine.update(BASE[:200])
    assert engine.step(1e6).moved


BAD = [
    (lambda e: e.step([1.0, 2.0]), "shape"),
    (lambda e: e.step("1.0"), "text"),
    (lambda e: e.step(None), "NaN"),
    (lambda e: e.step(1 + 2j), "real numbers"),
    (lambda e: e.step(np.inf), "inf"),
    (lambda e: e.step({"z": 1.0, "w": 2.0}), "columns are z, w"),
    (lambda e: e.step({"temprature": 1.0}), "channels y: the columns are temprature"),
    (lambda e: e.step({}), r"columns are \(none\)"),
    (lambda e: e.update({"temprature": [1.0, 2.0]}), "columns are temprature"),
    (lambda e: e.step(1.0, inputs=2.0), "reads none"),
    (lambda e: e.step(1.0, noise_sd=-1.0), "noise_sd"),
    (lambda e: e.step(1.0, time=5.0), "no time"),
    (lambda e: e.update(np.zeros((3, 2))), r"\(rows, 1\)"),
    (lambda e: e.update([0.0] * 499 + [-np.inf] + [0.0] * 100), "row 499"),
    (lambda e: e.update([0.0] * 499 + ["x"]), "row 499|'x'"),
    (lambda e: e.update([1.0, None]), "NaN"),
    (lambda e: e.update([1.0, 2.0], time=[1.0, 2.0]), "no time"),
]


@pytest.fixture(scope="module")
def engine():
    engine = small()
    engine.update(GAPS[:20])
    return engine


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named_and_changes_nothing(engine, call, message):
    before = leaves(engine)
    with pytest.raises(ss.errors.InputError, match=message):
        call(engine)
    assert_same(leaves(engine), before)


def test_an_empty_block_is_nothing(engine):
    before = leaves(engine)
    assert len(engine.update([])) == 0
    assert len(engine.update(np.zeros((0, 1)))) == 0
    assert_same(leaves(engine), before)


def test_time_must_go_forward_on_its_grid():
    engine = small()
    engine.update(GAPS[:3], time=np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64"))
    before = leaves(engine)
    for stamp in ("2020-01-03", "2020-01-01", "2020-01-05", "NaT"):
        with pytest.raises(ss.errors.InputError, match="time"):
            engine.step(1.0, time=np.datetime64(stamp, "ns"))
        assert_same(leaves(engine), before)
    engine.step(1.0, time=np.datetime64("2020-01-04"))
    assert engine.t == 4


def test_inputs_are_matched_and_checked():
    pd = pytest.importorskip("pandas")
    model = ss.models.Level() + ss.models.Regression(names=("a", "b")) + ss.models.Noise()
    engine = ss.Engine(model, PRIOR, n_particles=32)
    frame = pd.DataFrame({"b": [1.0, 2.0], "y": [0.5, np.nan], "a": [3.0, 4.0]})
    engine.update(frame)
    rows = engine._runtime.history.rows()
    np.testing.assert_array_equal(rows.inputs[..., 0], [[3.0, 1.0], [4.0, 2.0]])
    np.testing.assert_array_equal(rows.mask[:, 0, 0], [True, False])
    for wrong in (None, [1.0], [1.0, 2.0, 3.0], [1.0, np.nan]):
        with pytest.raises(ss.errors.InputError, match="inputs"):
            engine.step(1.0, inputs=wrong)
    assert engine.t == 2
    engine.step(1.0, inputs={"b": 1.0, "a": 2.0})
    assert engine.forecast(2, inputs=np.ones((2, 2)))["mean"].shape == (2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_particles=1), "n_particles"),
        (dict(runs=0), "runs"),
        (dict(ess_threshold=1.5), "ess_threshold"),
        (dict(impossible="ignore"), "impossible"),
        (dict(dtype="float16"), "dtype"),
        (dict(record=0), "record"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ss.errors.ModelError, match=message):
        ss.Engine(MODEL, PRIOR, **options)


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda: assemble.check_parts(move="random_walk"), r"move='random_walk'.*move=ss\.moves\.Metropolis"),
        (lambda: assemble.check_parts(schedule=ss.Paced), r"schedule=Paced is a class: call it, schedule=Paced\(\)"),
        (lambda: assemble.check_parts(filter=3), "filter=3: expected an object of smcssm.filters, or nothing"),
        (lambda: assemble.check_counts(seed=None), "seed=None: expected a whole number >= 0"),
        (lambda: assemble.check_counts(n_particles=None), "n_particles=None"),
        (lambda: assemble.levels(0.5), r"write quantiles=\(0\.5,\)"),
        (lambda: assemble.levels(()), r"quantiles=\(\): expected one level or more"),
        (lambda: assemble.levels(("a", 0.5)), "quantiles: expected levels between 0 and 1, got 'a'"),
        (lambda: assemble.levels((0.5, 1.0)), "quantiles: expected levels between 0 and 1, got 1.0"),
        (lambda: whole("RaoBlackwell(max_inner)", "a", 16), r"\(max_inner\): expected a whole number >= 16, got 'a'"),
        (lambda: whole("Particle(lag)", True, 0), "got True"),
        (lambda: number("StudentT(df)", "a", "a positive number", lambda v: v > 0), "a positive number, got 'a'"),
        (lambda: assemble.check_model(PRIOR, MODEL), r"swapped: write Engine\(model, prior\)"),
        (lambda: assemble.check_model(pm.Model(), None), "expected a model of smcssm.models"),
    ],
)
def test_slips_of_a_newcomer_are_told_with_their_remedy(call, remedy):
    """Through the functions that an engine calls: here types are checked before they are reached."""
    with pytest.raises(ss.errors.ModelError, match=remedy):
        call()
    assemble.check_parts(move=None, schedule=ImmediateSchedule(), filter=None)
    assemble.check_counts(record=None)


@pytest.mark.slow
def test_a_prior_of_a_standard_deviation_is_cut_off_at_zero_and_the_user_told():
    """Then Normal is HalfNormal: the same posterior, and evidence relative to the prior that is left."""
    with pm.Model() as prior:
        pm.Normal("sigma_level", 0.0, 1.0)
        pm.HalfNormal("sigma_obs", 2.0)
    with pytest.warns(ss.errors.SmcssmWarning, match=r"sigma_level is negative in [45]\d%.*pm\.HalfNormal"):
        cut = ss.Engine(MODEL, prior, n_particles=1000, runs=4)
    half = ss.Engine(MODEL, PRIOR, n_particles=1000, runs=4)
    for engine in (cut, half):
        engine.update(BASE[:60])
    assert (cut.snapshot().theta()["sigma_level"] >= 0).all()
    a, b = cut.summary(), half.summary()
    assert (abs(a["mean"] - b["mean"]) < 5 * np.hypot(a["mcse"], b["mcse"])).all()
    spread = np.hypot(*(e.snapshot().log_evidence().std(ddof=1) / 2 for e in (cut, half)))
    assert abs(cut.log_evidence - half.log_evidence) < 5 * spread


def test_priors_that_do_not_fit():
    with pytest.raises(ss.errors.ModelError, match=r"sigma_obs.*sigma_level.*tau"):
        ss.Engine(MODEL, Independent({"sigma_level": HalfNormal(1.0), "tau": HalfNormal(1.0)}))
    with pytest.raises(ss.errors.ModelError, match="shape"):
        ss.Engine(MODEL, Independent({"sigma_level": HalfNormal(1.0, (2,)), "sigma_obs": HalfNormal(1.0)}))
    with pm.Model() as observed:
        pm.HalfNormal("sigma_level", 1.0)
        pm.Normal("y", 0.0, pm.HalfNormal("sigma_obs", 1.0), observed=[1.0])
    with pytest.raises(ss.errors.ModelError, match="y"):
        ss.Engine(MODEL, observed)
    with pytest.raises(ss.errors.ModelError, match=r"pm\.Model"):
        ss.Engine(MODEL, "half-normal")


def test_nothing_is_traced_twice():
    engine = small()
    engine.warmup()
    before = leaves(engine)
    fresh = small()
    assert_same(before, leaves(fresh))
    traced = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: traced.append(event))
    try:
        rng = np.random.default_rng(0)
        moved = sum(engine.step(y).moved for y in rng.standard_normal(2000).cumsum())
    finally:
        jax.monitoring.clear_event_listeners()
    assert moved >= 5
    assert not [event for event in traced if "trace" in event or "compile" in event]


def test_a_warm_engine_does_not_compile_for_noise_that_is_known():
    engine = small()
    engine.warmup(noise_sd=True)
    traced = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: traced.append(event))
    try:
        moved = sum(engine.step(y, noise_sd=0.1).moved for y in BASE[:50].cumsum())
    finally:
        jax.monitoring.clear_event_listeners()
    assert moved >= 3
    assert not [event for event in traced if "trace" in event or "compile" in event]
    before = leaves(engine)
    engine.warmup()  # which now knows what observations bring
    assert_same(leaves(engine), before)


def test_a_call_that_is_interrupted_never_was(monkeypatch):
    """Interrupts in a move of the very first call, and while the record is written; then another record layout."""
    engine, clean = small(), small()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    before = leaves(engine)
    for owner, name in ((metropolis, "replay"), (type(engine._ring), "write")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.update(GAPS, noise_sd=3.0)
        assert_same(leaves(engine), before)
    engine.update(GAPS)
    clean.update(GAPS)
    assert_same(leaves(engine), leaves(clean))


def test_an_engine_cannot_be_called_from_within_itself(monkeypatch):
    engine = small()
    inner = metropolis.replay

    def nested(*arguments):
        engine.step(0.0)
        return inner(*arguments)

    monkeypatch.setattr(metropolis, "replay", nested)
    with pytest.raises(RuntimeError, match="in the middle"):
        engine.update(GAPS)
    monkeypatch.undo()
    engine.update(GAPS)
    clean = small()
    clean.update(GAPS)
    assert_same(leaves(engine), leaves(clean))


def test_particles_that_a_likelihood_rules_out_leave_nothing_pending():
    """Many increments of -inf and the others alike: no exponent below 1 is needed, so nothing may stay pending."""
    engine = small()
    engine.update(GAPS[:5])
    population, smc = engine._runtime.state.population, engine._runtime.smc
    with jax.enable_x64(True):
        n = population.log_lik.shape[-1]
        increment = jnp.where(jnp.arange(n) < 0.95 * n, -jnp.inf, -1.0)[None]
        new, *_ = step.reweight(smc, population, increment, jnp.ones(1, bool))
        np.testing.assert_array_equal(new.phi, 1.0)
        np.testing.assert_array_equal(new.pending, 0.0)
        assert np.isneginf(np.asarray(new.log_lik)).sum() == np.ceil(0.95 * n)


def test_acceptance_and_sweeps_are_each_runs_own():
    engine = small(runs=3)
    engine.update(GAPS)
    move = engine._runtime.state.last_move
    assert np.all((move.sweeps > 0) == move.due)
    assert np.all(move.acceptance[move.due] > 0.05)


def test_streams_of_randomness_never_meet():
    with jax.enable_x64(True):
        root = jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(2)))
        keys = [stream(root, Stream.PRIOR), stream(root, Stream.INIT)]
        for t in range(4):
            keys += [stream(root, purpose, t) for purpose in (Stream.FILTER, Stream.FORECAST)]
            move = stream(root, Stream.MOVE, t, 0, 1)
            keys += [fold_in(move, use) for use in range(5)]
        children = [jax.vmap(lambda k: jax.random.split(k, 3))(k).reshape(-1) for k in keys]
        data = np.concatenate([np.asarray(jax.random.key_data(k)) for k in (*keys, *children)])
    assert len({tuple(row) for row in data}) == len(data) == 4 * 2 * len(keys)


def test_mixed_time_stamps_are_refused():
    engine = small()
    engine.step(1.0, time=5.0)
    with pytest.raises(ss.errors.InputError, match="time"):
        engine.step(1.0, time=np.datetime64("2020-01-01", "ns"))


def test_forecasts_need_what_came_with_the_observations():
    engine = small()
    engine.update(GAPS[:10], noise_sd=np.full(10, 0.5))
    with pytest.raises(ss.errors.InputError, match="noise_sd"):
        engine.forecast(3)
    wide, narrow = (engine.forecast(3, noise_sd=s)["sd"].values for s in (5.0, 0.1))
    assert (wide > narrow).all()


def test_a_pandas_index_of_dates_must_be_what_the_rows_say():
    pd = pytest.importorskip("pandas")
    engine = small()
    days = pd.date_range("2024-01-01", periods=4, freq="D", tz="UTC")
    engine.update(pd.Series(GAPS[:4], days))
    for wrong in (days[[0, 2, 1, 3]], days[[0, 1, 1, 2]], days[[0, 1, 3]].append(days[:0])):
        with pytest.raises(ss.errors.InputError, match="index"):
            engine.update(pd.Series(GAPS[: len(wrong)], wrong))
    assert engine.t == 4
    stamped = small()
    stamped.step(1.0, time="2024-01-01")
    with pytest.raises(ss.errors.InputError, match="has Europe/Paris, earlier stamps no time zone"):
        stamped.step(1.0, time=pd.Timestamp("2024-01-02 01:00", tz="Europe/Paris"))
    stamped.step(1.0, time=pd.Timestamp("2024-01-02"))
    assert stamped.t == 2


FREQUENCIES = ["MS", "ME", "QS", "QE", "YS", "YE", "B", "BME", "W-SUN", "D", "30min"]


@pytest.mark.parametrize("freq", FREQUENCIES)
def test_steps_of_a_calendar_are_regular(engine, freq):
    """As an index with a frequency or without, as time= in a block or one by one; and what is left out is noticed."""
    pd = pytest.importorskip("pandas")
    days = pd.date_range("2001-01-01", periods=12, freq=freq)
    clocks = []
    for stamps in (days, days.to_numpy(), pd.Series(days)):
        block, stepped = engine.copy(), engine.copy()
        block.reset(), stepped.reset()
        block.update(GAPS[:12], time=stamps)
        for y, stamp in zip(GAPS, stamps, strict=False):
            stepped.step(y, time=stamp)
        assert_same(leaves(block), leaves(stepped))
        clocks.append(block._runtime.state.clock)
        later = pd.date_range(days[-1], periods=3, freq=freq)
        with pytest.raises(ss.errors.InputError, match="irregular time at row 0"):
            block.step(1.0, time=later[2])
        block.update([1.0, 2.0], time=later[1:])
        assert block.t == 14
    assert clocks[0] == clocks[1] == clocks[2]
    for index in (days, pd.DatetimeIndex(days.to_numpy()), days.tz_localize("Europe/Paris")):
        engine.copy().update(pd.Series(GAPS[:12], index))
        with pytest.raises(ss.errors.InputError, match=r"the index is irregular at row 7: .* leads to"):
            engine.copy().update(pd.Series(GAPS[:11], index.delete(7)))


def test_read_outs_refuse_what_makes_no_sense():
    engine = small()
    for levels in ((5.0, 95.0), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ss.errors.ModelError, match="quantiles"):
            engine.forecast(1, quantiles=levels)
    for h in (0, -1):
        with pytest.raises(ss.errors.ModelError, match="h="):
            engine.forecast(h)
    for read in (engine.posterior, engine.to_arviz):
        for options in (dict(draws=0), dict(draws=-1), dict(seed=-1)):
            with pytest.raises(ss.errors.ModelError, match=next(iter(options))):
                read(**options)


def mixture_cdf(x, w, m, s):
    return float(np.sum(w * stats.norm.cdf((x - m) / s)))


def test_one_wild_particle_of_hardly_any_weight_spoils_no_quantile(x64):
    rng, levels = np.random.default_rng(0), np.array([0.001, 0.05, 0.5, 0.95])
    w, m, s = np.full(200, 1 / 200), rng.normal(size=200), rng.gamma(5.0, 0.2, size=200)
    w[:2], m[1], s[0] = 1e-20, 1e30, 1e18
    found = mixture_quantiles(*(jnp.asarray(a[None, None]) for a in (w / w.sum(), m, s)), jnp.asarray(levels))
    np.testing.assert_allclose([mixture_cdf(q, w / w.sum(), m, s) for q in found[0, 0]], levels, rtol=1e-10)


def test_quantiles_of_a_component_that_is_known_exactly(x64):
    w, m, s = (jnp.asarray([[a]]) for a in ([0.3, 0.7], [-1.0, 2.0], [0.0, 0.0]))
    np.testing.assert_array_equal(mixture_quantiles(w, m, s, jnp.asarray([0.1, 0.5]))[0, 0], [-1.0, 2.0])


@pytest.mark.slow
def test_forecast_quantiles_under_priors_without_moments():
    with pm.Model() as prior:
        for name in ("level", "obs"):
            pm.Deterministic(f"sigma_{name}", pm.InverseGamma(f"variance_{name}", 0.1, 0.1) ** 0.5)
    engine = ss.Engine(ss.models.LocalLevel(0.0, 1.0), prior, n_particles=500)
    engine.step(0.3)
    snapshot, levels = engine.snapshot(), (0.05, 0.5, 0.95)
    (mean, sd), theta = snapshot.states(), snapshot.theta()
    s = np.sqrt(sd[0] ** 2 + theta["sigma_level"] ** 2 + theta["sigma_obs"] ** 2)
    found = engine.forecast(1, quantiles=levels)["quantiles"].values[0, 0]
    np.testing.assert_allclose([mixture_cdf(q, snapshot.weights(), mean[0], s) for q in found], levels, rtol=1e-10)


def test_functions_that_make_sense_at_few_draws_are_taken():
    def narrow(theta):
        return {"F": [[jnp.where((theta["q"] > 1.5) & (theta["q"] < 1.6), 1.0, jnp.nan)]], "H": [[1.0]]}

    prior = Independent({"q": HalfNormal(1.0)})  # a share of 0.024
    assemble.check_functions(ss.models.LinearGaussian(narrow, ("q",)), prior)


def test_a_spread_of_nan_is_told_at_its_row_or_where_the_next_value_is():
    def lost(theta, step):
        q = theta["q"] * jnp.where(step.t == 2, jnp.nan, 1.0)
        return {"F": [[1.0]], "chol_Q": [[q]], "H": [[1.0]], "chol_R": [[1.0]]}

    model, prior = ss.models.LinearGaussian(lost, ("q",)), Independent({"q": HalfNormal(1.0)})
    schedule = ImmediateSchedule(tempering=False)
    engine = ss.Engine(model, prior, n_particles=16, schedule=schedule, ess_threshold=1e-6)
    with pytest.raises(ss.errors.ModelError, match=r"observation 3 \(row 2\) .*lost returned NaN\. At q="):
        engine.update([0.1, 0.3, 0.2])
    with pytest.raises(ss.errors.ModelError, match=r"observation 4 \(row 3\) .*The state was NaN before"):
        engine.update([0.1, 0.3, np.nan, 0.2])
    assert engine.t == 0

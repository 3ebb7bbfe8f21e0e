"""One PyMC model for batch and stream: Ops, distribution, conversion and warm start."""


import jax
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

import oracles
import quadrature
import smcssm as ss
from smcssm import kalman
from smcssm.bridges import kernels
from smcssm.bridges.constants import constant_entry
from smcssm.bridges.pytensor_op import KalmanOp, on_host
from smcssm.core import System
from smcssm.errors import ModelError, SmcssmWarning
from smcssm.gaussian import Gaussian

NAMES = ("m0", "chol_P0", "F", "c", "chol_Q", "H", "d", "chol_R", "y", "dt")


def system(nx=3, ny=2, nq=1, T=30, seed=0, singular=True, varying=("c", "H")):
    """Asymmetric, with missing values; singular P0 and Q unless asked otherwise."""
    rng = np.random.default_rng(seed)
    long = {name: T if name in varying else 1 for name in NAMES}
    L0, y = np.tril(rng.normal(size=(nx, nx))), rng.normal(size=(T, ny))
    if singular:
        L0[:, 1:] = 0.0
    y[3, 0] = np.nan
    y[7:9] = np.nan
    return {
        "m0": rng.normal(size=nx),
        "chol_P0": L0,
        "F": 0.5 * rng.normal(size=(long["F"], nx, nx)),
        "c": rng.normal(size=(long["c"], nx)),
        "chol_Q": rng.normal(size=(long["chol_Q"], nx, nq)),
        "H": rng.normal(size=(long["H"], ny, nx)),
        "d": rng.normal(size=(long["d"], ny)),
        "chol_R": np.tril(rng.normal(size=(long["chol_R"], ny, ny))) + np.eye(ny),
        "y": y,
        "dt": np.r_[0.0, np.ones(T - 1)],
    }


def in_numpy(s):
    """log p(y_t | y_1:t-1) by covariances."""
    squares = {n: s[n] @ np.swapaxes(s[n], -1, -2) for n in ("chol_P0", "chol_Q", "chol_R")}
    one = {
        n: a[0] if len(a) == 1 else a for n, a in (s | squares).items() if n in ("F", "c", "chol_Q", "H", "d", "chol_R")
    }
    order = (one[n] for n in ("F", "c", "chol_Q", "H", "d", "chol_R"))
    return oracles.kalman_filter_numpy(s["m0"], squares["chol_P0"], *order, s["y"])[0]


@pytest.fixture(scope="module")
def compiled():
    """The Op and its pullback of a sum with cotangents, in every mode: {mode: function of the arrays}."""
    types = {"m0": 1, "chol_P0": 2, "c": 2, "d": 2, "y": 2, "dt": 1}
    inputs = [pt.tensor(n, dtype="float64", shape=(None,) * types.get(n, 3)) for n in NAMES]
    g = pt.vector("g", dtype="float64")
    log_lik = KalmanOp("log_likelihood")(*inputs)
    gradients = pytensor.grad(log_lik @ g, inputs[:-1])
    modes = {"numba": "NUMBA", "python": Mode("py", "fast_compile")}
    return {n: pytensor.function([*inputs, g], [log_lik, *gradients], mode=mode) for n, mode in modes.items()}


@pytest.mark.parametrize("mode", ["numba", pytest.param("python", marks=pytest.mark.slow)])
@pytest.mark.parametrize("singular", [True, False])
def test_value_is_that_of_a_covariance_filter(compiled, mode, singular):
    s = system(singular=singular)
    value = compiled[mode](*s.values(), np.ones(len(s["y"])))[0]
    np.testing.assert_allclose(value, in_numpy(s), rtol=1e-10, atol=1e-12)


def test_value_is_that_of_the_dense_joint_law(compiled):
    s = system(singular=False, varying=())
    square = {n: s[n][0] @ s[n][0].T for n in ("chol_Q", "chol_R")}
    F, c, H, d = (s[n][0] for n in ("F", "c", "H", "d"))
    P0 = s["chol_P0"] @ s["chol_P0"].T
    exact = oracles.joint_gaussian(s["m0"], P0, F, c, square["chol_Q"], H, d, square["chol_R"], s["y"])[0]
    value = compiled["numba"](*s.values(), np.ones(len(s["y"])))[0]
    np.testing.assert_allclose(value.sum(), exact, rtol=1e-10)


@pytest.mark.parametrize("singular", [True, False])
def test_gradient_is_that_of_finite_differences(compiled, singular):
    s, f = system(singular=singular), compiled["numba"]
    g = np.random.default_rng(1).normal(size=len(s["y"]))
    gradients = dict(zip(NAMES, f(*s.values(), g)[1:], strict=False))
    rng = np.random.default_rng(2)
    for name in NAMES[:-1]:
        direction = rng.normal(size=s[name].shape)

        def at(step, name=name, direction=direction):
            return in_numpy(s | {name: s[name] + step * direction}) @ g

        h = 1e-4
        central = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        np.testing.assert_allclose(np.sum(gradients[name] * direction), central, rtol=1e-7, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("in_jax", [kernels.log_likelihood, kernels._with_pullback])  # of few states, and of many
def test_jax_and_numba_agree(in_jax):
    s = system(nx=2, T=12)
    g = np.random.default_rng(1).normal(size=len(s["y"]))
    with jax.enable_x64(True):
        value, pull = jax.vjp(in_jax, *map(jax.numpy.asarray, s.values()))
        jax_gradients = [np.asarray(a) for a in pull((jax.numpy.asarray(g),))]
    np.testing.assert_allclose(np.asarray(value[0]), in_numpy(s), rtol=1e-10, atol=1e-12)
    for name, ours, theirs in zip(NAMES, on_host("log_likelihood", True)(*s.values(), g), jax_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10, err_msg=name)


def test_shapes_are_inferred_and_checked():
    s = {n: pt.as_tensor(a) for n, a in system().items()}
    assert KalmanOp("log_likelihood")(*s.values()).type.shape == (30,)
    with pytest.raises(ValueError, match="axis x"):
        KalmanOp("log_likelihood")(*(s | {"m0": pt.zeros(4)}).values())
    unknown = KalmanOp("log_likelihood")(*(s | {"y": pt.matrix("y", dtype="float64")}).values())
    assert unknown.type.shape == (30,)


def test_no_density_where_the_innovation_is_singular(compiled):
    s = system(varying=())
    s["chol_R"], s["H"] = 0 * s["chol_R"], 0 * s["H"]
    for f in compiled.values():
        value, *gradients = f(*s.values(), np.ones(30))
        assert np.all(np.isneginf(value[[0, 1, 2]])) and value[8] == 0
        assert all(np.isfinite(g).all() for g in gradients)


def test_steps_are_the_kernels_in_a_graph():
    s = system(varying=())
    F, c, chol_Q, H, d, chol_R = (s[n][0] for n in ("F", "c", "chol_Q", "H", "d", "chol_R"))
    y = pt.vector("y", dtype="float64")
    scale = pt.scalar("scale", dtype="float64")
    start = np.ones(3), np.tril(np.ones((3, 3)))
    out = ss.kalman_step(*start, y, F=F, c=c, chol_Q=scale * chol_Q, H=H, d=d, chol_R=chol_R)
    f = pytensor.function([y, scale], [*out, pytensor.grad(out[2], scale)])
    for observed in (np.array([0.3, -1.0]), np.array([np.nan, 2.0]), np.full(2, np.nan)):
        mean, chol, log_lik, slope = f(observed, 1.5)
        with jax.enable_x64(True):
            wide = [np.asarray(a)[..., None, None] for a in (*start, F, c, 1.5 * chol_Q, H, d, chol_R, observed)]
            *belief, F_, c_, Q_, H_, d_, R_, y_ = map(jax.numpy.asarray, wide)
            mask = ~jax.numpy.isnan(y_)
            exact, innovation = kalman.step(
                Gaussian(*belief),
                System(F_, c_, Q_, H_, d_, R_),
                jax.numpy.where(mask, y_, 0.0),
                mask,
                jax.numpy.ones((1, 1)),
            )
            expected = [np.asarray(a)[..., 0, 0] for a in (exact.mean, exact.chol, innovation.log_lik)]
        for ours, theirs in zip((mean, chol, log_lik), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        difference = (f(observed, 1.5 + 1e-5)[2] - f(observed, 1.5 - 1e-5)[2]) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-8)


def walk(T=100, seed=3):
    rng = np.random.default_rng(seed)
    y = np.cumsum(0.5 * rng.normal(size=T)) + rng.normal(size=T)
    y[20:25] = np.nan
    return y


def local_level(y, start=(0.0, 10.0), scales=(1.0, 2.0), **options):
    with pm.Model() as model:
        level, noise = pm.HalfNormal("sigma_level", scales[0]), pm.HalfNormal("sigma_obs", scales[1])
        ss.LinearGaussianSSM(
            "y",
            initial_mean=[start[0]],
            initial_chol=[[start[1]]],
            F=[[1.0]],
            chol_Q=[[level]],
            H=[[1.0]],
            chol_R=[[noise]],
            observed=y,
            **options,
        )
    return model


LEVEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=10.0)


@pytest.fixture(scope="module")
def exact():
    return quadrature.local_level(walk(), 0.0, 10.0, (1.0, 2.0), [60, 80, 100], size=250)


def standard_errors(draws, truth, sd, ess):
    return np.abs(np.mean(draws) - truth) / (sd / ess**0.5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_pm_sample_agrees_with_quadrature(exact):
    import arviz as az

    with local_level(walk()):
        idata = pm.sample(draws=400, tune=300, chains=2, cores=1, progressbar=False, random_seed=1)
        pm.compute_log_likelihood(idata, progressbar=False)
        ahead = pm.sample_posterior_predictive(idata.isel(draw=slice(0, 20)), progressbar=False, random_seed=1)
    ess = az.ess(idata)
    for k, name in enumerate(("sigma_level", "sigma_obs")):
        draws, sd = idata["posterior"][name].values, exact[100].sd[k]
        assert standard_errors(draws, exact[100].mean[k], sd, float(ess[name])) < 4
        assert abs(np.std(draws) / sd - 1) < 4 / (2 * float(ess[name])) ** 0.5 * 1.5
    log_lik = idata["log_likelihood"]["y"]
    assert log_lik.shape == (2, 400, 100)
    theta = [float(idata["posterior"][name][0, 0]) for name in ("sigma_level", "sigma_obs")]
    by_hand = oracles.kalman_filter_numpy(
        [0.0], [[100.0]], np.eye(1), np.zeros(1), [[theta[0] ** 2]], np.eye(1), np.zeros(1), [[theta[1] ** 2]], walk()
    )[0]
    np.testing.assert_allclose(log_lik[0, 0], by_hand, rtol=1e-9, atol=1e-12)
    assert ahead["posterior_predictive"]["y"].shape == (2, 20, 100)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_pm_sample_on_the_nile_agrees_with_quadrature():
    import arviz as az
    from statsmodels.datasets import nile

    y, scales = nile.load_pandas().data["volume"].to_numpy(float), (50.0, 150.0)
    truth = quadrature.local_level(y, 1120.0, 300.0, scales, [100], size=250)[100]
    with local_level(y, (1120.0, 300.0), scales):
        idata = pm.sample(draws=500, tune=500, chains=2, cores=1, progressbar=False, random_seed=2, nuts_sampler="pymc")
    ess = az.ess(idata)
    for k, name in enumerate(("sigma_level", "sigma_obs")):
        draws, sd = idata["posterior"][name].values, truth.sd[k]
        assert float(ess[name]) > 100
        assert standard_errors(draws, truth.mean[k], sd, float(ess[name])) < 4
        assert abs(np.std(draws) / sd - 1) < 4 / (2 * float(ess[name])) ** 0.5 * 1.5


def test_prior_predictive_draws_have_the_law_of_the_model():
    with pm.Model():
        ss.LinearGaussianSSM(
            "y", initial_mean=[1.0], initial_chol=[[2.0]], F=[[0.5]], c=[3.0], chol_Q=[[1.0]], H=[[1.0], [2.0]],
            d=[0.0, 1.0], chol_R=[[0.5, 0.0], [0.2, 0.3]], observed=np.zeros((4, 2)),
        )  # fmt: skip
        draws = pm.sample_prior_predictive(4000, random_seed=1)["prior_predictive"]["y"].values[0]
    means, m, P, H = [], 1.0, 4.0, np.array([1.0, 2.0])
    for _ in range(4):
        means.append(m * H + [0.0, 1.0])
        m, P, last = 0.5 * m + 3.0, 0.25 * P + 1.0, P
    R = np.array([[0.25, 0.1], [0.1, 0.13]])
    cov = last * np.outer(H, H) + R
    assert draws.shape == (4000, 4, 2)
    np.testing.assert_allclose(draws[:, 3].mean(axis=0), means[3], atol=4 * (cov.diagonal() / 4000).max() ** 0.5)
    np.testing.assert_allclose(np.cov(draws[:, 3].T), cov, atol=4 * cov.max() * (2 / 4000) ** 0.5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"F": np.ones((5, 1, 1))}, 'F has 3 axes, expected 2; of a leading axis of time, say time_varying=("F",)'),
        ({"time_varying": ("F",)}, "F has 2 axes, expected 3, as it is in time_varying"),
        ({"time_varying": ("G",)}, "got G, expected some of F, c, chol_Q"),
        ({"observed": np.zeros((2, 2, 2))}, "observed: got 3 axes"),
        ({"observed": ["a", "b"]}, "observed: expected numbers"),
        ({"observed": None}, "how many observations"),
    ],
)
def test_distribution_says_what_is_wrong(change, told):
    arguments = dict(initial_mean=[0.0], initial_chol=[[1.0]], F=[[1.0]], H=[[1.0]], observed=np.zeros(5))
    with pm.Model(), pytest.raises(ModelError, match=told.replace("(", "\\(").replace(")", "\\)")):
        ss.LinearGaussianSSM("y", **(arguments | change))


def test_from_pymc_keeps_constants_known_and_the_prior_whole():
    with pm.Model(coords={"sensor": ["north", "south"], "lag": [1, 2], "hour": range(6)}) as model:
        phi = pm.Uniform("phi", -0.9, 0.9, dims="lag")
        scale = pm.HalfNormal("scale", 1.0)
        tau = pm.HalfNormal("tau", scale)
        pm.Potential("shrink", -pt.sum(phi**2))
        ss.LinearGaussianSSM(
            "y", initial_mean=np.zeros(2), initial_chol=np.eye(2), F=[[phi[0], phi[1]], [1.0, 0.0]],
            chol_Q=[[pm.Deterministic("tau2", tau**2)], [0.0]], H=np.eye(2), chol_R=0.5 * np.eye(2),
            observed=np.zeros((6, 2)), dims=("hour", "sensor"),
        )  # fmt: skip
    found, prior, ys = ss.from_pymc(model)
    known, _ = found.function.examine()
    assert known["F"] == [[None, None], [1.0, 0.0]] and known["chol_Q"] == [[None], [0.0]]
    assert known["H"] == [[1.0, 0.0], [0.0, 1.0]] and known["c"] == [0.0, 0.0]
    assert found.names == ("phi", "tau") and found.channel_names == ("north", "south") and ys.shape == (6, 2)
    assert {v.name for v in prior.free_RVs} == {"phi", "scale", "tau"} and not prior.observed_RVs
    assert [v.name for v in model.observed_RVs] == ["y"], "the user's model is as it was"
    assert len(prior.potentials) == 1 and "tau2" in prior.named_vars
    with jax.enable_x64(True):
        matrices = found.function.function({"phi": jax.numpy.array([0.3, 0.4]), "tau": jax.numpy.array(2.0)})
    np.testing.assert_allclose(np.array(matrices["F"], float), [[0.3, 0.4], [1.0, 0.0]], rtol=1e-14)
    np.testing.assert_allclose(np.array(matrices["chol_Q"], float), [[4.0], [0.0]], rtol=1e-14)


def test_constants_are_seen_in_a_graph():
    x = pt.vector("x", shape=(2,), dtype="float64")
    M = pt.set_subtensor(pt.zeros((3, 3))[0, :2], x)
    M = pt.set_subtensor(M[2, 1:], np.array([5.0, 6.0]))
    cases = {
        "set": (M, [[None, None, 0.0], [0.0, 0.0, 0.0], [0.0, 5.0, 6.0]]),
        "transposed": (M.T[1:], [[None, 0.0, 5.0], [0.0, 0.0, 6.0]]),
        "stacked": (pt.stack([x, np.array([1.0, 0.0])]), [[None, None], [1.0, 0.0]]),
        "scaled": (x[:, None] * np.array([[1.0, 0.0], [2.0, 3.0]]), [[None, 0.0], [None, None]]),
        "sum of constants": (pt.exp(pt.zeros((1, 2))) + 1.0, [[2.0, 2.0]]),
        "of a given shape": (pt.specify_shape(pt.diag(x**2), (2, 2)), [[None, 0.0], [0.0, None]]),
        "unknown": (pt.outer(x, x), [[None, None], [None, None]]),
        "switch": (pt.switch(x > 0, 1.0, 0.0)[None], [[None, None]]),
    }
    for name, (graph, expected) in cases.items():
        found = [[constant_entry(graph, (i, j)) for j in range(len(expected[0]))] for i in range(len(expected))]
        assert found == expected, name


def test_engine_from_pymc_has_the_posterior_of_the_model(exact):
    engine = ss.Engine.from_pymc(local_level(walk()), n_particles=1000, seed=1)
    told, truth = engine.summary(), exact[100]
    assert engine.t == 100 and engine.model.channel_names == ("y",)
    assert np.all(np.abs(told["mean"] - truth.mean) < 4 * truth.sd / 300**0.5)
    assert np.all(np.abs(told["sd"] / truth.sd - 1) < 4 / 600**0.5)
    assert abs(engine.log_evidence - truth.log_evidence) < 0.2
    assert ss.Engine.from_pymc(local_level(walk()), assimilate=False, n_particles=10).t == 0


def test_from_pymc_refuses_what_is_no_stream():
    with pm.Model() as two:
        sd = pm.HalfNormal("sd", 1.0)
        pm.Normal("z", 0.0, sd, observed=1.0)
    with pytest.raises(ModelError, match=r"expected one ss\.LinearGaussianSSM in the model, found none"):
        ss.from_pymc(two)
    with two:
        ss.LinearGaussianSSM("y", initial_mean=[0.0], initial_chol=[[sd]], F=[[1.0]], H=[[1.0]], observed=np.zeros(3))
    with pytest.raises(ModelError, match="z is observed as well"):
        ss.from_pymc(two)
    with pytest.raises(ModelError, match=r"H of y varies in time"):
        H = np.ones((5, 1, 1))
        arguments = dict(initial_mean=[0.0], initial_chol=[[1.0]], F=[[1.0]], H=H, time_varying=("H",))
        with pm.Model() as model:
            ss.LinearGaussianSSM("y", chol_R=[[pm.HalfNormal("s", 1.0)]], observed=np.zeros(5), **arguments)
        ss.from_pymc(model)


@pytest.fixture(scope="module")
def cold():
    """An engine after 80 observations and draws of its posterior, as a sampler would give them."""
    engine = ss.Engine(LEVEL, _prior(), n_particles=1000, seed=5)
    engine.update(walk()[:80])
    return engine, engine.posterior(draws=1000, seed=1)


def _prior():
    with pm.Model() as prior:
        pm.HalfNormal("sigma_level", 1.0)
        pm.HalfNormal("sigma_obs", 2.0)
    return prior


def warm(draws, y, **options):
    return ss.Engine.from_posterior(LEVEL, _prior(), draws, y, **(dict(n_particles=1000, seed=7) | options))


@pytest.mark.slow
def test_a_warm_start_goes_on_exactly(exact, cold):
    engine = warm(cold[1], walk()[:80])
    assert engine.t == 80
    assert abs(engine.log_evidence - exact[80].log_evidence) < 4 * engine.log_evidence_sd + 1e-12
    assert 0 < engine.log_evidence_sd < 0.1
    population = engine.snapshot().population
    for i in (0, 500):  # beliefs and likelihoods are those of the particles
        theta = {name: values[0, i] for name, values in engine.snapshot().theta().items()}
        log_lik, means, _ = oracles.kalman_filter_numpy(
            [0.0], [[100.0]], np.eye(1), np.zeros(1), [[theta["sigma_level"] ** 2]], np.eye(1), np.zeros(1),
            [[theta["sigma_obs"] ** 2]], walk()[:80],
        )  # fmt: skip
        np.testing.assert_allclose(population.log_lik[0, i], log_lik.sum(), rtol=1e-10)
        np.testing.assert_allclose(population.belief.mean[0, 0, i], means[-1, 0], rtol=1e-10)
    info = engine.update(walk()[80:])
    told, truth = engine.summary(), exact[100]
    assert engine.t == 100 and info.t[0] == 81 and engine.record.sizes["time"] == 20
    assert np.all(np.abs(told["mean"] - truth.mean) < 4 * truth.sd / 500**0.5)
    assert np.all(np.abs(told["sd"] / truth.sd - 1) < 4 / 1000**0.5)
    assert abs(engine.log_evidence - truth.log_evidence) < 0.2
    engine.diagnose()
    engine.to_arviz()


@pytest.mark.slow
def test_late_rows_find_their_place_after_a_warm_start(cold):
    y, time = walk()[:86], np.arange(86.0)
    order = np.r_[80:83, 84, 83, 85]
    engines = [warm(cold[1], y[:80], time=time[:80], n_particles=128, late=ss.late.Revise(5)) for _ in range(2)]
    engines[0].update(y[80:], time=time[80:])
    engines[1].update(y[order], time=time[order])
    in_order, revised = (e.snapshot().population for e in engines)
    np.testing.assert_allclose(revised.log_lik, in_order.log_lik, rtol=1e-10)
    assert engines[1].log_evidence == pytest.approx(engines[0].log_evidence, rel=1e-10)


def test_draws_that_do_not_fit_are_repaired_or_refused(exact, cold):
    draws = cold[1]
    with pytest.warns(SmcssmWarning, match="do not fit the posterior"):
        engine = warm(draws.assign(sigma_level=1.5 * draws.sigma_level), walk()[:80])
    told, truth = engine.summary(), exact[80]
    assert np.all(np.abs(told["mean"] - truth.mean) < 4 * truth.sd / 300**0.5)
    assert abs(engine.log_evidence - truth.log_evidence) < 0.2
    with pytest.raises(ModelError, match="too far off to be repaired"):
        warm(draws.assign(sigma_level=1e4 * draws.sigma_level), walk()[:80])


def test_draws_of_something_else_are_named(cold):
    draws, y = cold[1], walk()[:80]
    cases = [
        (draws.drop_vars("sigma_obs"), "lack sigma_obs"),
        (draws.assign(sigma_obs=-draws.sigma_obs), "sigma_obs lies outside its support in 100.0%"),
        (draws.assign(sigma_obs=draws.sigma_obs.expand_dims("k", -1)), r"sigma_obs has shape \(1,\)"),
        (draws.assign(sigma_obs=draws.sigma_obs * np.nan), "sigma_obs is NaN or infinite"),
        (draws.rename(draw="sample"), "draw is missing"),
        ({"posterior": 3}, "expected an ArviZ tree"),
    ]
    for wrong, told in cases:
        with pytest.raises(ModelError, match=told):
            warm(wrong, y)
    with pytest.raises(ValueError, match="no observations"):
        warm(draws, [])
    with pytest.raises(ModelError, match="keeps no history"):
        warm(draws, y, schedule=ss.Jitter())
    with pytest.raises(ModelError, match="forgetting"):
        warm(draws, y, forgetting=0.99, schedule=ss.Immediate(tempering=False))


@pytest.mark.slow
def test_fifty_more_after_a_warm_start_at_two_hundred():
    y = walk(250)
    exact = quadrature.local_level(y, 0.0, 10.0, (1.0, 2.0), [200, 250], size=300)
    cold = ss.Engine(LEVEL, _prior(), n_particles=1000, runs=4, seed=1)
    cold.update(y[:200])
    engine = warm(cold.posterior(draws=250, seed=1), y[:200], runs=4)
    for e in (cold, engine):
        e.update(y[200:])
    warm_told, cold_told = engine.summary(), cold.summary()
    error = np.hypot(warm_told["mcse"], cold_told["mcse"]) + exact[250].sd / 1000**0.5
    assert np.all(np.abs(warm_told["mean"] - cold_told["mean"]) < 4 * error)
    assert np.all(np.abs(warm_told["sd"] / exact[250].sd - 1) < 4 / 2000**0.5)
    assert abs(engine.log_evidence - exact[250].log_evidence) < 4 * max(engine.log_evidence_sd, 0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"backend": "jax"}, {"numpyro": True}, {"cores": 2}, {"mp_ctx": "forkserver"}])
def test_every_sampler_runs(options, exact):
    sampler = {"nuts_sampler": "pymc"}
    if "numpyro" in options:
        pytest.importorskip("numpyro")
        sampler = {"nuts_sampler": "numpyro"}
    elif "cores" not in options and "mp_ctx" not in options:
        pytest.importorskip("nutpie")
        sampler = {"nuts_sampler": "nutpie", "nuts_sampler_kwargs": dict(options)}
    if "mp_ctx" in options:
        sampler |= {"mp_ctx": options["mp_ctx"]}
    cores = 2 if {"cores", "mp_ctx"} & set(options) else 1
    with local_level(walk()):
        idata = pm.sample(draws=500, tune=500, chains=2, cores=cores, progressbar=False, random_seed=1, **sampler)
    for k, name in enumerate(("sigma_level", "sigma_obs")):
        assert standard_errors(idata["posterior"][name].values, exact[100].mean[k], exact[100].sd[k], 150) < 4


@pytest.fixture(scope="module")
def with_rain():
    """A level with one input and instruments of different noise: its data, and draws of the posterior after 60 rows."""
    rng = np.random.default_rng(8)
    rain, noise = rng.normal(size=(70, 1)), rng.choice([0.3, 1.0], size=(70, 1))
    y = 0.4 * np.cumsum(rng.normal(size=70)) + 0.7 * rain[:, 0] + np.hypot(0.5, noise[:, 0]) * rng.normal(size=70)
    engine = ss.Engine(RAIN, _prior(), n_particles=1000, seed=2)
    engine.update(y[:60], inputs=rain[:60], noise_sd=noise[:60])
    return y, rain, noise, engine, engine.posterior(1000)


RAIN = ss.models.Level() + ss.models.Regression(1) + ss.models.Noise()


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_a_warm_start_with_inputs_and_given_noise(with_rain, dtype):
    y, rain, noise, cold, draws = with_rain
    seen = dict(inputs=rain[:60], noise_sd=noise[:60])
    engine = ss.Engine.from_posterior(RAIN, _prior(), draws, y[:60], n_particles=1000, seed=3, dtype=dtype, **seen)
    assert abs(engine.log_evidence - cold.log_evidence) < 4 * np.hypot(engine.log_evidence_sd, cold.log_evidence_sd)
    goes_on = cold.copy(seed=4)
    for e in (engine, goes_on):
        e.update(y[60:], inputs=rain[60:], noise_sd=noise[60:])
    a, b = engine.summary(), goes_on.summary()
    assert np.all(np.abs(a["mean"] - b["mean"]) < 4 * b["sd"] * (2 / 300) ** 0.5)
    assert np.all(np.abs(a["sd"] / b["sd"] - 1) < 4 * (1 / 300) ** 0.5)
    assert abs(engine.log_evidence - goes_on.log_evidence) < 0.2
    x, z = engine.state(), goes_on.state()
    np.testing.assert_allclose(x["mean"], z["mean"], atol=0.2 * float(z["sd"].max()))
    with pytest.raises(ValueError, match="noise_sd and exposure are given for every observation"):
        engine.step(0.3, inputs=[0.1])


def test_a_warm_start_says_what_the_observations_lack(with_rain):
    y, rain, _, _, draws = with_rain
    with pytest.raises(ValueError, match="inputs"):
        ss.Engine.from_posterior(RAIN, _prior(), draws, y[:60], n_particles=64)
    with pytest.raises(ValueError, match="inputs"):
        ss.Engine.from_posterior(RAIN, _prior(), draws, y[:60], inputs=rain[:50], n_particles=64)

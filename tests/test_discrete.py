"""Hidden Markov models against Hamilton's filter in NumPy, quadrature, and the Rao-Blackwellised filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm as jax_norm
from scipy.special import logsumexp
from scipy.stats import norm

import smcssm as ss
from filtering import block
from smcssm.core import at_each_particle
from smcssm.filters import Discrete, Particle, RaoBlackwell
from smcssm.priors.base import Beta, Dirichlet, HalfNormal, Independent
from test_rao_blackwell import both, keys, run

pytestmark = pytest.mark.usefixtures("x64")

T = 40
RNG = np.random.default_rng(5)
Y = np.where(np.arange(T) // 8 % 2 == 0, 0.0, 2.0) + RNG.normal(size=T)
Y[[3, 17, 18]] = np.nan
DT = np.r_[0.0, np.ones(T - 1)]
DT[[10, 25]] = 0.0


def hamilton(p0, P, mean, sigma, y, dts):
    """Log-likelihood and filtered probabilities, in NumPy."""
    p, total = np.asarray(p0), 0.0
    for value, dt in zip(y, dts, strict=True):
        p = P.T @ p if dt > 0 else p
        if not np.isnan(value):
            joint = p * norm.pdf(value, mean, sigma)
            total, p = total + np.log(joint.sum()), joint / joint.sum()
    return total, p


THREE = {
    "mean": np.array([[0.0, 0.5, -1.0], [1.0, 2.0, 0.3], [2.5, 2.0, 4.0]]),
    "sigma": np.array([[1.0, 0.5, 0.7], [1.0, 2.0, 0.3], [0.4, 1.0, 1.5]]),
    "transition": RNG.dirichlet([2.0, 1.0, 1.0], size=(3, 3)).transpose(0, 2, 1),
}


def test_it_is_hamiltons_filter():
    model = ss.models.GaussianRegimes(3)
    data, rows = block(Y, dt=DT)
    belief, info = run(Discrete(model), keys(), both_series(THREE), rows)
    for i in range(3):
        theta = {k: v[..., i] for k, v in THREE.items()}
        for s in range(2):
            want, p = hamilton(np.full(3, 1 / 3), theta["transition"], theta["mean"], theta["sigma"], data[:, 0, s], DT)
            np.testing.assert_allclose(np.asarray(info.log_lik)[:, s, i].sum(), want, rtol=1e-10)
            np.testing.assert_allclose(np.asarray(belief.p)[:, s, i], p, rtol=1e-9, atol=1e-14)


def both_series(theta):
    """[..., n] -> [..., s, n], the same in both."""
    return {k: jnp.stack([jnp.asarray(v)] * 2, axis=-2) for k, v in theta.items()}


def log_p(theta, y, step):
    return jax_norm.logpdf(y, jnp.array([-theta["mu"], theta["mu"]]), jnp.array([1.0, 0.7]))


def cdf(theta, y, step):
    return jax_norm.cdf(y, jnp.array([-theta["mu"], theta["mu"]]), jnp.array([1.0, 0.7]))


def moments(theta, step):
    mu = theta["mu"]
    return jnp.array([[-mu], [mu]]), jnp.array([[1.0], [0.7]])


def sample(key, theta, u, step):
    e = jax.random.normal(key, dtype=jnp.float64)
    return jnp.where(u == 0, -theta["mu"] + e, theta["mu"] + 0.7 * e)


def stays(theta):
    return [[theta["stay"], 1 - theta["stay"]], [0.2, 0.8]]


OWN = ss.models.HiddenMarkov(
    log_p, transition=stays, names=("mu", "stay"), initial=[0.4, 0.6], sample=sample, moments=moments, cdf=cdf
)
POINTS = {"mu": np.array([0.4, 1.0, 2.0]), "stay": np.array([0.9, 0.5, 0.7])}


def test_your_own_observations():
    data, rows = block(Y, dt=DT)
    belief, info = run(Discrete(OWN), keys(), both(POINTS), rows)
    for i in range(3):
        mu, stay = (POINTS[k][i] for k in ("mu", "stay"))
        P, mean, sd = np.array([[stay, 1 - stay], [0.2, 0.8]]), np.array([-mu, mu]), np.array([1.0, 0.7])
        want, p = hamilton(np.array([0.4, 0.6]), P, mean, sd, data[:, 0, 0], DT)
        np.testing.assert_allclose(np.asarray(info.log_lik)[:, 0, i].sum(), want, rtol=1e-10)
        np.testing.assert_allclose(np.asarray(belief.p)[:, 0, i], p, rtol=1e-9)
        first = np.array([0.4, 0.6])
        np.testing.assert_allclose(np.asarray(info.mean)[0, 0, 0, i], first @ mean)
        variance = first @ (sd**2 + mean**2) - (first @ mean) ** 2
        np.testing.assert_allclose(np.asarray(info.sd)[0, 0, 0, i], np.sqrt(variance))
        np.testing.assert_allclose(np.asarray(info.pit)[0, 0, 0, i], first @ norm.cdf(Y[0], mean, sd))
    assert np.isnan(np.asarray(info.pit)[3]).all()


def calm(theta):
    return {"F": [[0.0]], "H": [[0.0]], "d": [-theta["mu"]], "chol_R": [[1.0]]}


def wild(theta):
    return {"F": [[0.0]], "H": [[0.0]], "d": [theta["mu"]], "chol_R": [[0.7]]}


SWITCHING = ss.models.Switching((calm, wild), initial=[0.4, 0.6], transition=stays, names=("mu", "stay"))


def test_the_rao_blackwellised_filter_of_the_same_model_agrees():
    _, rows = block(Y[:8], dt=DT[:8])
    want, info = run(Discrete(OWN), keys(), both(POINTS), rows)
    inner = RaoBlackwell(SWITCHING, 256)
    belief, got = run(inner, keys(), both(POINTS), rows)
    for name in ("log_lik", "mean", "sd", "pit"):
        np.testing.assert_allclose(getattr(got, name), getattr(info, name), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(inner.regimes(belief), want.p, rtol=1e-9)


def regime_model():
    """The same chain for a bootstrap filter: its state is the number of the regime."""

    def begin(key, theta):
        return jnp.where(jax.random.bernoulli(key, 0.6), 1.0, 0.0)

    def move(key, theta, u, step):
        return jnp.where(jax.random.bernoulli(key, jnp.where(u == 0, 1 - theta["stay"], 0.8)), 1.0, 0.0)

    def log_observation(theta, u, y, step):
        return jnp.where(u == 0, *log_p(theta, y, step))

    return ss.models.Nonlinear(begin, move, log_observation, names=("mu", "stay"))


ESTIMATES = [
    pytest.param(RaoBlackwell(SWITCHING, 4), marks=pytest.mark.slow, id="branches left out"),
    pytest.param(Particle(regime_model(), n_particles=64), id="drawn"),
]


@pytest.mark.parametrize("inner", ESTIMATES)
def test_estimates_of_its_likelihood_have_no_bias(inner):
    """Exact is the forward filter; inner particles, of fewer branches or drawn, are right on average."""
    n, rows = 1000, block(Y[:14], dt=DT[:14])[1]
    _, told = run(Discrete(OWN), keys(), both(POINTS), rows)
    exact = np.asarray(told.log_lik).sum(axis=0)
    for i in range(3):
        _, info = run(inner, keys(i), both({k: np.full(n, v[i]) for k, v in POINTS.items()}), rows)
        ratio = np.exp(np.asarray(info.log_lik).sum(axis=0) - exact[:, i : i + 1])
        assert (0 < ratio.std(axis=1)).all() and (ratio.std(axis=1) < 1).all()
        assert (np.abs(ratio.mean(axis=1) - 1) < 4 * ratio.std(axis=1) / np.sqrt(n)).all()


def test_draws_and_simulated_futures_have_the_moments_of_the_chain():
    inner, n = Discrete(OWN), 20_000
    theta = {k: jnp.full((1, n), v[0]) for k, v in POINTS.items()}
    params = at_each_particle(OWN.params)(theta)
    _, rows = block(Y[:6])
    rows = jax.tree.map(lambda a: a[..., :1, :], rows)
    key = jax.random.split(jax.random.key(1), 1)
    belief, _ = run(inner, key, theta, rows)
    u = inner.draw(key, belief)
    p = np.asarray(belief.p)[:, 0, 0]
    share = np.mean(np.asarray(u) == 1)
    assert abs(share - p[1]) < 4 * np.sqrt(p[1] * p[0] / n)
    later = jax.tree.map(lambda a: a[-1], rows)
    u, x, y = inner.simulate(jax.random.split(jax.random.key(2), 1), params, u, later)
    np.testing.assert_array_equal(np.asarray(x).argmax(axis=0), u)
    mu, stay = POINTS["mu"][0], POINTS["stay"][0]
    p = np.array([[stay, 1 - stay], [0.2, 0.8]]).T @ p
    mean, sd = p @ [-mu, mu], np.sqrt(p @ [1.0 + mu**2, 0.49 + mu**2] - (p @ [-mu, mu]) ** 2)
    assert abs(np.mean(y) - mean) < 4 * sd / np.sqrt(n)
    assert abs(np.std(y) / sd - 1) < 4 / np.sqrt(n)
    u0, *_ = inner.simulate(key, params, u, jax.tree.map(jnp.zeros_like, later))
    np.testing.assert_array_equal(u0, u)  # over dt = 0


def test_the_engine_gives_the_posterior_of_quadrature():
    laws = {"mu": ss.priors.base.HalfNormal(1.5), "stay": ss.priors.base.Beta(4.0, 2.0)}
    engine = ss.Engine(OWN, ss.priors.base.Independent(laws), n_particles=1000, runs=4)
    y = np.where(np.isnan(Y), np.nan, 1.5 * Y - 1.0)
    engine.update(y)
    mu, stay = np.meshgrid((np.arange(120) + 0.5) * 3 / 120, (np.arange(120) + 0.5) / 120, indexing="ij")
    log_w = np.log(2) + norm.logpdf(mu, scale=1.5) + np.log(20 * stay**3 * (1 - stay))
    total, p = np.zeros_like(mu), np.stack([0.4 + 0 * mu, 0.6 + 0 * mu])
    for t, value in enumerate(y):
        if t:
            p = np.stack([p[0] * stay + p[1] * 0.2, p[0] * (1 - stay) + p[1] * 0.8])
        if not np.isnan(value):
            joint = p * np.stack([norm.pdf(value, -mu, 1.0), norm.pdf(value, mu, 0.7)])
            total, p = total + np.log(joint.sum(axis=0)), joint / joint.sum(axis=0)
    log_w += total + np.log(3 / 120**2)
    log_evidence = logsumexp(log_w)
    w = np.exp(log_w - log_evidence)
    snapshot = engine.snapshot()
    each, theta = snapshot.weights(), snapshot.theta()
    for name, grid in (("mu", mu), ("stay", stay)):
        mean = np.sum(w * grid)
        sd = np.sqrt(np.sum(w * (grid - mean) ** 2))
        means = np.sum(each * theta[name], axis=-1)
        sds = np.sqrt(np.sum(each * (theta[name] - means[:, None]) ** 2, axis=-1))
        for got, want in ((means, mean), (sds, sd)):
            assert abs(got.mean() - want) < 4 * max(got.std(ddof=1), 0.02 * sd) / 2
    errors = snapshot.log_evidence() - log_evidence
    assert abs(errors.mean()) < 4 * max(errors.std(ddof=1), 0.02) / 2


def test_rows_of_probabilities_have_dirichlets_density():
    law = Dirichlet([[2.0, 1.0, 3.0]])
    z = law.sample(jax.random.key(0), 50_000)
    p = np.asarray(jax.vmap(law.constrain, in_axes=-1)(z))[:, 0]
    mean = np.array([2.0, 1.0, 3.0]) / 6
    assert (np.abs(p.mean(axis=0) - mean) < 4 * np.sqrt(mean * (1 - mean) / 7 / 50_000)).all()
    np.testing.assert_allclose(law.unconstrain(law.constrain(z[:, 0])), z[:, 0], rtol=1e-10)
    step = 0.05
    grid = np.arange(-16, 16, step)
    points = np.stack([a.ravel() for a in np.meshgrid(grid, grid)])
    mass = np.exp(np.asarray(jax.vmap(law.log_prob, in_axes=-1)(jnp.asarray(points)))).sum() * step**2
    assert abs(mass - 1) < 1e-4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"transition": [[0.5, 0.4], [0.2, 0.8]]}, "row 0 of transition .*sum of 0.9"),
        ({"transition": [[0.5, 0.5], [1.2, -0.2]]}, "row 1 of transition"),
        ({"transition": lambda theta: [[theta["mu"], 0.5], [0.7, 0.2]]}, "row 1 of transition .*sum of 0.9"),
        ({"transition": [[0.5, 0.5]]}, "got shape"),
        ({"transition": stays, "initial": [0.5, 0.6]}, "initial"),
        ({"transition": stays, "n_regimes": 1}, "n_regimes"),
        ({"transition": stays, "regime_names": ["a"]}, "1 names for 2 regimes"),
    ],
)
def test_bad_input(options, told):
    with pytest.raises(ss.errors.ModelError, match=told):
        ss.models.HiddenMarkov(log_p, names=("mu", "stay"), **options)


def test_probabilities_that_are_none_never_pass():
    """Where theta makes a row that does not add up to one: outside the support, NaN for the filter, and said why."""
    model = ss.models.HiddenMarkov(
        log_p, transition=lambda theta: [[theta["stay"], 0.3], [0.2, 0.8]], names=("mu", "stay")
    )
    good, bad = ({"mu": jnp.asarray(1.0), "stay": jnp.asarray(s)} for s in (0.7, 0.9))
    assert bool(model.support(good))
    assert not bool(model.support(bad))
    assert model.complaint(good) is None
    assert "row 0 of transition" in model.complaint(bad)
    assert "stay=0.9" in model.complaint(bad)
    _, rows = block(Y[:3])
    _, info = run(Discrete(model), keys(), both({"mu": np.ones(2), "stay": np.array([0.7, 0.9])}), rows)
    total = np.asarray(info.log_lik.sum(axis=0))
    assert np.isfinite(total[:, 0]).all()
    assert np.isnan(total[:, 1]).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"log_observation": lambda theta, y, step: jnp.zeros(3)}, r"log_observation returned shape \(3,\), expected"),
        ({"log_observation": lambda theta, y: y}, r"log_observation raised TypeError.*called as \(theta, y, step\)"),
        ({"sample": lambda key, theta, u, step: jnp.nan}, "sample returned NaN at .*example="),
        ({"moments": lambda theta, step: jnp.zeros(2)}, r"moments returned shape \(\)"),
        ({"cdf": lambda theta, y, step: theta["nu"]}, "cdf raised KeyError"),
        ({"cdf": lambda theta, y, step: theta["mu"] if y > 0 else 1.0}, "(?s)cdf raised TracerBool.*: use jax.numpy"),
        ({"example": {"nu": 1.0}}, "nu is not among the names"),
    ],
)
def test_functions_that_are_wrong_are_named(options, told):
    with pytest.raises(ss.errors.ModelError, match=told):
        ss.models.HiddenMarkov(
            **{"log_observation": log_p, "transition": stays, "names": ("mu", "stay"), "sample": sample} | options
        )


def lost(theta, y, step):
    return log_p(theta, jnp.sqrt(5 - y), step)


def not_to_one(theta, step):
    return [[theta["stay"], jnp.where(step.t == 3, 0.7, 1.0) - theta["stay"]], [0.2, 0.8]]


def test_functions_that_return_nan_later_are_named():
    model = ss.models.HiddenMarkov(jax.jit(lost), transition=jax.jit(not_to_one), names=("mu", "stay"))
    assert model.reads == {"t"}
    engine = ss.Engine(model, Independent({"mu": HalfNormal(1.0), "stay": Beta(8.0, 2.0)}), n_particles=16)
    with pytest.raises(ss.errors.ModelError, match=r"tion 2 \(row 1\) .*log_observation \(lost\) returned NaN\. At"):
        engine.update([0.1, 7.0])
    with pytest.raises(ss.errors.ModelError, match=r"transition \(not_to_one\) returned no probabilities.*step.t=3"):
        engine.update([0.1, 1.0, -0.3, 0.2])
    assert engine.t == 0

"""PyMC priors: against PyMC's own density, closed forms, quadrature, and their own draws."""

import functools
import gc
import os
import subprocess
import sys
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.distributions.transforms import Interval, ordered
from pytensor import config
from pytensor.compile.mode import Mode
from scipy import integrate, stats

from smcssm.errors import ModelError
from smcssm.priors.pymc import PyMC, as_prior

KEY = jax.random.key(7)
N = 2500


def scalars():
    pm.HalfNormal("sigma", 2.0)
    pm.Exponential("rate", 4.0)
    pm.Beta("phi", 2.0, 3.0)
    pm.Uniform("u", -1.0, 4.0)
    pm.StudentT("t", nu=5.0, mu=1.0, sigma=2.0)
    pm.InverseGamma("ig", 3.0, 2.0)
    pm.VonMises("angle", 0.5, 2.0)


def hierarchy():
    mu = pm.Normal("mu", 1.0, 2.0)
    tau = pm.HalfNormal("tau", 1.0)
    effect = pm.Normal("effect", mu, tau, dims="group")
    pm.LogNormal("scale", effect.mean(), 0.5, dims=("group", "item"))
    pm.Normal("slope", 0.0, tau, dims="group")
    pm.Deterministic("total", effect.sum())
    pm.Deterministic("twice", 2 * effect, dims="group")


def simplex():
    w = pm.Dirichlet("w", [1.0, 2.0, 3.0])
    pm.Dirichlet("rows", 2.0 + 4.0 * w, shape=(2, 3))


def covariance():
    chol, _, _ = pm.LKJCholeskyCov("chol", n=3, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
    pm.MvNormal("beta", mu=[1.0, 0.0, -1.0], chol=chol)


def bounded():
    low = pm.Normal("low", 0.0, 1.0)
    width = pm.Gamma("width", 3.0, 2.0)
    pm.Uniform("between", low, low + width)
    pm.Truncated("cut", pm.Normal.dist(low, 1.0), lower=0.0, upper=3.0)
    pm.TruncatedNormal("tail", mu=0.0, sigma=1.0, lower=1.0)


def order():
    pm.Normal("cuts", 0.0, 1.0, shape=3, transform=ordered)


def potentials():
    mu = pm.Normal("mu", 0.0, 1.0)
    sigma = pm.HalfNormal("sigma", 1.0, shape=2)
    pm.Potential("near", pm.logp(pm.Normal.dist(mu, 0.5), sigma))
    pm.Potential("guard", pt.switch(sigma.sum() < 3.0, 0.0, -np.inf))


def sequences():
    w = pm.Beta("w", 2.0, 2.0)
    pm.Mixture("two", w=pt.stack([w, 1 - w]), comp_dists=[pm.Normal.dist(-1, 1), pm.Normal.dist(2, 1)])
    pm.GaussianRandomWalk("walk", sigma=w, init_dist=pm.Normal.dist(0, 1), steps=2)


MODELS = [scalars, hierarchy, simplex, covariance, bounded, order, potentials, sequences]


def build(make):
    with pm.Model(coords={"group": ["a", "b", "c"], "item": [0, 1]}) as model:
        make()
    return model


class Case(NamedTuple):
    name: str
    model: Any
    prior: Any
    z: np.ndarray
    log_weight: np.ndarray
    log_prob: Any  # compiled, of points [z n]
    density: np.ndarray  # at z
    draws: dict  # the values at z, [n, ...]


@functools.cache
def solve(make):
    model = build(make)
    prior = as_prior(model)
    z, log_weight = prior.sample(KEY, N)
    mapped = jax.jit(jax.vmap(prior.log_prob, in_axes=1))

    def log_prob(z):
        with jax.enable_x64(True):
            return np.asarray(mapped(z))

    return Case(make.__name__, model, prior, z, log_weight, log_prob, log_prob(z), constrain(prior, z))


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def case(request):
    return solve(request.param)


def constrain(prior, z):
    """Values by name, ``[n, ...]``."""
    with jax.enable_x64(True):
        theta = jax.jit(jax.vmap(prior.constrain, in_axes=1))(z)
        return {name: np.asarray(value) for name, value in theta.items()}


def assert_law(values, law):
    """Kolmogorov-Smirnov with a fixed seed: fails by chance in one of 10,000 laws."""
    assert stats.kstest(values, law.cdf).pvalue > 1e-4


def test_density_is_that_of_pymc(case):
    with config.change_flags(cast_policy="numpy+floatX"):  # otherwise PyMC computes log(2.0) in float32
        twin = build(globals()[case.name])
        oracle = twin.compile_logp(mode=Mode(linker="py", optimizer="fast_compile"))
    start = 0
    points = {}
    for variable, shape in zip(case.model.free_RVs, case.prior._sampler.z_shapes, strict=True):
        part = case.z[start : start + int(np.prod(shape)), :20]
        points[case.model.rvs_to_values[variable].name] = part.T.reshape(20, *shape)
        start += len(part)
    assert start == case.prior.size
    expected = [oracle({name: values[i] for name, values in points.items()}) for i in range(20)]
    np.testing.assert_allclose(case.density[:20], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [scalars, simplex, bounded, order, potentials], ids=lambda make: make.__name__)
def test_density_is_that_of_the_draws(make):
    """E_p[q / p] = 1 for any density q: binds draws, Jacobian, Potentials and normalisation together."""
    case = solve(make)
    z, alive = case.z.T, np.isfinite(case.log_weight)
    mean, cov, d = z[alive].mean(axis=0), 0.4 * np.cov(z[alive].T), case.prior.size
    near = np.einsum("ni,ni->n", z - mean, np.linalg.solve(cov, (z - mean).T).T) < d  # where p is not small
    use = near & alive
    ratio = np.zeros(N)
    log_q = stats.multivariate_normal(mean, cov).logpdf(z[use])
    ratio[use] = np.exp(log_q + case.log_weight[use] - case.density[use])
    assert ratio.std() / np.sqrt(N) < 0.04
    assert abs(ratio.mean() - stats.chi2(d).cdf(d)) < 4 * ratio.std() / np.sqrt(N)


def test_gradient(case, x64):
    z, step = case.z[:, np.isfinite(case.log_weight)][:, 0], 1e-5
    gradient = np.asarray(jax.jit(jax.grad(case.prior.log_prob))(z))
    steps = step * np.eye(len(z))
    up, down = case.log_prob(z[:, None] + steps), case.log_prob(z[:, None] - steps)
    np.testing.assert_allclose(gradient, (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


def test_round_trip(case, x64):
    z = case.z[:, :200]
    theta = {name: jnp.asarray(value[:200]) for name, value in case.draws.items()}
    back = jax.jit(jax.vmap(case.prior.unconstrain, out_axes=1))(theta)
    np.testing.assert_allclose(back, z, rtol=1e-7, atol=1e-7)
    again = jax.jit(jax.vmap(case.prior.constrain, in_axes=1))(back)
    for name in theta:
        np.testing.assert_allclose(again[name], theta[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [hierarchy, covariance], ids=lambda make: make.__name__)
def test_one_particle_is_one_of_many(make, x64):
    case = solve(make)
    one = jax.jit(case.prior.log_prob)
    for i in range(10):
        np.testing.assert_allclose(one(jnp.asarray(case.z[:, i])), case.density[i], rtol=1e-12)


def test_names_and_shapes(case):
    prior = case.prior
    theta = prior.constrain(jnp.asarray(case.z[:, 0]))
    variables = [*case.model.free_RVs, *case.model.deterministics]
    assert prior.names == tuple(v.name for v in variables) == tuple(theta)
    assert prior.shapes == tuple(value.shape for value in theta.values())
    assert case.z.shape == (prior.size, N)
    assert case.z.dtype == np.float64
    assert np.isfinite(case.z).all()


def test_nothing_is_float32_in_float64(case, x64):
    z = case.z[:, 0]
    for function in (case.prior.log_prob, case.prior.constrain):
        assert "f32" not in str(jax.make_jaxpr(function)(z))
    assert "f32" not in str(jax.make_jaxpr(case.prior.unconstrain)(case.prior.constrain(jnp.asarray(z))))


def test_float32(case):
    """Where 64 bits are disabled. PyMC's LKJ density takes differences of running sums: two digits are left."""
    with jax.enable_x64(False):
        z = jnp.asarray(case.z[:, :200], jnp.float32)
        density, gradient = jax.jit(jax.vmap(jax.value_and_grad(case.prior.log_prob), in_axes=1))(z)
        theta = case.prior.constrain(z[:, 0])
        assert density.dtype == gradient.dtype == jnp.float32
        assert case.prior.unconstrain(theta).dtype == jnp.float32
        assert {str(value.dtype) for value in theta.values()} == {"float32"}
    alive = np.isfinite(case.density[:200])
    assert np.isfinite(np.asarray(gradient)[alive]).all()
    np.testing.assert_allclose(np.asarray(density)[alive], case.density[:200][alive], rtol=0.05, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_float32_points_are_evaluated_in_float64_where_enabled():
    prior = solve(hierarchy).prior
    z = jnp.linspace(-1.0, 1.0, prior.size, dtype=jnp.float32)
    assert prior.log_prob(z).dtype == jnp.float32
    assert prior.log_prob(z) == prior.log_prob(z.astype(jnp.float64)).astype(jnp.float32)
    theta = prior.constrain(z)
    assert theta["total"].dtype == jnp.float32
    assert prior.unconstrain(theta).dtype == jnp.float32


def test_closed_form(x64):
    prior = solve(scalars).prior
    theta = dict(sigma=1.3, rate=0.2, phi=0.6, u=2.5, t=-1.0, ig=0.7, angle=1.0)
    z = prior.unconstrain({name: jnp.asarray(value) for name, value in theta.items()})
    assert prior.names == tuple(theta)
    assert {name: float(value) for name, value in prior.constrain(z).items()} == pytest.approx(theta, rel=1e-12)
    laws = [
        stats.halfnorm(scale=2.0).logpdf(1.3) + np.log(1.3),
        stats.expon(scale=1 / 4).logpdf(0.2) + np.log(0.2),
        stats.beta(2, 3).logpdf(0.6) + np.log(0.6 * 0.4),
        stats.uniform(-1, 5).logpdf(2.5) + np.log(3.5 * 1.5 / 5),
        stats.t(5, 1, 2).logpdf(-1.0),
        stats.invgamma(3, scale=2).logpdf(0.7) + np.log(0.7),
        stats.vonmises(2.0, 0.5).logpdf(1.0),
    ]
    assert float(prior.log_prob(z)) == pytest.approx(sum(laws), rel=1e-12)
    once_more = z.at[6].add(2 * np.pi)  # the same angle: one of its z has the mass
    assert float(prior.log_prob(once_more)) == -np.inf


def test_laws_of_the_draws():
    draws = solve(scalars).draws
    for name, law in dict(
        sigma=stats.halfnorm(scale=2), rate=stats.expon(scale=1 / 4), phi=stats.beta(2, 3),
        u=stats.uniform(-1, 5), t=stats.t(5, 1, 2), ig=stats.invgamma(3, scale=2),
    ).items():  # fmt: skip
        assert_law(draws[name], law)
    off = np.corrcoef(np.stack([draws[name] for name in ("sigma", "rate", "phi", "u")])) - np.eye(4)
    assert np.abs(off).max() < 4 / np.sqrt(N)


def test_draws_follow_their_parents():
    draws = solve(hierarchy).draws
    for g in range(3):
        assert_law((draws["effect"][:, g] - draws["mu"]) / draws["tau"], stats.norm)
    scale = (np.log(draws["scale"]) - draws["effect"].mean(axis=1)[:, None, None]) / 0.5
    assert_law(draws["slope"][:, 1] / draws["tau"], stats.norm)
    for g, i in np.ndindex(3, 2):
        assert_law(scale[:, g, i], stats.norm)
    assert np.abs(np.corrcoef(scale.reshape(N, 6).T) - np.eye(6)).max() < 4.5 / np.sqrt(N)
    np.testing.assert_allclose(draws["total"], draws["effect"].sum(axis=1), rtol=1e-12)

    draws = solve(bounded).draws
    assert_law((draws["between"] - draws["low"]) / draws["width"], stats.uniform)
    cdf = [stats.norm(draws["low"]).cdf(x) for x in (0.0, draws["cut"], 3.0)]
    assert_law((cdf[1] - cdf[0]) / (cdf[2] - cdf[0]), stats.uniform)

    draws = solve(sequences).draws
    w, two = draws["w"], draws["two"]
    assert_law(w * stats.norm.cdf(two, -1) + (1 - w) * stats.norm.cdf(two, 2), stats.uniform)
    assert_law(draws["walk"][:, 0], stats.norm)
    for step in (np.diff(draws["walk"]) / w[:, None]).T:
        assert_law(step, stats.norm)


def test_draws_of_matrices_and_simplices():
    draws = solve(covariance).draws
    chol, corr = np.zeros((N, 3, 3)), draws["chol_corr"]
    chol[:, *np.tril_indices(3)] = draws["chol"]
    sd = draws["chol_stds"]
    np.testing.assert_allclose(chol @ chol.swapaxes(1, 2), corr * sd[:, :, None] * sd[:, None], atol=1e-9)
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert_law((corr[:, i, j] + 1) / 2, stats.beta(2.5, 2.5))
        assert_law(sd[:, i], stats.expon)
    noise = np.linalg.solve(chol, (draws["beta"] - [1.0, 0.0, -1.0])[..., None])[..., 0]
    for i in range(3):
        assert_law(noise[:, i], stats.norm)

    draws = solve(simplex).draws
    for i, a in enumerate([1.0, 2.0, 3.0]):
        assert_law(draws["w"][:, i], stats.beta(a, 6 - a))
    np.testing.assert_allclose(draws["rows"].sum(axis=2), 1.0, rtol=1e-12)


def test_zero_sum():
    with pm.Model() as model:
        pm.ZeroSumNormal("x", 2.0, shape=3)
    prior = as_prior(model)
    z, _ = prior.sample(KEY, N)
    assert_law(z[0], stats.norm(scale=2.0))
    np.testing.assert_allclose(constrain(prior, z)["x"].sum(axis=1), 0.0, atol=1e-12)


def test_a_transform_restricts_the_law():
    draws = solve(order).draws
    for k in range(3):  # the k-th of three: P(at most x) = P(Beta(k + 1, 3 - k) <= cdf(x))
        assert_law(stats.norm.cdf(draws["cuts"][:, k]), stats.beta(k + 1, 3 - k))
    with pm.Model() as model:
        pm.Normal("x", 0.0, 1.0, transform=Interval(-1.0, 2.0))
    draws = constrain(prior := as_prior(model), prior.sample(KEY, N)[0])
    assert_law(draws["x"], stats.truncnorm(-1.0, 2.0))


def test_draws_that_float64_rounds_to_the_boundary(x64):
    with pm.Model() as model:
        pm.Gamma("zero", 0.001, 1.0)
        pm.Beta("ends", 0.01, 0.01)
        pm.Dirichlet("corner", [0.01, 0.01, 0.01])
    prior = as_prior(model)
    z, _ = prior.sample(KEY, N)
    assert np.isfinite(z).all()
    assert np.isfinite(jax.jit(jax.vmap(prior.log_prob, in_axes=1))(z)).all()
    draws = constrain(prior, z)
    expected = stats.gamma(0.001).cdf(1e-200), stats.beta(0.01, 0.01).cdf(1e-9), 1 - stats.beta(0.01, 0.02).cdf(0.5)
    seen = draws["zero"] < 1e-200, draws["ends"] < 1e-9, draws["corner"][:, 0] > 0.5
    for p, event in zip(expected, seen, strict=True):
        assert abs(event.mean() - p) < 4 * np.sqrt(p * (1 - p) / N)


def test_potentials_weight_the_draws():
    z, log_weight = as_prior(build(potentials)).sample(KEY, 25 * N)
    estimate, error = np.exp(log_weight).mean(), np.exp(log_weight).std() / np.sqrt(25 * N)

    def integrand(b, a):  # over mu: N(a; mu, 1/4) N(b; mu, 1/4) N(mu; 0, 1) is jointly normal in (a, b)
        joint = stats.multivariate_normal(cov=[[1.25, 1.0], [1.0, 1.25]]).pdf([a, b])
        return joint * stats.halfnorm.pdf(a) * stats.halfnorm.pdf(b)

    exact, _ = integrate.dblquad(integrand, 0, 3, 0, lambda a: 3 - a, epsabs=1e-7)
    assert error < 0.02 * exact
    assert abs(estimate - exact) < 4 * error
    sigma = np.exp(z[1:]).sum(axis=0)
    np.testing.assert_array_equal(np.isneginf(log_weight), sigma >= 3.0)


def test_out_of_range_is_minus_infinity(x64):
    with pm.Model() as model:
        a = pm.Normal("a", 2.0, 0.1)
        pm.Normal("b", 0.0, a)
        pm.Gamma("c", a, a)
        pm.TruncatedNormal("d", 0.0, 1.0, lower=1.0, default_transform=None)
    prior = as_prior(model)
    assert np.isfinite(prior.log_prob(jnp.array([2.0, 0.0, 0.0, 1.5])))
    assert prior.log_prob(jnp.array([-2.0, 0.0, 0.0, 1.5])) == -np.inf
    assert prior.log_prob(jnp.array([2.0, 0.0, 0.0, 0.5])) == -np.inf
    assert prior.log_prob(jnp.array([0.0, 0.0, 0.0, 1.5])) == -np.inf


def test_draws_come_from_the_key_alone():
    model = build(hierarchy)
    prior, state = as_prior(model), np.random.get_state()  # noqa: NPY002
    generators = [v.owner.inputs[0].get_value().bit_generator.state for v in model.free_RVs]
    first, _ = prior.sample(KEY, 50)
    np.random.seed(3)  # noqa: NPY002
    np.testing.assert_array_equal(prior.sample(KEY, 50)[0], first)
    np.testing.assert_array_equal(PyMC(build(hierarchy)).sample(KEY, 50)[0], first)
    other, _ = prior.sample(jax.random.key(8), 50)
    assert not np.any(other == first)
    assert prior.sample(KEY, 1)[0].shape == (prior.size, 1)
    after = [v.owner.inputs[0].get_value().bit_generator.state for v in model.free_RVs]
    assert after == generators  # the model's own are not used up
    np.random.set_state(state)  # noqa: NPY002


def test_draws_are_batched_where_pytensor_can(case):
    assert case.prior._sampler.batched == (case.name != "sequences")


def test_draws_are_compiled_once(monkeypatch):
    prior = solve(scalars).prior
    monkeypatch.setattr(pm, "compile", None)
    for n in (1, 7, 4096):
        z, log_weight = prior.sample(jax.random.key(n), n)
        assert z.shape == (prior.size, n)
        np.testing.assert_array_equal(log_weight, np.zeros(n))


def test_dims_and_coords():
    prior = solve(hierarchy).prior
    group = ("group",)
    assert prior.dims == {"effect": group, "scale": ("group", "item"), "slope": group, "twice": group}
    assert prior.coords == {"group": ("a", "b", "c"), "item": (0, 1)}
    assert hash(prior) == hash(prior)
    assert jax.tree.leaves(prior) == []
    assert jax.tree.unflatten(jax.tree.structure(prior), []) == prior


def test_data_is_frozen():
    with pm.Model() as model:
        center = pm.Data("center", 1.0)
        pm.Normal("x", center, 1.0)
    before = as_prior(model)
    assert as_prior(model) is before
    with model:
        pm.set_data({"center": 3.0})
    after = as_prior(model)
    assert after is not before
    for prior, mode in [(before, 1.0), (after, 3.0)]:
        with jax.enable_x64(True):
            assert float(prior.log_prob(jnp.array([mode]))) == pytest.approx(stats.norm.logpdf(0.0), rel=1e-12)


def test_one_prior_for_one_model():
    model, twin = build(order), build(order)
    prior = as_prior(model)
    assert as_prior(model) is prior
    assert as_prior(twin) is not prior
    assert as_prior(twin) != prior
    with model:
        pm.Normal("later", 0.0, 1.0)
    assert as_prior(model).names == ("cuts", "later")
    forgotten = weakref.ref(model)
    del model
    gc.collect()
    assert forgotten() is None
    assert prior.sample(KEY, 3)[0].shape == (3, 3)


def test_theta_must_fit():
    prior = solve(hierarchy).prior
    with pytest.raises(ModelError, match=r"theta lacks effect, scale, slope; expected mu, tau, effect, scale, slope"):
        prior.unconstrain({"mu": jnp.zeros(()), "tau": jnp.ones(())})
    with pytest.raises(ModelError, match=r"theta\['tau'\] has shape \(2,\); expected \(\)"):
        prior.unconstrain(
            dict(mu=jnp.zeros(()), tau=jnp.ones(2), effect=jnp.ones(3), scale=jnp.ones((3, 2)), slope=jnp.ones(3))
        )


def observed():
    pm.Normal("y", pm.Normal("mu"), 1.0, observed=[1.0, 2.0])


def discrete():
    pm.HalfNormal("sigma")
    pm.Poisson("count", 3.0)
    pm.Bernoulli("flag", 0.5)


def improper():
    pm.Flat("level")
    pm.HalfFlat("spread")


def interpolated():
    pm.HalfNormal("sigma")
    pm.Interpolated("shape", np.linspace(0.0, 1.0, 5), np.ones(5))


def undrawable():
    pm.CustomDist("custom", pm.HalfNormal("sigma"), logp=lambda value, sigma: -(value**2) / sigma)


def random_function():
    pm.HalfNormal("sigma")
    pm.Deterministic("noise", pm.Normal.dist())


ERRORS = {
    lambda: None: "no free variables; add one",
    observed: "y is observed, but a prior has no data; leave out `observed=`",
    discrete: "count, flag is discrete",
    improper: r"level, spread is improper \(Flat, HalfFlat\)",
    interpolated: r"shape \(Interpolated\) cannot be evaluated in JAX: No JAX conversion",
    undrawable: r"custom \(.*\) cannot be drawn: .*random",
    random_function: "noise .* cannot be evaluated in JAX: it depends on a random draw",
}


@pytest.mark.parametrize("make", ERRORS, ids=lambda make: make.__name__)
def test_refused(make):
    with pytest.raises(ModelError, match="prior: .*" + ERRORS[make]):
        as_prior(build(make))


def test_refused_types():
    with pytest.raises(ModelError, match=r"expected a pm\.Model, got dict"):
        as_prior({"sigma": 1.0})


def negative_scale():
    pm.Normal("x", 0.0, pm.Normal("scale", 1.0, 1.0))


def narrow():
    pm.Uniform("u", 1.0, 1.0 + 4e-16)


def vague():
    pm.InverseGamma("variance", 0.001, 0.001)


def not_a_number():
    pm.Normal("y", pt.log(pm.Normal("x")), 1.0)


def bad_potential():
    pm.Potential("factor", pt.log(pm.Normal("x")))


def never_ordered():
    pm.Normal("cuts", [9.0, 0.0, -9.0], 0.1, transform=ordered)


BAD_DRAWS = {
    negative_scale: "a draw failed: scale < 0. Do the parameters stay in range",
    narrow: r"[0-9]+ of 1000 draws of u lie on the boundary of its support",
    vague: r"[0-9]+ of 1000 draws of variance are not finite",
    not_a_number: r"[0-9]+ of 1000 draws of y are not finite",
    bad_potential: "the Potentials are NaN",
    never_ordered: r"domain of the transform of cuts \(0 of 100000\)",
}


@pytest.mark.parametrize("make", BAD_DRAWS, ids=lambda make: make.__name__)
def test_bad_draws(make):
    with pytest.raises(ModelError, match="prior: .*" + BAD_DRAWS[make]):
        as_prior(build(make)).sample(KEY, 1000)


SCRIPT = """
import os, jax, numpy as np
{before}
flags = jax.config.jax_enable_x64, os.environ.get("XLA_FLAGS")
with jax.enable_x64(True):
    from smcssm.priors.pymc import as_prior
assert flags == (jax.config.jax_enable_x64, os.environ.get("XLA_FLAGS")) == ({flag}, None)
import pymc as pm
with pm.Model() as model:
    pm.Normal("x", 0.0, pm.HalfNormal("s"), shape=2)
prior = as_prior(model)
z, _ = prior.sample(jax.random.key(1), 5)
with jax.enable_x64(True):
    density = np.asarray(jax.jit(jax.vmap(prior.log_prob, in_axes=1))(z))
print(z.tobytes().hex(), density.tobytes().hex())
"""


@pytest.mark.slow
def test_order_of_imports_does_not_matter():
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    scripts = [
        SCRIPT.format(before="", flag=False),  # PyTensor's import would set True
        SCRIPT.format(before="import pymc, pytensor.link.jax.dispatch", flag=True),  # and did
    ]
    command = [sys.executable, "-c"]
    runs = [subprocess.Popen([*command, s], env=environment, stdout=subprocess.PIPE, text=True) for s in scripts]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 100

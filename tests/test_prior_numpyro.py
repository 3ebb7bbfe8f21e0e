"""NumPyro model functions as priors: against closed forms, NumPyro's own potential energy, and their own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import smcssm as ss
from smcssm.errors import ModelError

numpyro = pytest.importorskip("numpyro")
dist = numpyro.distributions
from smcssm.priors.numpyro import NumPyro  # noqa: E402

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(5)


def hierarchy():
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("group", 3):
        effect = numpyro.sample("effect", dist.Normal(mu, tau))
    numpyro.sample("w", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    numpyro.sample("between", dist.Uniform(mu, mu + tau))
    numpyro.sample("corr", dist.LKJCholesky(3, 2.0))
    numpyro.deterministic("total", effect.sum())


def guarded():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("guard", jnp.where(x > 0.5, 0.0, -jnp.inf))
    numpyro.factor("soft", -0.5 * x**2)


def level():
    numpyro.sample("sigma_level", dist.HalfNormal(1.0))
    numpyro.sample("sigma_obs", dist.HalfNormal(2.0))


def test_density_is_numpyros_own():
    prior = NumPyro(hierarchy)
    assert prior.names == ("mu", "tau", "effect", "w", "between", "corr", "total")
    assert prior.dims["effect"] == ("group",) and prior.size == 1 + 1 + 3 + 2 + 1 + 3
    z, log_weight = prior.sample(KEY, 50)
    assert z.shape == (prior.size, 50) and not log_weight.any()
    from numpyro.infer.util import potential_energy

    for i in range(10):
        theta = prior.constrain(jnp.asarray(z[:, i]))
        parts, start = {}, 0
        for name, shape in prior._z_shapes.items():
            size = int(np.prod(shape, dtype=int))
            parts[name] = jnp.asarray(z[start : start + size, i]).reshape(shape)
            start += size
        expected = -potential_energy(numpyro.handlers.seed(hierarchy, 0), (), {}, parts)
        np.testing.assert_allclose(prior.log_prob(jnp.asarray(z[:, i])), expected, rtol=1e-10)
        np.testing.assert_allclose(prior.unconstrain(theta), z[:, i], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(theta["total"], theta["effect"].sum(), rtol=1e-12)


def test_draws_have_the_marginals_of_the_model():
    prior = NumPyro(hierarchy)
    z, _ = prior.sample(KEY, 4000)
    theta = jax.vmap(prior.constrain, in_axes=1)(jnp.asarray(z))
    assert stats.kstest(theta["mu"], stats.norm(1.0, 2.0).cdf).pvalue > 1e-3
    assert stats.kstest(theta["tau"], stats.halfnorm().cdf).pvalue > 1e-3
    assert stats.kstest(theta["w"][:, 0], stats.beta(1.0, 5.0).cdf).pvalue > 1e-3
    u = (theta["between"] - theta["mu"]) / theta["tau"]
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_factors_weigh_the_draws():
    prior = NumPyro(guarded)
    _, log_weight = prior.sample(KEY, 20_000)
    mass = integrate.quad(lambda x: stats.norm.pdf(x) * np.exp(-0.5 * x**2), 0.5, np.inf)[0]
    w = np.exp(log_weight)
    assert abs(w.mean() - mass) < 4 * w.std() / len(w) ** 0.5
    np.testing.assert_allclose(prior.log_prob(jnp.array([1.2])), stats.norm.logpdf(1.2) - 0.72, rtol=1e-10)
    assert prior.log_prob(jnp.array([0.2])) == -np.inf


@pytest.mark.parametrize(
    ("law", "reason"),
    [
        (lambda: numpyro.sample("k", dist.Poisson(2.0)), "k is discrete"),
        (lambda: numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0), "y is observed"),
        (lambda: numpyro.deterministic("d", 1.0), "no sample site"),
        (numpyro.handlers.scale(level, scale=0.5), "the density of sigma_level, sigma_obs is scaled"),
    ],
)
def test_what_is_refused(law, reason):
    with pytest.raises(ModelError, match=reason):
        NumPyro(law)
    with pytest.raises(ModelError, match="lacks mu"):
        NumPyro(hierarchy).unconstrain({})


def test_an_engine_takes_it():
    rng = np.random.default_rng(0)
    y = np.cumsum(0.4 * rng.normal(size=40)) + rng.normal(size=40)
    own = ss.Engine(ss.models.LocalLevel(), NumPyro(level), n_particles=1000, seed=1)
    default = ss.Engine(
        ss.models.LocalLevel(),
        ss.priors.Independent({"sigma_level": ss.priors.HalfNormal(1.0), "sigma_obs": ss.priors.HalfNormal(2.0)}),
        n_particles=1000,
        seed=1,
    )
    own.update(y), default.update(y)
    error = np.hypot(own.log_evidence_sd, default.log_evidence_sd)
    assert abs(own.log_evidence - default.log_evidence) < 4 * error

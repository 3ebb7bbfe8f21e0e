"""A long irregular stream through a Gaussian process with unknown hyperparameters: as all data at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import smcssm as ss
from smcssm import gp
from smcssm import models as m

NAMES = ("omega", "quality", "sigma", "sigma_obs")


def data(n):
    rng = np.random.default_rng(11)
    t, sd = np.cumsum(rng.exponential(0.7, n)), rng.choice([0.2, 0.5], n)
    f = gp.sample(jax.random.key(1), gp.SHO(0.6, 2.0, 1.5), t)[0]
    return t, f + np.hypot(sd, 0.4) * rng.standard_normal(n), sd


def importance_sampling(prior, t, y, sd, n=1500):
    """Moments of z and log evidence from a Student-t at the mode, and their standard errors; 5 degrees of freedom."""

    def log_target(z):
        theta = prior.constrain(z)
        kernel = gp.SHO(theta["omega"], theta["quality"], theta["sigma"])
        noise = jnp.sqrt(theta["sigma_obs"] ** 2 + jnp.asarray(sd) ** 2)
        return prior.log_prob(z) + gp.log_probability(kernel, t, jnp.asarray(y), noise)

    objective = jax.jit(jax.value_and_grad(lambda z: -log_target(z)))
    guess = {"omega": 0.5, "quality": 1.0, "sigma": 1.0, "sigma_obs": 0.5}
    start = np.asarray(prior.unconstrain({name: jnp.asarray(value) for name, value in guess.items()}))
    found = scipy.optimize.minimize(lambda z: jax.tree.map(np.asarray, objective(z)), start, jac=True, method="BFGS")
    rng, L, d = np.random.default_rng(0), np.linalg.cholesky(found.hess_inv), len(found.x)
    e = rng.standard_normal((n, d)) / np.sqrt(rng.chisquare(5, (n, 1)) / 5)
    z = found.x + e @ L.T
    log_q = scipy.stats.multivariate_t(np.zeros(d), np.eye(d), df=5).logpdf(e) - np.log(np.diag(L)).sum()
    log_w = np.asarray(jax.jit(lambda z: jax.lax.map(log_target, z))(jnp.asarray(z))) - log_q
    top = log_w.max()
    w = np.exp(log_w - top)
    evidence, error = top + np.log(w.mean()), w.std() / w.mean() / np.sqrt(n)
    w = w / w.sum()
    mean = w @ z
    return mean, np.sqrt(w @ (z - mean) ** 2), 1 / np.sum(w**2), evidence, error


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_end_of_a_stream_is_the_posterior_of_all_data():
    """Means within four standard errors, those of independent populations and of importance sampling; spreads too."""
    t, y, sd = data(5000)
    model = m.GP(gp.SHO("omega", "quality", "sigma")) + m.Noise()
    prior = model.default_prior(2.0)
    engine = ss.Engine(model, prior, n_particles=256, runs=4, seed=3)
    for part in np.split(np.arange(5000), 10):
        engine.update(y[part], time=t[part], noise_sd=sd[part])
    mean, spread, ess, evidence, error = importance_sampling(prior, t, y, sd)
    assert ess > 500
    draws = engine.posterior(draws=4000, seed=0)
    z = np.log(np.stack([np.asarray(draws[name]).ravel() for name in prior.names], axis=1))
    errors = spread * np.sqrt(1 / ess + 1 / 200)  # a population of 256 is worth 50 independent draws at the least
    np.testing.assert_array_less(np.abs(z.mean(0) - mean), 4 * errors)
    np.testing.assert_allclose(z.std(0), spread, rtol=0.2)
    assert abs(engine.log_evidence - evidence) < 4 * error + 0.5

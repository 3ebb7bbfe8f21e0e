"""Laws without PyMC: normalised densities, draws that follow them, bijections that invert, mistakes that are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from smcssm.errors import ModelError
from smcssm.models.stationary import UniformStationary, reflections
from smcssm.priors import Beta, FromFunctions, HalfNormal, Independent, LogNormal, Normal
from smcssm.priors.base import Dirichlet

pytestmark = pytest.mark.usefixtures("x64")

SCALARS = {
    "normal": (Normal(0.3, 1.7), stats.norm(0.3, 1.7)),
    "half normal": (HalfNormal(2.5), stats.halfnorm(scale=2.5)),
    "beta": (Beta(8.0, 2.0), stats.beta(8, 2)),
    "log-normal": (LogNormal(10.0, 1.5), stats.lognorm(1.5, scale=10.0)),
    "stationary": (UniformStationary(1), stats.uniform(-1, 2)),
}


@pytest.mark.parametrize("case", SCALARS)
def test_density_is_normalised_and_is_that_of_scipy(case):
    law, known = SCALARS[case]
    density = jax.jit(lambda z: jnp.exp(law.log_prob(z)))
    total, _ = quad(lambda z: float(density(jnp.array([z]))), -60, 60, points=[-5, 0, 5], limit=200)
    assert total == pytest.approx(1, abs=1e-7)
    for z in (-3.0, 0.2, 1.4):
        value, slope = (float(v) for v in jax.jvp(lambda u: law.constrain(u[None]), (jnp.array(z),), (1.0,)))
        assert float(law.log_prob(jnp.array([z]))) == pytest.approx(known.logpdf(value) + np.log(slope), rel=1e-10)


@pytest.mark.parametrize("case", SCALARS)
def test_draws_follow_the_density(case):
    law, known = SCALARS[case]
    z = law.sample(jax.random.key(2), 4000)
    assert z.shape == (1, 4000)
    values = np.asarray(jax.vmap(law.constrain, in_axes=-1)(z))
    assert stats.kstest(values, known.cdf).pvalue > 1e-3


def test_extreme_points_have_a_density_and_not_nan():
    for law, _ in SCALARS.values():
        values = [float(law.log_prob(jnp.array([z]))) for z in (-1e3, -50.0, 50.0, 1e3)]
        assert not np.isnan(values).any() and max(values) < -40


@pytest.mark.parametrize("order", [2, 3, 5])
def test_autoregressions_are_uniform_on_the_stationary_region(order):
    law = UniformStationary(order)
    z = law.sample(jax.random.key(order), 20)
    log_det = [np.linalg.slogdet(jax.jacobian(law.constrain)(z[:, i]))[1] for i in range(20)]
    in_phi = np.array([float(law.log_prob(z[:, i])) for i in range(20)]) - log_det
    np.testing.assert_allclose(in_phi, in_phi[0], rtol=1e-9)
    if order == 2:
        assert in_phi[0] == pytest.approx(-np.log(4))  # the area of the triangle
    phi = jax.vmap(law.constrain, in_axes=-1, out_axes=-1)(law.sample(jax.random.key(0), 4000))
    assert phi.shape == (order, 4000) and bool(jnp.all(jnp.abs(jnp.stack(reflections(list(phi)))) < 1))
    last = stats.beta((order + 1) // 2, order // 2 + 1, loc=-1, scale=2)
    assert stats.kstest(np.asarray(phi[-1]), last.cdf).pvalue > 1e-3


def test_arrays_of_hyperparameters():
    prior = Independent({"a": HalfNormal(2.0, (2, 3)), "phi": UniformStationary(2), "p": Beta(1.0, 3.0)})
    assert prior.size == 9 and prior.shapes == ((2, 3), (2,), ()) and prior.names == ("a", "phi", "p")
    z, _ = prior.sample(jax.random.key(0), 7)
    assert z.shape == (9, 7)
    theta = prior.constrain(jnp.asarray(z[:, 0]))
    assert {k: v.shape for k, v in theta.items()} == {"a": (2, 3), "phi": (2,), "p": ()}
    np.testing.assert_allclose(prior.unconstrain(theta), z[:, 0], rtol=1e-10)
    single = sum(float(HalfNormal(2.0).log_prob(jnp.array([v]))) for v in z[:6, 0])
    single += float(UniformStationary(2).log_prob(jnp.asarray(z[6:8, 0])))
    single += float(Beta(1.0, 3.0).log_prob(jnp.asarray(z[8:, 0])))
    assert float(prior.log_prob(jnp.asarray(z[:, 0]))) == pytest.approx(single, rel=1e-12)
    assert hash(prior) == hash(Independent(dict(zip(prior.names, prior.laws, strict=True))))


def draw(key, n):
    one, two, three = jax.random.split(key, 3)
    return {
        "s": 2 * jnp.abs(jax.random.normal(one, (n,))),
        "w": jax.random.beta(two, 2.0, 3.0, (n, 2)),
        "m": jax.random.normal(three, (n,)),
    }


def log_density(theta):
    s, w, m = theta["s"], theta["w"], theta["m"]
    return (
        jax.scipy.stats.norm.logpdf(s, scale=2.0)
        + jnp.log(2.0)
        + jnp.sum(jax.scipy.stats.beta.logpdf(w, 2.0, 3.0))
        + jax.scipy.stats.norm.logpdf(m)
    )


TRANSFORMS = {"s": "positive", "w": "unit"}


def test_a_prior_from_functions_adds_the_jacobian():
    mine = FromFunctions(("s", "w", "m"), draw, log_density, TRANSFORMS, shapes={"w": (2,)})
    assert mine.size == 4 and mine.shapes == ((), (2,), ())
    z, log_weight = mine.sample(jax.random.key(0), 5)
    assert z.shape == (4, 5) and not log_weight.any()
    drawn = draw(jax.random.key(0), 5)
    for i in range(5):
        zi = jnp.asarray(z[:, i])
        theta = mine.constrain(zi)
        for name in drawn:
            np.testing.assert_allclose(theta[name], drawn[name][i], rtol=1e-10)
        np.testing.assert_allclose(mine.unconstrain(theta), zi, rtol=1e-9, atol=1e-12)
        parts = HalfNormal(2.0).log_prob(zi[:1]) + Beta(2.0, 3.0, (2,)).log_prob(zi[1:3])
        assert float(mine.log_prob(zi)) == pytest.approx(float(parts) + stats.norm.logpdf(z[3, i]), rel=1e-10)


def test_mistakes_are_named():
    with pytest.raises(ModelError, match="log is neither"):
        FromFunctions(("s",), draw, log_density, {"s": "log"})
    with pytest.raises(ModelError, match="q is neither"):
        FromFunctions(("s",), draw, log_density, shapes={"q": (2,)})
    with pytest.raises(ModelError, match="sample gave m, s, w, not q"):
        FromFunctions(("q",), draw, log_density).sample(jax.random.key(0), 3)
    with pytest.raises(ModelError, match=r"w has shape \(3, 2\), expected \(3,\)"):
        FromFunctions(("w",), draw, log_density).sample(jax.random.key(0), 3)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ModelError, match="expected a positive number"):
            HalfNormal(scale)
    with pytest.raises(ModelError, match="at least one"):
        Independent({})


def test_rows_of_probabilities_among_others_take_as_many_numbers_as_they_need():
    """One less in each row; what comes after them finds its own."""
    prior = Independent({"p": Dirichlet([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]), "b": Normal(5.0, 1e-3)})
    z, _ = prior.sample(jax.random.key(0), 3)
    assert z.shape == (prior.size, 3) == (5, 3)
    theta = prior.constrain(jnp.asarray(z[:, 0]))
    assert theta["p"].shape == (2, 3)
    np.testing.assert_allclose(theta["p"].sum(axis=1), 1.0)
    np.testing.assert_allclose(theta["b"], 5.0, atol=0.01)
    np.testing.assert_allclose(prior.unconstrain(theta), z[:, 0], rtol=1e-9)

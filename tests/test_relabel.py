"""Renaming exchangeable regimes: the same likelihoods and beliefs, every name equally often, the prior kept."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import beta, poisson

import gridded
import smcssm as ss
from many_runs import assert_mean
from smcssm.assemble import smc2
from smcssm.core import at_each_particle
from smcssm.errors import ModelError
from smcssm.filters import RaoBlackwell
from smcssm.models.arguments import regime_axes
from smcssm.priors.base import Beta, HalfNormal, Independent, Marginal, Normal
from smcssm.relabelling import in_order
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import Stream, at_particles, particles, stream
from smcssm.smc2.relabel import check, relabel

pytestmark = pytest.mark.usefixtures("x64")

N = 512
Y = np.array([0.2, 2.1, -0.4, np.nan, 1.8, 0.1, 2.4, 0.3])
LEVEL = ss.models.SwitchingLevel(("sigma_level", "sigma_obs"))
MODELS = {
    "two": (ss.models.GaussianRegimes(2), None),
    "three": (ss.models.GaussianRegimes(3), None),
    "branches": (LEVEL, RaoBlackwell(n_particles=256)),  # one for every path
}


@functools.cache
def start(name):
    """An engine's parts and population after some rows, no particle moved."""
    model, inner = MODELS[name]
    schedule = ss.Immediate(tempering=False)
    engine = ss.Engine(
        model, model.default_prior(1.5), n_particles=N, filter=inner, ess_threshold=1e-9, schedule=schedule
    )
    assert not engine.update(Y).moved.any()
    runtime = engine._runtime
    return runtime.smc, runtime.state.population, engine.snapshot().data(), engine


def replayed(smc, population, data):
    """What a filter that starts anew says at these particles."""
    key = stream(population.key, Stream.FILTER)
    rows = jax.tree.map(jnp.asarray, data)
    blank = jax.tree.map(lambda a: jnp.zeros_like(a[0]), rows)
    params, belief = particles(smc, key, population.z, blank, population.belief)
    belief, told = smc.filter.replay(key, params, belief, at_particles(rows), len(Y))
    return replace(population, params=params, belief=belief, log_lik=told.sum(axis=0))


def keys(seed):
    return jax.random.split(jax.random.key(seed), 1)


@pytest.mark.parametrize("name", ["two", "branches", pytest.param("three", marks=pytest.mark.slow)])
def test_likelihoods_and_beliefs_are_those_of_the_new_names(name):
    smc, population, data, _ = start(name)
    check(smc, np.asarray(population.z)[:, 0, :5])
    new = compiled(relabel, smc)(keys(0), population)
    stays = np.asarray((new.z == population.z).all(axis=(0, 1)))
    K = len(smc.filter.model.regime_names)
    share = 1 / [1, 1, 2, 6][K]
    assert abs(stays.mean() - share) < 4 * np.sqrt(share * (1 - share) / N)
    again = compiled(replayed, smc)(new, data)
    np.testing.assert_allclose(again.log_lik, new.log_lik, rtol=1e-9, atol=1e-9)
    regimes = smc.filter.regimes
    np.testing.assert_allclose(regimes(again.belief), regimes(new.belief), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(smc.filter.moments(again.belief)[0], smc.filter.moments(new.belief)[0], rtol=1e-7)
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(new.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_array_equal(new.log_weight, population.log_weight)


def test_from_one_mode_it_goes_to_both_alike():
    smc, population, data, _ = start("two")
    model, prior = smc.filter.model, smc.prior

    def first(z):
        return prior.unconstrain(in_order(model, prior.constrain(z), "mean"))

    ordered = compiled(replayed, smc)(replace(population, z=at_each_particle(first)(population.z)), data)
    up = []
    for seed in range(4):
        theta = at_each_particle(prior.constrain)(compiled(relabel, smc)(keys(seed), ordered).z)
        up.append(np.asarray(theta["mean"][0] > theta["mean"][1]).ravel())
        np.testing.assert_allclose(np.sort(theta["mean"], axis=0), at_each_particle(prior.constrain)(ordered.z)["mean"])
    assert abs(np.mean(up) - 0.5) < 4 * 0.5 / np.sqrt(4 * N)
    assert abs(np.corrcoef(up[0], up[1])[0, 1]) < 4 / np.sqrt(N)


def test_three_regimes_take_all_six_orders():
    smc, population, *_ = start("three")
    before = at_each_particle(smc.prior.constrain)(population.z)["mean"]
    after = at_each_particle(smc.prior.constrain)(compiled(relabel, smc)(keys(1), population).z)["mean"]
    number = [tuple(np.searchsorted(np.sort(b), a)) for b, a in zip(before[:, 0].T, after[:, 0].T, strict=True)]
    own = [tuple(np.searchsorted(np.sort(b), b)) for b in before[:, 0].T]
    orders = {}
    for a, b in zip(number, own, strict=True):
        order = tuple(b.index(i) for i in a)
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 6
    assert np.sum((np.array(list(orders.values())) - N / 6) ** 2 / (N / 6)) < 20.5  # chi-squared, 5 df: 0.1%


class Apart(Marginal):
    """Two numbers with laws of their own, N(0, 1) and N(1, 0.5²)."""

    shape = (2,)

    def sample(self, key, n):
        return jax.random.normal(key, (2, n)) * jnp.array([[1.0], [0.5]]) + jnp.array([[0.0], [1.0]])

    def log_prob(self, z):
        return jnp.sum(-0.5 * ((z - jnp.array([0.0, 1.0])) / jnp.array([1.0, 0.5])) ** 2)

    def constrain(self, z):
        return z

    def unconstrain(self, value):
        return value


class Ordered(Apart):
    """The second above the first."""

    def constrain(self, z):
        return jnp.stack([z[0], z[0] + jnp.exp(z[1])])

    def unconstrain(self, value):
        return jnp.stack([value[0], jnp.log(value[1] - value[0])])


class Uneven(Apart):
    """Of which one is transformed."""

    def constrain(self, z):
        return jnp.stack([z[0], jnp.sinh(z[1])])

    def unconstrain(self, value):
        return jnp.stack([value[0], jnp.arcsinh(value[1])])


def under(law, **options):
    model = ss.models.GaussianRegimes(2)
    prior = Independent({"mean": law, "sigma": HalfNormal(1.0, (2,)), "stay": Beta(8.0, 2.0, (2,))})
    return ss.Engine(model, prior, n_particles=4096, **options)._runtime


def test_a_prior_that_tells_regimes_apart_is_kept():
    """Without data the population is the prior's, before and after; and some change their names."""
    runtime = under(Apart())
    smc, population = runtime.smc, runtime.state.population
    check(smc, np.asarray(population.z)[:, 0, :5])
    new = compiled(relabel, smc)(keys(2), population)
    moved = np.asarray((new.z != population.z).any(axis=(0, 1)))
    assert 0.05 < moved.mean() < 0.45
    mean = np.asarray(new.z)[:2, 0]
    for values, centre, sd in zip(mean, (0.0, 1.0), (1.0, 0.5), strict=True):
        assert abs(values.mean() - centre) < 4 * sd / 64
        assert abs(values.std() / sd - 1) < 4 / np.sqrt(2 * 4096)
    assert abs(np.corrcoef(mean)[0, 1]) < 4 / 64


@pytest.mark.parametrize(
    ("law", "told"), [(Ordered(), "no z gives mean"), (Uneven(), "otherwise than those of another")]
)
def test_priors_that_cannot_be_renamed_are_refused(law, told):
    runtime = under(law)
    with pytest.raises(ModelError, match=told):
        check(runtime.smc, np.asarray(runtime.state.population.z)[:, 0, :5])


def test_models_without_exchangeable_regimes_are_refused():
    prior = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(1.0)})
    runtime = ss.Engine(ss.models.LocalLevel(), prior, n_particles=16)._runtime
    with pytest.raises(ModelError, match="per_regime="):
        check(runtime.smc, np.zeros((2, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [ss.Immediate(), ss.Paced(budget=4)], ids=["immediate", "paced"])
def test_a_symmetric_posterior_is_explored_in_both_modes_and_summarised_in_one_order(schedule):
    """Half of the particles have the first level above the second; in order they have the moments of quadrature."""
    y, runs = gridded.symmetric_data(100, 3), 8
    mean, sd, log_evidence = gridded.symmetric_answer(y)
    engine = ss.Engine(
        gridded.SYMMETRIC,
        gridded.SYMMETRIC_PRIOR,
        n_particles=N,
        runs=runs,
        filter=RaoBlackwell(n_particles=8),
        move=ss.moves.Metropolis(relabel=True),
        schedule=schedule,
    )
    assert engine.update(y).moved.sum() > 2
    snapshot = engine.snapshot()
    w, level = snapshot.weights(), snapshot.theta()["level"]
    share = np.sum(w * (level[0] > level[1]), axis=-1)
    assert share.std() < 0.1
    assert abs(share.mean() - 0.5) < 4 * share.std(ddof=1) / runs**0.5
    assert abs(mean[1] - mean[0]) > 3 * sd.max()  # two modes
    ordered = engine.snapshot("level").theta()["level"]
    means = np.sum(w * ordered, axis=-1)
    sds = np.sqrt(np.sum(w * (ordered - means[..., None]) ** 2, axis=-1))
    ratio = np.exp(snapshot.log_evidence() - log_evidence)
    for found, truth in ((means.T, mean), (sds.T, sd), (ratio, 1.0)):
        assert_mean(found, truth)
    table = engine.summary(order="level")
    np.testing.assert_allclose(table["mean"], means.mean(axis=-1))
    assert (np.abs(table["sd"] / sd - 1) < 0.2).all()
    assert (engine.summary()["sd"] > 3 * sd.max()).all()  # over both names


def test_readouts_in_one_order():
    """Of each particle by itself: hyperparameters and probabilities are renamed together, nothing else changes."""
    *_, engine = start("two")
    snapshot, ordered = engine.snapshot(), engine.snapshot("mean")
    w, theta, p = snapshot.weights(), snapshot.theta(), snapshot.regimes()
    by_mean = np.argsort(theta["mean"], axis=0)
    for name in ("mean", "sigma", "stay"):
        np.testing.assert_allclose(ordered.theta()[name], np.take_along_axis(theta[name], by_mean, axis=0), rtol=1e-12)
    p = np.take_along_axis(p, by_mean, axis=0)
    np.testing.assert_allclose(ordered.regimes(), p)
    np.testing.assert_allclose(engine.state(order="mean")["probability"], np.sum(w * p, axis=-1)[:, 0])
    table = engine.summary(order="mean")
    assert table["mean"]["mean[0]"] < table["mean"]["mean[1]"]
    draws = engine.posterior(200, order="mean")["mean"].values
    assert (draws[..., 0] <= draws[..., 1]).all()
    assert engine.summary().equals(engine.summary())  # the engine's own names are as they were
    smoothed = engine.smooth(order="mean")["probability"]
    np.testing.assert_allclose(smoothed[-1], engine.state(order="mean")["probability"], rtol=1e-9)
    with pytest.raises(ModelError, match="order='df': expected a hyperparameter with a value for each"):
        engine.summary(order="df")
    with pytest.raises(ModelError, match="does not say that its regimes are exchangeable"):
        ss.Engine(ss.models.LocalLevel(), n_particles=16).summary(order="sigma_obs")


def stays(theta):
    return [[theta["stay"][0], 1 - theta["stay"][0]], [1 - theta["stay"][1], theta["stay"][1]]]


def counts(factor=(1.0, 1.0), law=poisson.logpmf, **options):
    """Poisson counts of two rates; the model cannot draw them."""
    return ss.models.HiddenMarkov(
        lambda theta, y, step: law(y, theta["rate"] * jnp.array(factor)),
        **{"transition": stays, "names": ("rate", "stay"), "shapes": {"rate": 2, "stay": 2}, "initial": None}
        | {"per_regime": {"rate": 1, "stay": 1}}
        | options,
    )


def pulled(centre=(0.0, 0.0), **options):
    """A state pulled to where the regime says, of two channels, with an input and over any time."""

    def regime(k):
        return lambda theta, step: {
            "F": [[jnp.exp(-step.dt)]],
            "c": [(theta["to"][k] + centre[k]) * (1 - jnp.exp(-step.dt))],
            "chol_Q": [[theta["rate"][k] * jnp.sqrt(step.dt)]],
            "H": [[1.0], [0.5]],
            "d": [theta["to"][k] * step.inputs[0], 0.0],
            "chol_R": [[0.3, 0.0], [0.0, 0.4]],
            "chol_P0": [[1.0]],
        }

    given = {"per_regime": {"to": 1, "rate": 1, "stay": 1}, "initial": None} | options
    shapes = {"to": 2, "rate": 2, "stay": 2}
    return ss.models.Switching(
        [regime(k) for k in range(2)],
        transition=lambda theta, step: stays({"stay": 0.5 + (theta["stay"] - 0.5) * jnp.exp(-step.dt)}),
        names=tuple(shapes),
        shapes=shapes,
        input_names=("v",),
        channels=("a", "b"),
        states=("x",),
        **given,
    )


def parts(model, inner=None, dtype="float64"):
    """Those of an engine, checked."""
    laws = {"rate": HalfNormal(2.0, (2,)), "stay": Beta(8.0, 2.0, (2,)), "to": Normal(0.0, 2.0, (2,))}
    prior = Independent({name: laws[name] for name in model.names})
    options = dict(ess_threshold=0.5, impossible="error", record=True, resampling="systematic", forgetting=1.0)
    move = ss.moves.Metropolis(relabel=True)
    options |= dict(filter=inner, move=move, schedule=None, dtype=dtype, late=ss.late.Refuse(), solver="auto")
    options |= dict(n_particles=16, series=1)
    return smc2(model, prior, **options)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (counts(initial=[0.6, 0.4]), "the probabilities of regimes before the first row are not the same.*initial="),
        (counts(factor=(1.0, 1.01)), "the likelihood of row 1 is not"),
        (counts(factor=(1.0, 1.01), law=lambda y, a: beta.logpdf(y, a, 2.0)), "the likelihood of row 1 is not"),
        (counts(per_regime={"rate": 1}), "the likelihood of row 2 is not.*with all its axes.*now {'rate': 1}"),
        (pulled(centre=(0.0, 0.1)), "tells regime0 and regime1 apart: renamed, the likelihood of row 2 is not"),
    ],
)
def test_a_model_that_tells_regimes_apart_is_refused(model, told):
    with pytest.raises(ModelError, match=told):
        parts(model)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (counts(), {}),
        (pulled(), {"inner": RaoBlackwell(n_particles=2, resampling="systematic"), "dtype": "float32"}),
    ],
)
def test_a_model_that_does_not_is_not(model, options):
    """Where it cannot draw observations; where there are too few inner particles for the paths, and two channels."""
    assert parts(model, **options)


@pytest.mark.parametrize(
    ("per_regime", "told"),
    [
        ({"rates": 1}, "'rates' is not among the names rate, stay"),
        ({"rate": 2}, r"the first 2 axes of rate count 2 regimes, but its shape is \(2,\)"),
        ({"rate": "all"}, "rate: expected a whole number >= 1, got 'all'"),
        (["rate"], "expected a mapping"),
    ],
)
def test_axes_that_count_no_regimes_are_refused(per_regime, told):
    with pytest.raises(ModelError, match=told):
        regime_axes("Model(per_regime)", per_regime, {"rate": (2,), "stay": (2,)}, 2)
    with pytest.raises(ModelError, match=r"Switching\(per_regime\): .*shape is"):
        pulled(per_regime={"to": 2})
    with pytest.raises(ModelError, match=r"HiddenMarkov\(per_regime\): .*shape is"):
        counts(per_regime={"rate": 2})


def test_what_cannot_be_renamed_is_refused_when_the_engine_is_built():
    with pytest.raises(ModelError, match="does not say that its regimes are exchangeable"):
        ss.Engine(ss.models.LocalLevel(), move=ss.moves.Metropolis(relabel=True))

"""The Rao-Blackwellised filter against sums over all paths, and its likelihood estimate against its expectation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import enumeration
import smcssm as ss
from filtering import block
from smcssm.core import at_each_particle
from smcssm.filters import RaoBlackwell

pytestmark = pytest.mark.usefixtures("x64")

T = 9
RNG = np.random.default_rng(3)
Y = np.stack([np.cumsum(RNG.normal(size=T)), RNG.normal(size=T)], axis=1)
Y[4] = np.nan
Y[7, 0] = np.nan
DT = np.r_[0.0, np.ones(T - 1)]
DT[6] = 0.0  # two observations at the same time


def quiet(theta):
    a = theta["a"]
    return {
        "m0": [0.1, -0.2],
        "chol_P0": [[0.8, 0.0], [0.3, 0.5]],
        "F": [[0.9, 0.3], [-0.2, 0.7 * a]],
        "c": [0.1, 0.0],
        "chol_Q": [[0.3], [0.1]],
        "H": [[1.0, 0.5], [0.0, 1.0]],
        "d": [0.0, 0.2],
        "chol_R": [[0.6, 0.0], [0.2 * a, 0.7]],
    }


def busy(theta):
    a = theta["a"]
    return {
        "m0": [1.0, 0.0],
        "chol_P0": [[1.2, 0.0], [0.0, 0.5]],
        "F": [[1.0, a], [0.0, 0.9]],
        "c": [0.0, -0.3],
        "chol_Q": [[1.1, 0.0], [0.4, 0.9 * a]],
        "H": [[1.0, 0.5], [0.3, 1.0]],
        "chol_R": [[0.6, 0.0], [0.0, 1.7]],
    }


def first(theta):
    return [0.3, 0.7]


def moves(theta):
    stay = theta["stay"]
    return [[stay, 1 - stay], [0.35, 0.65]]


MODEL = ss.models.Switching((quiet, busy), initial=first, transition=moves, names=("a", "stay"))
THETA = {"a": np.array([0.5, 0.8, 1.2]), "stay": np.array([0.9, 0.6, 0.3])}


def regimes(theta):
    """The same in covariances, for the oracle."""
    out = []
    for f in (quiet, busy):
        found = {k: np.array(v, float) for k, v in f(theta).items()}
        found = {"c": np.zeros(2), "d": np.zeros(2)} | found
        out.append({k: found[k] for k in ("m0", "F", "c", "H", "d")})
        out[-1] |= {k: found[f"chol_{k}"] @ found[f"chol_{k}"].T for k in ("P0", "Q", "R")}
    return out


@functools.partial(jax.jit, static_argnums=0)
def run(inner, keys, theta, rows):
    """Belief after all rows, and what was told of each; leaves of theta [s, n]."""
    params = at_each_particle(inner.model.params)(theta)
    belief = inner.init(keys, params, jax.tree.map(lambda a: jnp.zeros_like(a[0]), rows))

    def step(belief, obs):
        key = jax.vmap(jax.random.fold_in)(keys, obs.index[:, 0].astype(jnp.uint32))
        return inner.step(key, params, belief, obs)

    return jax.lax.scan(step, belief, rows)


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), 2)


def both(theta):
    return {k: jnp.stack([jnp.asarray(v)] * 2) for k, v in theta.items()}


@functools.cache
def exact(i, s, t=T):
    """All paths for particle i and series s."""
    y, _ = block(Y, dt=DT)
    theta = {k: v[i] for k, v in THETA.items()}
    return enumeration.paths(np.array(first(theta)), np.array(moves(theta)), regimes(theta), y[:t, :, s], DT[:t])


def test_with_as_many_particles_as_paths_it_is_the_sum_over_paths():
    _, rows = block(Y, dt=DT)
    belief, info = run(RaoBlackwell(MODEL, 2**T), keys(), both(THETA), rows)
    total = np.asarray(info.log_lik.sum(axis=0))
    inner = RaoBlackwell(MODEL, 2**T)
    mean, sd = inner.moments(belief)
    p = inner.regimes(belief)
    for i in range(3):
        for s in range(2):
            found = exact(i, s)
            np.testing.assert_allclose(total[s, i], enumeration.log_likelihood(found), rtol=1e-10)
            want = enumeration.filtered(found, 2)
            for got, expected in zip((mean, sd, p), want, strict=True):
                np.testing.assert_allclose(np.asarray(got)[:, s, i], expected, rtol=1e-9)
    assert (np.asarray(info.status) == 0).all()


@pytest.mark.slow
def test_fourteen_observations_are_the_sum_over_16384_paths():
    y = np.random.default_rng(8).normal(size=(14, 2)).cumsum(axis=0)
    y[[4, 9], [0, 1]] = np.nan
    y[6] = np.nan
    both_series, rows = block(y)
    inner = RaoBlackwell(MODEL, 2**14, max_inner=2**14)
    theta = {k: v[:1] for k, v in THETA.items()}
    belief, info = run(inner, keys(), both(theta), rows)
    of_one = {k: v[0] for k, v in THETA.items()}
    found = enumeration.paths(np.array(first(of_one)), np.array(moves(of_one)), regimes(of_one), both_series[..., 0])
    assert len(found) == 2**14
    np.testing.assert_allclose(info.log_lik[:, 0, 0].sum(), enumeration.log_likelihood(found), rtol=1e-10)
    got = (*inner.moments(belief), inner.regimes(belief))
    for have, want in zip(got, enumeration.filtered(found, 2), strict=True):
        np.testing.assert_allclose(np.asarray(have)[:, 0, 0], want, rtol=1e-9)


def many(theta, i, n):
    """n copies of particle i: as many independent runs of the filter."""
    return {k: jnp.full((2, n), v[i]) for k, v in theta.items()}


@pytest.mark.parametrize("resampling", ["optimal", "systematic"])
def test_the_likelihood_estimate_has_no_bias(resampling):
    _, rows = block(Y, dt=DT)
    inner = RaoBlackwell(MODEL, 16, resampling=resampling)
    for i in range(3):
        _, info = run(inner, keys(i), many(THETA, i, 1000), rows)
        for s in range(2):
            ratio = np.exp(np.asarray(info.log_lik.sum(axis=0))[s] - enumeration.log_likelihood(exact(i, s)))
            assert 0 < ratio.std() < 1
            assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_draws_and_simulated_futures_have_the_moments_of_the_sum_over_paths():
    n, t = 20_000, 6
    _, rows = block(Y[:t], dt=DT[:t])
    inner = RaoBlackwell(MODEL, 2**t)
    theta = {k: jnp.full((2, 1), v[0]) for k, v in THETA.items()}
    belief, _ = run(inner, keys(), theta, rows)
    wide = jax.tree.map(lambda a: jnp.repeat(a, n, axis=-1), belief)
    state = inner.draw(keys(1), wide)
    found = exact(0, 0, t)
    mean, sd, p = enumeration.filtered(found, 2)
    x, u = np.asarray(state.x)[:, 0], np.asarray(state.u)[0]
    assert abs(np.mean(u == 1) - p[1]) < 4 * np.sqrt(p[0] * p[1] / n)
    assert (np.abs(x.mean(axis=1) - mean) < 4 * sd / np.sqrt(n)).all()
    assert (np.abs(x.std(axis=1) / sd - 1) < 5 / np.sqrt(n)).all()
    params = at_each_particle(MODEL.params)(both({k: np.full(n, v[0]) for k, v in THETA.items()}))
    later = jax.tree.map(lambda a: a[-1], rows)
    _, x, y = inner.simulate(keys(2), params, state, later)
    values = {k: v[0] for k, v in THETA.items()}
    each, total = regimes(values), enumeration.log_likelihood(found)
    means = [each[j]["F"] @ m + each[j]["c"] for *_, m, _ in found for j in range(2)]
    w = np.array([np.exp(w - total) * moves(values)[path[-1]][j] for path, w, *_ in found for j in range(2)])
    x, want = np.asarray(x)[:, 0], w @ np.array(means)
    assert (np.abs(x.mean(axis=1) - want) < 4 * x.std(axis=1) / np.sqrt(n)).all()
    seen = [each[i % 2]["H"] @ m + each[i % 2]["d"] for i, m in enumerate(means)]
    y, want = np.asarray(y)[:, 0], w @ np.array(seen)
    assert (np.abs(y.mean(axis=1) - want) < 4 * y.std(axis=1) / np.sqrt(n)).all()


def test_its_likelihood_varies_less_than_a_bootstrap_filters():
    """Tracking: position and velocity of a target that manoeuvres at times; M = 64 for both."""
    T, M, runs = 40, 64, 200
    rng = np.random.default_rng(0)
    F, quiet_q, wild_q, r = np.array([[1.0, 1.0], [0.0, 1.0]]), 0.05, 0.8, 0.5
    stay = 0.9
    u, x, ys = 0, np.array([0.0, 0.5]), []
    for _ in range(T):
        u = u if rng.random() < stay else 1 - u
        x = F @ x + (wild_q if u else quiet_q) * np.array([0.5, 1.0]) * rng.normal()
        ys.append(x[0] + r * rng.normal())

    def track(q):
        def matrices(theta):
            return {
                "chol_P0": [[1.0, 0.0], [0.0, 1.0]],
                "F": F,
                "chol_Q": [[0.5 * q], [q]],
                "H": [[1.0, 0.0]],
                "chol_R": [[theta["r"]]],
            }

        return matrices

    model = ss.models.Switching(
        (track(quiet_q), track(wild_q)), transition=[[stay, 1 - stay], [1 - stay, stay]], names=("r",)
    )
    _, rows = block(np.array(ys))
    _, info = run(RaoBlackwell(model, M), keys(), {"r": jnp.full((2, runs), r)}, rows)
    ours = np.asarray(info.log_lik.sum(axis=0))[0]
    theirs = np.zeros(runs)
    x, u = rng.normal(size=(runs, M, 2)), rng.random((runs, M)) < 0.5
    for t, value in enumerate(ys):
        if t:
            u = np.where(rng.random((runs, M)) < stay, u, ~u)
            shock = np.where(u, wild_q, quiet_q) * rng.normal(size=(runs, M))
            x = x @ F.T + shock[..., None] * [0.5, 1.0]
        log_w = -0.5 * ((value - x[..., 0]) / r) ** 2 - np.log(r * np.sqrt(2 * np.pi))
        top = log_w.max(axis=1, keepdims=True)
        w = np.exp(log_w - top)
        theirs += np.log(w.mean(axis=1)) + top[:, 0]
        cumulative = np.cumsum(w, axis=1) / w.sum(axis=1, keepdims=True)
        points = (np.arange(M) + rng.random((runs, 1))) / M
        chosen = (cumulative[:, None] < points[..., None]).sum(axis=-1).clip(0, M - 1)
        x, u = np.take_along_axis(x, chosen[..., None], axis=1), np.take_along_axis(u, chosen, axis=1)
    assert ours.var() * 5 < theirs.var()


def test_an_impossible_probability_is_no_likelihood():
    def wrong(theta):
        return [[theta["stay"], 0.2], [0.35, 0.65]]

    model = ss.models.Switching((quiet, busy), initial=first, transition=wrong, names=("a", "stay"))
    _, rows = block(Y[:3])
    _, info = run(RaoBlackwell(model, 8), keys(), both({"a": np.ones(2), "stay": np.array([0.8, 0.9])}), rows)
    total = np.asarray(info.log_lik.sum(axis=0))
    assert np.isfinite(total[:, 0]).all()
    assert np.isnan(total[:, 1]).all()
    theta = {"a": jnp.asarray(1.0), "stay": jnp.asarray(0.9)}
    assert not bool(model.support(theta))
    assert "row 0 of transition (wrong) is [0.9, 0.2] at a=1.0, stay=0.9" in model.complaint(theta)
    laws = {"a": ss.priors.base.HalfNormal(1.0), "stay": ss.priors.base.Beta(1.0, 1.0)}
    with pytest.raises(ss.errors.ModelError, match="row 0 of transition"):
        ss.Engine(model, ss.priors.base.Independent(laws), n_particles=16)

    def lost(theta, step):
        return quiet(theta) | {"chol_Q": [[jnp.sqrt(-theta["a"] - step.dt)], [0.1]]}

    switching = ss.models.Switching((quiet, lost), transition=moves, names=("a", "stay"))
    for model in (switching, ss.models.StudentT(ss.models.LinearGaussian(lost, ("a", "stay")), 4.0)):
        with pytest.raises(ss.errors.ModelError, match=r"lost returned NaN at a=.*at every draw from the prior"):
            ss.Engine(model, ss.priors.base.Independent(laws), n_particles=16)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ss.models.Switching((), transition=[[1.0]], names=("a",)), "two regimes or more"),
        (lambda: ss.models.Switching((quiet, None), transition=moves, names=("a", "stay")), "regime 1 is None"),
        (lambda: ss.models.Switching((quiet, busy), transition=[[0.9, 0.2], [0.5, 0.5]], names=("a",)), "row 0 of"),
        (lambda: ss.models.Switching((quiet, busy), transition=moves, initial=[1.0], names=("a", "stay")), "shape"),
        (lambda: ss.models.Switching((quiet, ss.models.LocalLevel()), transition=moves, names=("a", "stay")), "state"),
        (lambda: RaoBlackwell(MODEL, 1), "n_particles=1"),
        (lambda: RaoBlackwell(MODEL, 16, max_inner=8), "max_inner"),
        (lambda: RaoBlackwell(MODEL, 16, resampling="best"), "resampling"),
        (lambda: ss.models.StudentT(ss.models.LocalLevel(), -1.0), "degrees of freedom, or None, got -1.0"),
        (lambda: ss.models.StudentT(ss.models.LocalLevel(), float("inf")), "degrees of freedom, or None, got inf"),
        (lambda: ss.models.SwitchingLevel("level"), "switches"),
    ],
)
def test_bad_input(make, told):
    with pytest.raises(ss.errors.ModelError, match=told):
        make()

"""Monte Carlo error: what one run says of itself against what many runs do."""

import numpy as np
import pymc as pm
import pytest

import posteriors
import smcssm as ss
from posteriors import LOCAL_LEVEL
from smcssm.readout import error

RUNS = 32


def compare(engine, names, factor=1.7):
    """Predicted over empirical standard deviation, of the log evidence and of every mean."""
    snapshot = engine.snapshot()
    predicted = np.sqrt(np.mean(error.per_run(snapshot) ** 2))
    empirical = snapshot.log_evidence().std(ddof=1)
    assert 0.6 <= predicted / empirical <= factor, ("evidence", predicted, empirical)
    w, theta = snapshot.weights(), snapshot.theta()
    for name in names:
        for values in theta[name].reshape(-1, *w.shape):
            means = np.sum(w * values, axis=-1)
            own = [error.of_mean(v[None], u[None], snapshot.smc.groups) for v, u in zip(values, w, strict=True)]
            ratio = np.sqrt(np.mean(np.square(own))) / means.std(ddof=1)
            assert 0.6 <= ratio <= factor, (name, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [ss.Immediate(), ss.Paced(budget=8)], ids=["immediate", "paced"])
def test_groups_show_the_error(schedule):
    engine = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=1000, runs=RUNS, schedule=schedule)
    engine.update(LOCAL_LEVEL.simulate(150, 1))
    assert engine._runtime.smc.groups == 4
    compare(engine, LOCAL_LEVEL.names)


@pytest.mark.slow
def test_lineages_show_the_error_and_say_when_they_cannot():
    options = dict(n_particles=1000, runs=RUNS, resampling="multinomial")
    engine = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, **options)
    engine.update(LOCAL_LEVEL.simulate(40, 1))
    sd, survive = error.by_lineage(engine.snapshot())
    assert survive.min() >= 20
    assert 0.6 <= np.sqrt(np.mean(sd**2)) / engine.snapshot().log_evidence().std(ddof=1) <= 1.7
    engine.update(LOCAL_LEVEL.simulate(600, 1)[40:])
    sd, survive = error.by_lineage(engine.snapshot())
    assert np.isnan(sd[survive < 20]).all()
    plain = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=1000)
    plain.update(LOCAL_LEVEL.simulate(40, 1))
    assert np.isnan(error.by_lineage(plain.snapshot())[0]).all()


def test_engines_report_their_error():
    one = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=1000)
    three = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=256, runs=3)
    few = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=128)
    for engine in (one, three, few):
        engine.update(LOCAL_LEVEL.simulate(60, 1))
    assert 0 < one.log_evidence_sd < 0.5
    assert 0 < three.log_evidence_sd < 0.5
    assert np.isnan(few.log_evidence_sd)
    spread = error.per_run(one.snapshot())[0] ** 2  # groups may agree by chance, but never on less than this
    assert spread >= float(one._runtime.state.population.lost[0])
    evidences = three.snapshot().log_evidence()
    relative = np.exp(evidences).std(ddof=1) / np.exp(evidences).mean()
    assert three.log_evidence_sd == pytest.approx(max(relative, evidences.std(ddof=1)) / 3**0.5)
    for engine in (one, three, few):
        table = engine.summary()
        assert (table["mcse"] > 0).all()
        assert (table["mcse"] < table["sd"]).all()


def seasons(count):
    """A level seen with ``count - 1`` noise levels in turn: a scalar state, as many hyperparameters as one likes."""
    names = ("sigma_level", *(f"sigma_{k}" for k in range(count - 1)))

    def matrices(theta, step):
        noise = sum(theta[name] * step.inputs[k] for k, name in enumerate(names[1:]))
        return dict(chol_P0=[[5.0]], F=[[1.0]], chol_Q=[[theta["sigma_level"]]], H=[[1.0]], chol_R=[[noise]])

    with pm.Model() as prior:
        for name in names:
            pm.HalfNormal(name, 1.0)
    return ss.models.LinearGaussian(matrices, names, n_inputs=count - 1), prior, names


def season_data(count, t, seed=0):
    rng = np.random.default_rng(seed)
    inputs = np.eye(count - 1)[np.arange(t) % (count - 1)]
    noise = inputs @ np.linspace(0.4, 1.2, count - 1)
    return np.cumsum(0.3 * rng.standard_normal(t)) + noise * rng.standard_normal(t), inputs


@pytest.mark.slow
def test_groups_show_the_error_at_length_with_eight_hyperparameters():
    model, prior, names = seasons(8)
    y, inputs = season_data(8, 20_000)
    engine = ss.Engine(model, prior, n_particles=1000, runs=RUNS, schedule=ss.Paced())
    engine.update(y, inputs=inputs)
    compare(engine, names)


@pytest.mark.slow
def test_forgetting_follows_its_target():
    """Weights prior * exp(L_t), L_t = keep L_t-1 + l_t, on a grid; the evidence is the sum of one-step predictives."""
    keep, y = 0.97, LOCAL_LEVEL.simulate(120, 2)
    y[60:] *= 2.0
    options = dict(n_particles=1000, runs=8, forgetting=keep, schedule=ss.Immediate(tempering=False))
    engine = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, **options)
    engine.update(y)
    truth, unit = posteriors.flat(LOCAL_LEVEL.answer(y, keep=keep))
    errors = (posteriors.per_run(engine, LOCAL_LEVEL.names) - truth) / unit
    standard_error = errors.std(axis=0, ddof=1) / 8**0.5
    assert (np.abs(errors.mean(axis=0)) < 5 * standard_error + 0.01).all()
    with pytest.raises(ss.errors.ModelError, match="forgetting"):
        ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, forgetting=0.9)

"""Save, load, go on: equal bit for bit to never having stopped; refused where model, prior or options differ."""

import copy
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import small
import smcssm as ss
from smcssm import container, persist

Y = np.where(np.arange(90) % 11 == 3, np.nan, small.walk(90))
JUMP = Y + np.where(np.arange(90) >= 62, 30.0, 0.0)  # a surprise
LATE = np.argsort(np.arange(90) + np.where(np.arange(90) % 9 == 4, 3.5, 0.0)).astype(float)
DAYS = pd.date_range("2026-01-31", periods=90, freq="ME")

with_states = dict(n_particles=64, seed=3)
NILE = ss.models.LocalLevel(initial_sd=10.0)


def level(**options):
    return NILE, None, dict(with_states, **options)


def particle():

    model = ss.models.StochasticVolatility()
    return model, None, dict(with_states, n_particles=32, filter=ss.filters.Particle(n_particles=4, max_inner=64))


CASES = {
    "immediate": (level(), JUMP, None, 40),
    "two runs, in calendar months": (level(runs=2), Y, DAYS, 40),
    "paced": (level(schedule=ss.Paced(budget=4), runs=2), JUMP, None, 45),
    "paced and bridging": (level(schedule=ss.Paced(budget=4), runs=2), JUMP, None, 63),
    "jitter": (level(schedule=ss.Jitter(exact=8)), Y, None, 40),
    "late rows": (level(late=ss.late.Revise(8)), Y, LATE, 40),
    "single precision": (level(dtype="float32"), Y, None, 40),
    "inner particles": (particle(), Y, None, 40),
}


def slow(case):
    """What would have programs of its own to compile."""
    return pytest.param(case, marks=pytest.mark.slow)


QUICK = ("immediate", "paced", "paced and bridging")


def everything(engine):
    """All that an engine is made of."""
    history = engine._runtime.history
    rows = history.columns(0, len(history)) if len(history) else {}
    line = history.timeline
    numbers = None if line is None else line.numbers(np.arange(len(line)))
    ring = None if engine._ring is None else engine._ring.columns(engine.t)
    return engine._runtime.state, rows, numbers, ring, engine._told


def assert_equal(a, b):
    """To the last bit, and of the same types."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if isinstance(x, (np.ndarray, jax.Array)):
            assert (x.dtype, x.shape, isinstance(x, jax.Array)) == (y.dtype, y.shape, isinstance(y, jax.Array))
            assert getattr(x, "weak_type", False) == getattr(y, "weak_type", False)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y


def feed(engine, ys, times, start, stop):
    for i in range(start, stop):
        engine.step(ys[i], time=None if times is None else times[i])


@pytest.mark.parametrize(
    "case", [c if c in QUICK else slow(c) for c in CASES]
)
def test_a_loaded_engine_goes_on_bit_for_bit(tmp_path, case):
    (model, prior, options), ys, times, stop = CASES[case]
    engine = ss.Engine(model, prior, **options)
    feed(engine, ys, times, 0, stop)
    if case.startswith("paced"):
        assert np.asarray(engine._runtime.state.pending.active).any()
    assert (np.asarray(engine._runtime.state.population.phi) < 1).any() == ("bridging" in case)
    engine.save(tmp_path / "e")
    loaded = ss.Engine.load(tmp_path / "e", model, prior)
    assert_equal(everything(loaded), everything(engine))
    for one in (engine, loaded):
        feed(one, ys, times, stop, len(ys))
    assert np.asarray(engine.record["moved"]).sum() > 1
    assert_equal(everything(loaded), everything(engine))
    assert loaded.summary().equals(engine.summary())
    xr_equal = loaded.record.identical(engine.record)
    assert xr_equal
    if case == "inner particles":
        inner = engine._runtime.smc.filter.inner(engine._runtime.state.population.belief)
        assert inner > 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    engine = ss.Engine(NILE, **with_states)
    engine.update(Y[:40])
    path = tmp_path_factory.mktemp("saved") / "engine.npz"
    engine.save(path)
    return engine, path


def test_copies_go_on_and_pickles_say_what_to_do(saved):
    engine, _ = saved
    before = everything(engine)
    for other in (copy.copy(engine), copy.deepcopy(engine)):
        other.step(1.0)
        assert other.t == engine.t + 1
    assert_equal(everything(engine), before)
    with pytest.raises(TypeError, match=r"engine\.save\(path\).*engine\.copy\(\)"):
        pickle.dumps(engine)


def other_scale():
    return NILE.default_prior(7.0)


REFUSALS = {
    "another number of particles": (NILE, None, dict(n_particles=128), "n_particles=128, and it was 64"),
    "another schedule": (NILE, None, dict(schedule=ss.Paced()), r"schedule: Immediate\(.*\) there, Paced\(.*\) here"),
    "another prior": (NILE, other_scale(), {}, "the prior is another one: at the same point its log density"),
    "another model": (ss.models.LocalLevel() + ss.models.AR(1), None, {}, "hyperparameters is"),
}


@pytest.mark.parametrize(
    "what", [w if w in ("another prior", "another number of particles") else slow(w) for w in REFUSALS]
)
def test_what_does_not_belong_together_is_refused(saved, what):
    _, path = saved
    model, prior, options, match = REFUSALS[what]
    with pytest.raises(ss.errors.CheckpointError, match=match):
        ss.Engine.load(path, model, prior, **options)


def test_a_model_that_foretells_something_else(tmp_path):
    def transition(drift):
        return lambda theta: dict(
            m0=[0.0],
            chol_P0=[[10.0]],
            F=[[1.0]],
            c=[drift],
            chol_Q=[[theta["sigma_level"]]],
            H=[[1.0]],
            chol_R=[[theta["sigma_obs"]]],
        )

    names = ("sigma_level", "sigma_obs")
    models = [ss.models.LinearGaussian(transition(c), names) for c in (0.0, 0.0, 0.5)]
    prior = NILE.default_prior(1.0)
    engine = ss.Engine(models[0], prior, **with_states)
    engine.save(tmp_path / "e")
    assert ss.Engine.load(tmp_path / "e", models[1], prior).t == 0
    with pytest.raises(ss.errors.CheckpointError, match="the model is another one: from the same state"):
        ss.Engine.load(tmp_path / "e", models[2], prior)


def test_versions_that_differ_are_told_of(saved, monkeypatch):
    engine, path = saved
    monkeypatch.setattr(persist, "version", lambda name: "0.0.1")
    with pytest.warns(ss.errors.SmcssmWarning, match=r"jaxlib .*, now 0\.0\.1.* last digits"):
        loaded = ss.Engine.load(path, NILE)
    assert_equal(everything(loaded), everything(engine))


def test_a_file_of_an_earlier_version_goes_on():
    """Written in November 2026, when histories kept no time stamps; 40 observations as those of "immediate"."""
    model, prior, _ = level()
    engine = ss.Engine.load(Path(__file__).parent / "data" / "checkpoint-of-2026-11.smcssm", model, prior)
    assert engine.t == 40
    assert engine.log_evidence == pytest.approx(-59.19819414161286, rel=1e-12)
    np.testing.assert_allclose(engine.summary()["mean"], [0.6907697, 0.6852581], rtol=1e-6)
    engine.step(Y[40])
    assert (engine.t, engine.record["y"].shape) == (41, (41, 1))
    np.testing.assert_array_equal(engine.record["y"][:, 0], Y[:41])
    assert "when" not in engine.smooth(lag=1).coords


def test_a_file_that_is_sound_but_not_of_an_engine(tmp_path):
    container.write(tmp_path / "x", container.Contents({"t": 1}, {"a": np.zeros(3)}))
    with pytest.raises(ss.errors.CheckpointError, match="not the checkpoint of an engine"):
        ss.Engine.load(tmp_path / "x", NILE)
    with zipfile.ZipFile(tmp_path / "y", "w") as archive:
        archive.writestr("a", b"1")
    with pytest.raises(ss.errors.CheckpointError, match="does not end in a seal"):
        ss.Engine.load(tmp_path / "y", NILE)


def test_a_class_that_has_no_place_is_not_made(saved, tmp_path):
    _, path = saved
    found = container.read(path)

    def change(key, value):
        state = found.words["state"]
        state = {**state, "fields": {**state["fields"], key: value}}
        container.write(tmp_path / "x", container.Contents({**found.words, "state": state}, found.arrays))
        return tmp_path / "x"

    cases = [
        ({"class": "Popen", "fields": {"args": "ls"}}, "no place in this engine"),
        ({"call": "os.system"}, "something unknown"),
        ({"class": "Lag", "fields": {}}, "other fields"),
    ]
    for value, match in cases:
        with pytest.raises(ss.errors.CheckpointError, match=match):
            ss.Engine.load(change("clock", value), NILE)


def test_a_signed_file_needs_its_key(saved, tmp_path):
    engine, _ = saved
    engine.save(tmp_path / "e", hmac_key=b"k")
    assert ss.Engine.load(str(tmp_path / "e"), NILE, hmac_key=b"k").t == 40
    with pytest.raises(ss.errors.CheckpointError, match="is signed"):
        ss.Engine.load(tmp_path / "e", NILE)


def test_a_folder_that_is_not_there(saved):
    engine, _ = saved
    with pytest.raises(ss.errors.CheckpointError, match=r"cannot be written: No such file.*intact"):
        engine.save(Path("/nowhere/at/all"))


def test_numbers_of_observations(saved):
    """Those that were taken are dropped, a gap is an error."""
    engine = saved[0].copy()
    before = everything(engine)
    info = engine.step(5.0, sequence=39)
    assert (info.status, info.t) == (ss.Status.DROPPED, 40)
    assert_equal(everything(engine), before)
    for wrong, match in ((41, "1 are missing"), (-1, "counted from 0"), (True, "counted from 0")):
        with pytest.raises(ss.errors.InputError, match=match):
            engine.step(5.0, sequence=wrong)
    infos = engine.update(Y[35:45], sequence=35)
    assert engine.t == 45
    assert [i.status for i in infos][:5] == 5 * [ss.Status.DROPPED]
    assert infos.t.tolist() == [40] * 5 + list(range(41, 46))
    other = saved[0].copy()
    for t in range(38, 45):
        other.step(Y[t], sequence=t)
    assert_equal(everything(engine), everything(other))


def test_numbers_and_times():
    model = ss.models.LocalLevel(initial_sd=10.0)
    engine = ss.Engine(model, **with_states)
    engine.update(pd.DataFrame({"y": Y[:9], "when": DAYS[:9]}).set_index("when", drop=False)["y"], time=DAYS[:9])
    frame = pd.DataFrame({"y": Y[5:12], "when": DAYS[5:12]}, index=range(5, 12))
    engine.update(frame[["y"]], time=frame["when"], sequence=5)
    assert engine.t == 12
    drops = ss.Engine(model, late=ss.late.Drop(), **with_states)
    with pytest.raises(ss.errors.InputError, match="late=Drop"):
        drops.step(1.0, time=1.0, sequence=0)

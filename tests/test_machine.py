"""Whatever is done to an engine, in whatever order, it is the one that took the same observations undisturbed."""

import itertools
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import smcssm as ss
from smcssm.journal import ROWS, Journal
from test_save import NILE, assert_equal, everything, with_states

VALUES = st.one_of(st.just(float("nan")), st.floats(-30, 30).map(lambda y: round(y, 3)))
BAD = (
    (float("inf"), {}),
    (None, {}),
    ("high", {}),
    ([1.0, 2.0], {}),
    (1.0, {"noise_sd": -1.0}),
    (1.0, {"inputs": [1.0]}),
    (1e300, {}),
)


class Streams(RuleBasedStateMachine):
    """The engine keeps a journal; what it took is remembered beside it."""

    def __init__(self):
        super().__init__()
        self.root, self.folders = Path(tempfile.mkdtemp()), itertools.count()
        self.taken = []

    @initialize(rows=st.sampled_from([1, 3, 1000]))
    def begin(self, rows):
        self.policy = dict(checkpoint_rows=rows, checkpoint_every=float("inf"))
        self.folder = self.root / str(next(self.folders))
        self.engine = ss.Engine(NILE, journal=Journal(self.folder, **self.policy), **with_states)

    @rule(y=VALUES)
    def step(self, y):
        self.engine.step(y)
        self.taken.append(y)

    @rule(ys=st.lists(VALUES, min_size=1, max_size=7), back=st.integers(0, 3))
    def update_once_more(self, ys, back):
        """A source that delivers at least once."""
        back = min(back, len(self.taken))
        block = [*self.taken[len(self.taken) - back :], *ys]
        self.engine.update(block, sequence=len(self.taken) - back)
        self.taken += ys

    @rule(bad=st.sampled_from(BAD))
    def bad_input(self, bad):
        before = everything(self.engine)
        with pytest.raises((ss.errors.InputError, ss.errors.ImpossibleObservationError)):
            self.engine.step(bad[0], **bad[1])
        assert_equal(everything(self.engine), before)

    @rule()
    def save_and_load(self):
        self.engine.save(self.root / "e")
        loaded = ss.Engine.load(self.root / "e", NILE)
        assert_equal(everything(loaded), everything(self.engine))

    @precondition(lambda self: self.taken)
    @rule(cut=st.binary(max_size=20))
    def kill(self, cut):
        """What is on the disk at this moment is what kill -9 leaves; a call that was cut short may be there in part."""
        if (keeper := self.engine._keeper) is not None:
            keeper.wait()  # a copy of a folder, unlike a kill, takes time
        self.folder, before = self.root / str(next(self.folders)), self.folder
        shutil.copytree(before, self.folder)
        with open(self.folder / ROWS, "ab") as file:
            file.write(cut)
        self.engine.close()
        self.engine = ss.Engine.open(Journal(self.folder, **self.policy), NILE)

    @invariant()
    def counts(self):
        assert self.engine.t == len(self.taken)

    def teardown(self):
        if self.taken:
            clean = ss.Engine(NILE, **with_states)
            clean.update(self.taken)
            assert_equal(everything(self.engine)[0], everything(clean)[0])
        self.engine.close()
        shutil.rmtree(self.root)


Streams.TestCase.settings = settings(max_examples=4, stateful_step_count=12, deadline=None, derandomize=True)
TestStreams = Streams.TestCase


class TestManyStreams(Streams.TestCase):
    """At length."""

    pytestmark = pytest.mark.slow
    settings = settings(max_examples=120, stateful_step_count=40, deadline=None)

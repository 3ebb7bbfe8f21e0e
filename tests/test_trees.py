"""State in words and arrays, and back, of the same types."""

import json
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from smcssm import trees
from smcssm.clock import Clock
from smcssm.errors import CheckpointError


class Pair(NamedTuple):
    """Of a user's model."""

    a: object
    b: object = None


class Module(eqx.Module):
    """Likewise, with a constructor that a reader does not run."""

    x: object
    n: int = eqx.field(static=True)

    def __init__(self, x):
        raise AssertionError


MODULE = object.__new__(Module)
object.__setattr__(MODULE, "x", np.arange(3))
object.__setattr__(MODULE, "n", 4)
OFFSETS = (pd.DateOffset(months=2), pd.tseries.offsets.BMonthEnd(3), pd.tseries.offsets.BusinessDay())
CASES = [
    None,
    True,
    -3,
    "text",
    0.1,
    float("inf"),
    np.float64(0.1),
    np.int64(7),
    np.datetime64("2026-01-02T03:04:05", "ns"),
    np.timedelta64(86_400, "s"),
    (1, [2.5, {"k": None, "other/../name": np.zeros(2)}]),
    Pair(jnp.arange(3.0), Pair(np.bool_(True))),
    Clock(3, np.datetime64("2026-01-31", "ns"), (np.timedelta64(31, "D"), *OFFSETS), "Europe/Paris"),
    MODULE,
]


@pytest.mark.parametrize("tree", CASES, ids=[type(c).__name__ for c in CASES])
def test_there_and_back(tree):
    arrays = {}
    words = json.loads(json.dumps(trees.described(tree, arrays, "tree"), allow_nan=False))
    back = trees.rebuilt(words, arrays, trees.classes_of(tree))
    assert type(back) is type(tree)
    assert repr(back) == repr(tree) or back == tree  # a day is as long as 86,400 seconds
    assert all(name.replace(".", "").replace("_", "").isalnum() for name in arrays)


def test_a_field_that_a_file_lacks_takes_its_default():
    assert trees.rebuilt({"class": "Pair", "fields": {"a": 1}}, {}, {"Pair": Pair}) == Pair(1)


def test_what_has_no_words_or_no_place():
    with pytest.raises(TypeError, match=r"state\.0 is of a kind that a checkpoint cannot hold: function"):
        trees.described((lambda: 0,), {}, "state")
    words = trees.described(Pair(1), {}, "tree")
    with pytest.raises(CheckpointError, match="'Pair', which has no place in this engine"):
        trees.rebuilt(words, {}, {})
    with pytest.raises(CheckpointError, match="other fields in this version"):
        trees.rebuilt({"class": "Pair", "fields": {"b": 1}}, {}, {"Pair": Pair})
    with pytest.raises(CheckpointError, match="the array 'z' is missing"):
        trees.rebuilt({"array": "z", "in": "host"}, {}, {})
    with pytest.raises(CheckpointError, match="unknown step of a calendar"):
        trees.rebuilt({"offset": "system", "n": 1}, {}, {})
